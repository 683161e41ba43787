"""
The log lines of the embedded authority: what it stands on, what is done to it, and when its root has to be replaced.

Ring 3.
"""

from __future__ import annotations

from pathlib import Path

from twisted.logger import Logger

from tcpmesh.identity.certificates import moment, not_after
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.sources.authority_state import AuthorityState

__all__ = ["AuthorityLines"]

_DAY = 86400.0
_ROOT_WARNING = 30 * _DAY  # before the root ends


class AuthorityLines:
    """
    Tells of one authority.

    :param activates: how long before its end the root is replaced by itself, in seconds; None when it is not.
    """

    def __init__(self, log: Logger, trust_domain: TrustDomain, state: Path, activates: float | None = None) -> None:
        self._log = log
        self._warn_at = _ROOT_WARNING
        if activates is not None:  # what is done by itself, and in time, needs nobody
            self._warn_at = min(_ROOT_WARNING, max(activates - _DAY, activates / 2))
        self._fields = {"trust_domain": str(trust_domain), "state": str(state)}
        self._root_days: int | None = None

    def started(self, state: AuthorityState) -> None:
        """It issues from now on."""
        self._log.info(
            "authority of {trust_domain} in {state}: root until {root}, issuing until {issuing}",
            root=moment(not_after(state.root.certificate)),
            issuing=moment(not_after(state.issuing.certificate)),
            **self._fields,
        )

    def stepped(self, step: str, slot: object) -> None:
        """A step of the root's replacement was done."""
        self._log.info(
            "authority of {trust_domain} in {state}: {step} of slot {slot} done", step=step, slot=slot, **self._fields
        )

    def reread(self, state: AuthorityState) -> None:
        """The directory held something else than before."""
        text = "authority of {trust_domain} in {state} was read again and has changed: slot {slot} signs"
        self._log.info(text, slot=state.slots.active.number, **self._fields)

    def hindered(self, reason: str) -> None:
        """A step that is due cannot be done."""
        text = "authority of {trust_domain} in {state}: replacing its root by itself fails: {reason}"
        self._log.warn(text, reason=reason, **self._fields)

    def root_ends(self, state: AuthorityState, now: float) -> None:
        """Once a day in the root's last month: its successor has to be published before that."""
        end = not_after(state.root.certificate)
        left = int((end - now) // _DAY)
        if end - now >= self._warn_at or left == self._root_days:
            return
        self._root_days = left
        prepared = state.slots.prepared
        self._log.warn(
            "the root of {trust_domain} in {state} ends at {end}; replace it before that: {first}give the bundle to "
            "every peer, then tcpmesh ca activate",
            end=moment(end),
            first="tcpmesh ca prepare, " if prepared is None else f"slot {prepared.number} is prepared; ",
            **self._fields,
        )
