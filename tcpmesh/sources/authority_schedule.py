"""
Replacing the embedded authority's root by itself: what is due when, and who is told when it cannot be done.

Ring 3, without a reactor: time is a parameter. The steps are those of ``tcpmesh ca``, with the same checks.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from tcpmesh.errors import TcpmeshError
from tcpmesh.identity.authority import ROOT_LIFETIME, AuthorityError
from tcpmesh.identity.certificates import not_after, not_before
from tcpmesh.sources.authority_files import read_root
from tcpmesh.sources.authority_rotation import GRACE, overlap
from tcpmesh.sources.authority_slots import MAX_SLOTS, Slot, SlotState
from tcpmesh.sources.authority_state import AuthorityState
from tcpmesh.values import Duration, format_duration

__all__ = ["Due", "RotationSettings", "Schedule", "due_step"]

_DAY = 86400.0
_LEAST_ACTIVATE, _MOST_PREPARE = _DAY, ROOT_LIFETIME - 30 * _DAY
_LEAST_OVERLAP = 2 * _DAY  # twice the longest life of a workload's certificate

# A step has to be due for this long, by a clock that nobody sets: a wall clock that was set wrong and is put right
# again replaces no root, and destroys no key.
_PATIENCE = 3600.0
_LOOK = 60.0  # seconds between two looks


def _check_activate(instance: RotationSettings, _attribute: object, value: float) -> None:
    if value < _LEAST_ACTIVATE or instance.prepare > _MOST_PREPARE:
        least, most = format_duration(_LEAST_ACTIVATE), format_duration(_MOST_PREPARE)
        raise ValueError(f"activate must be at least {least}, and prepare at most {most}, before the root's end")
    if instance.prepare - value < _LEAST_OVERLAP:
        raise ValueError(
            f"prepare must be at least {format_duration(_LEAST_OVERLAP)} more than activate: in between, every peer "
            "has to get the bundle"
        )


@attrs.frozen
class RotationSettings:
    """How long before the root's end its successor is prepared and activated."""

    prepare: Duration = Duration(60 * _DAY)
    activate: Duration = attrs.field(default=Duration(30 * _DAY), validator=_check_activate)


@attrs.frozen
class Due:
    """A step, and the slot that it is about if it was made before."""

    step: str
    slot: int | None = None


def due_step(
    state: AuthorityState, settings: RotationSettings, now: float, ttl: float, cuts: Callable[[Slot], str]
) -> Due | None:
    """
    Say which step is due now, if one is; others may be due after it.

    :param now: wall-clock seconds.
    :param ttl: how long workloads' certificates last, in seconds.
    :param cuts: tells which identities of this proxy hang on a slot.
    """
    end = not_after(state.root.certificate)
    prepared = state.slots.prepared
    over = [
        # Not as soon as its last certificate has ended: connections that were made with those may live.
        slot.number
        for slot in state.slots.entries
        if slot.state is SlotState.OLD and now >= not_after(state.roots[slot.number]) + GRACE and not cuts(slot)
    ]
    if over and len(state.slots.entries) >= MAX_SLOTS:  # else there is no room for a further one
        return Due("revoke", over[0])
    if prepared is not None and not_before(state.roots[prepared.number]) > now:
        # Prepared while the clock was far ahead: it would be activated too late, and has signed nothing.
        return Due("revoke", prepared.number)
    if prepared is None or prepared.published is None:
        if now >= end - settings.prepare:
            return Due("prepare")
    elif now >= max(end - settings.activate, prepared.published + _published_for(settings, ttl, end, prepared)):
        return Due("activate", prepared.number)
    return Due("revoke", over[0]) if over else None


def _published_for(settings: RotationSettings, ttl: float, end: float, prepared: Slot) -> float:
    """How long peers may take to get the bundle: as long as is configured, less when it was prepared late."""
    left = (end - (prepared.published or end)) / 2
    return max(overlap(ttl), min(settings.prepare - settings.activate, left))


class Schedule:
    """
    Does each step some time after it has become due, and again later when it failed.

    :param perform: does a step; raises TcpmeshError when it cannot be done.
    :param complain: is told why not, once a day for the same reason.
    """

    def __init__(
        self, settings: RotationSettings, ttl: float, perform: Callable[[Due], object], complain: Callable[[str], None]
    ) -> None:
        self._settings = settings
        self._ttl = ttl
        self._perform = perform
        self._complain = complain
        self._due: tuple[Due, float] | None = None  # and since when
        self._looked: float | None = None
        self._told: tuple[str, float] = "", 0.0

    def look(self, state: AuthorityState, now: float, at: float, cuts: Callable[[Slot], str]) -> None:
        """
        Do what has been due for long enough; at most one step.

        :param now: wall-clock seconds.
        :param at: seconds of a clock that nobody sets.
        :param cuts: tells which identities of this proxy hang on a slot.
        """
        if self._looked is not None and at - self._looked < _LOOK:
            return
        self._looked = at
        due = due_step(state, self._settings, now, self._ttl, cuts)
        if due is None:
            self._due = None
            return
        if self._due is None or self._due[0] != due:
            self._due = due, at
        if at - self._due[1] < _PATIENCE:
            return
        self._due = due, at  # when it fails, it is tried again after as long
        try:
            if due.step == "prepare":
                _check_key(state)
            self._perform(due)
        except TcpmeshError as error:
            reason = f"{due.step}: {getattr(error, 'reason', str(error))}"
            if self._told[0] != reason or at - self._told[1] >= _DAY:
                self._told = reason, at
                self._complain(reason)


def _check_key(state: AuthorityState) -> None:
    """Make no root, whose key would lie on this disk, for somebody who keeps the present one's elsewhere."""
    slot = state.slots.active
    root = read_root(state.directory, slot, state.trust_domain)
    if root is None or root.private_key is None:
        raise AuthorityError(
            f"the key in {state.path / slot.root_file} is kept elsewhere, so that no further root is made without "
            "somebody who takes its key away too; do it: tcpmesh ca prepare, then tcpmesh ca activate"
        )
