"""
What identity sources have delivered, and what follows from it for the mesh state.

Ring 1, pure: time is a parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs

from tcpmesh.identity.certificates import not_after
from tcpmesh.values import IdentitySnapshot, IdentityState, Svid, Workload

__all__ = ["Delivered", "find_svid", "identity_states", "usable_svids"]


def find_svid(snapshot: IdentitySnapshot, workload: Workload) -> Svid | None:
    """The workload's identity in a snapshot, None if it has none there."""
    return next((svid for svid in snapshot.svids if svid.id == workload.id), None)


@attrs.define(eq=False)
class Delivered:
    """One source: whom it serves, what it delivered last, and where it stands."""

    workloads: Mapping[str, Workload]
    snapshot: IdentitySnapshot | None = None
    state: IdentityState = IdentityState.INIT

    def svid(self, workload: Workload) -> Svid | None:
        """The workload's identity, None while there is none."""
        return find_svid(self.snapshot, workload) if self.snapshot is not None else None

    def state_of(self, workload: Workload, now: float) -> IdentityState:
        """Where the workload's identity stands at ``now``, wall-clock seconds."""
        svid = self.svid(workload)
        if svid is None:
            # Delivered without this workload: withdrawn, or never registered with the source.
            return IdentityState.REVOKED if self.snapshot is not None else self.state
        return IdentityState.EXPIRED if not_after(svid.leaf) < now else self.state


def identity_states(sources: Iterable[Delivered], now: float) -> dict[str, IdentityState]:
    """By workload name: where each identity stands."""
    return {name: source.state_of(workload, now) for source in sources for name, workload in source.workloads.items()}


def usable_svids(sources: Iterable[Delivered], now: float) -> dict[str, Svid]:
    """By workload name: the identities that may be shown to peers."""
    return {
        name: svid
        for source in sources
        for name, workload in source.workloads.items()
        if (svid := source.svid(workload)) is not None and source.state_of(workload, now) is not IdentityState.EXPIRED
    }
