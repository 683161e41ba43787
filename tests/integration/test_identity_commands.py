"""``tcpmesh identity show`` and ``check`` against proxies that run."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from twisted.internet.utils import getProcessOutputAndValue

from tests.integration.mesh import reactor
from tests.integration.unix import UnixTestCase


class IdentityCommandTests(UnixTestCase):
    """Each command in a process of its own, as somebody would type it."""

    async def command(self, *arguments: str) -> tuple[int, Any]:
        """Exit status and answer."""
        words = ["-m", "tcpmesh", "identity", *arguments, "--json"]
        out, err, status = await getProcessOutputAndValue(sys.executable, words, os.environ, reactor=reactor)
        self.assertEqual(err, b"")
        return status, json.loads(out)

    async def test_shows_a_running_proxy(self) -> None:
        """Over its admin socket: status 0 when all is well."""
        path = self.unix_path("admin.sock")
        inner = self.start_inbound(self.application(lambda _: None), top=f'admin: {{listen: "unix:{path}"}}\n')
        status, answer = await self.command("show", "--admin", f"unix:{path}")
        (workload,), (domain,) = answer["workloads"], answer["trust_domains"]
        self.assertEqual((status, workload["id"], workload["state"]), (0, "spiffe://mesh.test/orders", "ready"))
        self.assertEqual(workload["listeners"], [{"direction": "inbound", "name": "orders-in"}])
        self.assertEqual((domain["own"], len(domain["authorities"])), (True, 1))
        self.assertEqual(answer["generation"], inner.service.composition.state.current.generation)

    async def test_asks_a_running_proxy_whether_it_accepts(self) -> None:
        """Its own word decides the last layer: yes, or the code of its policy, or that its application is away."""
        application = self.application(lambda connection: connection.recv(1))
        for allow, target, status, code in (
            ("web", application, 0, None),
            ("intruder", application, 1, "TM-P102"),
            ("web", f"unix:{self.unix_path('none.sock')}", 1, "TM-U106"),
        ):
            inner = self.start_inbound(target, allow=(allow,))
            file = self.directory.absolute() / "web.yaml"
            file.write_text(
                "version: 1\ntrust_domain: mesh.test\n"
                + self.identity("web")
                + f'services: {{orders: {{expect: ["{self.pki.id("orders")}"], discovery: '
                f'{{plugin: static, endpoints: ["127.0.0.1:{inner.port("orders-in")}"]}}}}}}\n'
                'outbound: [{name: to-orders, listen: "127.0.0.1:0", service: orders, workload: web}]\n'
            )
            ended, answer = await self.command("check", "--offline", "--config", str(file))
            (pair,) = answer["checks"]
            last = pair["layers"][-1]
            self.assertEqual((ended, last["layer"], last.get("code")), (status, 8, code), answer)
            record = await inner.closed()
            self.assertEqual((record.src_identity, record.bytes_sent), (str(self.pki.id("web")), 0))
