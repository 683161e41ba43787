"""Limits of policies on the data path, without sockets: plugins that fail, and what metrics say."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tcpmesh.codes import POLICY_CONNECTIONS, POLICY_FAILED, POLICY_RATE
from tcpmesh.errors import Refusal
from tcpmesh.limit_interfaces import ILimitingPolicy, Limit
from tcpmesh.mesh_state import MeshState, MeshStateCell, NamedPolicy
from tcpmesh.net.limiting import Limiting
from tcpmesh.observe.limit_metrics import LimitMetrics
from tcpmesh.observe.records import ConnectionRecord
from tcpmesh.policy.limits import Places
from tcpmesh.testing import authorization_request
from tcpmesh.values import AuthorizationRequest, Decision, Effect, PolicyNote


@implementer(ILimitingPolicy)
class Fixed:
    """Allows everybody, within these limits."""

    def __init__(self, *limits: Limit) -> None:
        self.limits: Sequence[Limit] = limits
        self.broken: Exception | None = None
        self.asked = 0

    def decide(self, request: AuthorizationRequest) -> Decision:
        return Decision(Effect.ALLOW)

    def limits_of(self, request: AuthorizationRequest) -> Sequence[Limit]:
        self.asked += 1
        if self.broken is not None:
            raise self.broken
        return self.limits

    def describe(self) -> Sequence[str]:
        return ()


class Connection:
    """As far as limiting knows one."""

    def __init__(self, peer: str = "spiffe://example.test/web") -> None:
        self.record = ConnectionRecord(1, "inbound", "orders-in", "", 0.0)
        self.record.decision = "allow"
        self.places: Places | None = ()
        self.is_closed = False
        self.own_is_gone = False
        self.peer = peer

    def authorization_request(self) -> AuthorizationRequest:
        if self.own_is_gone:
            raise Refusal(POLICY_FAILED, "no identity")
        return authorization_request(self.peer)


class LimitingTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.cell = MeshStateCell()
        self.limiting = Limiting(self.cell, self.clock)

    def use(self, *policies: Fixed) -> None:
        self.cell.swap(policies=tuple(NamedPolicy(f"plugin{n}", policy) for n, policy in enumerate(policies)))

    def admitted(self) -> Connection:
        connection = Connection()
        self.assertIsNone(self.limiting.admit(connection))
        return connection

    def refused(self) -> tuple[Refusal, Connection]:
        connection = Connection()
        refusal = self.limiting.admit(connection)
        assert refusal is not None
        self.assertEqual(connection.places, ())
        return refusal, connection


class AdmissionTests(LimitingTestCase):
    """A new connection."""

    def test_a_fake_is_a_policy(self) -> None:
        """As the interface says."""
        verifyObject(ILimitingPolicy, Fixed())

    def test_the_record_names_the_limit_that_refuses(self) -> None:
        """With its place, and as a denial."""
        self.use(Fixed(Limit("few", "policies[3] (mesh.yaml:9:5)", connections=1)))
        self.admitted()
        refusal, connection = self.refused()
        self.assertIs(refusal.code, POLICY_CONNECTIONS)
        record = connection.record
        self.assertEqual((record.decision, record.policy, record.rule), ("deny", "few", "policies[3] (mesh.yaml:9:5)"))

    def test_a_dry_run_is_noted(self) -> None:
        """Beside what other policies noted."""
        self.use(Fixed(Limit("try", "policies[0]", rate=1.0, enforced=False)))
        self.admitted()
        connection = Connection()
        connection.record.notes = (PolicyNote("other", "", "audit"),)
        self.assertIsNone(self.limiting.admit(connection))
        self.assertEqual(
            connection.record.notes,
            (PolicyNote("other", "", "audit"), PolicyNote("try", "policies[0]", "would-limit")),
        )
        self.assertEqual(connection.record.decision, "allow")

    def test_limits_of_several_plugins_count_apart(self) -> None:
        """Even when their policies have the same name."""
        self.use(Fixed(Limit("few", connections=1)), Fixed(Limit("few", connections=2)))
        self.admitted()
        self.assertEqual(self.limiting.in_use, {"few": 2})
        self.assertIn("lets all together have 1", self.refused()[0].reason)

    def test_time_is_the_reactors(self) -> None:
        """Monotonic."""
        self.use(Fixed(Limit("slow", rate=1.0)))
        self.admitted()
        self.assertIs(self.refused()[0].code, POLICY_RATE)
        self.clock.advance(1)
        self.admitted()

    def test_a_plugin_that_fails_lets_nobody_in(self) -> None:
        """Nor does one that names what it did not announce."""
        policy = Fixed(Limit("few", connections=9))
        self.use(policy)
        policy.broken = ZeroDivisionError()
        self.assertIs(self.refused()[0].code, POLICY_FAILED)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        policy.broken = None
        policy.limits = (Limit("new", connections=9),)
        self.assertIs(self.refused()[0].code, POLICY_FAILED)
        self.assertEqual(len(self.flushLoggedErrors(LookupError)), 1)
        self.assertEqual(self.limiting.in_use, {"few": 0})

    def test_policies_that_were_there_before_hold(self) -> None:
        """A proxy starts with its policies."""
        policy = Fixed(Limit("few", connections=1))
        limiting = Limiting(MeshStateCell(MeshState(policies=(NamedPolicy("p", policy),))), self.clock)
        self.assertEqual(limiting.in_use, {"few": 0})

    def test_policies_without_limits_are_not_asked(self) -> None:
        """The state knows who limits."""
        policy = Fixed()
        self.use(policy)
        self.assertEqual(self.cell.current.limiting, ())
        self.use(Fixed(Limit("few", connections=1)), policy)
        self.admitted()
        self.assertEqual(policy.asked, 0)


class RecountTests(LimitingTestCase):
    """Live connections, after a change."""

    def recount(self, *connections: Connection) -> None:
        for connection in connections:
            self.limiting.recount(connection, self.cell.current)

    def test_counts_who_came_before_the_limit(self) -> None:
        """And no longer who came under one that is gone."""
        early = self.admitted()
        self.use(Fixed(Limit("few", connections=1)))
        self.recount(early)
        self.assertEqual(self.limiting.in_use, {"few": 1})
        self.refused()
        self.use()
        self.recount(early)
        self.assertEqual((self.limiting.in_use, early.places), ({}, ()))

    def test_leaves_alone_who_was_not_allowed_or_has_ended(self) -> None:
        """Whoever waits for a decision is counted when it comes."""
        self.use(Fixed(Limit("few", connections=1)))
        waiting, ended = Connection(), Connection()
        waiting.places = None
        ended.is_closed = True
        self.recount(waiting, ended)
        self.assertEqual((self.limiting.in_use, waiting.places, ended.places), ({"few": 0}, None, ()))

    def test_gives_back_once(self) -> None:
        """Whatever it was recounted to."""
        self.use(Fixed(Limit("few", connections=1)))
        connection = self.admitted()
        self.use(Fixed(Limit("few", connections=1, per=("listener",))))
        self.recount(connection, connection)
        self.limiting.release(connection)
        self.limiting.release(connection)
        self.assertEqual((self.limiting.in_use, self.limiting.counters), ({"few": 0}, 0))

    def test_a_plugin_that_fails_ends_nobody(self) -> None:
        """They count as before; it is told once for each change."""
        policy = Fixed(Limit("few", connections=2))
        self.use(policy)
        live = [self.admitted(), self.admitted()]
        policy.broken = ZeroDivisionError()
        self.recount(*live)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.limiting.in_use, {"few": 2})
        live[0].own_is_gone = True
        self.recount(live[0])
        self.assertEqual(self.limiting.in_use, {"few": 2})


class MetricsTests(LimitingTestCase):
    """By policy, never by who it was."""

    def samples(self, most: int = 1000) -> dict[tuple[str, str], float]:
        found = LimitMetrics(self.limiting, most).collect()
        return {
            (sample.name, sample.labels.get("policy", "")): sample.value
            for metric in found
            for sample in metric.samples
        }

    def test_says_nothing_without_limits(self) -> None:
        """There is nothing to say."""
        self.assertEqual(self.samples(), {})

    def test_counts_by_policy(self) -> None:
        """In use, refused and noted; all of them from the beginning."""
        trial = Limit("try", connections=1, enforced=False)
        self.use(Fixed(trial, Limit("few", connections=2, per=("identity",))))
        for _ in range(2):
            self.admitted()
        self.refused()
        self.assertEqual(
            self.samples(),
            {
                ("tcpmesh_policy_limit_in_use", "try"): 1,
                ("tcpmesh_policy_limit_in_use", "few"): 2,
                ("tcpmesh_policy_limit_refused_total", "try"): 0,
                ("tcpmesh_policy_limit_refused_total", "few"): 1,
                ("tcpmesh_policy_limit_noted_total", "try"): 2,
                ("tcpmesh_policy_limit_noted_total", "few"): 0,
                ("tcpmesh_policy_limit_counters", ""): 2,
            },
        )

    def test_has_as_many_labels_as_it_may(self) -> None:
        """The rest is one more; names that no exposition can hold are escaped."""
        self.use(Fixed(*(Limit(f"p{number}\ud800", connections=9) for number in range(5))))
        self.admitted()
        values = [(labels, value) for (name, labels), value in self.samples(2).items() if name.endswith("in_use")]
        self.assertEqual([value for _, value in values], [1, 1, 3])
        self.assertEqual(values[2][0], "other")
        self.assertNotIn("\ud800", values[0][0])
