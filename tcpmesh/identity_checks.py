"""
``tcpmesh identity check`` within the running proxy: what it knows of itself, put before the layers.

Ring 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, succeed

from tcpmesh.checking.choice import Choice, WrongChoiceError
from tcpmesh.checking.knowledge import Knowledge
from tcpmesh.checking.live import LiveChecks
from tcpmesh.composition import Composition
from tcpmesh.dataplane.contexts import own_svid
from tcpmesh.errors import Refusal
from tcpmesh.identity.certificates import span
from tcpmesh.net.plane import DataPlane
from tcpmesh.values import IdentityState

__all__ = ["IdentityChecks"]


class IdentityChecks:
    """Every check that somebody asks this process for."""

    def __init__(self, composition: Composition) -> None:
        self._composition = composition
        self._live = LiveChecks()

    def ask(self, plane: DataPlane, arguments: Mapping[str, Sequence[str]]) -> Deferred[dict[str, Any]]:
        """
        Look at what is asked for; see :meth:`tcpmesh.checking.live.LiveChecks.ask`.

        :param arguments: ``service``, any number of them; ``peer``; ``workload``.
        """
        peers, workloads = arguments.get("peer", ()), arguments.get("workload", ())
        try:
            choice = Choice.of(
                arguments.get("service", ()), peers[-1] if peers else None, workloads[-1] if workloads else None
            )
        except WrongChoiceError as error:
            return succeed({"wrong": str(error)})
        return self._live.ask(plane, lambda: self.knowledge(plane), choice)

    def stop(self) -> None:
        """End everything that is under way."""
        self._live.stop()

    def knowledge(self, plane: DataPlane) -> Knowledge:
        """What this process holds at the moment."""
        composition, control = self._composition, self._composition.control
        state, now = plane.state.current, plane.wall_clock()
        defects: dict[str, Refusal] = {}
        failing: dict[str, str] = {}
        for source in control.sources:
            for name in source.workloads:
                if source.failing_since is not None:
                    failing[name] = f"{source.reason} (for {span(source.failing_for(control.seconds()))})"
                try:
                    own_svid(state, name)
                except Refusal as refusal:
                    # A source that works has nothing to say of an identity that has expired.
                    working = source.state is IdentityState.READY
                    why = f": {source.reason}" if source.reason and not working else ""
                    defects[name] = Refusal(refusal.code, f"{refusal.reason}{why}")
        return Knowledge(
            composition.settings,
            state,
            plane.contexts,
            composition.upstreams,
            plane.wall_clock,
            defects=defects,
            failing=failing,
            bundle_defects={
                held.trust_domain: f"{held.failure} (for {span(now - held.failing_since)})"
                for held in control.federation.held
                if held.failing_since is not None
            },
        )
