"""Services whose members tell clients where the others are: each behind a listener, and a port for each."""

from __future__ import annotations

from tests.integration.mesh import MeshTestCase, Proxy

__all__ = ["MemberTestCase"]


class MemberTestCase(MeshTestCase):
    """Members behind inbound listeners of one proxy, and an outbound one with a port for each."""

    timeout = 240

    def start_mesh(self, ranges: dict[str, range], targets: dict[str, list[int]]) -> tuple[Proxy, Proxy]:
        """Start both proxies: for each name the members' ports, and the ports that stand for them."""
        rules = f'[{{name: some-may, action: allow, from: [{{ids: ["{self.pki.id("web")}"]}}]}}]'
        listeners = [
            f'  - {{name: {name}-{number}, listen: "127.0.0.1:0", target: "127.0.0.1:{port}", workload: orders}}\n'
            for name, ports in targets.items()
            for number, port in enumerate(ports)
        ]
        inner = self.start(
            self.identity("orders")
            + "inbound:\n"
            + "".join(listeners)
            + f"authorization: [{{plugin: rules, policies: {rules}}}]\n"
        )
        services, outbound = [], []
        for name, ports in targets.items():
            listed = ", ".join(f'"127.0.0.1:{inner.port(f"{name}-{number}")}"' for number in range(len(ports)))
            discovery = f"discovery: {{plugin: static, endpoints: [{listed}]}}"
            services.append(f'  {name}: {{expect: ["{self.pki.id("orders")}"], {discovery}}}\n')
            listen = f"127.0.0.1:{ranges[name][0]}-{ranges[name][-1]}"
            outbound.append(
                f'  - {{name: {name}, listen: "{listen}", per_endpoint: true, service: {name}, workload: web}}\n'
            )
        outer = self.start(self.identity("web") + "services:\n" + "".join(services) + "outbound:\n" + "".join(outbound))
        return outer, inner
