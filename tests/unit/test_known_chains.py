"""A peer that comes again is recognized by its very certificates, and judged by what holds at the moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import crypto
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import codes
from tcpmesh.codes import Code
from tcpmesh.dataplane.tls_core import TLSCore
from tcpmesh.dataplane.verification import PeerVerification
from tcpmesh.errors import Refusal
from tcpmesh.identity.known_chains import KnownChain, KnownChains
from tcpmesh.identity.pooled import pooled_bundles
from tcpmesh.identity.spiffe import SpiffeId, TrustDomain
from tcpmesh.identity.verify import check_profiles
from tcpmesh.settings import TLSSettings
from tcpmesh.values import DNSName, ExpectedIdentity, TrustBundle
from tcpmesh.wall_clock import wall_clock
from tests.unit.crafted import Leaf, dns, uri
from tests.unit.tls_pairs import ORDERS, WEB, Pair, World, now_authority, now_leaf

TLS = TLSSettings()
A, B = TrustDomain("a.test"), TrustDomain("b.test")
_EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED (x509_vfy.h)
_EXCLUDED = 48  # X509_V_ERR_EXCLUDED_VIOLATION


def der(chain: Sequence[x509.Certificate]) -> tuple[bytes, ...]:
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in chain)


class KnownChainsTests(SynchronousTestCase):
    """What is remembered."""

    def setUp(self) -> None:
        self.world = World()
        self.known = KnownChains(most=3)

    def add(self, made: Leaf, names: tuple[DNSName, ...] = ()) -> KnownChain:
        chain = der(made.chain)
        certificates = self.known.read(chain)
        self.known.remember(chain, names, KnownChain(certificates, check_profiles(certificates)))
        found = self.known.find(chain, names)
        assert found is not None
        return found

    def test_gives_the_same_object_for_the_same_bytes(self) -> None:
        """Whichever objects they came in."""
        made = self.add(self.world.web)
        self.assertIs(self.known.find(der(self.world.web.chain)), made)
        self.assertEqual(str(made.peer), WEB)

    def test_forgets_what_was_not_asked_for_the_longest_time(self) -> None:
        """There are never more than it may keep."""
        leaves = [now_leaf(self.world.issuing, uri(WEB)) for _ in range(4)]
        for made in leaves[:3]:
            self.add(made)
        self.assertIsNotNone(self.known.find(der(leaves[0].chain)))
        self.add(leaves[3])
        self.assertEqual([self.known.find(der(made.chain)) is not None for made in leaves], [True, False, True, True])
        for _ in range(10):
            self.add(now_leaf(self.world.issuing, uri(WEB)))
        self.assertEqual(sum(self.known.find(der(made.chain)) is not None for made in leaves), 0)

    def test_tells_keys_apart(self) -> None:
        """Two certificates with the same serial number, subject, names and times are two."""
        made = self.world.web
        other = now_leaf(self.world.issuing, uri(WEB))
        self.assertEqual(made.certificate.serial_number, other.certificate.serial_number)
        self.assertEqual(made.certificate.subject, other.certificate.subject)
        self.add(made)
        self.assertIsNone(self.known.find(der(other.chain)))
        self.assertIsNot(self.add(other), self.known.find(der(made.chain)))

    def test_tells_chains_apart(self) -> None:
        """The same leaf below another certificate of its issuer, or without the one above it, is another chain."""
        world = self.world
        self.add(world.web)
        crossed = now_authority("issuing of a.test", world.other, key=world.issuing.key)
        for chain in (
            (world.web.certificate, crossed.certificate, world.other.certificate),
            (world.web.certificate, world.issuing.certificate),
            (world.web.certificate,),
        ):
            self.assertIsNone(self.known.find(der(chain)))

    def test_tells_kinds_of_names_apart(self) -> None:
        """A server that was accepted by a DNS name is nobody's SPIFFE ID, nor another name's."""
        chain = der(self.world.orders.chain)
        self.add(self.world.orders, (DNSName("db.test"),))
        self.assertIsNone(self.known.find(chain))
        self.assertIsNone(self.known.find(chain, (DNSName("www.test"),)))

    def test_holds_an_authority_once(self) -> None:
        """All chains below it share its certificate."""
        chains = [self.add(now_leaf(self.world.issuing, uri(WEB))) for _ in range(3)]
        for position in (1, 2):
            self.assertEqual(len({id(chain.certificates[position]) for chain in chains}), 1)

    def test_holds_few_authorities(self) -> None:
        """Each chain with an issuer of its own: what is shared is bounded as well."""
        for number in range(100):
            self.add(now_leaf(now_authority(f"issuing {number}", self.world.root), uri(WEB)))
        self.assertLessEqual(len(self.known._authorities), 64)

    def test_does_not_keep_long_chains(self) -> None:
        """An authority that signs names without end fills no memory with them."""
        long = now_leaf(self.world.issuing, uri(WEB), *(dns(f"{number:060}.test") for number in range(300)))
        chain = der(long.chain)
        certificates = self.known.read(chain)
        self.known.remember(chain, (), KnownChain(certificates, check_profiles(certificates)))
        self.assertIsNone(self.known.find(chain))


class VouchTests(SynchronousTestCase):
    """Which bundles stand behind a known chain."""

    def setUp(self) -> None:
        self.world = World()
        self.known = KnownChains()
        certificates = self.known.read(der(self.world.web.chain))
        self.chain = KnownChain(certificates, check_profiles(certificates))

    def refusal(self, bundles: dict[TrustDomain, TrustBundle]) -> Code:
        return self.assertRaises(Refusal, self.known.vouch, self.chain, bundles).code

    def test_asks_each_bundles_anew(self) -> None:
        """Good ones before and after make no difference to bad ones in between."""
        good = self.world.bundles
        swapped = {A: TrustBundle(A, good[B].authorities), B: TrustBundle(B, good[A].authorities)}
        for bad, code in (
            ({}, codes.NO_BUNDLE),
            ({A: TrustBundle(A, ())}, codes.NO_BUNDLE),
            (swapped, codes.WRONG_ANCHOR),
        ):
            self.known.vouch(self.chain, good)
            self.assertIs(self.refusal(bad), code)
            self.assertIs(self.refusal(bad), code)
        self.known.vouch(self.chain, good)

    def test_looks_at_the_same_bundles_once(self) -> None:
        """They cannot change."""

        class Counted(dict[TrustDomain, TrustBundle]):
            looks = 0

            def get(self, *arguments: Any) -> Any:
                self.looks += 1
                return super().get(*arguments)

        bundles = Counted(self.world.bundles)
        self.known.vouch(self.chain, bundles)
        looks = bundles.looks
        self.assertGreater(looks, 0)
        self.known.vouch(self.chain, bundles)
        self.assertEqual(bundles.looks, looks)

    def test_equal_bundles_are_others(self) -> None:
        """A chain that one mapping vouched for is not vouched for by a copy that was emptied."""
        self.known.vouch(self.chain, self.world.bundles)
        copy = dict(self.world.bundles)
        self.known.vouch(self.chain, copy)
        del copy[A]
        again = dict(copy)
        del copy
        self.assertIs(self.refusal(again), codes.NO_BUNDLE)

    def test_published_bundles_cannot_be_changed(self) -> None:
        """Or else what was judged by them would go on to hold."""
        published: Any = pooled_bundles(()).bundles
        with self.assertRaises(TypeError):
            published[A] = TrustBundle(A, ())


class VerificationTests(SynchronousTestCase):
    """Peers that come again, as OpenSSL shows them."""

    def setUp(self) -> None:
        self.world = World()
        self.known = KnownChains()

    def verification(
        self, *expected: ExpectedIdentity, bundles: dict[TrustDomain, TrustBundle] | None = None
    ) -> PeerVerification:
        held = self.world.bundles if bundles is None else bundles
        return PeerVerification(held, expected or None, wall_clock, known=self.known)

    def shown(self, verification: PeerVerification, chain: Sequence[x509.Certificate]) -> bool:
        """Walk through a chain without defects, from the top, as OpenSSL does."""
        steps = [
            verification.certificate(crypto.X509.from_cryptography(certificate), 0, depth, True)
            for depth, certificate in reversed(list(enumerate(chain)))
        ]
        return all(steps)

    def meet(self, made: Leaf) -> PeerVerification:
        """A first connection of this peer, which is accepted."""
        verification = self.verification()
        self.assertTrue(self.shown(verification, made.chain))
        return verification

    def test_connections_of_one_peer_share_its_identity(self) -> None:
        """The object is the same, and so are the certificates for a log line."""
        first = self.meet(self.world.web)
        second = self.meet(self.world.web)
        self.assertIs(first.peer, second.peer)
        self.assertEqual((str(second.peer), second.presented), (WEB, WEB))

    def test_connections_through_openssl(self) -> None:
        """Both ends of real handshakes, again and again."""
        contexts, state = self.world.contexts, self.world.state()
        peers = []
        for _ in range(3):
            client = TLSCore(
                contexts.client(state, "web", TLS, "mesh"), self.verification(SpiffeId.parse(ORDERS)), server=False
            )
            server = TLSCore(contexts.server(state, "orders", TLS), self.verification(), server=True)
            Pair(client, server).handshake()
            peers.append((client.verification.peer, server.verification.peer))
        self.assertEqual([str(peer) for peer in peers[0]], [ORDERS, WEB])
        self.assertEqual(len({tuple(map(id, pair)) for pair in peers}), 1)

    def test_holds_nothing_of_the_walk_afterwards(self) -> None:
        """OpenSSL's certificates are let go when the handshake is complete; other bundles can still be asked."""
        verification = self.meet(self.world.web)
        verification.rejudge(self.world.bundles)
        self.assertFalse(verification._seen)
        self.assertEqual(str(verification.rejudge(dict(self.world.bundles))), WEB)
        refusal = self.assertRaises(Refusal, verification.rejudge, {})
        self.assertIs(refusal.code, codes.NO_BUNDLE)
        self.assertIsNone(verification.peer)

    def test_a_known_peer_is_refused_by_bundles_that_do_not_hold_its_authority(self) -> None:
        """In the handshake and after it."""
        self.meet(self.world.web)
        without = {B: self.world.bundles[B]}
        verification = self.verification(bundles=without)
        self.assertFalse(self.shown(verification, self.world.web.chain))
        assert verification.refusal is not None
        self.assertIs(verification.refusal.code, codes.NO_BUNDLE)
        self.assertEqual((verification.peer, verification.presented), (None, WEB))

    def test_a_known_peer_is_refused_when_somebody_else_is_expected(self) -> None:
        """Who it is and who is welcome are two questions."""
        self.meet(self.world.web)
        verification = self.verification(SpiffeId.parse(ORDERS))
        self.assertFalse(self.shown(verification, self.world.web.chain))
        assert verification.refusal is not None
        self.assertIs(verification.refusal.code, codes.ID_DIFFERS)

    def test_a_known_peer_is_refused_for_what_openssl_minds(self) -> None:
        """Its certificate has expired since, or a constraint above it excludes it."""
        self.meet(self.world.web)
        for number, depth, code in ((_EXPIRED, 0, codes.EXPIRED), (_EXPIRED, 1, codes.CHAIN_INVALID)):
            verification = self.verification()
            outcomes = [
                verification.certificate(
                    crypto.X509.from_cryptography(certificate), number if at == depth else 0, at, at != depth
                )
                for at, certificate in reversed(list(enumerate(self.world.web.chain)))
            ]
            self.assertFalse(all(outcomes))
            assert verification.refusal is not None
            self.assertIs(verification.refusal.code, code, verification.refusal.reason)
            self.assertEqual((verification.peer, verification.presented), (None, WEB))
        late = self.meet(self.world.web)  # name constraints come after the leaf
        issuing = crypto.X509.from_cryptography(self.world.issuing.certificate)
        self.assertFalse(late.certificate(issuing, _EXCLUDED, 1, False))
        self.assertIsNone(late.peer)
        self.assertIsNotNone(late.refusal)

    def test_what_is_refused_leaves_no_trace(self) -> None:
        """Strangers can come as often as they like, with as many certificates: nothing is kept of them."""
        stranger = now_authority("stranger")
        for number in range(20):
            for made in (
                now_leaf(stranger, uri(WEB)),  # of nobody's authority
                now_leaf(self.world.other, uri(WEB)),  # of another trust domain's
                now_leaf(self.world.issuing, dns(f"{number}.test")),  # without an ID
            ):
                verification = self.verification()
                self.assertFalse(self.shown(verification, made.chain))
                self.assertIsNone(self.known.find(der(made.chain)))
        self.assertEqual((len(self.known._chains), len(self.known._authorities)), (0, 0))

    def test_the_same_leaf_below_another_authority_is_judged_anew(self) -> None:
        """A known leaf vouches for nothing above it."""
        self.meet(self.world.web)
        crossed = now_authority("issuing of a.test", self.world.other, key=self.world.issuing.key)
        verification = self.verification()
        chain = (self.world.web.certificate, crossed.certificate, self.world.other.certificate)
        self.assertFalse(self.shown(verification, chain))
        assert verification.refusal is not None
        self.assertIs(verification.refusal.code, codes.WRONG_ANCHOR)

    def test_servers_by_dns_name_are_recognized_too(self) -> None:
        """By that name; and the voucher is asked by the bundles of the moment."""
        made = now_leaf(self.world.issuing, uri(ORDERS), dns("db.test"))
        name = DNSName("db.test")
        peers = []
        for _ in range(2):
            verification = PeerVerification(self.world.bundles, [name], wall_clock, A, self.known)
            self.assertTrue(self.shown(verification, made.chain))
            peers.append(verification.peer)
        self.assertIs(peers[0], peers[1])
        for voucher, bundles, code in (
            (A, {}, codes.NO_BUNDLE),
            (B, self.world.bundles, codes.UNKNOWN_AUTHORITY),
        ):
            verification = PeerVerification(bundles, [name], wall_clock, voucher, self.known)
            self.assertFalse(self.shown(verification, made.chain))
            assert verification.refusal is not None
            self.assertIs(verification.refusal.code, code)
        other = PeerVerification(self.world.bundles, [DNSName("www.test")], wall_clock, A, self.known)
        self.assertFalse(self.shown(other, made.chain))
        assert other.refusal is not None
        self.assertIs(other.refusal.code, codes.DNS_DIFFERS)
        self.assertEqual(str(self.meet(made).peer), ORDERS)
