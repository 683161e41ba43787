"""Key exchange groups and cipher suites as they are configured, through both hops and with foreign peers."""

from __future__ import annotations

import re
import socket

from tcpmesh.codes import CLEAN, PEER_ALERT, TLS_FAILED
from tcpmesh.dataplane.openssl_private import GROUP_SETTER
from tcpmesh.errors import ConfigurationError
from tcpmesh.tls_names import GROUPS, SUITES
from tests.integration.applications import RESET, push, receive, until, whole
from tests.integration.foreign_case import REPLY, REQUEST, ForeignProgramTestCase
from tests.integration.foreign_programs import Change, changed
from tests.integration.mesh import MeshTestCase, Proxy, echo, in_thread, receive_all

# Why a test cannot be run here, for trial.
NO_SETTER = None if GROUP_SETTER is not None else "cryptography has what sets a list of groups since 47"
# As records show them, where that differs from how they are configured.
SHOWN = {"X25519": "x25519", "X448": "x448", "P-256": "secp256r1", "P-384": "secp384r1", "P-521": "secp521r1"}


class TwoHopCase(MeshTestCase):
    """Both proxies with settings of their own."""

    def two_hops(self, outer: str, inner: str) -> tuple[Proxy, Proxy]:
        """Outbound and inbound with these keys in their ``tls``."""
        inbound = self.start_inbound(self.application(echo), more=f", tls: {{{inner}}}")
        return self.start_outbound(inbound.port("orders-in"), service=f", tls: {{{outer}}}"), inbound

    async def assert_carries(self, tls: str, group: str = "", cipher: str = "") -> None:
        """With the same settings at both ends, which both record what came of it, or any where nothing is said."""
        outer, inner = self.two_hops(tls, tls)

        def ask() -> bytes:
            client = self.connect(outer.port("to-orders"))
            client.sendall(b"hello")
            client.shutdown(socket.SHUT_WR)
            return receive_all(client)

        self.assertEqual(await in_thread(ask), b"hello", tls)
        for proxy in (outer, inner):
            record = await proxy.closed()
            self.assertIs(record.code, CLEAN)
            self.assertIn(group, ("", record.tls_group))
            self.assertIn(cipher, ("", record.tls_cipher))


class TwoHopTests(TwoHopCase):
    """An outbound and an inbound proxy between a client and an echo service."""

    skip = NO_SETTER

    async def test_every_group(self) -> None:
        """Alone, in TLS 1.3."""
        for name in GROUPS:
            await self.assert_carries(f"groups: [{name}]", group=SHOWN.get(name, name))

    async def test_every_suite(self) -> None:
        """Alone, in its version of TLS; the certificates are ECDSA on P-256, so that RSA's suites fit nobody."""
        for name, facts in SUITES.items():
            if "ECDHE_RSA" not in name:
                version = f'min_version: "{facts.version}", max_version: "{facts.version}"'
                await self.assert_carries(f"{version}, ciphers: [{name}]", cipher=facts.openssl)

    async def test_the_first_of_several(self) -> None:
        """The order is that of preference, for groups and suites."""
        await self.assert_carries(
            "groups: [P-384, X25519MLKEM768, X25519], ciphers: [TLS_CHACHA20_POLY1305_SHA256, TLS_AES_256_GCM_SHA384]",
            "secp384r1",
            "TLS_CHACHA20_POLY1305_SHA256",
        )

    async def test_nothing_in_common(self) -> None:
        """Both sides refuse with a code each, the application sees a reset, and nobody is dialled."""
        for ours, theirs, reason in (
            ("groups: [X25519, X448]", "groups: [P-256]", "no suitable key share"),
            ("ciphers: [TLS_AES_128_GCM_SHA256]", "ciphers: [TLS_AES_256_GCM_SHA384]", "no shared cipher"),
        ):
            outer, inner = self.two_hops(ours, theirs)
            seen = await in_thread(receive, self.connect(outer.port("to-orders")))
            self.assertEqual(seen.ending, RESET)
            there, here = await inner.closed(), await outer.closed()
            self.assertIs(there.code, TLS_FAILED)
            self.assertIn(f"OpenSSL says: {reason}", there.reason)
            self.assertIs(here.code, PEER_ALERT)
            self.assertIn("the peer sent the TLS alert 'handshake failure'", here.reason)
            self.assertFalse(there.established or here.established)


class PublicLayerTests(TwoHopCase):
    """The same proxies where nothing but pyOpenSSL's public interface is there."""

    group_setter = None

    async def test_a_single_curve(self) -> None:
        """That it can set."""
        await self.assert_carries("groups: [P-256]", group="secp256r1")

    async def test_the_default(self) -> None:
        """The library's own order needs no setting."""
        await self.assert_carries("", group="X25519MLKEM768")

    async def test_every_other_list_is_refused_before_anything_is_bound(self) -> None:
        """At its place in the file, with the version of pyOpenSSL."""
        error = self.assertRaises(
            ConfigurationError,
            self.start_inbound,
            1,
            more=",\n    tls: {groups: [X25519MLKEM768]}",
        )
        (problem,) = error.problems
        assert problem.mark is not None
        self.assertRegex(
            problem.message,
            r"^inbound\[0\]\.tls\.groups: tcpmesh cannot set X25519MLKEM768 with pyopenssl [0-9.]+ and ",
        )
        self.assertEqual((problem.mark.line, problem.mark.column), (9, 10))
        error = self.assertRaises(
            ConfigurationError, self.start_outbound, 1, service=", tls: {groups: [X25519, P-256]}"
        )
        self.assertIn("services.orders.tls.groups: tcpmesh cannot set X25519, P-256", str(error))


class ForeignTests(ForeignProgramTestCase):
    """openssl s_client and s_server, which know no post-quantum group here."""

    skip = NO_SETTER

    def answer(self, connection: socket.socket) -> None:
        if receive(connection, len(REQUEST)) == whole(REQUEST):
            push(connection, REPLY)
            receive(connection)

    async def assert_carries(self, side: str, block: str, change: Change, group: str, cipher: str) -> None:
        make = self.client_hop if side == "client" else self.server_hop
        hop = await make("openssl", block, self.answer, change=change)

        def ask() -> object:
            with hop.connect() as client:
                push(client, REQUEST)
                return receive(client, len(REPLY))

        self.assertEqual(await in_thread(ask), whole(REPLY))
        record = await hop.proxy.closed()
        self.assertEqual((record.tls_group, record.tls_cipher), (group, cipher))

    async def test_meet_our_default(self) -> None:
        """Whatever they have of it: ``-groups``, and ``-ciphersuites`` in the client's order."""
        for side, block, program in (("client", "inbound", "s_client"), ("server", "service", "s_server")):
            for group, shown in (("X25519", "x25519"), ("P-384", "secp384r1")):
                change = changed(program, f"{program} -groups {group} -ciphersuites TLS_CHACHA20_POLY1305_SHA256")
                await self.assert_carries(side, block, change, shown, "TLS_CHACHA20_POLY1305_SHA256")

    async def test_meet_what_is_configured(self) -> None:
        """The group that both have, at the price of a round trip; and our order of suites where we are the server."""
        both = "-groups X25519:P-256 -ciphersuites TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256"
        for side, block, program in (
            ("client", "inbound-groups", "s_client"),
            ("server", "service-groups", "s_server"),
        ):
            change = changed(program, f"{program} {both}")
            await self.assert_carries(side, block, change, "secp256r1", "TLS_AES_128_GCM_SHA256")

    async def test_a_client_with_nothing_in_common_is_refused(self) -> None:
        """TM-I404 here, and it gets the alert handshake_failure."""
        change = changed("s_client", "s_client -groups X25519:X448")
        hop = await self.client_hop("openssl", "inbound-groups", self.answer, change=change)
        with hop.connect() as client:
            self.assertEqual((await in_thread(receive, client)).length, 0)
        record = await hop.proxy.closed()
        self.assertIs(record.code, TLS_FAILED)
        self.assertIn("no suitable key share", record.reason)
        await until(lambda: re.search("alert handshake failure", hop.peer.said), f"it said {hop.peer.said}")

    async def test_a_server_with_nothing_in_common_refuses(self) -> None:
        """TM-I403 here: the alert says no more."""
        change = changed("s_server", "s_server -groups X25519:X448")
        hop = await self.server_hop("openssl", "service-groups", self.answer, change=change)
        with hop.connect() as client:
            self.assertEqual((await in_thread(receive, client)).length, 0)
        record = await hop.proxy.closed()
        self.assertIs(record.code, PEER_ALERT)
        self.assertIn("the peer sent the TLS alert 'handshake failure'", record.reason)
