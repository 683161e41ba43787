"""
Decisions of the past, put once more to the policies that are in force now; for the admin interface.

Ring 4. Nothing is changed by it. Thousands of rules are compared in small slices, so that connections go on meanwhile.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks, succeed
from twisted.internet.task import Cooperator
from twisted.logger import Logger

from tcpmesh.mesh_state import MeshStateCell
from tcpmesh.observe.decisions import Decisions, Recorded, recorded_as_mapping
from tcpmesh.observe.records import rfc3339
from tcpmesh.policy.evaluate import decide_by
from tcpmesh.policy.explain import UNKNOWN, Nearest, explained, limits_of, near_rules_of, on_deny_list
from tcpmesh.policy.replay import Places, request_of
from tcpmesh.policy_interfaces import NearRule
from tcpmesh.settings import Settings
from tcpmesh.wall_clock import WallClock

__all__ = ["MAX_ANSWERS", "PolicyReplay"]

MAX_ANSWERS = 100  # decisions in one answer
_RULES_IN_A_TURN = 100  # some 10 us each

_NUMBER = re.compile("[1-9][0-9]{0,2}")

_log = Logger(namespace="tcpmesh")


class PolicyReplay:
    """
    Answers what was decided and what would be decided now.

    :param clock: the reactor.
    """

    def __init__(
        self, settings: Settings, state: MeshStateCell, decisions: Decisions, clock: Any, wall_clock: WallClock
    ) -> None:
        self._digest = settings.digest
        self._places = Places.of(settings)
        self._state = state
        self._decisions = decisions
        self._clock = clock
        self._wall_clock = wall_clock
        self._turns = Cooperator(
            terminationPredicateFactory=_after_some, scheduler=lambda turn: clock.callLater(0, turn), started=True
        )

    def ask(self, arguments: Mapping[str, Sequence[str]]) -> Deferred[dict[str, Any]]:
        """
        Look up the decisions about ``connection``, or the ``last_denied`` so many, the newest first.

        Fires with plain JSON values; with ``wrong`` when it cannot be understood.
        """
        connections, numbers = arguments.get("connection", ()), arguments.get("last_denied", ())
        if len(connections) + len(numbers) != 1:
            return succeed({"wrong": "ask for one connection, or for last_denied"})
        if connections:
            return self._answer(self._decisions.find(connections[0])[:MAX_ANSWERS])
        if _NUMBER.fullmatch(numbers[0]) is None or int(numbers[0]) > MAX_ANSWERS:
            return succeed({"wrong": f"last_denied is a number from 1 to {MAX_ANSWERS}"})
        return self._answer(self._decisions.last_denied(int(numbers[0])))

    @inlineCallbacks
    def _answer(self, entries: Sequence[Recorded]) -> Any:
        found = []
        for entry in entries:
            fields = recorded_as_mapping(entry)
            now = yield self._now(fields)
            found.append({"then": fields, "now": now})
        return {
            "time": rfc3339(self._wall_clock()),
            "generation": self._state.current.generation,
            "sha256": self._digest,
            "kept": len(self._decisions),
            "decisions": found,
        }

    @inlineCallbacks
    def _now(self, fields: Mapping[str, Any]) -> Any:
        try:
            request = request_of(fields, self._places, self._wall_clock())
        except ValueError as error:
            return {"decision": UNKNOWN, "reason": f"it cannot be asked again: {error}"}
        state = self._state.current
        if denied := on_deny_list(state, request):
            return denied
        verdict: Any = decide_by(state, request, self._clock, _log)
        if isinstance(verdict, Deferred):
            verdict = yield verdict
        nearest = Nearest()
        search = self._turns.cooperate(_offer(near_rules_of(state, request, verdict), nearest))
        try:
            yield search.whenDone()
        except CancelledError:
            search.stop()  # nobody is there to be told
            raise
        return explained(verdict, nearest.found, limits_of(state, request))


def _offer(rules: Iterator[NearRule], nearest: Nearest) -> Iterator[None]:
    for rule in rules:
        nearest.offer(rule)
        yield None


def _after_some() -> Any:
    steps = count(1)
    return lambda: next(steps) >= _RULES_IN_A_TURN
