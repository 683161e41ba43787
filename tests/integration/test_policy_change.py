"""Live connections when their policies change."""

from __future__ import annotations

import socket

from tcpmesh.codes import CLEAN, POLICY_CHANGED
from tests.integration.applications import RESET, receive, until
from tests.integration.mesh import MeshTestCase, Proxy, echo, in_thread

ALLOW = '{name: web-may, action: allow, from: [{ids: ["spiffe://mesh.test/web", "spiffe://mesh.test/intruder"]}]}'
DENY = '{name: not-web, action: deny, from: [{ids: ["spiffe://mesh.test/web"]}]}'
NO_SERVICE = '{name: not-out, action: deny, from: [{ids: ["spiffe://mesh.test/web"]}], to: {services: [orders]}}'


class PolicyChangeTests(MeshTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.file = self.directory / "policies.yaml"
        self.write(ALLOW)

    def write(self, *policies: str) -> None:
        self.file.write_text(f"policies: [{', '.join(policies)}]\n")

    top = "authorization: [{plugin: rules, files: [policies.yaml]}]\n"

    async def talk(self, port: int) -> socket.socket:
        """A connection that is established and has carried something."""
        client = self.connect(port)
        client.sendall(b"hello")
        self.assertEqual(await in_thread(client.recv, 5), b"hello")
        return client

    def inbound(self, **more: str) -> Proxy:
        return self.start_inbound(self.application(echo), allow=(), top=self.top, **more)

    async def test_who_is_denied_now_is_cut_and_nobody_else(self) -> None:
        """Both ends see a reset; the record says by which rule of which line."""
        inner = self.inbound()
        web = self.start_outbound(inner.port("orders-in"))
        other = self.start_outbound(inner.port("orders-in"), workload="intruder")
        one, two = await self.talk(web.port("to-orders")), await self.talk(other.port("to-orders"))
        self.write(ALLOW, DENY)
        inner.service.reload_identities()
        self.assertEqual((await in_thread(receive, one)).ending, RESET)
        record = await inner.closed()
        self.assertEqual(
            (record.code, record.closed_by, record.src_identity), (POLICY_CHANGED, "proxy", "spiffe://mesh.test/web")
        )
        self.assertRegex(
            record.reason,
            r"\Ano longer allowed: policy 'not-web' denies spiffe://mesh.test/web: "
            r"policies\[1\]\.from\[0\]\.ids\[0\] \(.*policies\.yaml:1:\d+\)\Z",
        )
        two.sendall(b"still")
        self.assertEqual(await in_thread(two.recv, 5), b"still")
        self.assertEqual(len(inner.tap.close), 1)

    async def test_on_change_log_lets_it_go_on(self) -> None:
        """New connections are refused all the same."""
        inner = self.inbound(more=", on_change: log")
        outer = self.start_outbound(inner.port("orders-in"))
        client = await self.talk(outer.port("to-orders"))
        self.write()
        before = inner.service.composition.state.current
        inner.service.reload_identities()
        await until(lambda: inner.service.composition.state.current is not before, "the policies are others")
        self.assertEqual((await in_thread(receive, self.connect(outer.port("to-orders")))).ending, RESET)
        client.sendall(b"still")
        self.assertEqual(await in_thread(client.recv, 5), b"still")
        client.shutdown(socket.SHUT_WR)
        self.assertEqual((await in_thread(receive, client)).length, 0)
        await inner.tap.when(lambda: any(record.code is CLEAN for record in inner.tap.close))

    async def test_outbound_connections_are_cut_too(self) -> None:
        """By a policy that came when they were there, although nobody was asked about them before."""
        inner = self.start_inbound(self.application(echo))
        outer = self.start_outbound(inner.port("orders-in"), top=self.top)
        client = await self.talk(outer.port("to-orders"))
        self.write(NO_SERVICE)
        outer.service.reload_identities()
        self.assertEqual((await in_thread(receive, client)).ending, RESET)
        record = await outer.closed()
        self.assertIs(record.code, POLICY_CHANGED)
        self.assertIn("policy 'not-out' denies spiffe://mesh.test/web", record.reason)

    async def test_a_change_that_cannot_be_used_cuts_nobody(self) -> None:
        """What is in force has not changed."""
        inner = self.inbound()
        outer = self.start_outbound(inner.port("orders-in"))
        client = await self.talk(outer.port("to-orders"))
        self.file.write_text("policies: nonsense")
        inner.service.reload_identities()
        await until(lambda: inner.service.composition.policies.failing, "the change is refused")
        client.sendall(b"still")
        self.assertEqual(await in_thread(client.recv, 5), b"still")
