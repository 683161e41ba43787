"""Services whose members tell clients where the others are: each behind a listener, and a port for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.integration.mesh import MeshTestCase, Proxy

__all__ = ["MemberTestCase"]


class MemberTestCase(MeshTestCase):
    """Members behind inbound listeners of one proxy, and an outbound one with a port for each."""

    timeout = 240

    def start_mesh(
        self, ranges: Mapping[str, range], targets: Mapping[str, Sequence[int | str]]
    ) -> tuple[Proxy, Proxy]:
        """Start both proxies: for each name the ports that stand for its members, and their own ports or addresses."""
        rules = f'[{{name: some-may, action: allow, from: [{{ids: ["{self.pki.id("web")}"]}}]}}]'
        listeners = [
            f'  - {{name: {name}-{number}, listen: "127.0.0.1:0", target: "{_address(one)}", workload: orders}}\n'
            for name, members in targets.items()
            for number, one in enumerate(members)
        ]
        inner = self.start(
            self.identity("orders")
            + "inbound:\n"
            + "".join(listeners)
            + f"authorization: [{{plugin: rules, policies: {rules}}}]\n"
        )
        services, outbound = [], []
        for name, members in targets.items():
            listed = ", ".join(f'"127.0.0.1:{inner.port(f"{name}-{number}")}"' for number in range(len(members)))
            discovery = f"discovery: {{plugin: static, endpoints: [{listed}]}}"
            services.append(f'  {name}: {{expect: ["{self.pki.id("orders")}"], {discovery}}}\n')
            listen = f"127.0.0.1:{ranges[name][0]}-{ranges[name][-1]}"
            outbound.append(
                f'  - {{name: {name}, listen: "{listen}", per_endpoint: true, service: {name}, workload: web}}\n'
            )
        outer = self.start(self.identity("web") + "services:\n" + "".join(services) + "outbound:\n" + "".join(outbound))
        return outer, inner


def _address(member: int | str) -> str:
    return f"127.0.0.1:{member}" if isinstance(member, int) else member
