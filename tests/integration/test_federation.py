"""Two trust domains that federate: a proxy of one calls a proxy of the other."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import LogEvent, globalLogPublisher

from tcpmesh.codes import BUNDLE_STALE, CLEAN, NO_BUNDLE, VOUCHER_GONE
from tcpmesh.identity.authority import issue
from tcpmesh.identity.certificates import pem_of
from tcpmesh.mesh_state import MeshState
from tcpmesh.testing import TestAuthority
from tcpmesh.values import Svid
from tcpmesh.wall_clock import wall_clock
from tests.integration.applications import until
from tests.integration.bundle_server import BundleServer, response
from tests.integration.mesh import (
    PATIENCE,
    MeshTestCase,
    Pki,
    Proxy,
    echo,
    in_thread,
    reactor,
    receive_all,
    unused_port,
)
from tests.integration.servers import temporary_directory
from tests.unit.bundles import document

PARTNER = "partner.test"


class FederationTests(MeshTestCase):
    """``mesh.test`` with the client, ``partner.test`` with the server."""

    def setUp(self) -> None:
        super().setUp()
        self.partner = Pki(self.directory / "partner", PARTNER)
        self.partner.issue("orders")

    def endpoint(self, svid: Svid, body: bytes) -> BundleServer:
        """A bundle endpoint."""
        server = BundleServer(svid, response(body))
        self.addCleanup(server.stop)
        return server

    def server_of(self, federation: str) -> Proxy:
        """The inbound proxy of partner.test, which lets in who is of mesh.test."""
        rules = f'[{{name: partners, action: allow, from: [{{ids: ["{self.pki.id("web")}"]}}]}}]'
        return self.start(
            self.identity("orders", pki=self.partner)
            + f"  federation: {{{self.pki.trust_domain}: {federation}}}\n"
            + f'inbound: [{{name: orders-in, listen: "127.0.0.1:0", target: "127.0.0.1:{self.application(echo)}", '
            + f"workload: orders}}]\nauthorization: [{{plugin: rules, policies: {rules}}}]\n",
            trust_domain=PARTNER,
        )

    def client_of(self, port: int, federation: str, top: str = "") -> Proxy:
        """The outbound proxy of mesh.test."""
        return self.start(
            self.identity("web")
            + f"  federation: {{{PARTNER}: {federation}}}\n"
            + f'services: {{orders: {{expect: ["{self.partner.id("orders")}"], '
            + f'discovery: {{plugin: static, endpoints: ["127.0.0.1:{port}"]}}}}}}\n'
            + 'outbound: [{name: to-orders, listen: "127.0.0.1:0", service: orders, workload: web}]\n'
            + top
        )

    async def until(self, proxy: Proxy, condition: Callable[[MeshState], bool]) -> None:
        """Wait for a state of the proxy."""
        cell = proxy.service.composition.state
        reached: Deferred[None] = Deferred()

        def look(state: MeshState) -> None:
            if condition(state) and not reached.called:
                reactor.callLater(0, reached.callback, None)

        cell.observe(look)
        look(cell.current)
        reached.addTimeout(PATIENCE, reactor)
        await reached

    def ask(self, port: int) -> bytes:
        """Send a word, and read up to the end."""
        client = self.connect(port)
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
        return receive_all(client)

    async def test_a_connection_across_with_bundles_from_endpoints(self) -> None:
        """One by https_spiffe, whose server is of the trust domain that it serves; one by https_web."""
        own = issue(
            self.partner.issuing, self.partner.root.certificate, self.partner.id("server"), ttl=3600, now=wall_clock()
        )
        theirs = self.endpoint(own, document(self.partner.root.certificate, spiffe_sequence=1))
        web = TestAuthority("web.test")
        ours = self.endpoint(web.svid("/server", dns=["localhost"]), document(self.pki.root.certificate))
        trust = web.write_bundle(self.directory.absolute() / "web.pem")

        first = self.directory.absolute() / "first.pem"
        old = TestAuthority(PARTNER).root.certificate
        first.write_bytes(pem_of([self.partner.root.certificate, old]))

        inner = self.server_of(f'{{url: "https://localhost:{ours.number}/", profile: https_web, trust: "{trust}"}}')
        outer = self.client_of(
            inner.port("orders-in"),
            f'{{url: "https://127.0.0.1:{theirs.number}/", profile: https_spiffe, '
            f'endpoint_id: "{own.id}", bundle: "{first}"}}',
        )
        await self.until(inner, lambda state: self.pki.trust_domain in state.bundles)
        await self.until(outer, lambda state: old not in state.bundles[self.partner.trust_domain].authorities)
        self.assertEqual(await in_thread(self.ask, outer.port("to-orders")), b"hello")
        there, here = await inner.closed(), await outer.closed()
        self.assertEqual((there.code, here.code), (CLEAN, CLEAN))
        self.assertEqual(
            (there.src_identity, here.dst_identity), ("spiffe://mesh.test/web", "spiffe://partner.test/orders")
        )
        self.assertEqual((len(theirs.requests), len(ours.requests)), (1, 1))

    def status(self, path: Path) -> list[dict[str, Any]]:
        """What a proxy's admin socket says of its federation."""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"GET /status HTTP/1.0\r\nHost: localhost\r\n\r\n")
            answer = receive_all(client)
        federation: list[dict[str, Any]] = json.loads(answer.partition(b"\r\n\r\n")[2])["federation"]
        return federation

    async def test_an_endpoint_that_is_denied(self) -> None:
        """What it serves is not asked for: whoever stole its key could name authorities. The file goes on."""
        own = issue(
            self.partner.issuing, self.partner.root.certificate, self.partner.id("server"), ttl=3600, now=wall_clock()
        )
        stranger = TestAuthority(PARTNER).root.certificate
        endpoint = self.endpoint(own, document(stranger, spiffe_sequence=9))
        first = self.directory.absolute() / "first.pem"
        first.write_bytes(pem_of([self.partner.root.certificate]))
        proxy = self.client_of(
            unused_port(),
            f'{{url: "https://127.0.0.1:{endpoint.number}/", profile: https_spiffe, '
            f'endpoint_id: "{own.id}", bundle: "{first}"}}}}\n'
            f'  deny_list: {{entries: [{{id: "{own.id}", reason: stolen}}]',
        )
        [held] = proxy.service.composition.control.federation.held
        await until(lambda: held.failure, "it was asked")
        self.assertIn("is not who it should be: TM-I606", held.failure)
        self.assertIn("because: stolen", held.failure)
        self.assertEqual(endpoint.requests, [])
        bundle = proxy.service.composition.state.current.bundles[self.partner.trust_domain]
        self.assertEqual(bundle.authorities, (self.partner.root.certificate,))

    async def test_says_where_it_stands(self) -> None:
        """One that serves, and one whose endpoint is not there: that is no reason not to start."""
        told: Deferred[None] = Deferred()

        def observe(event: LogEvent) -> None:
            if event.get("code") == BUNDLE_STALE.id and not told.called:
                reactor.callLater(0, told.callback, None)

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        place = temporary_directory(self) / "admin.sock"
        url = f"https://127.0.0.1:{unused_port()}/"
        trust = f'profile: https_spiffe, endpoint_id: "{self.pki.id("server")}"'
        file = self.directory.absolute() / "partner.json"
        file.write_bytes(document(self.partner.root.certificate, spiffe_sequence=7))
        self.client_of(
            1, f'{{bundle: "{file}"}}, c.test: {{url: "{url}", {trust}}}', f'admin: {{listen: "unix:{place}"}}\n'
        )
        told.addTimeout(PATIENCE, reactor)
        await told
        partner, other = await in_thread(self.status, place)
        self.assertEqual((partner["authorities"], partner["sequence"], partner["failure"]), (1, 7, ""))
        self.assertGreaterEqual(partner["age_s"], 0)
        self.assertEqual((other["trust_domain"], other["authorities"], other["age_s"]), ("c.test", None, None))
        self.assertIn(f"{url} cannot be reached", other["failure"])

    async def test_a_document_without_keys_ends_the_relation(self) -> None:
        """While the proxies run: what lives is cut off, what comes is refused."""
        file = self.directory.absolute() / "mesh.json"
        file.write_bytes(document(self.pki.root.certificate))
        inner = self.server_of(f'{{bundle: "{file}"}}')
        outer = self.client_of(inner.port("orders-in"), f'{{bundle: "{self.partner.bundle.absolute()}"}}')
        client = self.connect(outer.port("to-orders"))
        client.sendall(b"a")
        self.assertEqual(await in_thread(client.recv, 1), b"a")

        file.write_bytes(document())
        domain = self.pki.trust_domain
        await self.until(inner, lambda state: not state.bundles[domain].authorities)
        with self.assertRaises(ConnectionResetError):
            await in_thread(client.recv, 1)
        refused = self.connect(outer.port("to-orders"))
        with self.assertRaises(ConnectionResetError):
            await in_thread(refused.recv, 1)
        for number, code in ((1, VOUCHER_GONE), (2, NO_BUNDLE)):
            there = await inner.closed(number)
            self.assertEqual(there.code, code)
            self.assertIn("everything of that trust domain is revoked", there.reason)
