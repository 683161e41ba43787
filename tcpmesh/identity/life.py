"""
The life of what an identity source gave: INIT, READY, STALE, EXPIRED, REVOKED, and what of it deserves an alarm.

Ring 1, pure: time is a parameter. Ages are told by a clock that is never set (``at``), validity by that on the wall
(``now``).
"""

from __future__ import annotations

import attrs

from tcpmesh.identity.certificates import not_after
from tcpmesh.identity.delivered import Delivered, find_svid
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.values import IdentitySnapshot, IdentityState, Svid, TrustBundle, Workload

__all__ = ["MEANING", "SourceLife", "Transition"]

#: What a state means for a workload's connections.
MEANING = {
    IdentityState.INIT: "its source has delivered nothing yet; its connections are refused",
    IdentityState.READY: "its connections are taken",
    IdentityState.STALE: "its source fails; connections are taken with the last identity",
    IdentityState.EXPIRED: "its certificate has expired; its connections are refused",
    IdentityState.REVOKED: "its source withdrew the identity; its connections are refused, and end",
}


@attrs.frozen
class Transition:
    """A source went from one state to another, or stays in one for another reason."""

    before: IdentityState
    after: IdentityState
    reason: str


@attrs.define(eq=False, kw_only=True)
class SourceLife(Delivered):
    """
    One source: where it stands, why, since when it fails, and how old what it gave is.

    Each method for an event gives the transition that it makes, None when there is nothing new to tell.
    """

    name: str
    reason: str = ""  # of the last transition
    failures: int = 0  # reported so far
    failing_since: float | None = None  # None while it does not fail
    received: float | None = None  # when it delivered last; None before the first
    said: dict[TrustDomain, TrustBundle] = attrs.field(factory=dict)  # its last bundle of each, given up or not
    _taken: dict[str, tuple[Svid, float]] = attrs.field(factory=dict, init=False)  # by workload: since when in use
    _alarms: dict[str, float] = attrs.field(factory=dict, init=False)  # by workload: the wall's time to raise it

    def delivered(self, snapshot: IdentitySnapshot, at: float) -> Transition | None:
        """It gave identities that are fit for use."""
        for name, workload in self.workloads.items():
            svid = find_svid(snapshot, workload)
            taken = self._taken.get(name)
            if svid is None:
                self._taken.pop(name, None)
            elif taken is None or taken[0].chain != svid.chain:
                self._taken[name] = svid, at
        self.snapshot, self.received = snapshot, at
        self.said.update(snapshot.bundles)
        self.failing_since = None
        self._alarms.clear()
        return self._enter(IdentityState.READY, "identities received")

    def failed(self, reason: str, at: float, now: float) -> Transition | None:
        """It cannot refresh, or gave what cannot be used: what it gave before goes on to serve."""
        self.failures += 1
        if self.failing_since is None:
            self.failing_since = at
        if self.state not in (IdentityState.READY, IdentityState.STALE):
            return self._enter(self.state, reason)
        if self.state is IdentityState.READY:
            # Half of what is left is time enough for a source to recover; the other half is for whoever is called.
            self._alarms = {name: (now + not_after(svid.leaf)) / 2 for name, (svid, _) in self._taken.items()}
        return self._enter(IdentityState.STALE, reason)

    def revoked(self, reason: str) -> Transition | None:
        """It withdrew everything."""
        self.snapshot = None
        self.failing_since = None
        self._taken.clear()
        self._alarms.clear()
        return self._enter(IdentityState.REVOKED, reason)

    def has_outlived(self, workload: Workload, svid: Svid, now: float) -> bool:
        """Whether this was good when it came and has run out since: EXPIRED, and no reason to refuse the rest."""
        return svid is self.svid(workload) and not_after(svid.leaf) < now

    def due_alarms(self, now: float) -> list[tuple[str, Svid]]:
        """The workloads whose certificate has lost half of its remaining time to the failure; each is given once."""
        due = [name for name, moment in self._alarms.items() if now >= moment]
        for name in due:
            del self._alarms[name]
        return [(name, self._taken[name][0]) for name in due if not_after(self._taken[name][0].leaf) >= now]

    def ages(self, at: float) -> dict[str, float]:
        """By workload name: for how many seconds its certificate has been in use."""
        return {name: at - since for name, (_, since) in self._taken.items()}

    def failing_for(self, at: float) -> float:
        """Seconds since it began to fail; 0 while it does not."""
        return 0.0 if self.failing_since is None else at - self.failing_since

    def _enter(self, state: IdentityState, reason: str) -> Transition | None:
        before = self.state
        if state is before and (state is IdentityState.READY or reason == self.reason):
            return None  # a source that fails again and again in the same way is reported once
        self.state, self.reason = state, reason
        return Transition(before, state, reason)
