"""The closing table: total, symmetric, and safe under every sequence of events."""

from itertools import product

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.codes import CLEAN
from tcpmesh.dataplane.closing import TABLE, Action, Event, State, Transition

MIRRORED_STATE = {State.SRC_ENDED: State.DST_ENDED, State.DST_ENDED: State.SRC_ENDED}
MIRRORED_EVENT = {
    Event.SRC_ENDED: Event.DST_ENDED,
    Event.DST_ENDED: Event.SRC_ENDED,
    Event.SRC_LOST: Event.DST_LOST,
    Event.DST_LOST: Event.SRC_LOST,
}
MIRRORED_ACTION = {
    Action.END_SRC: Action.END_DST,
    Action.END_DST: Action.END_SRC,
    Action.RESET_SRC: Action.RESET_DST,
    Action.RESET_DST: Action.RESET_SRC,
}
MIRRORED_SIDE = {"src": "dst", "dst": "src"}


def run(events: list[Event]) -> tuple[State, list[Action]]:
    """Feed events from the beginning; give the last state and all actions."""
    state, actions = State.OPEN, []
    for event in events:
        transition = TABLE[state, event]
        state = transition.state
        actions.extend(transition.actions)
    return state, actions


class ClosingTableTests(SynchronousTestCase):
    """The table by itself."""

    def test_has_a_row_for_every_state_and_event(self) -> None:
        """Nothing that can happen is left to chance."""
        self.assertEqual(set(TABLE), set(product(State, Event)))

    def test_treats_both_sides_alike(self) -> None:
        """Exchanging src and dst in a row gives the row of the mirrored event, but for which side is reset first."""
        for (state, event), row in TABLE.items():
            if event is Event.EXPIRED:
                continue
            other = TABLE[MIRRORED_STATE.get(state, state), MIRRORED_EVENT[event]]
            self.assertEqual(other.state, MIRRORED_STATE.get(row.state, row.state), (state, event))
            self.assertEqual(
                set(other.actions), {MIRRORED_ACTION.get(action, action) for action in row.actions}, (state, event)
            )
            self.assertEqual(other.closed_by, MIRRORED_SIDE.get(row.closed_by or "", row.closed_by))

    def test_an_end_is_passed_on_as_a_half_close(self) -> None:
        """While the other direction lives, an end costs it nothing."""
        self.assertEqual(TABLE[State.OPEN, Event.SRC_ENDED], Transition(State.SRC_ENDED, (Action.END_DST,)))
        self.assertEqual(TABLE[State.OPEN, Event.DST_ENDED], Transition(State.DST_ENDED, (Action.END_SRC,)))

    def test_two_ends_finish_and_the_first_one_closed_it(self) -> None:
        """A connection whose both directions ended is clean."""
        row = TABLE[State.SRC_ENDED, Event.DST_ENDED]
        self.assertEqual(row.actions, (Action.END_SRC, Action.FINISH))
        self.assertEqual((row.state, row.closed_by, row.code), (State.FINISHING, "src", CLEAN))
        self.assertEqual(TABLE[State.DST_ENDED, Event.SRC_ENDED].closed_by, "dst")

    def test_a_loss_resets_the_other_side_in_every_state_with_an_open_direction(self) -> None:
        """A broken stream is never passed on as a complete one."""
        for state in (State.OPEN, State.SRC_ENDED, State.DST_ENDED):
            row = TABLE[state, Event.SRC_LOST]
            self.assertIn(Action.RESET_DST, row.actions)
            self.assertNotIn(Action.FINISH, row.actions)
            self.assertEqual((row.state, row.closed_by), (State.CLOSED, "src"))
            self.assertIn(Action.RESET_SRC, TABLE[state, Event.DST_LOST].actions)

    def test_a_loss_after_both_ends_spares_what_is_queued_for_the_other(self) -> None:
        """Both streams are whole by then: the surviving leg goes on delivering."""
        for event in (Event.SRC_LOST, Event.DST_LOST):
            self.assertEqual(TABLE[State.FINISHING, event], Transition(State.FINISHING))

    def test_expiry_resets_both_sides_whatever_has_ended(self) -> None:
        """Also while finishing: a peer that never takes the rest does not hold the connection for ever."""
        for state in (State.OPEN, State.SRC_ENDED, State.DST_ENDED, State.FINISHING):
            row = TABLE[state, Event.EXPIRED]
            self.assertEqual(set(row.actions), {Action.RESET_SRC, Action.RESET_DST})
            self.assertEqual((row.state, row.closed_by), (State.CLOSED, "proxy"))

    def test_closed_is_final(self) -> None:
        """Nothing that comes late has any effect."""
        for event in Event:
            self.assertEqual(TABLE[State.CLOSED, event], Transition(State.CLOSED))

    @given(st.lists(st.sampled_from(Event), max_size=12))
    def test_no_sequence_ends_a_side_twice_or_finishes_a_broken_one(self, events: list[Event]) -> None:
        """Whatever happens in whatever order: each half-close at most once, and never an end after a reset."""
        _state, actions = run(events)
        for action in (Action.END_SRC, Action.END_DST, Action.FINISH):
            self.assertLessEqual(actions.count(action), 1)
        resets = [i for i, action in enumerate(actions) if action in (Action.RESET_SRC, Action.RESET_DST)]
        if resets:
            self.assertEqual(len(resets), 2)
            self.assertEqual(resets, [len(actions) - 2, len(actions) - 1])

    @given(st.lists(st.sampled_from(Event), max_size=12))
    def test_finishes_exactly_when_both_sides_ended_before_anything_broke(self, events: list[Event]) -> None:
        """A model with two flags agrees with the table on every sequence."""
        ended = set()
        broken = finished = False
        for event in events:
            if broken:
                break
            if event is Event.EXPIRED or (event in (Event.SRC_LOST, Event.DST_LOST) and not finished):
                broken = True
            elif event in (Event.SRC_ENDED, Event.DST_ENDED):
                ended.add(event)
                finished = finished or len(ended) == 2
        state, actions = run(events)
        self.assertEqual(Action.FINISH in actions, finished)
        self.assertEqual(Action.RESET_SRC in actions, broken)
        if broken:
            self.assertIs(state, State.CLOSED)
