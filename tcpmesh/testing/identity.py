"""
The contract of identity sources.

Public.
"""

from __future__ import annotations

from typing import ClassVar
from unittest import SkipTest

import attrs
from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from tcpmesh.errors import Refusal
from tcpmesh.identity.own import verify_own
from tcpmesh.identity.spiffe import SpiffeId
from tcpmesh.interfaces import (
    IDENTITY,
    IIdentitySource,
    IIdentitySourceFactory,
    IReloadable,
    PluginContext,
    PluginKind,
)
from tcpmesh.testing.contract import PluginContract
from tcpmesh.testing.making import TRUST_DOMAIN, plugin_context
from tcpmesh.testing.observers import FakeIdentityObserver
from tcpmesh.values import IdentitySnapshot, Workload
from tcpmesh.wall_clock import wall_clock

__all__ = ["IdentitySourceContract"]

_LONG = 86400.0  # seconds; whatever is still scheduled after stop has run by then


class IdentitySourceContract(PluginContract):
    """
    The points of an identity source. With ``make_settings`` it must be able to serve ``make_workloads``.

    Override ``deliver`` when the first snapshot does not come within ``start`` itself. A
    :class:`~tcpmesh.sources.polling.PollingIdentitySource` needs no override: with the test's clock it fetches in
    the caller's thread.
    """

    kind: ClassVar[PluginKind] = IDENTITY

    def make_workloads(self) -> dict[str, Workload]:
        """Override when the source serves other IDs, or workloads need settings: by name, whom to serve."""
        factory: IIdentitySourceFactory = self.make_factory()  # type: ignore[assignment]
        settings = factory.workload_settings() if factory.workload_settings is not None else None
        return {"web": Workload("web", SpiffeId.from_segments(TRUST_DOMAIN, "web"), settings)}

    def make_context(self) -> PluginContext:
        """What the plugin is created with: the clock, and the workloads."""
        return plugin_context(clock=self.clock, workloads=self.make_workloads())

    def now(self) -> float:
        """Override when the source's certificates are not of the present: wall-clock seconds."""
        return wall_clock()

    def deliver(self, observer: FakeIdentityObserver) -> None:
        """Override: let the time pass, or the answer come, after which the observer has been told."""

    def break_source(self) -> bool:
        """Override: make every further refresh fail, and return True."""
        return False

    def started(self) -> tuple[IIdentitySource, FakeIdentityObserver]:
        """A source that has delivered; it is stopped at the end of the test."""
        source, observer = self.begin()
        self.addCleanup(self.stop, source)
        return source, observer

    def begin(self) -> tuple[IIdentitySource, FakeIdentityObserver]:
        """A source that has delivered."""
        source: IIdentitySource = self.create()
        observer = FakeIdentityObserver()
        source.start(observer)
        self.deliver(observer)
        return source, observer

    def stop(self, source: IIdentitySource) -> None:
        """Stop, and wait for it."""
        stopped = source.stop()
        if isinstance(stopped, Deferred):
            self.successResultOf(stopped)

    def snapshot(self) -> IdentitySnapshot:
        """The first snapshot that was delivered."""
        _source, observer = self.started()
        return self.first(observer)

    def first(self, observer: FakeIdentityObserver) -> IdentitySnapshot:
        """The first snapshot that this observer got."""
        told = observer.failures or "nothing; override deliver if it takes time"
        self.check(observer.snapshots, f"no snapshot came; the observer was told {told}")
        return observer.snapshots[0]

    def test_workload_settings_are_an_attrs_class_or_none(self) -> None:
        """Keys that a workload may have beside its ID are read from an attrs class."""
        factory: IIdentitySourceFactory = self.make_factory()  # type: ignore[assignment]
        settings = factory.workload_settings
        self.check(settings is None or (isinstance(settings, type) and attrs.has(settings)), repr(settings))

    def test_delivers_a_snapshot(self) -> None:
        """After ``start`` the observer is told of an identity snapshot, and of no failure."""
        _source, observer = self.started()
        self.assertEqual((observer.failures, observer.revocations), ([], []))
        self.assertIsInstance(self.first(observer), IdentitySnapshot)

    def test_serves_every_workload(self) -> None:
        """Each workload of the context gets an SVID with its ID."""
        served = {svid.id for svid in self.snapshot().svids}
        for name, workload in self.make_workloads().items():
            self.check(workload.id in served, f"workload {name!r} ({workload.id}) is not served")

    def test_delivers_the_bundle_of_the_own_trust_domain(self) -> None:
        """Without it no peer could be verified."""
        bundles = self.snapshot().bundles
        own = self.make_context().trust_domain
        self.assertIn(own, bundles)
        self.check(bundles[own].authorities, f"the bundle of {own} has no authority: that revokes everything")
        for trust_domain, bundle in bundles.items():
            self.assertEqual(bundle.trust_domain, trust_domain)

    def test_svids_are_fit_for_use(self) -> None:
        """Each key belongs to its certificate, and a peer with the bundle would accept the chain now."""
        snapshot = self.snapshot()
        for svid in snapshot.svids:
            try:
                verify_own(svid, snapshot.bundles, self.now())
            except Refusal as refusal:
                self.fail(f"{svid.id}: {refusal}")

    def test_keeps_the_last_good_identities_when_it_fails(self) -> None:
        """A failing refresh is reported and withdraws nothing."""
        _source, observer = self.started()
        before = len(observer.snapshots)
        if not self.break_source():
            raise SkipTest("break_source is not overridden")
        for _ in range(100):
            self.clock.advance(60)
        self.check(observer.failures, "no failure was reported within 100 minutes")
        self.check(len(observer.snapshots) == before, "a snapshot came from a broken source")

    def test_looks_when_it_is_told_to(self) -> None:
        """While all is well, nothing is lost when a source that provides ``IReloadable`` is told to look."""
        source, observer = self.started()
        if not IReloadable.providedBy(source):
            raise SkipTest("it does not provide IReloadable")
        verifyObject(IReloadable, source)
        served = {svid.id for svid in self.first(observer).svids}
        for _ in range(3):
            source.reload()  # type: ignore[attr-defined]
            self.clock.advance(1)
        self.assertEqual((observer.failures, observer.revocations), ([], []))
        self.assertEqual({svid.id for svid in observer.snapshots[-1].svids}, served)

    def test_is_silent_after_stop(self) -> None:
        """After ``stop`` nothing is scheduled and the observer hears nothing more."""
        source, observer = self.begin()
        self.stop(source)
        self._check_silence(observer)

    def test_can_be_stopped_at_once(self) -> None:
        """A proxy that stops right after its start leaves nothing behind."""
        source: IIdentitySource = self.create()
        observer = FakeIdentityObserver()
        source.start(observer)
        self.stop(source)
        self._check_silence(observer)

    def test_can_be_stopped_without_a_start(self) -> None:
        """``stop`` is called also when the start failed, however early."""
        source: IIdentitySource = self.create()
        self.stop(source)
        self.check(not self.clock.getDelayedCalls(), "something is still scheduled after stop")

    def _check_silence(self, observer: FakeIdentityObserver) -> None:
        heard = list(observer.events)
        self.check(not self.clock.getDelayedCalls(), "something is still scheduled after stop")
        self.clock.advance(_LONG)
        self.assertEqual(observer.events, heard)
