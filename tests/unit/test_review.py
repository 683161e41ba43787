"""Live connections are looked at again: whom a change ends, whom it leaves alone, and how many at a time."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Mapping
from typing import Any, cast

from cryptography import x509
from twisted.internet.task import Clock
from twisted.logger import LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import codes
from tcpmesh.codes import EXPIRED_SINCE, INTERNAL, OWN_DENIED, OWN_REVOKED, PEER_DENIED, VOUCHER_GONE, Code
from tcpmesh.dataplane.contexts import TLSContexts
from tcpmesh.dataplane.verification import PeerVerification
from tcpmesh.errors import Refusal
from tcpmesh.identity.certificates import not_after, serial_text
from tcpmesh.identity.deny_list import DenyEntry, DenyList
from tcpmesh.identity.key_pin import key_pin
from tcpmesh.identity.known_chains import KnownChains
from tcpmesh.identity.spiffe import SpiffeId, TrustDomain
from tcpmesh.interfaces import IAuthorizationPolicy
from tcpmesh.mesh_state import MeshState, MeshStateCell, NamedPolicy
from tcpmesh.moments import Moment
from tcpmesh.net.expiry import LOOK
from tcpmesh.net.plane import DataPlane, Gate
from tcpmesh.net.review import CUTS_IN_A_TURN, GRACE, LOOKED_AT_IN_A_TURN, Review
from tcpmesh.observe.records import ConnectionRecord
from tcpmesh.settings import TLSSettings
from tcpmesh.values import DNSName, ExpectedIdentity, IdentityState, KeyPin, TrustBundle
from tcpmesh.wall_clock import wall_clock
from tests.unit.crafted import Issuer, Leaf, dns, uri
from tests.unit.tls_pairs import ORDERS, WEB, OwningCore, Pair, World, now_authority, now_leaf

A, B = TrustDomain("a.test"), TrustDomain("b.test")
TURN = 0.001  # seconds
Bundles = Mapping[TrustDomain, TrustBundle]


class TurnClock(Clock):
    """Time in which what is due at once is due in the next turn, as the reactor has it."""

    def callLater(self, delay: float, callable: Any, *args: object, **kw: object) -> Any:  # noqa: A002
        return super().callLater(max(delay, TURN), callable, *args, **kw)


class Connection:
    """As far as the review knows one."""

    def __init__(self, plane: DataPlane, verification: PeerVerification | None, closes_on_expiry: bool = False) -> None:
        self.plane = plane
        self.record = ConnectionRecord(plane.next_number(), "inbound", "in", "", 0.0, workload="orders")
        self.record.generation = plane.state.current.generation
        self.verification = verification
        self.closes_on_expiry = closes_on_expiry
        self.shown: tuple[x509.Certificate, ...] = ()
        self.ended: tuple[Code, str] | None = None
        plane.gate.enter()
        plane.live.add(self)
        if closes_on_expiry:
            assert verification is not None
            assert verification.peer is not None
            plane.expiries.add(self, verification.peer.not_after)

    @property
    def is_closed(self) -> bool:
        return self.ended is not None

    def cut(self, code: Code, reason: str) -> None:
        if self.ended is not None:
            raise AssertionError(f"ended twice: {code} {reason}")
        self.ended = (code, reason)
        self.plane.forget(self)

    def withdraw(self, refusal: Refusal) -> None:
        self.cut(refusal.code, refusal.reason)

    def close(self) -> None:
        self.cut(codes.CLEAN, "")


class ReviewTestCase(SynchronousTestCase):
    """A plane without sockets, whose connections have peers that were verified by real handshakes."""

    def setUp(self) -> None:
        self.world = World()
        self.timers, self.now, self.generation = TurnClock(), wall_clock(), 1
        self.cell = MeshStateCell(MeshState(generation=1, bundles=self.world.bundles))
        nothing: Any = None
        self.plane = DataPlane(
            clock=self.timers, wall_clock=lambda: self.now, sockets=nothing, state=self.cell, contexts=TLSContexts(),
            sink=nothing, gate=Gate(10**6, 10**6), liveness=nothing,
        )  # fmt: skip
        self.review = Review(self.plane)
        self.addCleanup(self.review.stop)
        self.events: list[dict[str, Any]] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)

    def peer(
        self, made: Leaf | None = None, *expected: ExpectedIdentity, bundles: Bundles | None = None,
        voucher: TrustDomain | None = None,
    ) -> PeerVerification:  # fmt: skip
        """What a handshake with the holder of this certificate leaves behind; with ``expected``, as its client."""
        held = self.world.bundles if bundles is None else bundles
        known: KnownChains = self.plane.known_chains
        self.generation += 1  # contexts are remembered by it
        state = self.world.state(self.generation, web=made or self.world.web, orders=made or self.world.orders)
        if expected:
            verification = PeerVerification(held, expected, lambda: self.now, voucher, known)
            context = TLSContexts().client(self.world.state(bundles=dict(held)), "web", _TLS, "mesh")
            client = OwningCore(context, verification, server=False)
            Pair(client, self.world.server(state=state)).handshake()
        else:
            verification = PeerVerification(held, None, lambda: self.now, known=known)
            context = TLSContexts().server(self.world.state(bundles=dict(held)), "orders", _TLS)
            server = OwningCore(context, verification, server=True)
            Pair(self.world.client(state=state), server).handshake()
        assert verification.peer is not None
        return verification

    def connections(self, count: int, verification: PeerVerification | None, **more: Any) -> list[Connection]:
        return [Connection(self.plane, verification, **more) for _ in range(count)]

    def settle(self) -> int:
        """Let every turn pass that is due; says how many there were."""
        turns = 0
        while any(call.getTime() <= self.timers.seconds() + 2 * TURN for call in self.timers.getDelayedCalls()):
            self.timers.advance(TURN)
            turns += 1
        return turns

    def assert_ended(self, connections: list[Connection], code: Code | None, *words: str) -> None:
        for connection in connections:
            self.assertEqual(connection.ended[0] if connection.ended else None, code, connection.ended)
            for word in words:
                assert connection.ended is not None
                self.assertIn(word, connection.ended[1])

    def swap_bundles(self, **authorities: tuple[Issuer, ...]) -> None:
        self.cell.swap(
            bundles={
                (domain := TrustDomain(f"{name}.test")): TrustBundle(domain, tuple(i.certificate for i in issuers))
                for name, issuers in authorities.items()
            }
        )


_TLS = TLSSettings()


class AnchorTests(ReviewTestCase):
    """The authorities that vouch for peers come and go."""

    def test_ends_those_whose_authority_has_left(self) -> None:
        """And nobody else's."""
        other = now_leaf(now_authority("issuing of b.test", self.world.other), uri("spiffe://b.test/web"))
        ours, theirs = self.connections(3, self.peer()), self.connections(3, self.peer(other))
        self.swap_bundles(a=(self.world.root,), b=(now_authority("another root of b.test"),))
        self.assert_ended(theirs, None)
        self.settle()
        self.assert_ended(ours, None)
        self.assert_ended(theirs, VOUCHER_GONE, "spiffe://b.test/web", "'CN=root of b.test', which vouched for it, has")

    def test_ends_those_whose_whole_bundle_has_gone(self) -> None:
        """Taken away, or empty: everything of the trust domain is revoked."""
        for bundles, words in (({}, "there is no trust bundle for a.test"), ({"a": ()}, "is empty: everything")):
            self.swap_bundles(a=(self.world.root,), b=(self.world.other,))
            ours = self.connections(2, self.peer())
            self.swap_bundles(b=(self.world.other,), **bundles)
            self.settle()
            self.assert_ended(ours, VOUCHER_GONE, words)

    def test_another_domains_authority_is_none_for_this_one(self) -> None:
        """An authority that moves into another trust domain's bundle has left its own."""
        ours = self.connections(1, self.peer())
        self.swap_bundles(a=(now_authority("new"),), b=(self.world.root,))
        self.settle()
        self.assert_ended(ours, VOUCHER_GONE)

    def test_a_bundle_that_grows_is_no_reason_to_look(self) -> None:
        """A rotation that prepares: nobody can lose anything."""
        ours = self.connections(2, self.peer())
        self.swap_bundles(a=(self.world.root, now_authority("next")), b=(self.world.other,))
        self.swap_bundles(a=(self.world.root, now_authority("next")), b=(self.world.other,), c=(now_authority("c"),))
        self.assertEqual((self.settle(), self.review.looked_at), (1, 2))  # "next" is another one the second time
        self.assert_ended(ours, None)

    def test_the_same_again_is_no_reason_to_look(self) -> None:
        """Sources publish again and again what has not changed; endpoints and certificates change all the time."""
        self.connections(2, self.peer())
        self.swap_bundles(a=(self.world.root,), b=(self.world.other,))
        self.cell.swap(svids={}, endpoints={})
        self.assertEqual(self.settle(), 0)

    def test_the_same_in_another_order_is_no_reason_to_look(self) -> None:
        """Nor is one that is listed twice, and then once: authorities have no order."""
        self.connections(2, self.peer())
        root, more = self.world.root, now_authority("more")
        self.swap_bundles(a=(root, more), b=(self.world.other,))
        self.swap_bundles(b=(self.world.other, self.world.other), a=(more, root))
        self.swap_bundles(b=(self.world.other,), a=(root, more))
        self.assertEqual(self.settle(), 0)

    def test_a_root_that_was_renewed_is_the_same(self) -> None:
        """Same name, same key; by itself or signed by another authority."""
        root = self.world.root
        renewed = now_authority("root of a.test", key=root.key, serial=0x77)
        crossed = now_authority("root of a.test", now_authority("far"), key=root.key)
        imitated = now_authority("root of a.test")
        ours = self.connections(2, self.peer())
        for made in (renewed, crossed):
            self.swap_bundles(a=(made,), b=(self.world.other,))
            self.settle()
            self.assert_ended(ours, None)
        self.swap_bundles(a=(imitated,), b=(self.world.other,))
        self.settle()
        self.assert_ended(ours, VOUCHER_GONE)

    def test_an_anchor_that_leaves_when_its_time_is_over_is_rotated(self) -> None:
        """It says nothing of those it vouched for, however old their connections get; an empty bundle still does."""
        world = self.world
        ours = self.connections(2, self.peer())
        self.now = not_after(world.root.certificate) + 1
        following = now_authority("following root of a.test")
        self.swap_bundles(a=(following,), b=(world.other,))
        self.settle()
        self.assert_ended(ours, None)
        self.swap_bundles(b=(world.other,))
        self.settle()
        self.assert_ended(ours, VOUCHER_GONE, "there is no trust bundle for a.test")

    def test_an_anchor_that_leaves_in_its_last_second_is_withdrawn(self) -> None:
        """Until then it could vouch for somebody."""
        world = self.world
        ours = self.connections(1, self.peer())
        self.now = not_after(world.root.certificate)
        self.swap_bundles(a=(now_authority("following root of a.test"),), b=(world.other,))
        self.settle()
        self.assert_ended(ours, VOUCHER_GONE, "has left the bundle of a.test")

    def test_an_anchor_gives_way_to_what_signed_it(self) -> None:
        """A bundle that listed the issuing authority lists its root instead; not to one that may not have it below."""
        world = self.world
        held = {A: TrustBundle(A, (world.issuing.certificate,))}
        ours = self.connections(1, self.peer(bundles=held))
        self.swap_bundles(a=(world.root,))
        self.settle()
        self.assert_ended(ours, None)
        narrow = now_authority("root of a.test", key=world.root.key, path_length=0)
        self.cell.swap(bundles=held)
        self.swap_bundles(a=(narrow,))
        self.settle()
        self.assert_ended(ours, VOUCHER_GONE)

    def test_an_anchor_of_a_dns_name_gives_way_to_what_signed_it(self) -> None:
        """The server's own certificate is no authority, and does not count as one below the new anchor."""
        root = now_authority("narrow root of a.test", path_length=1)
        issuing = now_authority("issuing below it", root)
        made = now_leaf(issuing, uri(ORDERS), dns("db.test"))
        held = {A: TrustBundle(A, (issuing.certificate,))}
        self.cell.swap(bundles=held)
        ours = self.connections(1, self.peer(made, DNSName("db.test"), bundles=held, voucher=A))
        self.swap_bundles(a=(root,))
        self.settle()
        self.assert_ended(ours, None)
        self.swap_bundles(a=(now_authority("narrow root of a.test", key=root.key, path_length=0),))
        self.settle()
        self.assert_ended(ours, VOUCHER_GONE)

    def test_a_renewed_root_does_not_let_strangers_in(self) -> None:
        """What is enough for a live connection is no judgement of a new one."""
        known, world = self.plane.known_chains, self.world
        verification = self.peer()
        chain = verification._chain
        assert chain is not None
        renewed = {A: TrustBundle(A, (now_authority("root of a.test", key=world.root.key, serial=0x77).certificate,))}
        known.keep(chain, A, renewed, self.now)
        self.assertRaises(Refusal, known.vouch, chain, renewed)

    def test_servers_with_a_dns_name(self) -> None:
        """One that our own authorities vouch for, and one that is trusted by a store of its own."""
        made = now_leaf(self.world.issuing, uri(ORDERS), dns("db.test"))
        ours = self.connections(1, self.peer(made, DNSName("db.test"), voucher=A))
        foreign = self.connections(1, self.peer(made, DNSName("db.test")))
        self.swap_bundles(b=(self.world.other,))
        self.settle()
        self.assert_ended(ours, VOUCHER_GONE, "dns:db.test", "there is no trust bundle for a.test")
        self.assert_ended(foreign, None)

    def test_servers_with_a_pinned_key(self) -> None:
        """No bundle has a say, the deny-list has."""
        pin = key_pin(self.world.orders.certificate)
        pinned = self.connections(2, self.peer(None, pin))
        self.swap_bundles()
        self.settle()
        self.assert_ended(pinned, None)
        self.cell.swap(deny_list=DenyList([DenyEntry(spki=str(pin))]))
        self.settle()
        self.assert_ended(pinned, PEER_DENIED, "spki sha256:")
        self.assertIsInstance(pin, KeyPin)


class DenyListTests(ReviewTestCase):
    """The deny-list changes."""

    def deny(self, *entries: DenyEntry) -> None:
        self.cell.swap(deny_list=DenyList(entries))
        self.settle()

    def test_ends_those_that_it_names(self) -> None:
        """By ID, serial, key, and the key of an authority."""
        world = self.world
        for entry in (
            DenyEntry(id=SpiffeId.parse(WEB), reason="stolen"),
            DenyEntry(serial=serial_text(world.web.certificate), trust_domain=A),
            DenyEntry(spki=str(key_pin(world.web.certificate))),
            DenyEntry(spki=str(key_pin(world.issuing.certificate))),
        ):
            self.deny()
            ours = self.connections(2, self.peer())
            self.deny(entry)
            self.assert_ended(ours, PEER_DENIED, str(entry), WEB)

    def test_leaves_the_others_alone(self) -> None:
        """A newer certificate of the same ID among them."""
        older, newer = self.world.web, now_leaf(self.world.issuing, uri(WEB), not_before=self.now)
        before, after = self.connections(2, self.peer(older)), self.connections(2, self.peer(newer))
        self.deny(DenyEntry(id=SpiffeId.parse(WEB), issued_before=Moment(int(self.now) - 1.0)))
        self.assert_ended(before, PEER_DENIED, "issued before")
        self.assert_ended(after, None)
        self.deny(DenyEntry(id=SpiffeId.parse(ORDERS)), DenyEntry(serial="0b"))
        self.assert_ended(after, None)

    def test_our_own_certificate(self) -> None:
        """Those that showed it end, those that showed another one of the same workload go on."""
        old, new = self.world.orders, now_leaf(self.world.issuing, uri(ORDERS))
        before, after = self.connections(2, self.peer()), self.connections(2, self.peer())
        for connections, made in ((before, old), (after, new)):
            for connection in connections:
                connection.shown = made.chain
        self.deny(DenyEntry(spki=str(key_pin(old.certificate))))
        self.assert_ended(before, OWN_DENIED, "workload 'orders'", ORDERS)
        self.assert_ended(after, None)

    def test_what_was_shown_to_a_peer_that_is_gone(self) -> None:
        """Between two attempts of an outbound connection: the next one shows what there is then."""
        waiting, made = self.connections(1, None), self.world.orders
        waiting[0].shown = made.chain
        self.deny(DenyEntry(spki=str(key_pin(made.certificate))))
        self.cell.swap(identity_states={"orders": IdentityState.REVOKED})
        self.timers.advance(GRACE)
        self.settle()
        self.assert_ended(waiting, None)


class IdentityTests(ReviewTestCase):
    """Our own identity is withdrawn by its source."""

    def state(self, status: IdentityState, **bundles: Any) -> None:
        self.cell.swap(identity_states={"orders": status, "other": IdentityState.READY}, **bundles)
        self.settle()

    def test_a_withdrawal_ends_them_after_a_grace(self) -> None:
        """Of that workload only."""
        self.state(IdentityState.READY)
        ours, others = self.connections(2, self.peer()), self.connections(2, self.peer())
        for connection in others:
            connection.record.workload = "other"
        self.state(IdentityState.REVOKED)
        self.timers.advance(GRACE - 0.1)
        self.assert_ended(ours, None)
        self.timers.advance(0.1)
        self.settle()
        self.assert_ended(ours, OWN_REVOKED, "withdrew the identity of workload 'orders'")
        self.assert_ended(others, None)

    def test_one_that_is_taken_back_in_time_ends_nobody(self) -> None:
        """However often."""
        ours = self.connections(2, self.peer())
        for _ in range(5):
            self.state(IdentityState.REVOKED)
            self.timers.advance(GRACE - 0.1)
            self.state(IdentityState.READY)
        self.timers.advance(GRACE * 2)
        self.settle()
        self.assert_ended(ours, None)

    def test_what_is_made_with_the_next_identity_lives(self) -> None:
        """Also when it is there before all that showed the old one have gone."""
        self.state(IdentityState.READY)
        old = self.connections(LOOKED_AT_IN_A_TURN * 2, self.peer())
        self.state(IdentityState.REVOKED)
        self.timers.advance(GRACE)  # and no turn yet
        self.cell.swap(identity_states={"orders": IdentityState.READY})
        new = self.connections(2, self.peer())
        self.settle()
        self.assert_ended(old, OWN_REVOKED)
        self.assert_ended(new, None)

    def test_a_source_that_withdraws_everything_takes_its_bundles_too(self) -> None:
        """The grace is for both, and the code is that of the withdrawal; who is back in time has lost nothing."""
        held = self.cell.current.bundles
        ours = self.connections(2, self.peer())
        self.state(IdentityState.REVOKED, bundles={})
        self.assert_ended(ours, None)
        self.state(IdentityState.READY, bundles=held)
        self.assert_ended(ours, None)
        self.state(IdentityState.REVOKED, bundles={})
        self.timers.advance(GRACE)
        self.settle()
        self.assert_ended(ours, OWN_REVOKED)

    def test_back_in_time_without_the_authority(self) -> None:
        """What was lost together with the identity, and did not come back with it, is looked at then."""
        ours = self.connections(2, self.peer())
        self.state(IdentityState.REVOKED, bundles={})
        self.state(IdentityState.READY, bundles={B: self.cell.current.bundles.get(B) or self.world.bundles[B]})
        self.assert_ended(ours, VOUCHER_GONE)

    def test_expiry_and_staleness_of_our_own_end_nobody(self) -> None:
        """They say nothing against the key."""
        ours = self.connections(2, self.peer())
        for status in (IdentityState.STALE, IdentityState.EXPIRED, IdentityState.INIT):
            self.state(status)
            self.timers.advance(GRACE * 2)
        self.settle()
        self.assert_ended(ours, None)


class ExpiryTests(ReviewTestCase):
    """``on_expiry: close``."""

    def test_ends_with_the_certificate(self) -> None:
        """At the first look after its last second; without the key, never."""
        end = int(self.now) + 60
        verification = self.peer(now_leaf(self.world.issuing, uri(WEB), not_after=end))
        closing = self.connections(2, verification, closes_on_expiry=True)
        keeping = self.connections(2, verification)
        self.now = float(end)
        self.timers.advance(LOOK)
        self.settle()
        self.assert_ended(closing, None)
        self.now = end + 1.0
        self.timers.advance(LOOK)
        self.settle()
        self.assert_ended(closing, EXPIRED_SINCE, WEB, "on_expiry: close")
        self.assert_ended(keeping, None)

    def test_follows_a_clock_that_is_set(self) -> None:
        """Forward it ends them at the next look; a clock that goes back in between saves them."""
        first, second = self.connections(2, self.peer(), closes_on_expiry=True)
        before = self.now
        self.now += 7200
        self.timers.advance(LOOK)  # they are due …
        self.now = before
        self.settle()  # … and are not when they are looked at
        self.assert_ended([first, second], None)
        self.now += 7200
        self.timers.advance(LOOK)
        self.settle()
        self.assert_ended([first, second], EXPIRED_SINCE)

    def test_needs_one_timer_and_none_without_connections(self) -> None:
        """Whatever comes and goes, nothing of it is kept."""
        verification = self.peer()
        expiries = self.plane.expiries
        for _ in range(100):
            some = self.connections(3, verification, closes_on_expiry=True)
            self.assertEqual((len(expiries), len(self.timers.getDelayedCalls())), (3, 1))
            assert verification.peer is not None
            expiries.add(some[0], verification.peer.not_after)  # established a second time, on another endpoint
            for connection in some:
                connection.close()
            self.assertEqual((len(expiries), expiries._by_end, self.timers.getDelayedCalls()), (0, {}, []))


class TurnTests(ReviewTestCase):
    """How many at a time."""

    def test_looks_at_a_hundred_in_a_turn(self) -> None:
        """And at each exactly once."""
        self.connections(LOOKED_AT_IN_A_TURN * 3 + 1, self.peer())
        self.cell.swap(deny_list=DenyList([DenyEntry(serial="0b")]))
        self.assertEqual((self.review.waiting, self.review.looked_at), (LOOKED_AT_IN_A_TURN * 3 + 1, 0))
        self.timers.advance(TURN)
        self.assertEqual(self.review.looked_at, LOOKED_AT_IN_A_TURN)
        self.assertEqual(self.settle(), 3)
        self.assertEqual((self.review.looked_at, self.review.waiting), (LOOKED_AT_IN_A_TURN * 3 + 1, 0))

    def test_ends_twenty_in_a_turn(self) -> None:
        """Ending costs more than looking; one line tells of all of them."""
        ours = self.connections(CUTS_IN_A_TURN * 3, self.peer())
        self.cell.swap(deny_list=DenyList([DenyEntry(id=SpiffeId.parse(WEB))]))
        for turn in range(1, 4):
            self.timers.advance(TURN)
            self.assertEqual(sum(connection.is_closed for connection in ours), CUTS_IN_A_TURN * turn)
        self.settle()
        self.assertEqual(self.review.ended, {PEER_DENIED: CUTS_IN_A_TURN * 3})
        [line] = [event for event in self.events if event["log_level"] is LogLevel.warn]
        self.assertIn("TM-I606 60; generation 2, still live: 0", line["log_format"].format(**line))

    def test_everybody_has_a_turn_however_often_the_state_changes(self) -> None:
        """A change in every turn does not begin at the first again and again."""
        ours = self.connections(LOOKED_AT_IN_A_TURN * 5, self.peer())
        for number in range(5):
            self.cell.swap(deny_list=DenyList([DenyEntry(serial=f"{number + 1:02x}")]))
            self.timers.advance(TURN)
        self.assertEqual(self.review.looked_at, LOOKED_AT_IN_A_TURN * 5)
        seen = self.review.looked_at
        self.settle()
        self.assertGreaterEqual(self.review.looked_at, seen + LOOKED_AT_IN_A_TURN * 4)
        self.assert_ended(ours, None)

    def test_a_change_during_a_round_counts_for_those_that_were_looked_at(self) -> None:
        """They are looked at once more."""
        ours = self.connections(LOOKED_AT_IN_A_TURN * 2, self.peer())
        self.cell.swap(deny_list=DenyList([DenyEntry(serial="0b")]))
        self.timers.advance(TURN)
        self.cell.swap(deny_list=DenyList([DenyEntry(id=SpiffeId.parse(WEB))]))
        self.settle()
        self.assert_ended(ours, PEER_DENIED)

    def test_those_that_end_meanwhile_are_not_looked_at(self) -> None:
        """Nor ended a second time."""
        ours = self.connections(LOOKED_AT_IN_A_TURN * 2, self.peer())
        self.cell.swap(deny_list=DenyList([DenyEntry(id=SpiffeId.parse(WEB))]))
        self.timers.advance(TURN)
        for connection in ours:
            if not connection.is_closed:
                connection.close()
        self.settle()
        self.assertEqual(self.review.ended[PEER_DENIED], CUTS_IN_A_TURN)

    def test_a_judge_that_fails_lets_nobody_live(self) -> None:
        """What cannot be judged is not allowed, and the others are judged all the same."""
        ours = self.connections(3, self.peer())

        def explode(connection: Any, _state: MeshState) -> Refusal | None:
            if connection is ours[1]:
                raise RuntimeError("a bug")
            return None

        self.review.judges.append(explode)
        self.review.examine_all()
        self.settle()
        self.assert_ended([ours[0], ours[2]], None)
        self.assert_ended([ours[1]], INTERNAL)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_a_change_of_policies_makes_it_look(self) -> None:
        """For judges that know policies."""
        self.connections(3, self.peer())
        seen: list[int] = []
        self.review.judges.append(lambda connection, state: seen.append(state.generation))
        self.cell.swap(policies=(NamedPolicy("some", cast(IAuthorizationPolicy, object())),))
        self.settle()
        self.assertEqual(seen, [2, 2, 2])

    def test_stops(self) -> None:
        """No timer is left, whatever was under way."""
        self.connections(3, self.peer())
        self.cell.swap(identity_states={"orders": IdentityState.REVOKED}, deny_list=DenyList([DenyEntry(serial="0b")]))
        self.review.stop()
        self.assertEqual(self.timers.getDelayedCalls(), [])
        self.cell.swap(deny_list=DenyList())
        self.assertEqual((self.timers.getDelayedCalls(), self.review.looked_at), ([], 0))

    def test_stops_while_it_ends_somebody(self) -> None:
        """Whoever hears of an end may be the one that stops everything."""
        ours = self.connections(3, self.peer())
        stopping = next(connection for connection in ours if connection is next(iter(self.plane.live)))

        def cut_and_stop(code: Code, reason: str) -> None:
            Connection.cut(stopping, code, reason)
            self.review.stop()

        stopping.cut = cut_and_stop  # type: ignore[method-assign]
        self.cell.swap(deny_list=DenyList([DenyEntry(id=SpiffeId.parse(WEB))]))
        self.settle()
        self.assert_ended([stopping], PEER_DENIED)
        self.assert_ended([connection for connection in ours if connection is not stopping], None)
        self.assertEqual((self.review.waiting, self.timers.getDelayedCalls()), (0, []))

    def test_a_change_that_an_end_brings_about(self) -> None:
        """In the middle of a turn: everybody is judged by it, nobody is ended twice."""
        ours, others = self.connections(3, self.peer()), self.connections(3, None)
        for connection in ours:

            def cut(code: Code, reason: str, connection: Connection = connection) -> None:
                Connection.cut(connection, code, reason)
                self.cell.swap(deny_list=DenyList(self.cell.current.deny_list.entries))

            connection.cut = cut  # type: ignore[method-assign]
        self.cell.swap(deny_list=DenyList([DenyEntry(id=SpiffeId.parse(WEB))]))
        self.settle()
        self.assert_ended(ours, PEER_DENIED)
        self.assert_ended(others, None)
        self.assertEqual((self.review.waiting, self.timers.getDelayedCalls()), (0, []))


class ChurnTests(ReviewTestCase):
    """A thousand changes while connections come and go."""

    def test_ends_whom_it_must_and_nobody_else_and_keeps_nothing(self) -> None:
        """A partner's bundle comes and goes, entries come and go; memory is flat."""
        world = self.world
        other = now_leaf(now_authority("issuing of b.test", world.other), uri("spiffe://b.test/web"))
        ours, theirs = self.peer(), self.peer(other)
        lasting = self.connections(50, ours)
        wrongly: list[Connection] = []

        def change(number: int) -> None:
            guests = self.connections(3, theirs)
            mine = self.connections(3, ours)
            if number % 2:
                self.swap_bundles(a=(world.root,), b=(world.other,))
            elif number % 4:
                self.swap_bundles(a=(world.root,))
            self.cell.swap(deny_list=DenyList([DenyEntry(serial=f"{number + 1:04x}aa")]))
            self.timers.advance(TURN)
            allowed = B in self.cell.current.bundles
            self.settle()
            for connection in guests:
                self.assertEqual(connection.is_closed, not allowed, number)
            wrongly.extend(connection for connection in mine if connection.is_closed)
            for connection in (*guests, *mine):
                if not connection.is_closed:
                    connection.close()

        for number in range(100):
            change(number)
        gc.collect()
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        before = tracemalloc.get_traced_memory()[0]
        for number in range(100, 1000):
            change(number)
            del self.events[:]
        gc.collect()
        self.assertLess(tracemalloc.get_traced_memory()[0] - before, 100_000)
        self.assertEqual(wrongly, [])
        self.assert_ended(lasting, None)
        self.assertEqual((self.review.waiting, len(self.plane.live)), (0, 50))
