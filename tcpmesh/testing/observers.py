"""
Observers that remember what a plugin delivered.

Public.
"""

from __future__ import annotations

from collections.abc import Sequence

from zope.interface import implementer

from tcpmesh.interfaces import IAuthorizationPolicy, IDiscoveryObserver, IIdentityObserver, IPolicyObserver
from tcpmesh.values import Endpoint, IdentitySnapshot

__all__ = ["FakeDiscoveryObserver", "FakeIdentityObserver", "FakePolicyObserver"]


@implementer(IIdentityObserver)
class FakeIdentityObserver:
    """Remembers snapshots, failures and revocations; ``events`` has all of them in their order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, IdentitySnapshot | str]] = []
        self.snapshots: list[IdentitySnapshot] = []
        self.failures: list[str] = []
        self.revocations: list[str] = []

    def identity_changed(self, snapshot: IdentitySnapshot) -> None:
        """Remember a snapshot."""
        self.events.append(("changed", snapshot))
        self.snapshots.append(snapshot)

    def identity_failed(self, reason: str) -> None:
        """Remember a failure."""
        self.events.append(("failed", reason))
        self.failures.append(reason)

    def identity_revoked(self, reason: str) -> None:
        """Remember a revocation."""
        self.events.append(("revoked", reason))
        self.revocations.append(reason)


@implementer(IDiscoveryObserver)
class FakeDiscoveryObserver:
    """Remembers endpoint sets, why they were empty, and failures; ``events`` has the sets and failures in order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, tuple[Endpoint, ...] | str]] = []
        self.deliveries: list[tuple[Endpoint, ...]] = []
        self.reasons: list[str] = []
        self.failures: list[str] = []

    def endpoints_changed(self, endpoints: Sequence[Endpoint], reason: str = "") -> None:
        """Remember a set of endpoints."""
        self.reasons.append(reason)
        self.events.append(("changed", tuple(endpoints)))
        self.deliveries.append(tuple(endpoints))

    def endpoints_failed(self, reason: str) -> None:
        """Remember a failure."""
        self.events.append(("failed", reason))
        self.failures.append(reason)


@implementer(IPolicyObserver)
class FakePolicyObserver:
    """Remembers policies and failures; ``events`` has all of them in their order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, IAuthorizationPolicy | str]] = []
        self.policies: list[IAuthorizationPolicy] = []
        self.failures: list[str] = []

    def policy_changed(self, policy: IAuthorizationPolicy) -> None:
        """Remember a policy."""
        self.events.append(("changed", policy))
        self.policies.append(policy)

    def policy_failed(self, reason: str) -> None:
        """Remember a failure."""
        self.events.append(("failed", reason))
        self.failures.append(reason)
