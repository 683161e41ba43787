"""
What inbound and outbound connections have in common: a record, two legs, a relay, and one end.

Ring 3. The subclasses establish; this class carries, ends and reports.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cryptography import x509
from twisted.logger import Logger

from tcpmesh.codes import CANCELLED, INTERNAL, Code
from tcpmesh.dataplane.verification import PeerVerification
from tcpmesh.errors import Refusal
from tcpmesh.net.leg_owners import LegOwner, Loss
from tcpmesh.net.legs import Leg
from tcpmesh.net.listener import ListenerLimit
from tcpmesh.net.plane import DataPlane
from tcpmesh.net.relay import Relay
from tcpmesh.net.tls import TLSLeg
from tcpmesh.observe.records import ConnectionRecord, Direction, Side
from tcpmesh.policy.evaluate import Verdict
from tcpmesh.policy.limits import Places
from tcpmesh.settings import Timeouts
from tcpmesh.values import AuthorizationRequest

_log = Logger()


class MeshConnection(LegOwner):
    """
    One accepted connection, from accept to close.

    ``src`` is the leg that was accepted, ``dst`` the one that we dial. Slotted: there are thousands of these.
    """

    __slots__ = (
        "_closed",
        "_deadline",
        "_legs",
        "_started",
        "decided_by",
        "dst",
        "limit",
        "places",
        "plane",
        "record",
        "relay",
        "shown",
        "src",
        "timeouts",
    )

    def __init__(
        self, plane: DataPlane, direction: Direction, listener: str, workload: str, timeouts: Timeouts
    ) -> None:
        self.plane = plane
        self.timeouts = timeouts
        self.record = ConnectionRecord(
            id=plane.next_number(),
            direction=direction,
            listener=listener,
            src_addr="",
            time=plane.wall_clock(),
            workload=workload,
        )
        self.record.generation = plane.state.current.generation
        self._started = plane.clock.seconds()
        self._legs: set[Leg] = set()  # whose sockets are open, those of failed attempts among them
        self._closed = False
        self._deadline: Any = None
        self.decided_by: object = None  # the policies of the state that it was decided by
        self.shown: tuple[x509.Certificate, ...] = ()  # our own chain, as the peer saw it
        self.limit: ListenerLimit | None = None  # of its listener, where it counts from accept to close
        self.places: Places | None = None  # where it counts against limits of policies, once it is allowed
        self.relay: Relay | None = None
        self.src: Leg | None = None
        self.dst: Leg | None = None

    # --- lifecycle shared by both directions

    def accepted(self, transport: Any) -> None:
        """The source leg is connected: from here on there will be exactly one close record."""
        self.record.src_addr = str(transport.peer)
        self.record.local_addr = str(transport.own)
        assert self.src is not None
        self.leg_opened(self.src)
        self.plane.live.add(self)
        self.plane.sink.accepted(self.record)

    def leg_opened(self, leg: Leg) -> None:
        """One more socket belongs to this connection."""
        self._legs.add(leg)
        self.plane.gate.sockets += 1

    def leg_replaced(self, old: Leg, new: Leg) -> None:
        """The prelude is over: the accepted socket is another leg's. (PreludeKeeper)"""
        self._legs.remove(old)
        self._legs.add(new)
        self.src = new

    def leg_closed(self, leg: Leg) -> None:
        """A socket is closed; with the last one the connection gives its place back. (LegKeeper)"""
        if leg not in self._legs:
            return  # it failed before it was counted
        self._legs.discard(leg)
        self.plane.gate.sockets -= 1
        if not self._legs and self._closed:
            self.plane.forget(self)

    def deadline(self, seconds: float | None, expired: Callable[[], None] | None = None) -> None:
        """Replace the running deadline by another, or by none."""
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None
        if seconds is not None and expired is not None:
            self._deadline = self.plane.clock.callLater(seconds, expired)

    def milliseconds_since(self, start: float) -> float:
        """For the record."""
        return float(round((self.plane.clock.seconds() - start) * 1000, 3))

    def note_peer(self, leg: TLSLeg) -> None:
        """Write down what the handshake told."""
        core = leg.core
        record = self.record
        record.conn = core.exporter()
        record.sni = core.sni
        record.alpn = core.alpn.decode("ascii", "backslashreplace")
        record.tls_version = core.version
        record.tls_group = core.group
        record.tls_cipher = core.cipher

    def take_places(self) -> Refusal | None:
        """It is allowed: count it against the limits of policies; says so if there is no room. Its end undoes it."""
        self.places = ()
        return self.plane.limiting.admit(self) if self.plane.state.current.limiting else None

    def authorization_request(self) -> AuthorizationRequest:
        """What policies are asked about it, once the peer is verified."""
        raise NotImplementedError

    def establish(self, on_early_loss: Callable[[Loss], bool] | None = None) -> None:
        """Both legs are there: report it and let payload flow."""
        assert self.src is not None
        assert self.dst is not None
        self.deadline(None)
        if not self.record.established:  # else it is resumed on another endpoint, and was reported
            self.record.established = True
            self.plane.sink.opened(self.record)
        self.relay = Relay(self.record, self.src, self.dst, self.timeouts, self.plane.clock, self.close, on_early_loss)
        self.relay.start(self._lifetime())
        if self.closes_on_expiry and not self._closed:
            self._watch_expiry()

    def _watch_expiry(self) -> None:
        peer = self.verification.peer if self.verification is not None else None
        if peer is not None:
            self.plane.expiries.add(self, peer.not_after)

    def _lifetime(self) -> float | None:
        lifetime = self.timeouts.lifetime
        if lifetime is None:
            return None
        return lifetime * (1 - self.timeouts.lifetime_jitter * self.plane.random.random())

    def close(self, code: Code | None = None, reason: str = "", closed_by: Side | None = None) -> None:
        """Report the end, once; what is given fills in what nobody has set."""
        if self._closed:
            return
        self._closed = True
        self.deadline(None)
        if self.limit is not None:
            self.limit.leave()
        if self.places:
            self.plane.limiting.release(self)
        record = self.record
        if record.code is None:
            record.code, record.reason, record.closed_by = code, reason, closed_by
        record.duration_ms = self.milliseconds_since(self._started)
        try:
            self.plane.sink.closed(record)
        except Exception:  # noqa: BLE001  whoever ends a connection must get to its end
            _log.failure("recording the end of connection {number} failed", number=record.id)
        self.relay = None
        if not self._legs:
            self.plane.forget(self)

    @property
    def wire(self) -> TLSLeg | None:
        """The leg to the peer; None while there is none."""
        raise NotImplementedError

    @property
    def verification(self) -> PeerVerification | None:
        """What is known of the peer on the wire. (LiveConnection)"""
        wire = self.wire
        return wire.core.verification if wire is not None else None

    def stands(self, verdict: Verdict) -> None:
        """It is allowed for as long as the verdict says. (DecidedConnection)"""
        if verdict.valid_for is None or self._closed:
            self.plane.verdicts.discard(self)
        else:
            self.plane.verdicts.add(self, self.plane.wall_clock() + verdict.valid_for)

    @property
    def closes_on_expiry(self) -> bool:
        """Whether it ends with its peer's certificate. (LiveConnection)"""
        raise NotImplementedError

    def withdraw(self, refusal: Refusal) -> None:
        """What it was allowed by is gone. (LiveConnection)"""
        self.cut(refusal.code, refusal.reason)

    @property
    def is_closed(self) -> bool:
        """Whether the end was reported."""
        return self._closed

    # --- while no relay owns the legs

    def leg_lost(self, leg: Leg, loss: Loss) -> None:
        """A leg broke while the connection was being established. (LegOwner)"""
        if self._closed:
            return
        self.record.errno = self.record.errno or loss.errno
        if loss.code is INTERNAL:
            # Nobody's but our own; and no preface says why, since one that said ok may have gone before.
            self.cut(loss.code, loss.reason)
        elif leg is self.src:
            self.abandon()
            self.close(CANCELLED, f"the client went away: {loss.reason}", "src")
        else:
            self.dst_lost(Refusal(loss.code, loss.reason))

    def dst_lost(self, refusal: Refusal) -> None:
        """The leg that we dialled broke before payload could flow."""
        raise NotImplementedError

    def abandon(self) -> None:
        """Stop whatever is under way towards ``dst``."""
        raise NotImplementedError

    def cut(self, code: Code, reason: str) -> None:
        """End it now, visibly broken. (LiveConnection)"""
        try:
            if self.relay is not None:
                self.relay.expire(code, reason)
            elif not self._closed:
                self.abandon()
                if self.src is not None:
                    self.src.reset()
        finally:
            self.close(code, reason, "proxy")  # unless the relay has done so, also when something above failed
            # What lingers behind a refusal or a finished attempt was reported already, and goes now.
            for leg in list(self._legs):
                leg.transport.abortConnection()
