"""
The identity source ``embedded``: an authority of this machine's own, for one machine and for trying things out.

Ring 3, without a reactor: it waits with the clock of its context. Sharing a state is no boundary between workloads:
whoever can read it can be anybody in its trust domain.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from zope.interface import implementer

from tcpmesh.codes import INTERNAL, NO_IDENTITY
from tcpmesh.errors import Refusal, StartError, TcpmeshError
from tcpmesh.identity.authority import LEAF_BACKDATE, AuthorityError
from tcpmesh.identity.chain import issued_by
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.interfaces import (
    IAuthority,
    IIdentityObserver,
    IIdentitySource,
    IIdentitySourceFactory,
    IReloadable,
    PluginContext,
)
from tcpmesh.sources.authority_lines import AuthorityLines
from tcpmesh.sources.authority_reload import reread
from tcpmesh.sources.authority_rotation import change
from tcpmesh.sources.authority_schedule import Due, Schedule
from tcpmesh.sources.authority_slots import Slot
from tcpmesh.sources.authority_state import AuthorityState
from tcpmesh.sources.embedded_settings import EmbeddedSettings, EmbeddedWorkload
from tcpmesh.values import IdentitySnapshot, Svid, TrustBundle, Workload
from tcpmesh.wall_clock import WallClock, wall_clock

__all__ = ["EmbeddedFactory", "EmbeddedSettings", "EmbeddedSource", "EmbeddedWorkload"]

_FIRST_RETRY = 1.0  # seconds
_LAST_RETRY = 60.0
# The longest time between two looks at the wall clock: a machine that slept, or whose clock was set, is behind by
# this much at most.
_TICK = 10.0
_SPREAD = 0.1  # of half a life, so that proxies that started together do not renew together
_random = secrets.SystemRandom().random


@implementer(IIdentitySource, IAuthority, IReloadable)
class EmbeddedSource:
    """
    Issues the workloads' certificates from a state directory that it owns, and renews them at half of their life.

    Keys of workloads are never written. A failed renewal is reported and tried again after 1 s, doubling to 60 s; what
    was issued before goes on to serve.

    :param wall_clock: validity is about this time, which may be stepped; it is compared again at every tick.
    :param random: between 0 and 1.
    """

    def __init__(
        self,
        settings: EmbeddedSettings,
        context: PluginContext,
        wall_clock: WallClock = wall_clock,
        random: Callable[[], float] = _random,
    ) -> None:
        self._settings = settings
        self._context = context
        self._wall_clock = wall_clock
        self._random = random
        self._state: AuthorityState | None = None
        self._observer: IIdentityObserver | None = None
        self._call: IDelayedCall | None = None
        self._renew_at = 0.0  # wall-clock seconds
        self._valid_from = 0.0  # wall-clock seconds; earlier only if the clock is set back
        self._retry = _FIRST_RETRY
        self._failing = False  # since the last delivery
        activates = settings.rotation.activate if settings.rotation is not None else None
        self._lines = AuthorityLines(context.log, context.trust_domain, settings.state, activates)
        self._rotation: Schedule | None = None
        if settings.rotation is not None:
            self._rotation = Schedule(settings.rotation, settings.ttl, self._perform, self._lines.hindered)
        self._svids: tuple[Svid, ...] = ()  # what was delivered last

    @property
    def authority_state(self) -> Path:
        """(IAuthority)."""
        return self._settings.state

    def start(self, observer: IIdentityObserver) -> None:
        """
        Open or make the authority, and deliver.

        :raises StartError: when the state is somebody else's, cannot be used, or cannot issue what is configured.
        """
        now = self._wall_clock()
        self._state = AuthorityState.own(self._settings.state, self._context.trust_domain, now)
        self._observer = observer
        try:
            snapshot = self._issue(self._state, now)
        except (AuthorityError, Refusal) as error:
            code = error.code if isinstance(error, Refusal) else NO_IDENTITY
            reason = error.reason if isinstance(error, Refusal) else str(error)
            raise StartError(code, f"{self._settings.state}: {reason}") from error
        self._lines.started(self._state)
        self._lines.root_ends(self._state, now)
        self._deliver(observer, snapshot, now)
        self._schedule(self._renew_at - now)

    def stop(self) -> None:
        """Forget the keys and give up the state. Safe in every order."""
        self._observer = None
        self._svids = ()
        if self._call is not None:
            self._call.cancel()
            self._call = None
        if self._state is not None:
            self._state.close()
            self._state = None

    def change_authority(self, step: str, slot: int | None, force: str) -> dict[str, Any]:
        """(IAuthority)."""
        changed = self._change(step, slot, force)
        self._tick_now()
        return changed

    def reload(self) -> None:
        """Read the directory again, and do now what is due or has failed. (IReloadable)"""
        state, observer = self._state, self._observer
        if state is None or observer is None:
            return
        now = self._wall_clock()
        unread = self._attempt(lambda: self._reread(state, now))
        if unread:
            observer.identity_failed(f"{unread[0]}; what was read before goes on to be used")
            return
        self._retry = _FIRST_RETRY
        self._failing = True  # so that it is delivered, whatever comes of it
        self._tick_now()

    def _reread(self, state: AuthorityState, now: float) -> None:
        if reread(state, now):
            self._renew_at = now
            self._lines.reread(state)

    def _change(self, step: str, slot: int | None, force: str, by: str = "") -> dict[str, Any]:
        """Do a step, and deliver the bundle that follows from it; what has to be renewed is left to the next tick."""
        state, observer = self._state, self._observer
        if state is None or observer is None:
            raise AuthorityError("the source is not running")
        now, ttl = self._wall_clock(), self._settings.ttl
        before = state.slots
        try:
            changed = change(
                state, step, slot, now, ttl=ttl, force=force, by=by, cuts=lambda entry: self._cuts(state, entry)
            )
        finally:
            if state.slots != before:  # it has happened, although not every file may be written yet
                self._follow(state, observer, now)
        self._lines.stepped(step, changed["slot"])
        return changed

    def _follow(self, state: AuthorityState, observer: IIdentityObserver, now: float) -> None:
        """Deliver what follows from other slots than before."""
        good = [state.roots[entry.number] for entry in state.slots.entries if not entry.tainted]
        if any(not any(issued_by(svid.chain[-1], root) for root in good) for svid in self._svids):
            self._renew_at = now  # the next tick's work, which is done at once and tried again if it fails
        else:
            observer.identity_changed(IdentitySnapshot(self._svids, self._bundles(state)))

    def _perform(self, due: Due) -> None:
        self._change(due.step, due.slot, "", by="schedule")

    def _cuts(self, state: AuthorityState, slot: Slot) -> str:
        """Which identities in use hang on the slot."""
        root = state.roots[slot.number]
        return ", ".join(str(svid.id) for svid in self._svids if issued_by(svid.chain[-1], root))

    def _bundles(self, state: AuthorityState) -> dict[TrustDomain, TrustBundle]:
        trust_domain = self._context.trust_domain
        return {trust_domain: TrustBundle(trust_domain, state.authorities)}

    def _schedule(self, delay: float) -> None:
        self._call = self._context.clock.callLater(max(0.05, min(delay, _TICK)), self._tick)

    def _tick_now(self) -> None:
        if self._call is not None:
            self._call.cancel()
        self._tick()

    def _tick(self) -> None:
        self._call = None
        state, observer = self._state, self._observer
        if state is None or observer is None:
            return
        now = self._wall_clock()
        failures = []
        try:
            self._lines.root_ends(state, now)
            if state.unfinished:
                failures += self._attempt(lambda: state.finish(now))
            if self._rotation is not None:
                look, at = self._rotation.look, self._context.clock.seconds()
                failures += self._attempt(lambda: look(state, now, at, lambda slot: self._cuts(state, slot)))
                if self._state is None:
                    return
            if state.issuing_renewal_due(now):
                failures += self._attempt(lambda: state.renew_issuing(now))
            if now >= self._renew_at or now < self._valid_from:
                failures += self._attempt(lambda: self._deliver(observer, self._issue(state, now), now))
        finally:
            if self._state is not None:  # unless the observer stopped us
                self._plan(observer, failures, now)

    def _plan(self, observer: IIdentityObserver, failures: list[str], now: float) -> None:
        if not failures:
            self._retry = _FIRST_RETRY
            self._schedule(self._renew_at - now)
            if self._failing and self._state is not None:
                self._failing = False
                observer.identity_changed(IdentitySnapshot(self._svids, self._bundles(self._state)))
            return
        self._failing = True
        retry, self._retry = self._retry, min(self._retry * 2, _LAST_RETRY)
        if self._renew_at > now:  # the authority's renewal failed: the workloads' must not wait for it
            retry = min(retry, self._renew_at - now)
        self._call = self._context.clock.callLater(retry, self._tick)
        observer.identity_failed(f"{'; '.join(failures)}; next attempt in {retry:g} s")

    def _attempt(self, step: Callable[[], Any]) -> list[str]:
        try:
            step()
        except TcpmeshError as error:
            return [getattr(error, "reason", str(error))]
        except Exception as error:  # noqa: BLE001  the renewal must live on, whatever went wrong once
            self._context.log.failure("renewing identities failed")
            return [f"{INTERNAL.id} {type(error).__name__}: {error}"]
        return []

    def _issue(self, state: AuthorityState, now: float) -> IdentitySnapshot:
        """Make all certificates anew, each with a fresh key."""
        svids = tuple(
            self._issue_one(state, workload, now) for _name, workload in sorted(self._context.workloads.items())
        )
        return IdentitySnapshot(svids, self._bundles(state))

    def _deliver(self, observer: IIdentityObserver, snapshot: IdentitySnapshot, now: float) -> None:
        self._svids = tuple(snapshot.svids)
        observer.identity_changed(snapshot)
        self._failing = False
        self._valid_from = now - LEAF_BACKDATE
        self._renew_at = now + self._settings.ttl / 2 * (1 + _SPREAD * (2 * self._random() - 1))

    def _issue_one(self, state: AuthorityState, workload: Workload, now: float) -> Svid:
        dns = workload.settings.dns if isinstance(workload.settings, EmbeddedWorkload) else ()
        return state.issue(workload.id, ttl=self._settings.ttl, now=now, dns=dns, to=f"workload {workload.name}")


@implementer(IIdentitySourceFactory)
class EmbeddedFactory:
    """
    Makes embedded sources.

    :param wall_clock: for tests.
    """

    name = "embedded"
    description = "an authority of this machine's own, in a state directory"
    settings = EmbeddedSettings
    workload_settings = EmbeddedWorkload

    def __init__(self, wall_clock: WallClock = wall_clock) -> None:
        self._wall_clock = wall_clock

    def create(self, settings: EmbeddedSettings, context: PluginContext) -> EmbeddedSource:
        """
        Make one source.

        :raises ValueError: when a workload is of another trust domain than the authority.
        """
        for name, workload in sorted(context.workloads.items()):
            if workload.id.trust_domain != context.trust_domain:
                raise ValueError(
                    f"workload {name!r} is {workload.id}, and the embedded authority signs only for "
                    f"{context.trust_domain}"
                )
        return EmbeddedSource(settings, context, self._wall_clock)
