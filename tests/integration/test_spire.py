"""Identities from a real SPIRE: short certificates under load, entries that go, agents that die, new authorities."""

from __future__ import annotations

import itertools
import signal
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tcpmesh.codes import OWN_REVOKED, VOUCHER_GONE
from tcpmesh.identity.authority import new_root
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.wall_clock import wall_clock
from tests.integration import go_program
from tests.integration.servers import temporary_directory
from tests.integration.spire import SpireAgent, SpireServer
from tests.integration.spire_case import US, Load, SpireProxy, SpireTestCase, call, talk

TTL = 15  # seconds; SPIRE renews them when about 13 are left, 10 s are added for clocks that are behind
LASTING = 3


class RotationTests(SpireTestCase):
    """SPIRE below another authority, so that there is an intermediate in every chain."""

    def setUp(self) -> None:
        above = temporary_directory(self)
        root = new_root(TrustDomain(US), wall_clock())
        (above / "root.pem").write_bytes(root.certificate.public_bytes(Encoding.PEM))
        key = root.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (above / "root.key").write_bytes(key)
        self.plugins = (
            f'UpstreamAuthority "disk" {{ plugin_data {{ cert_file_path = "{above}/root.pem" '
            f'key_file_path = "{above}/root.key" }} }}'
        )
        super().setUp()

    def test_renews_under_load_without_an_error(self) -> None:
        """Connections outlive the certificates they began with, new ones show the new certificates, none fails."""
        for path in ("/web", "/orders"):
            self.server.register(path, ttl=TTL)
        proxy, port = self.start_both_hops()
        load = Load(self, port, lasting=LASTING)
        proxy.until(lambda: len(self.serials(proxy)) >= 4, "fewer than four certificates")
        proxy.until(lambda: self.outlived(proxy), "no certificate of the first connections has expired")
        load.stop()
        self.assertEqual(load.errors, [])
        closed = proxy.closed(2 * len(self.opened(proxy)))
        self.assertEqual({record["code"] for record in closed}, {"TM-D100"})
        opened = self.opened(proxy)
        self.assertGreater(len(opened), LASTING)
        serials = self.serials(proxy)
        self.assertEqual(len(serials), len(set(serials)), serials)
        for record in opened:
            self.assertLess(record["time"], record["src.not_after"])
        inbound = [record for record in closed if record["direction"] == "inbound"]
        self.assertEqual(sum(record["time"] > record["src.not_after"] for record in inbound), LASTING)
        self.assertNotIn('"level":"error"', proxy.running.err)
        self.assertNotIn("STALE", proxy.running.err)

    def opened(self, proxy: SpireProxy) -> list[dict[str, Any]]:
        return [record for record in proxy.records("open") if record["direction"] == "inbound"]

    def serials(self, proxy: SpireProxy) -> list[str]:
        """The client's certificates, as the other hop saw them one after the other."""
        return [serial for serial, _ in itertools.groupby(record["src.serial"] for record in self.opened(proxy))]

    def outlived(self, proxy: SpireProxy) -> bool:
        """The last connection is younger than the certificates of the first ones."""
        opened = self.opened(proxy)
        return bool(opened[-1]["time"] > max(record["src.not_after"] for record in opened[: LASTING + 1]))


class EntryTests(SpireTestCase):
    """Entries that are deleted and made again."""

    def assert_refused(self, proxy: SpireProxy, port: int) -> None:
        refused = len(self.refused(proxy))
        self.assertFalse(call(port))
        proxy.until(lambda: len(self.refused(proxy)) == refused + 1, f"no record of a refusal with {OWN_REVOKED.id}")

    def refused(self, proxy: SpireProxy) -> list[dict[str, Any]]:
        return [record for record in proxy.records("close") if record["code"] == OWN_REVOKED.id]

    def test_what_is_deleted_is_used_no_more(self) -> None:
        """One of two, which ends its connections, then both, which SPIRE says in another way; and each comes back."""
        entries = {path: self.server.register(path) for path in ("/web", "/orders")}
        proxy, port = self.start_both_hops()
        lasting = self.connect(port)
        self.assertEqual(talk(lasting), b"hello")
        before = proxy.serial("web")
        self.server.delete(entries["/web"])
        proxy.until_states(web="revoked", orders="ready")
        self.assert_refused(proxy, port)
        proxy.wait_for("close", lambda record: record["code"] == OWN_REVOKED.id and record["bytes_recv"] == 5)
        self.assertRaises(ConnectionResetError, lasting.recv, 1)
        entries["/web"] = self.server.register("/web")
        proxy.until_states(web="ready", orders="ready")
        self.assertNotEqual(proxy.serial("web"), before)
        self.assertTrue(call(port))
        for entry in entries.values():
            self.server.delete(entry)
        proxy.until_states(web="revoked", orders="revoked")
        self.assertIn("no identity issued", proxy.workload("web")["reason"])
        self.assert_refused(proxy, port)
        for path in entries:
            self.server.register(path)
        proxy.until_states(web="ready", orders="ready")
        self.assertTrue(call(port))


class AgentTests(SpireTestCase):
    """An agent that is gone for a while."""

    def test_serves_on_without_it(self) -> None:
        """Killed, then stopped in order; each time it comes back with certificates that are new."""
        for path in ("/web", "/orders"):
            self.server.register(path)
        proxy, port = self.start_both_hops()
        lasting = self.connect(port)
        at_first = len(proxy.running.err)
        for number in (signal.SIGKILL, signal.SIGTERM):
            before = proxy.serial("web")
            self.assertEqual(talk(lasting), b"hello")
            self.agent.stop(number)
            proxy.until_states(web="stale", orders="stale")
            self.assertEqual(talk(lasting), b"hello")
            self.assertTrue(call(port))
            self.assertEqual(proxy.serial("web"), before)
            self.agent.start()
            proxy.until_states(web="ready", orders="ready")
            self.assertNotEqual(proxy.serial("web"), before)
            self.assertTrue(call(port))
        self.assertEqual(talk(lasting), b"hello")
        self.assertNotIn("REVOKED", proxy.running.err[at_first:])


class AuthorityTests(SpireTestCase):
    """``spire-server localauthority x509``."""

    def setUp(self) -> None:
        super().setUp()
        for path in ("/web", "/orders"):
            self.server.register(path)

    def test_replaces_its_authority(self) -> None:
        """Prepared, activated, the old one tainted and revoked: what ends are connections that only it vouched for."""
        proxy, port = self.start_both_hops()
        lasting = self.connect(port)
        load = Load(self, port, lasting=0)
        first = self.server.authorities()["active"]
        self.assertEqual(proxy.authorities(), {first})

        self.server.step("prepare")
        second = self.server.authorities()["prepared"]
        proxy.until(lambda: proxy.authorities() == {first, second}, "no second authority")
        before = proxy.serial("web")

        self.server.step("activate", second)
        self.assertEqual(self.server.authorities()["active"], second)
        self.assertEqual(proxy.serial("web"), before)

        self.server.step("taint", first)
        proxy.until(lambda: proxy.serial("web") != before, "the certificates are still those of the old authority")
        proxy.until_states(web="ready", orders="ready")
        self.assertEqual(proxy.authorities(), {first, second})
        self.assertEqual(talk(lasting), b"hello")

        self.server.step("revoke", first)
        proxy.until(lambda: proxy.authorities() == {second}, "the old authority is still there")
        proxy.wait_for("close", lambda record: record["code"] == VOUCHER_GONE.id and record["bytes_recv"] == 5)
        self.assertRaises(ConnectionResetError, lasting.recv, 1)
        self.assertTrue(call(port))
        load.stop()
        self.assertEqual(load.errors, [])
        others = [record for record in proxy.records("close") if record["code"] != "TM-D100"]
        self.assertEqual(len(others), 2, others)  # its two hops
        self.assertGreater(load.answers, 10)

    def test_revokes_an_authority_too_soon(self) -> None:
        """SPIRE goes on to offer the old certificates, which its bundle does not vouch for: they are used no longer."""
        proxy, port = self.start_both_hops()
        first = self.server.authorities()["active"]
        self.server.step("prepare")
        second = self.server.authorities()["prepared"]
        proxy.until(lambda: proxy.authorities() == {first, second}, "no second authority")
        self.agent.process.signal(signal.SIGSTOP)  # it must not see that the authority is tainted
        self.server.step("activate", second)
        self.server.step("taint", first)
        self.server.step("revoke", first)
        self.agent.process.signal(signal.SIGCONT)
        proxy.until_states(web="revoked", orders="revoked")
        self.assertEqual(proxy.authorities(), {second})
        self.assertFalse(call(port))
        self.assertIn("its authority has been taken from the bundle", proxy.running.err)
        self.agent.stop(signal.SIGTERM)
        self.agent.join(self.server)  # the server does not believe the agent's own certificate any more, either
        proxy.until_states(web="ready", orders="ready")
        self.assertTrue(call(port))


class NestedTests(SpireTestCase):
    """Our SPIRE below another one of the same trust domain, which it asks through that one's agent."""

    def test_follows_the_authority_at_the_top(self) -> None:
        """Its bundle is the one above; what is replaced there is replaced in every chain."""
        top, between = self.server, self.agent
        top.register("/downstream", "-downstream", program=go_program("spire-server"))
        known = "spiffe://example.org/downstream"
        between.process.wait_until(lambda: known in between.process.out, "the agent does not know the server below")
        self.server = SpireServer(
            self, US,
            plugins=f'UpstreamAuthority "spire" {{ plugin_data {{ server_address = "127.0.0.1" '
            f'server_port = "{top.port}" workload_api_socket = "{between.socket}" }} }}',
        )  # fmt: skip
        self.agent = SpireAgent(self, self.server)
        for path in ("/web", "/orders"):
            self.server.register(path)
        proxy, port = self.start_both_hops()
        load = Load(self, port, lasting=0)
        first = top.authorities()["active"]
        self.assertEqual(proxy.authorities(), {first})

        top.step("prepare")
        second = top.authorities()["prepared"]
        proxy.until(lambda: proxy.authorities() == {first, second}, "the new authority has not come down")
        top.step("activate", second)
        before = {name: proxy.serial(name) for name in proxy.states()}
        top.step("taint", first)
        proxy.until(
            lambda: all(proxy.serial(name) not in ("", serial) for name, serial in before.items()),
            "the certificates are still those below the old authority",
        )
        top.step("revoke", first)
        proxy.until(lambda: proxy.authorities() == {second}, "the old authority is still there")
        proxy.until_states(web="ready", orders="ready")
        self.assertTrue(call(port))
        load.stop()
        self.assertEqual(load.errors, [])
