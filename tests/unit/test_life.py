"""The life of identities: every step between the five states, what it means, and what is told, counted and shown."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from twisted.internet.task import Clock
from twisted.logger import LogLevel, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tcpmesh.codes import OWN_EXPIRED, SOURCE_STALE
from tcpmesh.control import MeshControl
from tcpmesh.dataplane.contexts import own_svid
from tcpmesh.errors import Refusal
from tcpmesh.identity.life import MEANING, SourceLife
from tcpmesh.interfaces import IIdentityObserver, IIdentitySource, IReloadable
from tcpmesh.mesh_state import MeshStateCell
from tcpmesh.observe.identity_metrics import IdentityMetrics
from tcpmesh.testing import TestAuthority
from tcpmesh.values import IdentitySnapshot, IdentityState, Workload

INIT, READY, STALE, EXPIRED, REVOKED = IdentityState
TTL = 3600.0
LOOK = 10.0  # seconds between two looks at the wall clock


@implementer(IIdentitySource, IReloadable)
class Told:
    """A source that does what the test says."""

    def __init__(self) -> None:
        self.reloads = 0
        self.failure: Exception | None = None

    def start(self, observer: IIdentityObserver) -> None:
        self.observer = observer

    def reload(self) -> None:
        self.reloads += 1
        if self.failure is not None:
            raise self.failure

    def stop(self) -> None:
        """Nothing runs."""


@implementer(IIdentitySource)
class Deaf:
    """A source that cannot be told to look."""

    def start(self, observer: IIdentityObserver) -> None:
        """Nothing begins."""

    def stop(self) -> None:
        """Nothing runs."""


class LifeCase(SynchronousTestCase):
    """Two workloads of one source, and both clocks."""

    def setUp(self) -> None:
        self.authority = TestAuthority()
        self.wall = self.authority.now()
        self.clock, self.cell = Clock(), MeshStateCell()
        self.control = MeshControl(self.cell, self.clock, lambda: self.wall)
        self.source = Told()
        workloads = {name: self.authority.workload(name) for name in ("web", "db")}
        self.control.add_source("agent", self.source, workloads)
        self.events: list[dict[str, Any]] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)
        self.control.start()
        self.addCleanup(self.control.stop)

    def deliver(self, *names: str, ttl: float = TTL) -> IdentitySnapshot:
        snapshot = self.authority.snapshot(*(f"/{name}" for name in names or ("web", "db")), ttl=ttl, now=self.wall)
        self.source.observer.identity_changed(snapshot)
        return snapshot

    def fail_source(self, reason: str = "agent down") -> None:
        self.source.observer.identity_failed(reason)

    def revoke(self) -> None:
        self.source.observer.identity_revoked("permission denied")

    def pass_time(self, seconds: float) -> None:
        self.wall += seconds
        self.clock.advance(seconds)

    def expire(self) -> None:
        self.pass_time(TTL + 1)

    def states(self) -> list[IdentityState]:
        """Of web and db."""
        return [self.cell.current.identity_states[name] for name in ("web", "db")]

    def lines(self, level: LogLevel) -> list[str]:
        """Of that level, so far, and no longer."""
        found = [formatEvent(event) for event in self.events if event["log_level"] is level]
        self.events[:] = [event for event in self.events if event["log_level"] is not level]
        return found

    def metrics(self) -> str:
        registry = CollectorRegistry()
        registry.register(IdentityMetrics(self.control))
        return generate_latest(registry).decode()


class StateTests(LifeCase):
    """From each state to each other that there is."""

    def assert_taken(self) -> None:
        """New connections have an identity."""
        for name in ("web", "db"):
            self.assertIs(own_svid(self.cell.current, name), self.cell.current.svids[name])

    def assert_refused(self, code: str, name: str = "web") -> None:
        """New connections are refused."""
        self.assertNotIn(name, self.cell.current.svids)
        self.assertEqual(self.assertRaises(Refusal, own_svid, self.cell.current, name).code.id, code)

    def test_init(self) -> None:
        """Nothing was delivered: refused; a failure is told and changes nothing."""
        self.assertEqual(self.states(), [INIT, INIT])
        self.assert_refused("TM-I101")
        self.fail_source()
        self.assertEqual(self.states(), [INIT, INIT])
        self.assertEqual(self.lines(LogLevel.warn), ["identity source 'agent' is in state INIT: agent down"])
        self.deliver()
        self.assertEqual(self.states(), [READY, READY])
        self.assert_taken()

    def test_stale_and_ready_again(self) -> None:
        """The last identity serves; both ways are told once, with the code for the bad one."""
        self.deliver()
        before = dict(self.cell.current.svids)
        for _ in range(3):
            self.fail_source()
        self.assertEqual(self.states(), [STALE, STALE])
        self.assertEqual(self.cell.current.svids, before)
        self.assert_taken()
        told = f"{SOURCE_STALE.id} identity source 'agent': READY -> STALE (agent down)"
        self.assertEqual(self.lines(LogLevel.warn), [told])
        self.lines(LogLevel.info)
        self.deliver()
        self.assertEqual(self.states(), [READY, READY])
        self.assertEqual(self.lines(LogLevel.info), ["identity source 'agent': STALE -> READY (identities received)"])

    def test_a_failure_that_changes_nothing_makes_no_generation(self) -> None:
        """Contexts would be made anew for it."""
        self.deliver()
        self.fail_source()
        generation = self.cell.current.generation
        self.fail_source()
        self.fail_source("agent denies")
        self.assertEqual(self.cell.current.generation, generation)
        self.assertEqual(self.control.sources[0].reason, "agent denies")

    def test_expired(self) -> None:
        """At not_after and not before, from READY and from STALE; what is delivered then is used."""
        for failing in (False, True):
            self.deliver()
            if failing:
                self.fail_source()
            self.expire()
            self.assertEqual(self.states(), [EXPIRED, EXPIRED])
            self.assert_refused("TM-I102")
            told = self.lines(LogLevel.error)
            before = "STALE" if failing else "READY"
            for name in ("web", "db"):
                (line,) = (line for line in told if f"'{name}': " in line)
                self.assertIn(f"{OWN_EXPIRED.id} workload '{name}': {before} -> EXPIRED, generation ", line)
                self.assertIn(MEANING[EXPIRED], line)
            self.lines(LogLevel.info)
            self.deliver()
            self.assertEqual(self.states(), [READY, READY])
            self.assertIn("workload 'web': EXPIRED -> READY, generation", "".join(self.lines(LogLevel.info)))
            self.assert_taken()

    def test_one_expires_before_the_other(self) -> None:
        """Each by its own certificate; a source that still delivers the old one of the first is not refused for it."""
        short = self.authority.svid("/web", ttl=60, now=self.wall)
        long = self.authority.svid("/db", ttl=TTL, now=self.wall)
        bundles = {self.authority.trust_domain: self.authority.bundle}
        self.source.observer.identity_changed(IdentitySnapshot((short, long), bundles))
        self.pass_time(61)
        self.assertEqual(self.states(), [EXPIRED, READY])
        new = self.authority.svid("/db", now=self.wall)
        self.source.observer.identity_changed(IdentitySnapshot((short, new), bundles))
        self.assertEqual(self.states(), [EXPIRED, READY])
        self.assertEqual(self.cell.current.svids, {"db": new})
        again = self.authority.svid("/web", ttl=60, now=self.wall - 200)
        self.source.observer.identity_changed(IdentitySnapshot((again, new), bundles))
        self.assertEqual(self.states(), [EXPIRED, STALE], "an expired one that is new is a bad delivery")

    def test_revoked(self) -> None:
        """Nothing that it gave may be used; failures leave it so; a delivery ends it."""
        for failing in (False, True):
            self.deliver()
            if failing:
                self.fail_source()
            self.revoke()
            self.assertEqual(self.states(), [REVOKED, REVOKED])
            self.assertEqual((self.cell.current.svids, self.cell.current.bundles), ({}, {}))
            self.assert_refused("TM-I104")
            self.fail_source()
            self.assertEqual(self.states(), [REVOKED, REVOKED])
            told = "".join(self.lines(LogLevel.warn))
            self.assertIn("-> REVOKED (permission denied)", told)
            self.assertIn("TM-I104 identity source ", told)
            self.assertIn("TM-I104 workload 'web': ", told)
        self.expire()
        self.assertEqual(self.states(), [REVOKED, REVOKED])
        self.deliver()
        self.assertEqual(self.states(), [READY, READY])
        self.assert_taken()

    def test_withdrawn_for_one_workload(self) -> None:
        """Absent from a complete snapshot: it alone is refused, and its line says why."""
        self.deliver()
        self.deliver("db")
        self.assertEqual(self.states(), [REVOKED, READY])
        self.assert_refused("TM-I104")
        (line,) = self.lines(LogLevel.warn)
        self.assertIn("TM-I104 workload 'web': READY -> REVOKED, generation ", line)
        self.assertIn("its source withdrew the identity", line)
        self.deliver()
        self.assertEqual(self.states(), [READY, READY])

    def test_revoked_before_anything_was_delivered(self) -> None:
        """An agent that knows no such workload."""
        self.revoke()
        self.assertEqual(self.states(), [REVOKED, REVOKED])

    def test_every_state_has_a_meaning(self) -> None:
        """For the line, and for people."""
        self.assertEqual(set(MEANING), set(IdentityState))


class AlarmTests(LifeCase):
    """A source that fails for long."""

    def test_half_of_what_was_left(self) -> None:
        """One error per workload, with source, since when, until when and why; not before half of it is gone."""
        self.deliver()
        self.pass_time(600)
        self.fail_source()
        self.pass_time(1490)
        self.assertEqual(self.lines(LogLevel.error), [])
        self.pass_time(20)
        told = self.lines(LogLevel.error)
        self.assertEqual(len(told), 2)
        self.assertIn(f"{SOURCE_STALE.id} identity source 'agent' has failed for 25 min", told[0])
        self.assertIn("certificate of workload 'web' ends at ", told[0])
        self.assertIn(", in 25 min: agent down", told[0])
        self.pass_time(600)
        self.assertEqual(self.lines(LogLevel.error), [])

    def test_a_source_that_recovers(self) -> None:
        """No alarm, then or later; the next failure starts anew."""
        self.deliver()
        self.fail_source()
        self.pass_time(1000)
        self.deliver()
        self.pass_time(1000)
        self.assertEqual(self.lines(LogLevel.error), [])
        self.fail_source()
        self.pass_time(1000)
        self.assertEqual(self.lines(LogLevel.error), [])
        self.pass_time(400)
        self.assertEqual(len(self.lines(LogLevel.error)), 2)

    def test_what_has_expired_already_needs_no_alarm(self) -> None:
        """A machine that slept over it: the expiry is told, once."""
        self.deliver()
        self.fail_source()
        self.expire()
        self.assertEqual([OWN_EXPIRED.id in line for line in self.lines(LogLevel.error)], [True, True])


class MetricsTests(LifeCase):
    """What a scrape shows."""

    def shown(self, name: str) -> dict[str, float]:
        """The samples of a family that are not 0, by their labels."""
        samples = [line.rpartition(" ") for line in self.metrics().splitlines() if line.startswith(f"{name}{{")]
        return {labels[len(name) :]: float(value) for labels, _, value in samples if float(value)}

    def test_the_states_of_the_source(self) -> None:
        """One is 1."""
        for act, state in (
            (lambda: None, "init"),
            (self.deliver, "ready"),
            (self.fail_source, "stale"),
            (self.revoke, "revoked"),
        ):
            act()
            self.assertEqual(
                self.shown("tcpmesh_identity_source_state"), {f'{{source="agent",state="{state}"}}': 1}, state
            )

    def test_failures_and_since_when(self) -> None:
        """Each report counts; the time begins with the first and ends with a delivery."""
        self.deliver()
        self.assertEqual(self.shown("tcpmesh_identity_source_failures_total"), {})
        self.fail_source()
        self.pass_time(30)
        self.fail_source()
        self.pass_time(12)
        self.assertEqual(self.shown("tcpmesh_identity_source_failures_total"), {'{source="agent"}': 2})
        self.assertEqual(self.shown("tcpmesh_identity_source_failing_seconds"), {'{source="agent"}': 42})
        self.deliver()
        self.assertEqual(self.shown("tcpmesh_identity_source_failing_seconds"), {})
        self.assertEqual(self.shown("tcpmesh_identity_source_failures_total"), {'{source="agent"}': 2})

    def test_how_old_the_served_identity_is(self) -> None:
        """Since it was delivered; the same one again does not make it younger, and a withdrawn one has no age."""
        first = self.deliver()
        self.pass_time(100)
        self.source.observer.identity_changed(first)
        self.pass_time(10)
        ages = self.shown("tcpmesh_svid_age_seconds")
        self.assertEqual(
            ages, {'{source="agent",workload="db"}': 110, '{source="agent",workload="web"}': 110}, self.metrics()
        )
        self.deliver("db")
        self.pass_time(5)
        self.assertEqual(self.shown("tcpmesh_svid_age_seconds"), {'{source="agent",workload="db"}': 5})

    def test_every_transition_of_a_workload(self) -> None:
        """From which state to which."""
        self.deliver()
        self.fail_source()
        self.expire()
        self.deliver()
        self.deliver("db")
        moves = self.shown("tcpmesh_identity_transitions_total")
        web = {
            f'{{from="{a}",to="{b}",workload="web"}}': 1.0
            for a, b in (("init", "ready"), ("stale", "expired"), ("expired", "ready"), ("ready", "revoked"))
        }
        self.assertEqual(
            {labels: count for labels, count in moves.items() if '"web"' in labels},
            web | {'{from="ready",to="stale",workload="web"}': 1.0},
        )


class ReloadTests(LifeCase):
    """Everybody who can look is told to."""

    def test_tells_each_source(self) -> None:
        """Those that cannot are passed over."""
        self.control.reload()
        self.assertEqual(self.source.reloads, 1)
        other = MeshControl(MeshStateCell(), Clock(), lambda: 0.0)
        other.add_source("deaf", Deaf(), {})
        other.start()
        self.addCleanup(other.stop)
        other.reload()
        self.assertEqual([source.state for source in other.sources], [INIT])

    def test_a_source_that_raises(self) -> None:
        """It has failed; the others look all the same."""
        second = Told()
        self.control.add_source("second", second, {})
        self.control.stop()
        self.control.start()
        self.deliver()
        self.source.failure = ValueError("no")
        self.control.reload()
        self.assertEqual(second.reloads, 1)
        self.assertEqual(self.states(), [STALE, STALE])
        self.assertEqual(self.control.sources[0].reason, "reloading failed: ValueError")
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_nobody_is_told_after_the_stop(self) -> None:
        """Or before the start."""
        self.control.stop()
        self.control.reload()
        self.assertEqual(self.source.reloads, 0)


class SourceLifeTests(SynchronousTestCase):
    """What only the values show."""

    def test_a_source_for_nobody_has_no_ages(self) -> None:
        """And fails for no time before it fails."""
        life = SourceLife(name="x", workloads={})
        life.delivered(IdentitySnapshot(), 5.0)
        self.assertEqual((life.ages(9.0), life.failing_for(9.0), life.due_alarms(9.0)), ({}, 0.0, []))

    def test_a_workload_that_is_not_in_the_snapshot(self) -> None:
        """Is not taken."""
        authority = TestAuthority()
        workload = Workload("web", authority.workload("web").id)
        life = SourceLife(name="x", workloads={"web": workload})
        life.delivered(authority.snapshot("/db"), 1.0)
        self.assertEqual(life.ages(2.0), {})
        self.assertIs(life.state_of(workload, authority.now()), REVOKED)
