"""
What the admin interface asks of the proxy.

Ring 3. Words only; the service provides it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred

__all__ = ["IProxyStatus"]


class IProxyStatus(Protocol):
    """What the proxy says of itself; provided by the service."""

    def ready(self) -> tuple[bool, str]:
        """Whether it takes connections and has its identities; if not, why."""

    def status(self) -> dict[str, Any]:
        """Version, configuration file and hash, listeners, workloads, generation, limits, uptime: plain JSON values."""

    def endpoints(self, arguments: Mapping[str, Sequence[str]]) -> Iterator[bytes]:
        """Every service's endpoints and how they stand, or those of each ``service``: one JSON object, in slices."""

    def identities(self) -> dict[str, Any]:
        """Every workload's identity and every trust domain's bundle, and where they stand: plain JSON values."""

    def reload_identities(self) -> dict[str, Any]:
        """Let identity sources look for something new now, and say where they stand: plain JSON values."""

    def check_identities(self, arguments: Mapping[str, Sequence[str]]) -> Deferred[dict[str, Any]]:
        """
        Look for what keeps services from being reached: ``service``, ``peer``, ``workload``.

        Fires with plain JSON values; cancelling it ends whatever is under way.
        """

    def explain_decisions(self, arguments: Mapping[str, Sequence[str]]) -> Deferred[dict[str, Any]]:
        """
        What was decided, and would be decided now: about a ``connection``, or the ``last_denied`` so many.

        Fires with plain JSON values.
        """

    def reload_policies(self) -> Deferred[dict[str, Any]]:
        """Let policies look for something new now, and say where they stand after that: plain JSON values."""

    def policy_notes(self) -> dict[str, Any]:
        """What policies that decide nothing would have done, by identity: plain JSON values."""

    def change_authority(self, arguments: Mapping[str, str]) -> dict[str, Any]:
        """Do one step of an authority's rotation, and say what came of it: plain JSON values."""
