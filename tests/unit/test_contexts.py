"""TLS contexts: one per generation, workload, role and settings; without an identity there is none."""

from __future__ import annotations

import os
from pathlib import Path

import attrs
from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import codes
from tcpmesh.dataplane.contexts import TLSContexts, own_svid
from tcpmesh.dataplane.preface import ALPN, CHECK_ALPN
from tcpmesh.dataplane.probe import PROBE_ALPN
from tcpmesh.dataplane.tls_core import TLSCore
from tcpmesh.errors import Refusal
from tcpmesh.identity.certificates import pem_of
from tcpmesh.mesh_state import MeshState
from tcpmesh.settings import TLSSettings
from tcpmesh.values import DNSName, IdentityState
from tests.unit.crafted import dns, rsa_key, uri
from tests.unit.tls_pairs import (
    ORDERS,
    TLS12,
    WEB,
    Pair,
    World,
    foreign_client,
    foreign_context,
    joined,
    meet,
    now_authority,
    now_leaf,
)

TLS13 = TLSSettings()


class CacheTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()
        self.state = self.world.state()
        self.contexts = TLSContexts({Path("/ca.pem"): [self.world.other.certificate]})

    def test_makes_one_context_for_all_connections_of_a_kind(self) -> None:
        """Within a generation the same context serves again."""
        self.assertIs(self.contexts.server(self.state, "web", TLS13), self.contexts.server(self.state, "web", TLS13))
        self.assertIs(
            self.contexts.client(self.state, "web", TLS13, "mesh"),
            self.contexts.client(self.state, "web", TLSSettings(), "mesh"),
        )

    def test_keeps_kinds_apart(self) -> None:
        """Role, workload, TLS settings and trust each have a context of their own."""
        made = {
            id(context): context
            for context in (
                self.contexts.server(self.state, "web", TLS13),
                self.contexts.server(self.state, "orders", TLS13),
                self.contexts.server(self.state, "web", TLS12),
                self.contexts.server(self.state, "web", TLS13, probe=True),
                self.contexts.client(self.state, "web", TLS13, "mesh"),
                self.contexts.client(self.state, "web", TLS13, "system"),
                self.contexts.client(self.state, "web", TLS13, Path("/ca.pem")),
                self.contexts.client(self.state, "orders", TLS13, "mesh"),
            )
        }
        self.assertEqual(len(made), 8)

    def test_selects_the_probe_where_it_is_wanted_and_checks_always(self) -> None:
        """Elsewhere a probe is a protocol like any other that nobody knows; payload never comes by either."""
        for probe, offered, agreed in (
            (False, [PROBE_ALPN], b""),
            (False, [PROBE_ALPN, ALPN], ALPN),
            (True, [PROBE_ALPN, b"h2"], PROBE_ALPN),
            (True, [ALPN, PROBE_ALPN], PROBE_ALPN),
            (True, [ALPN], ALPN),
            (True, [b"tcpmesh-probe/2"], b""),
            (False, [CHECK_ALPN, b"h2"], CHECK_ALPN),
            (False, [CHECK_ALPN, ALPN], ALPN),
            (True, [CHECK_ALPN, PROBE_ALPN], PROBE_ALPN),
            (False, [b"tcpmesh-check/2"], b""),
        ):
            client = foreign_client(self.world.web)
            client.set_alpn_protos(offered)
            context = self.contexts.server(self.state, "orders", TLS13, probe=probe)
            server = TLSCore(context, self.world.verification(), server=True)
            self.assertTrue(meet(client, server))
            self.assertEqual((server.alpn, client.get_alpn_proto_negotiated()), (agreed, agreed))

    def test_drops_contexts_with_their_generation(self) -> None:
        """After a swap the old context serves nobody new, and its memory goes with its last connection."""
        old = self.contexts.server(self.state, "orders", TLS13)
        server = TLSCore(old, self.world.verification(), server=True)
        renewed = self.world.state(generation=2, orders=now_leaf(self.world.issuing, uri(ORDERS), serial=0x77))
        new = self.contexts.server(renewed, "orders", TLS13)
        self.assertIsNot(old, new)
        self.assertIs(self.contexts.server(renewed, "orders", TLS13), new)
        # A connection that began before goes on with what it began with.
        for core, serial in ((server, "1234"), (TLSCore(new, self.world.verification(), server=True), "77")):
            peer = Pair(self.world.client(), core).handshake().client.verification.peer
            assert peer is not None
            self.assertEqual(peer.serial, serial)

    def test_shows_the_identity_of_the_workload(self) -> None:
        """Each workload has its own certificate, never another's."""
        for workload, name in (("web", WEB), ("orders", ORDERS)):
            core = TLSCore(self.contexts.server(self.state, workload, TLS13), self.world.verification(), server=True)
            client = self.world.client(expect=name)
            self.assertEqual(str(Pair(client, core).handshake().client.verification.peer), name)


class OwnIdentityTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()
        self.contexts = TLSContexts()

    def without(self, status: IdentityState) -> MeshState:
        return attrs.evolve(
            self.world.state(), svids={"web": self.world.state().svids["web"]}, identity_states={"orders": status}
        )

    def test_refuses_without_an_identity(self) -> None:
        """No context is made, in either role; code and reason say which state it is in."""
        for status, code in (
            (IdentityState.INIT, codes.NO_IDENTITY),
            (IdentityState.REVOKED, codes.OWN_REVOKED),
            (IdentityState.EXPIRED, codes.OWN_EXPIRED),
        ):
            state = self.without(status)
            for make in (
                lambda state=state: self.contexts.server(state, "orders", TLS13),
                lambda state=state: self.contexts.client(state, "orders", TLS13, "mesh"),
                lambda state=state: own_svid(state, "orders"),
            ):
                refusal = self.assertRaises(Refusal, make)
                self.assertEqual(refusal.code, code)
                self.assertIn(f"'orders' has no usable identity (it is in state {status.name})", refusal.reason)

    def test_refuses_a_workload_that_no_source_knows(self) -> None:
        """As if its source had never delivered."""
        refusal = self.assertRaises(Refusal, own_svid, MeshState(), "orders")
        self.assertEqual((refusal.code, "INIT" in refusal.reason), (codes.NO_IDENTITY, True))

    def test_an_identity_that_was_withdrawn_is_not_remembered(self) -> None:
        """The context of the generation before is not used for want of a better one."""
        self.contexts.server(self.world.state(), "orders", TLS13)
        gone = attrs.evolve(self.without(IdentityState.REVOKED), generation=2)
        refusal = self.assertRaises(Refusal, self.contexts.server, gone, "orders", TLS13)
        self.assertEqual(refusal.code, codes.OWN_REVOKED)

    def test_refuses_an_identity_that_openssl_does_not_take(self) -> None:
        """A key below OpenSSL's security level would end in an exception for every connection."""
        state = self.world.state(orders=now_leaf(self.world.issuing, uri(ORDERS), key=rsa_key(1024)))
        refusal = self.assertRaises(Refusal, self.contexts.server, state, "orders", TLS13)
        self.assertEqual(refusal.code, codes.OWN_PROFILE)
        self.assertIn("'orders'", refusal.reason)
        self.assertIn("ee key too small", refusal.reason)


class TrustTests(SynchronousTestCase):
    """Whom a client takes for an authority."""

    def setUp(self) -> None:
        self.world = World()
        self.stranger = now_authority("public")
        self.contexts = TLSContexts({Path("/ca.pem"): [self.stranger.certificate]})
        self.server = now_leaf(self.stranger, dns("db.example.org"))

    def outcome(self, trust: object) -> str:
        """What a client that trusts this makes of a server that the stranger certified: the peer, or the code."""
        context = self.contexts.client(self.world.state(), "web", TLS13, trust)  # type: ignore[arg-type]
        client = TLSCore(context, self.world.verification(DNSName("db.example.org")), server=False)
        server = SSL.Connection(foreign_context(self.server), None)
        server.set_accept_state()
        client.handshake(b"")
        server.bio_write(client.take_output())
        self.assertRaises(SSL.WantReadError, server.do_handshake)
        try:
            self.assertTrue(client.handshake(server.bio_read(65536)))
        except Refusal as refusal:
            return refusal.code.id
        return str(client.verification.peer)

    def test_a_file_is_trusted_where_it_is_configured(self) -> None:
        """Its authorities count for that service and no other."""
        self.assertEqual(self.outcome(Path("/ca.pem")), "dns:db.example.org")

    def test_the_system_vouches_for_whom_it_knows(self) -> None:
        """Its store is that of OpenSSL, which the environment can place."""
        store = Path(self.mktemp())
        store.write_bytes(pem_of([self.stranger.certificate]))
        before = os.environ.get("SSL_CERT_FILE")
        os.environ["SSL_CERT_FILE"] = str(store.absolute())
        try:
            self.assertEqual(self.outcome("system"), "dns:db.example.org")
        finally:
            if before is None:
                del os.environ["SSL_CERT_FILE"]
            else:
                os.environ["SSL_CERT_FILE"] = before

    def test_neither_the_mesh_nor_the_system_vouches_for_a_stranger(self) -> None:
        """An unknown authority is one in each store."""
        self.assertEqual(self.outcome("mesh"), codes.UNKNOWN_AUTHORITY.id)
        self.assertEqual(self.outcome("system"), codes.UNKNOWN_AUTHORITY.id)

    def test_the_mesh_is_not_in_the_system_or_in_a_file(self) -> None:
        """A certificate of the mesh does not pass for one of a public authority."""
        self.server = now_leaf(self.world.issuing, uri(ORDERS), dns("db.example.org"))
        self.assertEqual(self.outcome("mesh"), "dns:db.example.org")
        for trust in ("system", Path("/ca.pem")):
            self.assertTrue(self.outcome(trust).startswith("TM-I6"), trust)

    def test_any_certificate_of_a_bundle_is_an_anchor(self) -> None:
        """Also one that another signed, as nested authorities have it."""
        world = World()
        world.bundles = {
            domain: attrs.evolve(bundle, authorities=(world.issuing.certificate,))
            for domain, bundle in world.bundles.items()
            if str(domain) == "a.test"
        }
        self.assertEqual(str(joined(world).server.verification.peer), WEB)

    def test_a_server_asks_for_a_certificate_without_naming_authorities(self) -> None:
        """The request lists no names: strangers learn nothing of the mesh from it."""
        client = foreign_client(self.world.web)
        self.assertTrue(meet(client, self.world.server()))
        self.assertEqual(client.get_client_ca_list(), [])

    def test_shows_the_chain_that_the_source_gave_and_no_more(self) -> None:
        """A leaf that a root signed goes alone, as SPIRE gives it: the root is nothing that a peer could use."""
        for length, issuer in ((1, self.world.root), (2, self.world.issuing)):
            client = foreign_client(self.world.web)
            state = self.world.state(generation=length, orders=now_leaf(issuer, uri(ORDERS)))
            self.assertTrue(meet(client, self.world.server(state=state)))
            self.assertEqual(len(client.get_peer_cert_chain() or ()), length)
