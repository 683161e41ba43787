"""Policies that change while the proxy runs: what is swapped in, what is refused, and what a plugin cannot break."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tcpmesh.codes import BAD_CONFIGURATION
from tcpmesh.errors import ConfigurationError, Problem, StartError, TcpmeshError
from tcpmesh.interfaces import IAuthorizationPolicy, ICheckable, IPolicyObserver, IPolicySource, IReloadable
from tcpmesh.mesh_state import MeshState, MeshStateCell, NamedPolicy
from tcpmesh.observe.policy_metrics import PolicyMetrics
from tcpmesh.policy_control import PolicyControl
from tcpmesh.policy_interfaces import IDoubtedPolicy
from tcpmesh.values import AuthorizationRequest, Decision, Effect


@implementer(IAuthorizationPolicy)
class Still:
    """A policy that never changes."""

    def decide(self, request: AuthorizationRequest) -> Decision:
        return Decision(Effect.ABSTAIN)

    def describe(self) -> Sequence[str]:
        return []


@implementer(IPolicySource, ICheckable, IReloadable)
class Changing(Still):
    """A policy that changes when the test says so."""

    def __init__(self, problem: Exception | None = None) -> None:
        self.problem = problem
        self.observer: IPolicyObserver | None = None
        self.reloads = 0
        self.stopped: Deferred[None] | None = None
        self.looked: Deferred[None] | None = None

    def start(self, observer: IPolicyObserver) -> None:
        if self.problem is not None:
            raise self.problem
        self.observer = observer

    def stop(self) -> Deferred[None] | None:
        return self.stopped

    def check(self) -> None:
        if self.problem is not None:
            raise self.problem

    def reload(self) -> Deferred[None] | None:
        self.reloads += 1
        if self.problem is not None:
            raise self.problem
        return self.looked

    def deliver(self, policy: object) -> None:
        assert self.observer is not None
        self.observer.policy_changed(policy)  # type: ignore[arg-type]

    def fail(self, reason: str) -> None:
        assert self.observer is not None
        self.observer.policy_failed(reason)


@implementer(IDoubtedPolicy)
class Doubted(Still):
    """A policy with something to say about itself, or that fails to."""

    def __init__(self, *doubts: Problem, problem: Exception | None = None) -> None:
        self.doubts = doubts
        self.problem = problem

    def warnings(self) -> Sequence[Problem]:
        if self.problem is not None:
            raise self.problem
        return self.doubts


class PolicyControlTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.first, self.second = Still(), Changing()

    def test_collects_what_policies_doubt_of_themselves(self) -> None:
        """Of those in use; one that fails to say is named, and keeps no other from it."""
        made = (
            NamedPolicy("one", Doubted(Problem("this never decides"))),
            NamedPolicy("still", self.first),
            NamedPolicy("two", Doubted(problem=ValueError("broken"))),
            NamedPolicy("three", Doubted(Problem("nor does this"))),
        )
        control = PolicyControl(MeshStateCell(MeshState(policies=made)), made)
        self.assertEqual(
            [str(problem) for problem in control.warnings()],
            ["this never decides", "policy plugin 'two' cannot be asked: ValueError", "nor does this"],
        )
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def control(self) -> PolicyControl:
        made = (NamedPolicy("still", self.first), NamedPolicy("changing", self.second))
        self.cell = MeshStateCell(MeshState(policies=made))
        return PolicyControl(self.cell, made)

    def in_use(self) -> list[object]:
        return [named.policy for named in self.cell.current.policies]

    def test_swaps_in_what_is_delivered(self) -> None:
        """A delivery is one new generation in which the policy has the old one's place and name."""
        control = self.control()
        control.start()
        seen: list[MeshState] = []
        self.cell.observe(seen.append)
        new = Still()
        self.second.deliver(new)
        self.assertEqual(self.in_use(), [self.first, new])
        self.assertEqual([named.name for named in control.policies], ["still", "changing"])
        self.assertEqual([state.generation for state in seen], [1])
        self.assertEqual(dict(control.outcomes), {(1, "changed"): 1})

    def test_keeps_the_old_one_when_a_change_fails(self) -> None:
        """A failure changes no generation, is remembered with its reason, and is over with the next delivery."""
        control = self.control()
        control.start()
        self.second.fail("rules.yaml:3:1: nonsense")
        self.assertEqual(self.in_use(), [self.first, self.second])
        self.assertEqual(self.cell.current.generation, 0)
        self.assertEqual(control.failing, {1: "rules.yaml:3:1: nonsense"})
        self.assertEqual(dict(control.outcomes), {(1, "failed"): 1})
        self.second.deliver(Still())
        self.assertEqual(control.failing, {})

    def test_reports_where_each_policy_stands(self) -> None:
        """To /status, to `tcpmesh policy reload` and as metrics."""
        control = self.control()
        control.start()
        self.second.deliver(Still())
        self.second.fail("rules.yaml:3:1: nonsense")
        still = {"position": 0, "plugin": "still", "changes": False, "taken": 0, "refused": 0, "failure": ""}
        changing = {"position": 1, "plugin": "changing", "changes": True, "taken": 1, "refused": 1}
        self.assertEqual(control.report(), [still, {**changing, "failure": "rules.yaml:3:1: nonsense"}])
        samples = {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in PolicyMetrics(control).collect()
            for sample in family.samples
        }
        self.assertEqual(
            samples,
            {
                ("tcpmesh_policy_failing", "0", "still"): 0,
                ("tcpmesh_policy_failing", "1", "changing"): 1,
                ("tcpmesh_policy_changes_total", "0", "still", "taken"): 0,
                ("tcpmesh_policy_changes_total", "0", "refused", "still"): 0,
                ("tcpmesh_policy_changes_total", "1", "changing", "taken"): 1,
                ("tcpmesh_policy_changes_total", "1", "changing", "refused"): 1,
            },
        )

    def test_refuses_what_is_no_policy(self) -> None:
        """A delivery of nonsense counts as a failure."""
        control = self.control()
        control.start()
        self.second.deliver("allow everybody")
        self.assertEqual(self.in_use(), [self.first, self.second])
        self.assertEqual(control.failing, {1: "delivered something that is not a policy"})

    def test_hears_nothing_after_the_stop(self) -> None:
        """A plugin that goes on to deliver changes nothing any more."""
        control = self.control()
        control.start()
        self.second.stopped = Deferred()
        stopping = control.stop()
        self.assertNoResult(stopping)
        self.second.deliver(Still())
        self.second.fail("late")
        self.assertEqual(self.in_use(), [self.first, self.second])
        self.assertEqual(control.failing, {})
        self.second.stopped.errback(ValueError("stopping failed"))
        self.successResultOf(stopping)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_a_start_that_fails_is_told(self) -> None:
        """What a policy's start raises reaches the caller, and everything can be stopped."""
        self.second.problem = ConfigurationError([Problem("nonsense")])
        control = self.control()
        self.assertRaises(ConfigurationError, control.start)
        self.successResultOf(control.stop())

    def test_reload_reaches_those_that_can(self) -> None:
        """One that raises is told as a failure of its own, with its traceback in the log."""
        control = self.control()
        control.reload()
        self.assertEqual(self.second.reloads, 0)  # not started
        control.start()
        control.reload()
        self.assertEqual(self.second.reloads, 1)
        self.second.problem = ValueError("broken")
        self.successResultOf(control.reload())
        self.assertEqual(control.failing, {1: "reloading failed: ValueError"})
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_reload_is_done_when_a_policy_says_so(self) -> None:
        """Until then nobody can say whether what is there now can be used."""
        control = self.control()
        control.start()
        self.second.looked = Deferred()
        done = control.reload()
        self.assertNoResult(done)
        given_up = control.reload()
        given_up.cancel()
        self.failureResultOf(given_up, CancelledError)
        self.assertEqual(control.failing, {})
        self.second.fail("rules.yaml:3:1: nonsense")
        self.second.looked.callback(None)
        self.successResultOf(done)
        self.assertEqual(control.failing, {1: "rules.yaml:3:1: nonsense"})

    def test_check_collects_and_starts_nothing(self) -> None:
        """Problems are given as they were raised; a plugin that breaks is one of them."""
        wrong = ConfigurationError([Problem("nonsense")])
        problems: list[tuple[Exception | None, list[TcpmeshError]]] = [(None, []), (wrong, [wrong])]
        start = StartError(BAD_CONFIGURATION, "gone")
        for problem, found in [*problems, (start, [start])]:
            self.second.problem = problem
            self.assertEqual(self.control().check(), found)
        self.second.problem = ValueError("broken")
        (found_one,) = self.control().check()
        self.assertIn("policy plugin 'changing' cannot be checked: ValueError: broken", str(found_one))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertIsNone(self.second.observer)
