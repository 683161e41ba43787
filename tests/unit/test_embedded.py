"""The embedded source: what it delivers, when it renews, and what it says when it cannot."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.task import Clock
from twisted.logger import LogEvent, Logger, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tcpmesh import codes
from tcpmesh.errors import StartError
from tcpmesh.identity.authority import ISSUING_LIFETIME, ROOT_LIFETIME
from tcpmesh.identity.certificates import dns_names, not_after, not_before
from tcpmesh.identity.own import verify_own
from tcpmesh.identity.spiffe import SpiffeId, TrustDomain
from tcpmesh.interfaces import IIdentitySource, IIdentitySourceFactory
from tcpmesh.sources.authority_state import AuthorityState
from tcpmesh.sources.embedded import EmbeddedFactory, EmbeddedSettings, EmbeddedSource, EmbeddedWorkload
from tcpmesh.testing import FakeIdentityObserver, plugin_context
from tcpmesh.values import DNSName, Duration, IdentitySnapshot, Workload
from tests.unit.crafted import DAY, NOW

DOMAIN = TrustDomain("a.test")


class Times:
    """The reactor's clock and the wall clock, which usually run together."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.wall = NOW

    def now(self) -> float:
        return self.wall

    def advance(self, seconds: float, step: float = 1.0) -> None:
        """Let both run."""
        passed = 0.0
        while passed < seconds:
            part = min(step, seconds - passed)
            passed += part
            self.wall += part
            self.clock.advance(part)


def workload(name: str, *dns: str, domain: str = "a.test") -> Workload:
    settings = EmbeddedWorkload([DNSName(text) for text in dns])
    return Workload(name, SpiffeId.parse(f"spiffe://{domain}/{name}"), settings)


class EmbeddedCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.times = Times()
        self.observer = FakeIdentityObserver()
        self.events: list[LogEvent] = []
        self.chance = 0.5

    def source(self, *workloads: Workload, ttl: float = 3600.0) -> EmbeddedSource:
        context = attrs.evolve(
            plugin_context(
                "local",
                clock=self.times.clock,
                trust_domain=DOMAIN,
                workloads={entry.name: entry for entry in workloads or (workload("web"),)},
            ),
            log=Logger(observer=self.events.append),
        )
        settings = EmbeddedSettings(self.path, Duration(ttl))
        source = EmbeddedSource(settings, context, self.times.now, lambda: self.chance)
        self.addCleanup(source.stop)
        return source

    def start(self, *workloads: Workload, ttl: float = 3600.0) -> EmbeddedSource:
        source = self.source(*workloads, ttl=ttl)
        source.start(self.observer)
        return source

    @property
    def last(self) -> IdentitySnapshot:
        return self.observer.snapshots[-1]

    def logged(self, level: str) -> list[str]:
        return [formatEvent(event) for event in self.events if event["log_level"].name == level]


class DeliveryTests(EmbeddedCase):
    def test_provides_its_interfaces(self) -> None:
        """Factory and source have what the plugin system needs."""
        verifyObject(IIdentitySourceFactory, EmbeddedFactory())
        verifyObject(IIdentitySource, self.source())

    def test_delivers_at_once_what_verifies(self) -> None:
        """One SVID per workload, under the bundle that comes along."""
        self.start(workload("web"), workload("db", "db.a.test"))
        (snapshot,) = self.observer.snapshots
        self.assertEqual([str(svid.id) for svid in snapshot.svids], ["spiffe://a.test/db", "spiffe://a.test/web"])
        for svid in snapshot.svids:
            verify_own(svid, snapshot.bundles, NOW)
            self.assertEqual(len(svid.chain), 2)
        self.assertEqual(dns_names(snapshot.svids[0].leaf), ["db.a.test"])
        self.assertEqual(list(snapshot.bundles), [DOMAIN])

    def test_takes_workloads_without_settings(self) -> None:
        """``settings`` may be None where nobody wrote any."""
        self.start(Workload("web", SpiffeId.parse("spiffe://a.test/web")))
        self.assertEqual(len(self.last.svids), 1)

    def test_creates_nothing_before_it_is_started(self) -> None:
        """``tcpmesh check`` makes sources and leaves them."""
        self.source()
        self.assertFalse(self.path.exists())
        self.assertEqual(self.times.clock.getDelayedCalls(), [])

    def test_writes_no_workloads_key(self) -> None:
        """They live in memory."""
        self.start()
        expected = ["audit.head", "audit.jsonl", "bundle.pem", "issuing.pem", "lock", "root.pem", "state.json"]
        self.assertEqual(sorted(os.listdir(self.path)), expected)

    def test_keeps_its_root_over_restarts(self) -> None:
        """Peers hold the bundle."""
        self.start().stop()
        self.start()
        first, second = (snapshot.bundles[DOMAIN].authorities for snapshot in self.observer.snapshots)
        self.assertEqual(first, second)

    def test_says_what_it_stands_on(self) -> None:
        """The start is one line of log without a key in it."""
        self.start()
        (line,) = self.logged("info")
        self.assertIn("authority of a.test in", line)
        self.assertIn("root until 2028-01-15T08:00:00Z, issuing until 2027-01-29T08:00:00Z", line)
        self.assertNotIn("PRIVATE", repr(self.events) + repr(self.last))


class StartTests(EmbeddedCase):
    def refused(self, source: EmbeddedSource) -> StartError:
        error = self.assertRaises(StartError, source.start, self.observer)
        self.assertEqual(self.observer.events, [])
        return error

    def test_refuses_a_state_in_use(self) -> None:
        """Two proxies do not share one."""
        self.start()
        observer, self.observer = self.observer, FakeIdentityObserver()
        error = self.refused(self.source())
        self.assertEqual(error.code, codes.STATE_IN_USE)
        self.assertIn(f"process {os.getpid()}", error.reason)
        self.assertEqual(len(observer.snapshots), 1)

    def test_gives_the_state_up(self) -> None:
        """Stopped, also after a failed start, another may have it."""
        failing = self.source(workload("web", domain="b.test"))
        error = self.refused(failing)
        self.assertEqual(error.code, codes.NO_IDENTITY)
        self.assertIn("spiffe://b.test/web is not of a.test", error.reason)
        failing.stop()
        self.start().stop()
        self.start()
        self.assertEqual(len(self.observer.snapshots), 2)

    def test_refuses_what_it_cannot_issue(self) -> None:
        """A clock before the authority is said, with the directory."""
        self.start().stop()
        self.observer = FakeIdentityObserver()
        self.times.wall = NOW - 7200
        error = self.refused(self.source())
        self.assertEqual(error.code, codes.STATE_UNUSABLE)
        self.assertIn("is the clock right?", error.reason)

    def test_factory_refuses_other_trust_domains(self) -> None:
        """Before anything is started, with the workload's name."""
        context = plugin_context(trust_domain=DOMAIN, workloads={"web": workload("web", domain="b.test")})
        error = self.assertRaises(ValueError, EmbeddedFactory().create, EmbeddedSettings(self.path), context)
        self.assertIn("workload 'web' is spiffe://b.test/web", str(error))
        self.assertIn("signs only for a.test", str(error))

    def test_factory_passes_its_wall_clock_on(self) -> None:
        """So that a test of the whole proxy owns the time."""
        context = plugin_context(trust_domain=DOMAIN, clock=self.times.clock, workloads={"web": workload("web")})
        source = EmbeddedFactory(self.times.now).create(EmbeddedSettings(self.path), context)
        self.addCleanup(source.stop)
        source.start(self.observer)
        self.assertEqual(not_before(self.last.svids[0].leaf), NOW - 60)

    def test_settings_bound_the_ttl(self) -> None:
        """10 s to a day, both included."""
        for ttl in (10.0, 3600.0, 86400.0):
            EmbeddedSettings(self.path, Duration(ttl))
        for ttl in (9.0, 86401.0):
            error = self.assertRaises(ValueError, EmbeddedSettings, self.path, Duration(ttl))
            self.assertIn("is outside 10s to 1d", str(error))


class RenewalTests(EmbeddedCase):
    def test_renews_at_half_life_with_a_fresh_key(self) -> None:
        """Not a second earlier than planned, ten at most later."""
        self.start()
        first = self.last.svids[0]
        self.times.advance(1799)
        self.assertEqual(len(self.observer.snapshots), 1)
        self.times.advance(1)
        self.assertEqual(len(self.observer.snapshots), 2)
        second = self.last.svids[0]
        self.assertNotEqual(first.leaf.public_key(), second.leaf.public_key())
        self.assertEqual(not_after(second.leaf), NOW + 1800 + 3600)
        verify_own(second, self.last.bundles, self.times.wall)

    def test_spreads_renewals(self) -> None:
        """By a tenth of the half life each way."""
        for chance, due in ((0.0, 1620), (1.0, 1980)):
            self.chance = chance
            self.observer = FakeIdentityObserver()
            source = self.start()
            self.times.advance(due - 1)
            self.assertEqual(len(self.observer.snapshots), 1)
            self.times.advance(1)
            self.assertEqual(len(self.observer.snapshots), 2)
            source.stop()

    def test_never_lets_a_short_certificate_run_out(self) -> None:
        """Ten seconds of life are renewed every five, for an hour."""
        self.start(ttl=10.0)
        for _ in range(3600):
            self.times.advance(1)
            self.assertTrue(not_after(self.last.svids[0].leaf) > self.times.wall)
        self.assertTrue(700 <= len(self.observer.snapshots) <= 730, len(self.observer.snapshots))
        self.assertEqual(self.observer.failures, [])

    def test_notices_a_suspended_machine(self) -> None:
        """The reactor's clock stood still, the wall clock did not: renewed at the first look, within 10 s."""
        self.start()
        self.times.wall += 2 * DAY
        self.times.advance(10)
        self.assertEqual(len(self.observer.snapshots), 2)
        verify_own(self.last.svids[0], self.last.bundles, self.times.wall)

    def test_notices_a_clock_set_back(self) -> None:
        """Certificates of the future are replaced, as far as the authority allows."""
        self.start()
        self.times.wall -= 1800
        self.times.advance(10)
        self.assertEqual(len(self.observer.snapshots), 2)
        verify_own(self.last.svids[0], self.last.bundles, self.times.wall)

    def test_ignores_a_clock_that_is_only_adjusted(self) -> None:
        """Within the backdating nothing is wrong with a certificate."""
        self.start()
        self.times.wall -= 30
        self.times.advance(60)
        self.assertEqual(len(self.observer.snapshots), 1)

    def test_renews_the_issuing_authority_under_the_same_root(self) -> None:
        """At half of its life; the bundle stays, and what was issued stays good."""
        self.start(ttl=86400.0)
        before = self.last
        self.times.advance(ISSUING_LIFETIME / 2 + 86400, step=10)
        after = self.last
        self.assertNotEqual(before.svids[0].chain[1], after.svids[0].chain[1])
        self.assertEqual(before.bundles[DOMAIN].authorities, after.bundles[DOMAIN].authorities)
        self.assertEqual(self.observer.failures, [])
        self.assertTrue(len(self.observer.snapshots) > 10)

    def test_runs_for_a_year(self) -> None:
        """Nothing fails until the root's last hours, and every warning comes once a day."""
        self.start(ttl=86400.0)
        self.times.advance(ROOT_LIFETIME - 2 * DAY, step=3600)
        self.assertEqual(self.observer.failures, [])
        warnings = self.logged("warn")
        self.assertTrue(26 <= len(warnings) <= 29, len(warnings))
        self.assertIn("the root of a.test", warnings[0])
        self.assertIn("replace it before that: tcpmesh ca prepare", warnings[0])


class FailureTests(EmbeddedCase):
    def test_retries_with_growing_pauses(self) -> None:
        """One second, doubling to a minute, each reported; what was issued goes on to serve."""
        self.start()
        self.times.wall -= 7200  # behind the authority: nothing can be issued
        self.times.advance(10)
        self.assertEqual(len(self.observer.failures), 1)
        self.assertIn("is the clock right?; next attempt in 1 s", self.observer.failures[0])
        for pause in (1, 2, 4, 8, 16, 32, 60, 60):
            count = len(self.observer.failures)
            self.times.clock.advance(pause - 0.5)
            self.assertEqual(len(self.observer.failures), count)
            self.times.clock.advance(0.5)
            self.assertEqual(len(self.observer.failures), count + 1)
        self.assertIn("next attempt in 60 s", self.observer.failures[-1])
        self.assertEqual(len(self.observer.snapshots), 1)

    def test_recovers(self) -> None:
        """When the reason is gone the next attempt succeeds, and the next failure starts at a second again."""
        self.start()
        self.times.wall -= 7200
        self.times.advance(20)
        self.times.wall += 7200 + 3600
        self.times.advance(60)
        self.assertEqual(len(self.observer.snapshots), 2)
        self.assertEqual(self.observer.events[-1][0], "changed")
        count = len(self.observer.failures)
        self.times.wall -= 14400
        self.times.advance(10)
        self.assertIn("next attempt in 1 s", self.observer.failures[count])

    def test_renews_workloads_while_the_authority_cannot_be_written(self) -> None:
        """A full disk is reported, and certificates go on to be issued as long as the issuing authority lasts."""
        self.start(ttl=10.0)
        self.times.wall += ISSUING_LIFETIME / 2
        (self.path / "issuing.pem.tmp").mkdir()  # no file can be written in its place
        self.times.advance(300)
        self.assertTrue(self.observer.failures)
        self.assertIn("issuing.pem cannot be written", self.observer.failures[0])
        self.assertTrue(len(self.observer.snapshots) >= 60, len(self.observer.snapshots))
        self.assertTrue(not_after(self.last.svids[0].leaf) > self.times.wall)
        (self.path / "issuing.pem.tmp").rmdir()
        self.times.advance(120)
        count = len(self.observer.failures)
        self.times.advance(120)
        self.assertEqual(len(self.observer.failures), count)

    def test_survives_an_observer_that_raises(self) -> None:
        """The schedule goes on, and what was not taken is delivered again."""
        self.start(ttl=10.0)
        taken = self.observer.identity_changed
        broken: list[Any] = []

        def failing(snapshot: IdentitySnapshot) -> None:
            if not broken:
                broken.append(snapshot)
                raise RuntimeError("not now")
            taken(snapshot)

        self.observer.identity_changed = failing  # type: ignore[method-assign]
        self.times.advance(5)
        self.assertEqual(len(broken), 1)
        self.assertIn("RuntimeError: not now", self.observer.failures[0])
        self.times.advance(1)
        self.assertEqual(len(self.observer.snapshots), 2)
        self.assertEqual(len(self.logged("critical")), 1)


class StopTests(EmbeddedCase):
    def test_calls_nobody_afterwards(self) -> None:
        """And leaves nothing behind on the clock."""
        source = self.start(ttl=10.0)
        source.stop()
        self.assertEqual(self.times.clock.getDelayedCalls(), [])
        self.times.advance(60)
        self.assertEqual(len(self.observer.snapshots), 1)

    def test_may_come_from_the_observer(self) -> None:
        """Stopped in the middle of a delivery, it stays stopped."""
        source = self.start(ttl=10.0)
        self.observer.identity_changed = lambda snapshot: source.stop()  # type: ignore[method-assign,misc]
        self.times.advance(30)
        self.assertEqual(self.times.clock.getDelayedCalls(), [])
        AuthorityState.own(self.path, DOMAIN, NOW).close()

    def test_may_come_first(self) -> None:
        """Stopping what never started is harmless."""
        self.source().stop()
