"""
The control side: runs identity sources, beside discovery, and turns what they deliver into the next mesh state.

Ring 4. The data path never sees a source; it sees the state that this module swaps in. What a source delivers is
verified before it is used: a bad delivery is refused, logged, and changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from tcpmesh.codes import PLUGIN_UNUSABLE
from tcpmesh.endpoint_control import EndpointControl
from tcpmesh.errors import ConfigurationError, Refusal, StartError
from tcpmesh.identity.bundle_document import BundleError
from tcpmesh.identity.delivered import identity_states, usable_svids
from tcpmesh.identity.life import SourceLife
from tcpmesh.identity.own import check_delivery
from tcpmesh.identity.pooled import Choice, pooled_bundles
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.interfaces import (
    ICheckable,
    IIdentityObserver,
    IIdentitySource,
    IReloadable,
)
from tcpmesh.mesh_state import MeshStateCell
from tcpmesh.observe.identity_lines import tell_disputes, tell_half_gone, tell_source, tell_workload
from tcpmesh.sources.federation import Federation
from tcpmesh.values import IdentitySnapshot, IdentityState, Workload
from tcpmesh.wall_clock import WallClock

_log = Logger()

# Certificates expire by the wall clock, which may be stepped: it is looked at this often (seconds) at least.
_EXPIRY_LOOK = 10.0


@attrs.define(eq=False, kw_only=True)
class _Source(SourceLife):
    """One identity source, and where it stands."""

    source: IIdentitySource
    started: bool = False


@implementer(IIdentityObserver)
@attrs.frozen(eq=False)
class _IdentityObserver:
    """Where one source delivers."""

    control: MeshControl
    source: _Source

    def identity_changed(self, snapshot: IdentitySnapshot) -> None:
        """(IIdentityObserver)."""
        self.control.take_identities(self.source, snapshot)

    def identity_failed(self, reason: str) -> None:
        """(IIdentityObserver)."""
        self.control.note_failure(self.source, reason)

    def identity_revoked(self, reason: str) -> None:
        """(IIdentityObserver)."""
        self.control.revoke(self.source, reason)


class MeshControl:
    """
    Keeps the mesh state current.

    :param cell: where the data path reads it.
    :param federation: the bundles of other trust domains.
    :param bundles_from: whose bundle counts where several sources deliver one.
    :param endpoints: runs the discoveries; it is started, reloaded, checked and stopped with the sources.
    """

    def __init__(
        self,
        cell: MeshStateCell,
        clock: Any,
        wall_clock: WallClock,
        federation: Federation | None = None,
        bundles_from: Choice | None = None,
        endpoints: EndpointControl | None = None,
    ) -> None:
        self._cell = cell
        self._bundles_from = bundles_from or {}
        #: By trust domain: what its sources contradict each other about.
        self.disputes: Mapping[TrustDomain, str] = {}
        self._clock = clock
        self._wall_clock = wall_clock
        self.federation = federation if federation is not None else Federation({}, None, clock, wall_clock)
        self._sources: list[_Source] = []
        self.endpoints = endpoints if endpoints is not None else EndpointControl(cell, clock)
        self._expiry: Any = None
        #: How often each workload's identity went from one state to another.
        self.transitions: Counter[tuple[str, IdentityState, IdentityState]] = Counter()
        #: By workload: the generation and the time (:meth:`seconds`) in which it came into its state.
        self.entered: dict[str, tuple[int, float]] = {}

    @property
    def sources(self) -> Sequence[_Source]:
        """Every identity source, and where it stands."""
        return tuple(self._sources)

    def seconds(self) -> float:
        """The time that ages are told by."""
        return float(self._clock.seconds())

    def add_source(self, name: str, source: IIdentitySource, workloads: Mapping[str, Workload]) -> None:
        """Register an identity source; it is started by :meth:`start`."""
        self._sources.append(_Source(name=name, source=source, workloads=workloads))

    def check(self) -> list[StartError | ConfigurationError]:
        """What the sources that can tell beforehand would complain of at their start; nothing is started."""
        problems: list[StartError | ConfigurationError] = [*self.federation.check(), *self.endpoints.check()]
        for source in self._sources:
            if ICheckable.providedBy(source.source):
                try:
                    source.source.check()  # type: ignore[attr-defined]
                except StartError as error:
                    problems.append(error)
                except Exception as error:  # noqa: BLE001  a plugin's failure is an answer
                    _log.failure("checking identity source {name!r} failed", name=source.name)
                    reason = f"identity source {source.name!r} cannot be checked: {type(error).__name__}: {error}"
                    problems.append(StartError(PLUGIN_UNUSABLE, reason))
        return problems

    def start(self) -> None:
        """
        Start everything.

        :raises StartError: from the first source that cannot start; :meth:`stop` must be called all the same.
        """
        self._publish()
        self.endpoints.start()
        for source in self._sources:
            source.started = True
            source.source.start(_IdentityObserver(self, source))
        # Last: a bundle that lists an authority of a trust domain which the sources deliver is refused.
        self.federation.start(lambda: self._cell.current.bundles, self._publish)
        self._look_at_expiry()

    def reload(self) -> None:
        """Let every source that can look for something new do so now; what comes of it is told as always."""
        for source in self._sources:
            if source.started and IReloadable.providedBy(source.source):
                try:
                    source.source.reload()  # type: ignore[attr-defined]
                except Exception as error:  # noqa: BLE001  a plugin's failure must not keep the others from looking
                    _log.failure("reloading identity source {name!r} failed", name=source.name)
                    self.note_failure(source, f"reloading failed: {type(error).__name__}")
        self.federation.reload()
        self.endpoints.reload()

    def stop(self) -> Deferred[Any]:
        """Stop whatever was started; never fails."""
        if self._expiry is not None and self._expiry.active():
            self._expiry.cancel()
        self.federation.stop()
        started = [(source.name, source.source) for source in self._sources if source.started]
        for source in self._sources:
            source.started = False
        stopping = self.endpoints.stop()
        for name, plugin in started:
            outcome = maybeDeferred(plugin.stop)
            outcome.addErrback(self._stop_failed, name)
            stopping.append(outcome)
        return DeferredList(stopping)

    def _stop_failed(self, failure: Failure, name: str) -> None:
        _log.failure("stopping {name!r} failed", failure, name=name)

    # --- identities

    def take_identities(self, source: _Source, snapshot: IdentitySnapshot) -> None:
        """A source delivered: verify it, and make it the state if it is good."""
        if not source.started:
            return
        try:
            check_delivery(source, snapshot, self._wall_clock())
        except (Refusal, BundleError) as refusal:
            self.note_failure(source, f"delivered an identity that cannot be used: {refusal}")
            return
        except Exception:  # noqa: BLE001  a plugin's nonsense must not take the proxy down
            _log.failure("identity source {name!r} delivered nonsense", name=source.name)
            self.note_failure(source, "delivered something that is not an identity snapshot")
            return
        tell_source(source.name, source.delivered(snapshot, self.seconds()))
        self._publish()
        self._look_at_expiry()

    def note_failure(self, source: _Source, reason: str) -> None:
        """The source cannot refresh: what it gave goes on to serve."""
        now = self._wall_clock()
        tell_source(source.name, source.failed(reason, self.seconds(), now))
        if identity_states(self._sources, now) != self._cell.current.identity_states:
            self._publish()

    def revoke(self, source: _Source, reason: str) -> None:
        """The source withdrew everything: nothing it gave may be used from now on."""
        tell_source(source.name, source.revoked(reason))
        self._publish()

    # --- state

    def _publish(self) -> None:
        """Make everything that was delivered the state."""
        now = self._wall_clock()
        before = self._cell.current.identity_states
        pooled = pooled_bundles(self._sources, self._bundles_from)
        decided = {held.trust_domain for held in self.federation.held}
        disputes = {domain: dispute for domain, dispute in pooled.disputes.items() if domain not in decided}
        tell_disputes(self.disputes, disputes)
        self.disputes = disputes
        self._cell.swap(
            svids=usable_svids(self._sources, now),
            identity_states=identity_states(self._sources, now),
            bundles=self.federation.merged(pooled.bundles),
        )
        for name, state in self._cell.current.identity_states.items():
            earlier = before.get(name)
            if state is not earlier:
                self.entered[name] = self._cell.current.generation, self.seconds()
            if earlier is not None and earlier is not state:
                self.transitions[name, earlier, state] += 1
                tell_workload(name, earlier, state, self._cell.current.generation)

    def _look_at_expiry(self) -> None:
        """Take expired identities out of the state, at the time and not when somebody next looks."""
        if self._expiry is not None and self._expiry.active():
            self._expiry.cancel()
        if identity_states(self._sources, self._wall_clock()) != self._cell.current.identity_states:
            # Also when the clock was set back: what had expired is valid again.
            self._publish()
        now = self._wall_clock()
        for source in self._sources:
            for name, svid in source.due_alarms(now):
                tell_half_gone(source, name, svid, now, self.seconds())
        # A certificate is valid up to and including its last second.
        remaining = [
            max(0.0, svid.leaf.not_valid_after_utc.timestamp() - now) + 1 for svid in self._cell.current.svids.values()
        ]
        self._expiry = self._clock.callLater(min([_EXPIRY_LOOK, *remaining]), self._look_at_expiry)
