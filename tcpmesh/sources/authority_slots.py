"""
The slots of the embedded authority: which of its roots is prepared, active or old.

Ring 3, no I/O: takes and gives bytes. ``state.json`` is the one file that says so; replacing it whole is what makes a
step happen. A directory without it is of the first format, which knew one root: that is slot 1, active.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable
from typing import Any

import attrs

from tcpmesh.identity.material import MaterialError

__all__ = ["MAX_SLOTS", "STATE_FILE", "VERSION", "Slot", "SlotState", "Slots", "first_format"]

STATE_FILE = "state.json"
VERSION = 2  # of the format; 1 had no such file
MAX_SLOTS = 6  # every peer carries as many authorities in its bundle


class SlotState(enum.Enum):
    """Where a root stands."""

    PREPARED = "prepared"  # in the bundle, signs nothing yet
    ACTIVE = "active"  # signs
    OLD = "old"  # signs nothing any more, still in the bundle


@attrs.frozen
class Slot:
    """
    One root and its issuing authority.

    :ivar published: when the bundle with it was on the disk, in wall-clock seconds; None before that.
    :ivar since: when it came into its state.
    """

    number: int
    state: SlotState
    since: float
    published: float | None = None
    tainted: bool = False

    @property
    def root_file(self) -> str:
        """Where its root is; the first has the name that it had in the first format."""
        return "root.pem" if self.number == 1 else f"root-{self.number}.pem"

    @property
    def issuing_file(self) -> str:
        """Where its issuing authority is."""
        return "issuing.pem" if self.number == 1 else f"issuing-{self.number}.pem"


@attrs.frozen
class Slots:
    """
    All of them, by number; exactly one is active.

    :ivar following: the number of the next one; none is given twice.
    """

    entries: tuple[Slot, ...]
    following: int

    @property
    def active(self) -> Slot:
        """The one that signs."""
        return next(slot for slot in self.entries if slot.state is SlotState.ACTIVE)

    @property
    def prepared(self) -> Slot | None:
        """The one that will."""
        return next((slot for slot in self.entries if slot.state is SlotState.PREPARED), None)

    def find(self, number: int) -> Slot | None:
        """The one of this number."""
        return next((slot for slot in self.entries if slot.number == number), None)

    def having(self, *changed: Slot) -> Slots:
        """With these in place of those of the same numbers, or beside the others."""
        entries = {slot.number: slot for slot in (*self.entries, *changed)}
        return Slots(
            tuple(entries[number] for number in sorted(entries)), max(self.following, *[s.number + 1 for s in changed])
        )

    def without(self, number: int) -> Slots:
        """Without the one of this number."""
        return Slots(tuple(slot for slot in self.entries if slot.number != number), self.following)

    def to_bytes(self) -> bytes:
        """As ``state.json`` holds them."""
        slots = [{**attrs.asdict(slot), "state": slot.state.value} for slot in self.entries]
        return (json.dumps({"version": VERSION, "next": self.following, "slots": slots}, indent=1) + "\n").encode()

    @classmethod
    def parse(cls, data: bytes) -> Slots:
        """
        Read what :meth:`to_bytes` wrote.

        :raises MaterialError: when it is anything else; the message continues a file's name.
        """
        try:
            fields = json.loads(data)
        except (ValueError, RecursionError):
            raise MaterialError("is not JSON (truncated or damaged)") from None
        version = fields.get("version") if isinstance(fields, dict) else None
        if version != VERSION:
            raise MaterialError(f"is of format {str(version)[:20]!r}, and this version of tcpmesh reads {VERSION}")
        try:
            slots = cls(tuple(_slot(entry) for entry in fields["slots"]), _number(fields["next"]))
        except (KeyError, TypeError, ValueError):
            raise MaterialError("is damaged: it lacks what every slot has") from None
        _check(slots.entries, slots.following)
        return slots


def first_format(since: float) -> Slots:
    """What a directory without ``state.json`` holds: one root, published since it was made."""
    return Slots((Slot(1, SlotState.ACTIVE, since, since),), 2)


def _slot(entry: dict[str, Any]) -> Slot:
    published = entry["published"]
    if type(entry["tainted"]) is not bool:
        raise TypeError
    return Slot(
        _number(entry["number"]),
        SlotState(entry["state"]),
        float(entry["since"]),
        None if published is None else float(published),
        entry["tainted"],
    )


def _number(value: object) -> int:
    if type(value) is not int or value < 1:
        raise ValueError
    return value


def _check(entries: Iterable[Slot], following: int) -> None:
    numbers = [slot.number for slot in entries]
    states = [slot.state for slot in entries]
    unpublished = [s.number for s in entries if s.published is None and s.state is not SlotState.PREPARED]
    if len(set(numbers)) != len(numbers) or any(number >= following for number in numbers):
        raise MaterialError("is damaged: its slots' numbers contradict each other")
    if states.count(SlotState.ACTIVE) != 1 or states.count(SlotState.PREPARED) > 1 or unpublished:
        raise MaterialError("is damaged: exactly one slot must be active, at most one prepared, and those published")
