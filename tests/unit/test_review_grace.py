"""What a source withdrew for a moment: nothing in its grace ends anybody because of that, and nobody lives longer."""

from __future__ import annotations

from collections.abc import Mapping

from tcpmesh.codes import OWN_REVOKED, PEER_DENIED, VOUCHER_GONE
from tcpmesh.identity.deny_list import DenyEntry, DenyList
from tcpmesh.identity.spiffe import SpiffeId, TrustDomain
from tcpmesh.net.review import GRACE, LOOKED_AT_IN_A_TURN
from tcpmesh.values import IdentityState, TrustBundle
from tests.unit.crafted import uri
from tests.unit.test_review import TURN, A, B, ReviewTestCase
from tests.unit.tls_pairs import WEB, now_authority, now_leaf

READY, REVOKED = IdentityState.READY, IdentityState.REVOKED
BATCH = DenyList([DenyEntry(serial="0b")])  # names nobody


class GraceTests(ReviewTestCase):
    """A source withdraws everything, bundles too, and gives it back."""

    def setUp(self) -> None:
        """With two workloads, ``other`` of another source."""
        super().setUp()
        self.held = self.cell.current.bundles
        self.publish(READY)

    def publish(
        self, orders: IdentityState, bundles: Mapping[TrustDomain, TrustBundle] | None = None,
        other: IdentityState = READY,
    ) -> None:  # fmt: skip
        self.cell.swap(
            identity_states={"orders": orders, "other": other}, bundles=self.held if bundles is None else bundles
        )

    def pass_time(self, seconds: float) -> None:
        self.timers.advance(seconds)
        self.settle()

    def test_a_change_of_the_deny_list_in_between_ends_those_that_it_names(self) -> None:
        """And none of those whose bundle is away for the moment."""
        denied = now_leaf(self.world.issuing, uri("spiffe://a.test/laptop"))
        ours, theirs = self.connections(2, self.peer()), self.connections(2, self.peer(denied))
        self.publish(REVOKED, {})
        self.cell.swap(deny_list=DenyList([DenyEntry(id=SpiffeId.parse("spiffe://a.test/laptop"))]))
        self.settle()
        self.assert_ended(theirs, PEER_DENIED)
        self.assert_ended(ours, None)
        self.publish(READY)
        self.pass_time(GRACE * 2)
        self.assert_ended(ours, None)

    def test_a_round_that_is_under_way_ends_nobody(self) -> None:
        """Those that it comes to afterwards are judged by what holds in the grace."""
        ours = self.connections(LOOKED_AT_IN_A_TURN * 3, self.peer())
        self.cell.swap(deny_list=BATCH)
        self.timers.advance(TURN)
        self.publish(REVOKED, {})
        self.settle()
        self.publish(READY)
        self.pass_time(GRACE * 2)
        self.assert_ended(ours, None)

    def test_the_end_of_another_workloads_grace_is_not_its_end(self) -> None:
        """Each source has its five seconds."""
        ours = self.connections(2, self.peer())
        self.publish(READY, other=REVOKED)
        self.pass_time(GRACE - 1)
        self.publish(REVOKED, {}, other=REVOKED)
        self.pass_time(2)
        self.assert_ended(ours, None)
        self.publish(READY, other=REVOKED)
        self.pass_time(GRACE * 2)
        self.assert_ended(ours, None)

    def test_a_source_that_flaps_ends_nobody(self) -> None:
        """Every 10 ms, for a minute: each delivery restores what the one before withdrew."""
        ours = self.connections(LOOKED_AT_IN_A_TURN * 2, self.peer())
        for _ in range(3000):
            self.publish(REVOKED, {})
            self.timers.advance(0.01)
            self.publish(READY)
            self.timers.advance(0.01)
        self.settle()
        self.assert_ended(ours, None)
        self.assertEqual(self.timers.getDelayedCalls(), [])

    def test_what_is_made_in_the_grace_by_new_authorities_lives(self) -> None:
        """Another source's bundle grows meanwhile: both count."""
        other = now_authority("new root of a.test")
        ours = self.connections(2, self.peer())
        self.publish(REVOKED, {})
        new = {A: TrustBundle(A, (other.certificate,))}
        self.publish(REVOKED, new)
        made = now_leaf(other, uri(WEB))
        theirs = self.connections(2, self.peer(made, bundles=new))
        self.cell.swap(deny_list=BATCH)
        self.settle()
        self.assert_ended([*ours, *theirs], None)
        self.publish(READY, new)
        self.settle()
        self.assert_ended(ours, VOUCHER_GONE)
        self.assert_ended(theirs, None)

    def test_an_authority_that_is_gone_for_good_is_missed_after_the_grace(self) -> None:
        """However the sources' withdrawals overlap, five seconds after it left its connections end."""
        other = now_leaf(now_authority("issuing of b.test", self.world.other), uri("spiffe://b.test/web"))
        ours, theirs = self.connections(2, self.peer()), self.connections(2, self.peer(other))
        left = {A: self.held[A]}
        self.publish(REVOKED, left)
        states = [(REVOKED, REVOKED), (READY, REVOKED)], [(REVOKED, REVOKED), (REVOKED, READY)]
        for number in range(4):
            for orders, second in states[number % 2]:
                self.pass_time(GRACE / 4)
                self.publish(orders, left, other=second)
                if number < 1:
                    self.assert_ended(theirs, None)
        self.settle()
        self.assert_ended(theirs, VOUCHER_GONE, "spiffe://b.test/web")
        self.assert_ended(ours, None)
        self.assertNotIn(B, self.cell.current.bundles)

    def test_a_withdrawal_that_lasts_has_its_own_code(self) -> None:
        """Those that showed the identity; the others have lost who vouched for them."""
        ours, others = self.connections(2, self.peer()), self.connections(2, self.peer())
        for connection in others:
            connection.record.workload = "other"
        self.publish(REVOKED, {})
        self.pass_time(GRACE - 0.1)
        self.assert_ended([*ours, *others], None)
        self.pass_time(0.2)
        self.assert_ended(ours, OWN_REVOKED)
        self.assert_ended(others, VOUCHER_GONE)
