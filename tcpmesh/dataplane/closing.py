"""
How a relayed connection ends: one literal table over (state, event).

Ring 2, no I/O. ``src`` is the leg of whoever connected to us, ``dst`` the leg to whom we connected. A leg *ends*
when its peer has sent its last byte in an orderly way (FIN, or close_notify on a TLS leg), and is *lost* when it
broke (a reset, a truncated TLS stream, a peer that vanished). The relay performs the actions, in order, and hands
every event back here; nothing else decides what happens to a connection.

RFC 9293 section 3.6 is why an end is a half-close and not a close; a lost leg is mirrored as a reset (section
3.5.3), so that no application mistakes a broken stream for a complete one.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

import attrs

from tcpmesh.codes import CLEAN, Code
from tcpmesh.observe.records import Side


class State(Enum):
    """Which directions still live."""

    OPEN = "open"
    SRC_ENDED = "src-ended"  # dst may go on sending
    DST_ENDED = "dst-ended"  # src may go on sending
    FINISHING = "finishing"  # both ended; what is queued is still being delivered
    CLOSED = "closed"


class Event(Enum):
    """What happened to a leg, or to the connection's time."""

    SRC_ENDED = "src-ended"
    DST_ENDED = "dst-ended"
    SRC_LOST = "src-lost"
    DST_LOST = "dst-lost"
    EXPIRED = "expired"  # idle, half-close silence, lifetime, shutdown, a withdrawn permission


class Action(Enum):
    """What the relay does to a leg."""

    END_SRC = "end-src"  # half-close towards src, after everything that is queued for it
    END_DST = "end-dst"
    FINISH = "finish"  # close both legs, each after what is queued for it
    RESET_SRC = "reset-src"  # drop what is queued and reset
    RESET_DST = "reset-dst"


@attrs.frozen
class Transition:
    """
    The row of the table: the next state, what to do, and what to record if this row decides the outcome.

    ``code`` None means that the event brings its own (why a leg was lost, which time ran out).
    """

    state: State
    actions: tuple[Action, ...] = ()
    closed_by: Side | None = None
    code: Code | None = None


_BREAK_BY_SRC = Transition(State.CLOSED, (Action.RESET_SRC, Action.RESET_DST), closed_by="src")
_BREAK_BY_DST = Transition(State.CLOSED, (Action.RESET_DST, Action.RESET_SRC), closed_by="dst")
_BREAK_BY_PROXY = Transition(State.CLOSED, (Action.RESET_SRC, Action.RESET_DST), closed_by="proxy")


def _stay(state: State) -> Transition:
    return Transition(state)


TABLE: Mapping[tuple[State, Event], Transition] = {
    (State.OPEN, Event.SRC_ENDED): Transition(State.SRC_ENDED, (Action.END_DST,)),
    (State.OPEN, Event.DST_ENDED): Transition(State.DST_ENDED, (Action.END_SRC,)),
    (State.OPEN, Event.SRC_LOST): _BREAK_BY_SRC,
    (State.OPEN, Event.DST_LOST): _BREAK_BY_DST,
    (State.OPEN, Event.EXPIRED): _BREAK_BY_PROXY,
    # A leg ends once: hearing it again changes nothing.
    (State.SRC_ENDED, Event.SRC_ENDED): _stay(State.SRC_ENDED),
    (State.SRC_ENDED, Event.DST_ENDED): Transition(
        State.FINISHING, (Action.END_SRC, Action.FINISH), closed_by="src", code=CLEAN
    ),
    (State.SRC_ENDED, Event.SRC_LOST): _BREAK_BY_SRC,
    (State.SRC_ENDED, Event.DST_LOST): _BREAK_BY_DST,
    (State.SRC_ENDED, Event.EXPIRED): _BREAK_BY_PROXY,
    (State.DST_ENDED, Event.SRC_ENDED): Transition(
        State.FINISHING, (Action.END_DST, Action.FINISH), closed_by="dst", code=CLEAN
    ),
    (State.DST_ENDED, Event.DST_ENDED): _stay(State.DST_ENDED),
    (State.DST_ENDED, Event.SRC_LOST): _BREAK_BY_SRC,
    (State.DST_ENDED, Event.DST_LOST): _BREAK_BY_DST,
    (State.DST_ENDED, Event.EXPIRED): _BREAK_BY_PROXY,
    # Both streams are complete. A leg that breaks now breaks alone: what is queued for the other one is whole and
    # is still delivered. (TLS clients that close with unread session tickets reset here as a matter of course.)
    (State.FINISHING, Event.SRC_ENDED): _stay(State.FINISHING),
    (State.FINISHING, Event.DST_ENDED): _stay(State.FINISHING),
    (State.FINISHING, Event.SRC_LOST): _stay(State.FINISHING),
    (State.FINISHING, Event.DST_LOST): _stay(State.FINISHING),
    (State.FINISHING, Event.EXPIRED): _BREAK_BY_PROXY,
    (State.CLOSED, Event.SRC_ENDED): _stay(State.CLOSED),
    (State.CLOSED, Event.DST_ENDED): _stay(State.CLOSED),
    (State.CLOSED, Event.SRC_LOST): _stay(State.CLOSED),
    (State.CLOSED, Event.DST_LOST): _stay(State.CLOSED),
    (State.CLOSED, Event.EXPIRED): _stay(State.CLOSED),
}
