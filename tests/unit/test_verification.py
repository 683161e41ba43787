"""The judgement of a peer inside a handshake: it lets in whom it has verified, and nobody else for any reason."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from OpenSSL import SSL, crypto
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import codes
from tcpmesh.codes import Code
from tcpmesh.dataplane.tls_core import TLSCore
from tcpmesh.dataplane.verification import PeerVerification, verify_callback
from tcpmesh.errors import Refusal
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.identity.verify import MAX_CHAIN_LENGTH
from tcpmesh.settings import TLSSettings
from tcpmesh.values import DNSName, TrustBundle
from tcpmesh.wall_clock import wall_clock
from tests.unit.crafted import Leaf, dns, uri
from tests.unit.tls_pairs import (
    ORDERS,
    WEB,
    Pair,
    World,
    foreign_client,
    foreign_context,
    joined,
    meet,
    names_of,
    now_authority,
    now_leaf,
)


class Explosive(dict[Any, Any]):
    """Bundles that cannot be looked at."""

    def get(self, *_: Any) -> Any:
        raise ZeroDivisionError("bundles exploded")

    __getitem__ = get
    items = get

    def __iter__(self) -> Iterator[Any]:
        raise ZeroDivisionError("bundles exploded")


class VerificationCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()

    def refused(self, made: Leaf | None, code: Code, *words: str, alert: str) -> PeerVerification:
        """A server of ours refuses this client with this code; the client hears this alert."""
        server = self.world.server()
        client = foreign_client(made)
        refusal = self.assertRaises(Refusal, meet, client, server)
        self.assertEqual(refusal.code, code, refusal.reason)
        for word in words:
            self.assertIn(word, refusal.reason)
        verification = server.verification
        self.assertIsNone(verification.peer)
        client.bio_write(server.take_output())
        self.assertEqual(names_of(self.assertRaises(SSL.Error, client.recv, 1)), alert)
        self.assertRaises(Refusal, server.handshake, b"")  # asking again does not help
        return verification


class PeerVerificationTests(VerificationCase):
    def test_gives_the_peer_with_its_serial_and_times(self) -> None:
        """Identity, serial and validity of the leaf, on both ends."""
        pair = joined(self.world)
        for verification, made in (
            (pair.server.verification, self.world.web),
            (pair.client.verification, self.world.orders),
        ):
            peer = verification.peer
            assert peer is not None
            self.assertEqual(peer.serial, f"{made.certificate.serial_number:x}")
            self.assertEqual(peer.not_after, made.certificate.not_valid_after_utc.timestamp())
            self.assertEqual((verification.refusal, verification.presented), (None, str(peer.spiffe_id)))

    def test_refuses_nobody(self) -> None:
        """Without a certificate there is no peer, and nothing was presented."""
        verification = self.refused(None, codes.NO_CERTIFICATE, alert="certificate required")
        self.assertEqual((verification.presented, verification.refusal), ("", None))

    def test_names_the_leaf_when_the_defect_is_above_it(self) -> None:
        """OpenSSL begins at the top of the chain; the refusal waits until it knows whose chain it is."""
        now = wall_clock()
        late = now_authority("late", self.world.root, not_before=now - 7200, not_after=now - 3600)
        stranger = now_authority("stranger's issuing", now_authority("stranger"))
        for issuer, code, words in (
            (late, codes.CHAIN_INVALID, "the intermediate CN=late"),
            (stranger, codes.UNKNOWN_AUTHORITY, "its issuer is CN=stranger"),
        ):
            verification = self.refused(now_leaf(issuer, uri(WEB)), code, words, WEB, alert="internal error")
            self.assertEqual(verification.presented, WEB)

    def test_names_the_leaf_of_an_endless_chain(self) -> None:
        """Of fifty certificates OpenSSL shows a few; the refusal still knows whose chain it is."""
        above = self.world.root
        for number in range(49):
            above = now_authority(f"level {number}", above)
        verification = self.refused(now_leaf(above, uri(WEB)), codes.CERTIFICATE_TOO_LARGE, WEB, alert="internal error")
        self.assertEqual(verification.presented, WEB)

    def test_takes_a_chain_of_the_longest_length(self) -> None:
        """Eight certificates, leaf and anchor included, are a chain; nine are not."""
        above = self.world.root
        for number in range(MAX_CHAIN_LENGTH - 2):
            above = now_authority(f"level {number}", above)
        server = self.world.server()
        self.assertTrue(meet(foreign_client(now_leaf(above, uri(WEB))), server))
        self.assertEqual(str(server.verification.peer), WEB)
        longer = now_authority("one too many", above)
        self.refused(now_leaf(longer, uri(WEB)), codes.CERTIFICATE_TOO_LARGE, alert="internal error")

    def test_an_exception_refuses_and_is_logged(self) -> None:
        """Whatever goes wrong while a certificate is judged, its owner stays outside."""
        context = self.world.contexts.server(self.world.state(), "orders", TLSSettings())
        server = TLSCore(context, PeerVerification(Explosive(), None, wall_clock), server=True)
        refusal = self.assertRaises(Refusal, meet, foreign_client(self.world.web), server)
        self.assertIn(refusal.code, (codes.INTERNAL, codes.MALFORMED_CERTIFICATE))
        self.assertIn("ZeroDivisionError", refusal.reason)
        self.assertIsNone(server.verification.peer)
        if refusal.code is codes.INTERNAL:
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_an_exception_in_the_clock_refuses_and_is_logged(self) -> None:
        """Outside of what certificates can cause: an internal error, with its traceback in the log."""

        def broken() -> float:
            raise ZeroDivisionError("no time")

        context = self.world.contexts.server(self.world.state(), "orders", TLSSettings())
        server = TLSCore(context, PeerVerification(self.world.bundles, None, broken), server=True)
        made = now_leaf(now_authority("stranger"), uri(WEB))
        refusal = self.assertRaises(Refusal, meet, foreign_client(made), server)
        self.assertEqual(refusal.code, codes.INTERNAL)
        self.assertIn("ZeroDivisionError", refusal.reason)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_refuses_when_nobody_judged(self) -> None:
        """A context that does not ask for verification lets nobody in either: there is no peer."""
        context = foreign_context(self.world.orders)
        server = TLSCore(context, self.world.verification(), server=True)
        refusal = self.assertRaises(Refusal, meet, foreign_client(self.world.web), server)
        self.assertEqual(refusal.code, codes.NO_CERTIFICATE)
        self.assertIn("never verified", refusal.reason)


class ExpectationTests(VerificationCase):
    def test_a_client_takes_nobody_but_whom_it_expects(self) -> None:
        """The reason names both, and the server is told by an alert that there is no deal."""
        for expect, code in (
            ("spiffe://a.test/billing", codes.ID_DIFFERS),
            ("spiffe://b.test/orders", codes.TRUST_DOMAIN_DIFFERS),
        ):
            pair = Pair(self.world.client(expect=expect), self.world.server())
            refusal = self.assertRaises(Refusal, pair.handshake)
            self.assertEqual(refusal.code, code)
            self.assertIn(f"expected {expect}; the peer is {ORDERS}", refusal.reason)
            self.assertEqual(pair.client.verification.presented, ORDERS)
            heard = self.assertRaises(Refusal, pair.server.handshake, pair.client.take_output())
            self.assertEqual(heard.code, codes.PEER_ALERT)

    def test_a_client_takes_any_of_those_expected(self) -> None:
        """One of several is enough."""
        context = self.world.contexts.client(self.world.state(), "web", TLSSettings(), "mesh")
        verification = self.world.verification("spiffe://b.test/orders", ORDERS)
        pair = Pair(TLSCore(context, verification, server=False), self.world.server()).handshake()
        self.assertEqual(str(pair.client.verification.peer), ORDERS)

    def test_a_client_can_expect_a_dns_name(self) -> None:
        """A server known by its DNS name is that name, and no other will do."""
        made = now_leaf(self.world.issuing, uri(ORDERS), dns("db.example.org"))
        state = self.world.state(orders=made)
        context = self.world.contexts.client(state, "web", TLSSettings(), "mesh")
        for name, code in (("db.example.org", None), ("www.example.org", codes.DNS_DIFFERS)):
            verification = self.world.verification(DNSName(name))
            pair = Pair(TLSCore(context, verification, server=False), self.world.server(state=state))
            if code is None:
                self.assertEqual(str(pair.handshake().client.verification.peer), f"dns:{name}")
            else:
                refusal = self.assertRaises(Refusal, pair.handshake)
                self.assertEqual(refusal.code, code)
                self.assertIn(f"expected dns:{name}; the certificate is for", refusal.reason)

    def test_a_server_takes_everybody_whom_it_can_verify(self) -> None:
        """Who may come in is the policies' business; trust domains with a bundle are all welcome here."""
        made = now_leaf(self.world.other, uri("spiffe://b.test/anybody"))
        server = self.world.server()
        self.assertTrue(meet(foreign_client(made), server))
        self.assertEqual(str(server.verification.peer), "spiffe://b.test/anybody")


class WantedTests(VerificationCase):
    """Who would have been accepted, in a few words."""

    def test_names_whom_a_client_expects(self) -> None:
        """All of a few, some of many, nobody."""
        self.assertEqual(self.world.verification(ORDERS, DNSName("db.test")).wanted, f"{ORDERS}, dns:db.test")
        many = [f"spiffe://a.test/{number}" for number in range(100)]
        wanted = self.world.verification(*many).wanted
        self.assertEqual(wanted, ", ".join(many[:5]) + " and 95 more")
        self.assertEqual(PeerVerification(self.world.bundles, (), wall_clock).wanted, "nobody")

    def test_names_whom_a_server_knows(self) -> None:
        """The trust domains that have a bundle."""
        self.assertEqual(self.world.verification().wanted, "any identity of a.test, b.test")
        self.assertEqual(PeerVerification({}, None, wall_clock).wanted, "nobody: there is no trust bundle")


class CallbackTests(SynchronousTestCase):
    def test_refuses_without_a_verification(self) -> None:
        """A connection that nobody prepared verifies nobody."""
        world = World()
        for data in (None, object()):
            connection = SSL.Connection(foreign_context(), None)
            connection.set_app_data(data)
            certificate = crypto.X509.from_cryptography(world.web.certificate)
            self.assertFalse(verify_callback(connection, certificate, 0, 0, 1))


class RejudgeTests(SynchronousTestCase):
    """Other bundles than those of the handshake."""

    def test_bundles_that_refuse_go_on_refusing(self) -> None:
        """Asking a second time is no second chance, and the peer is nobody from then on."""
        world = World()
        pair = joined(world)
        verification = pair.server.verification
        self.assertEqual(str(verification.rejudge(world.bundles)), WEB)
        withdrawn: dict[TrustDomain, TrustBundle] = {}
        for _time in range(2):
            refusal = self.assertRaises(Refusal, verification.rejudge, withdrawn)
            self.assertIs(refusal.code, codes.NO_BUNDLE)
            self.assertIsNone(verification.peer)
