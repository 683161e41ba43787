"""
What was allowed is looked at again: ends live connections that a change of the mesh state no longer allows.

Ring 3. A connection is in ``plane.live`` before it is judged for the first time, and is judged by the state of that
moment: a change comes either before, and that judgement sees it, or after, and finds the connection here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from cryptography import x509
from twisted.logger import Logger

from tcpmesh.codes import EXPIRED_SINCE, INTERNAL, OWN_DENIED, OWN_REVOKED, Code
from tcpmesh.errors import Refusal
from tcpmesh.identity.certificates import moment
from tcpmesh.identity.chain import Bundles, authorities_lost, joined
from tcpmesh.identity.denial import own_denial
from tcpmesh.identity.profile import svid_id
from tcpmesh.mesh_state import MeshState
from tcpmesh.net.plane import DataPlane, LiveConnection
from tcpmesh.values import IdentityState

__all__ = ["CUTS_IN_A_TURN", "GRACE", "LOOKED_AT_IN_A_TURN", "Judge", "Review"]

LOOKED_AT_IN_A_TURN = 100  # connections judged in one turn of the reactor, some 6 us each …
CUTS_IN_A_TURN = 20  # … of which so many may be ended, some 100 us each
GRACE = 5.0  # seconds in which a source may take back that it withdrew an identity

#: Says why a live connection may not go on, None while it may. Asked again and again: must be quick.
Judge = Callable[[LiveConnection, MeshState], Refusal | None]

_log = Logger(namespace="tcpmesh")


class Review:
    """
    Looks at every live connection whenever the state has changed in what it was allowed by.

    A change while a round is under way adds those that were looked at already behind those that were not, so that
    however often the state changes everybody has a turn, and is judged by the state of that turn.
    """

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._clock = plane.clock
        self._state = plane.state.current
        self._due: dict[LiveConnection, None] = {}  # in the order in which they will be looked at
        self._everybody = False  # whoever is live at the next turn is due
        self._call: Any = None
        self._stopped = False
        self._withdrawn: dict[str, Any] = {}  # by workload: the end of its grace
        self._bundles = self._state.bundles  # by which peers are judged: authorities have their grace, too
        self._missing: Any = None  # the end of the grace of those that have left
        self._revoked: dict[str, int] = {}  # by workload: the generation in which its identities were withdrawn
        # Whether what we showed is denied, by the identity of the chain, which is held so that no other has that.
        self._own: dict[int, tuple[tuple[x509.Certificate, ...], str]] = {}
        self._round: Counter[Code] = Counter()
        self.judges: list[Judge] = [self._judge_own, self._judge_peer, self._judge_expiry]
        #: How many connections were looked at, and how many of those ended, by code.
        self.looked_at = 0
        self.ended: Counter[Code] = Counter()
        plane.expiries.due = self.examine
        plane.state.observe(self._changed)

    @property
    def waiting(self) -> int:
        """How many connections are still to be looked at."""
        return len(self._plane.live) if self._everybody else len(self._due)

    def stop(self) -> None:
        """Look no more."""
        self._stopped = True
        self._due.clear()
        for call in (self._call, self._missing, *self._withdrawn.values()):
            if call is not None and call.active():
                call.cancel()
        self._withdrawn.clear()

    def examine(self, connections: Iterable[LiveConnection]) -> None:
        """Look at these connections in one of the next turns."""
        for connection in connections:
            self._due.setdefault(connection)
        self._begin()

    def examine_all(self) -> None:
        """Look at every connection that lives."""
        self._everybody = True
        self._begin()

    # --- what has changed

    def _changed(self, state: MeshState) -> None:
        before, self._state = self._state, state
        if self._stopped:
            return
        for workload, status in state.identity_states.items():
            self._note_identity(workload, status, state.generation)
        lost = self._note_bundles(state.bundles)
        if state.deny_list is not before.deny_list:
            self._own.clear()
            self.examine_all()
        elif lost or state.policies is not before.policies:
            self.examine_all()

    def _note_identity(self, workload: str, status: IdentityState, generation: int) -> None:
        if status is IdentityState.REVOKED:
            if workload not in self._withdrawn:
                self._withdrawn[workload] = self._clock.callLater(GRACE, self._revoke, workload, generation)
            return
        call = self._withdrawn.pop(workload, None)
        if call is not None and call.active():
            call.cancel()  # taken back in time

    def _note_bundles(self, bundles: Bundles) -> bool:
        """Says whether authorities have gone without a grace."""
        lost = authorities_lost(self._bundles, bundles)
        if lost and any(call.active() for call in self._withdrawn.values()):
            # A source that withdraws everything withdraws its bundles too, and may take that back.
            self._bundles = joined(self._bundles, bundles)
            if self._missing is None:
                self._missing = self._clock.callLater(GRACE, self._miss)
            return False
        self._bundles = bundles
        if self._missing is not None:
            self._missing.cancel()
            self._missing = None
        return lost

    def _miss(self) -> None:
        self._missing = None
        self._bundles = self._state.bundles
        self.examine_all()

    def _revoke(self, workload: str, generation: int) -> None:
        self._revoked[workload] = generation
        self.examine_all()

    # --- looking

    def _begin(self) -> None:
        if self._call is None and not self._stopped:
            self._call = self._clock.callLater(0, self._turn)

    def _turn(self) -> None:
        self._call = None
        if self._everybody:
            self._everybody = False
            for connection in self._plane.live:
                self._due.setdefault(connection)
        cuts = 0
        for connection in list(islice(self._due, LOOKED_AT_IN_A_TURN)):
            self._due.pop(connection, None)
            if connection.is_closed or self._stopped:
                continue
            self.looked_at += 1
            refusal = self._judge(connection)
            if refusal is not None:
                cuts += 1
                self._end(connection, refusal)
                if cuts == CUTS_IN_A_TURN:
                    break
        if self._due or self._everybody:
            self._begin()
            return
        self._own.clear()
        if self._round:
            self._tell()

    def _judge(self, connection: LiveConnection) -> Refusal | None:
        try:
            for judge in self.judges:
                refusal = judge(connection, self._state)
                if refusal is not None:
                    return refusal
        except Exception:  # noqa: BLE001  whoever cannot be judged is not allowed
            _log.failure("looking at connection {number} again failed", number=connection.record.id)
            return Refusal(INTERNAL, "judging the live connection failed")
        return None

    def _end(self, connection: LiveConnection, refusal: Refusal) -> None:
        self._round[refusal.code] += 1
        self.ended[refusal.code] += 1
        try:
            connection.withdraw(refusal)
        except Exception:  # noqa: BLE001  the others must go all the same
            _log.failure("ending connection {number} failed", number=connection.record.id)

    def _tell(self) -> None:
        counts = ", ".join(f"{code.id} {count}" for code, count in sorted(self._round.items(), key=lambda e: e[0].id))
        self._round.clear()
        _log.warn(
            "live connections that are no longer allowed were ended: {counts}; generation {generation}, "
            "still live: {live}",
            counts=counts,
            generation=self._state.generation,
            live=sum(not connection.is_closed for connection in self._plane.live),
        )

    # --- judges

    def _judge_own(self, connection: LiveConnection, state: MeshState) -> Refusal | None:
        record = connection.record
        if connection.verification is None:
            return None  # between two attempts nothing is shown: the next one shows what it has then
        if record.generation < self._revoked.get(record.workload, 0):
            return Refusal(OWN_REVOKED, f"its source withdrew the identity of workload {record.workload!r}, shown here")
        if not state.deny_list or not connection.shown:
            return None
        known = self._own.get(id(connection.shown))
        if known is None:
            denied = own_denial(state.deny_list, svid_id(connection.shown[0]), connection.shown)
            known = self._own[id(connection.shown)] = (connection.shown, denied)
        denied = known[1]
        if denied:
            return Refusal(OWN_DENIED, f"the certificate of workload {record.workload!r} that was shown here: {denied}")
        return None

    def _judge_peer(self, connection: LiveConnection, state: MeshState) -> Refusal | None:
        verification = connection.verification
        try:
            if verification is not None:
                verification.recheck(self._bundles, state.deny_list)
        except Refusal as refusal:
            return refusal
        return None

    def _judge_expiry(self, connection: LiveConnection, _state: MeshState) -> Refusal | None:
        verification = connection.verification if connection.closes_on_expiry else None
        peer = verification.peer if verification is not None else None
        if peer is None or peer.not_after >= self._plane.wall_clock():
            return None
        return Refusal(
            EXPIRED_SINCE, f"the certificate of {peer} expired at {moment(peer.not_after)} (on_expiry: close)"
        )
