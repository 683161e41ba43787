"""Own certificates that expire, by a clock that somebody may set forward and back."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.logger import LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tcpmesh.codes import OWN_EXPIRED, PLUGIN_UNUSABLE, STATE_UNUSABLE
from tcpmesh.control import MeshControl
from tcpmesh.errors import StartError
from tcpmesh.interfaces import ICheckable, IIdentityObserver, IIdentitySource
from tcpmesh.mesh_state import MeshStateCell
from tcpmesh.testing import TestAuthority
from tcpmesh.values import IdentitySnapshot, IdentityState, Workload

TTL = 3600.0
LOOK = 10.0  # seconds, within which a step of the clock is noticed
WEB = "spiffe://example.test/web"


@implementer(IIdentitySource)
class OneDelivery:
    """A source that delivers once, at its start."""

    def __init__(self, snapshot: IdentitySnapshot) -> None:
        self._snapshot = snapshot

    def start(self, observer: IIdentityObserver) -> None:
        self.observer = observer
        observer.identity_changed(self._snapshot)

    def stop(self) -> None:
        """Nothing runs."""


class ExpiryTests(SynchronousTestCase):
    """One workload with a certificate for an hour, and two clocks: the timers' and that on the wall."""

    def setUp(self) -> None:
        authority = TestAuthority()
        self.wall = authority.now()
        snapshot = authority.snapshot(WEB, ttl=TTL)
        self.end = snapshot.svids[0].leaf.not_valid_after_utc.timestamp()
        self.timers, self.cell = Clock(), MeshStateCell()
        control = MeshControl(self.cell, self.timers, lambda: self.wall)
        self.source = OneDelivery(snapshot)
        control.add_source("once", self.source, {"web": Workload("web", snapshot.svids[0].id)})
        self.events: list[dict[str, Any]] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)
        control.start()
        self.addCleanup(control.stop)

    def assert_state(self, state: IdentityState) -> None:
        """The workload's, and whether it has a certificate to show."""
        current = self.cell.current
        self.assertEqual(current.identity_states, {"web": state})
        self.assertEqual(list(current.svids), [] if state is IdentityState.EXPIRED else ["web"])

    def complaints(self) -> list[str]:
        """The codes of the errors logged so far."""
        return [event["code"] for event in self.events if event["log_level"] is LogLevel.error]

    def test_a_clock_that_went_forward_and_back_leaves_the_identity_usable(self) -> None:
        """Expired while the clock is ahead, ready again as soon as it is right; told once each time."""
        self.assert_state(IdentityState.READY)
        for number in (1, 2):
            self.wall += 2 * TTL
            self.timers.advance(LOOK)
            self.assert_state(IdentityState.EXPIRED)
            self.timers.pump([LOOK] * 6)
            self.assertEqual(self.complaints(), [OWN_EXPIRED.id] * number)
            self.wall -= 2 * TTL
            self.timers.advance(LOOK)
            self.assert_state(IdentityState.READY)

    def test_a_look_at_an_unchanged_state_changes_nothing(self) -> None:
        """A new generation would make new contexts."""
        generation = self.cell.current.generation
        self.timers.pump([LOOK] * 6)
        self.wall += TTL / 2
        self.timers.pump([LOOK] * 6)
        self.assertEqual(self.cell.current.generation, generation)

    def test_a_certificate_is_used_up_to_its_last_second(self) -> None:
        """And not a second longer, without waiting for the next look."""
        self.wall = self.end - 4
        self.timers.advance(LOOK)
        self.assert_state(IdentityState.READY)
        for _second in range(4):
            self.wall += 1
            self.timers.advance(1)
            self.assert_state(IdentityState.READY)
        self.wall += 1
        self.timers.advance(1)
        self.assert_state(IdentityState.EXPIRED)

    def test_an_expiry_is_told_also_when_something_else_is_published_first(self) -> None:
        """A source that fails at the wrong moment must not hide it."""
        self.wall = self.end + 1
        self.source.observer.identity_failed("cannot refresh")
        self.assert_state(IdentityState.EXPIRED)
        self.assertEqual(self.complaints(), [OWN_EXPIRED.id])


@implementer(IIdentitySource, ICheckable)
class Unready:
    """A source that delivers nothing, and fails when it is checked."""

    def __init__(self, problem: Exception) -> None:
        self._problem = problem

    def start(self, observer: IIdentityObserver) -> None:
        self.observer = observer

    def stop(self) -> None:
        """Nothing runs."""

    def check(self) -> None:
        raise self._problem


class UnreadyTests(SynchronousTestCase):
    """Sources before their first delivery."""

    def control(self, *sources: Unready) -> MeshControl:
        """With these sources, for nobody."""
        control = MeshControl(MeshStateCell(), Clock(), lambda: 0.0)
        for number, source in enumerate(sources):
            control.add_source(f"source{number}", source, {})
        return control

    def test_a_check_collects_what_every_source_complains_of(self) -> None:
        """One that raises something of its own is named, and hides nobody else's complaint."""
        problem = StartError(STATE_UNUSABLE, "not a directory")
        found = self.control(Unready(PermissionError("secret")), Unready(problem)).check()
        self.assertEqual([error.code for error in found], [PLUGIN_UNUSABLE, STATE_UNUSABLE])
        self.assertIn("'source0' cannot be checked: PermissionError", found[0].reason)
        self.assertEqual(len(self.flushLoggedErrors(PermissionError)), 1)

    def test_the_same_failure_is_told_once(self) -> None:
        """Until it is another one."""
        source = Unready(ValueError())
        control = self.control(source)
        control.start()
        self.addCleanup(control.stop)
        events: list[dict[str, Any]] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        for reason in ("agent down", "agent down", "denied", "denied"):
            source.observer.identity_failed(reason)
        told = [event["reason"] for event in events if event["log_level"] is LogLevel.warn]
        self.assertEqual(told, ["agent down", "denied"])
