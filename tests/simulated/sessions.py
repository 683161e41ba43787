"""
Servers that do one thing wrong, at one point: over TLS on pyOpenSSL alone, or over plain TCP behind a real inbound.

A session writes down what it got, what it gave and how that ended. Nothing here is the product's but the preface.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from enum import Enum
from functools import cache

import attrs
from cryptography.hazmat.primitives.asymmetric import ed25519
from OpenSSL import SSL

from tcpmesh.dataplane.preface import ALPN, OK, Preface
from tcpmesh.wall_clock import wall_clock
from tests.simulated.kernel import SimulatedEnd
from tests.unit.crafted import DAY, Issuer, Leaf, bundles, uri
from tests.unit.tls_pairs import ORDERS, WEB, WHOLE, World, foreign_context, now_authority, now_leaf, take


class FixedWorld(World):
    """With keys whose signatures all have one length, so that a seed leads to the same bytes on the wire each time."""

    def __init__(self) -> None:
        super().__init__()
        key = ed25519.Ed25519PrivateKey.generate
        self.root = now_authority("root of a.test", key=key())
        self.issuing = now_authority("issuing of a.test", self.root, key=key(), path_length=0)
        self.other = now_authority("root of b.test", key=key())
        self.bundles = bundles(a=self.root, b=self.other)
        self.web = now_leaf(self.issuing, uri(WEB), key=key())
        self.orders = now_leaf(self.issuing, uri(ORDERS), key=key())


WORLD = FixedWorld()
_JUNK = b"\x17\x03\x03\x00\x20" + bytes(32)
_ALERT = b"\x15\x03\x03\x00\x02\x02\x28"


def payload(size: int, stream: int) -> bytes:
    """Bytes in which every position of every stream is recognisable, the first one among them."""
    count = (size + 3) // 4
    return b"".join(((stream << 24) + position).to_bytes(4, "big") for position in range(count))[:size]


class Stage(Enum):
    """What is counted up to the point where a session fails."""

    ACCEPT = "accepted"
    HELLO = "bytes of the client's first flight"
    FLIGHT = "bytes of the server's handshake"
    FINISHED = "handshake complete"
    PREFACE = "bytes of the preface"
    RECEIVED = "payload received"
    SENT = "payload sent"
    RECORDS = "bytes of records sent after the server accepted"


class How(Enum):
    """How it fails."""

    RESET = "reset"
    CLOSE = "close, unread bytes or not"
    FIN = "FIN without close_notify, and read on"
    NOTIFY = "close_notify, and read on"
    NOTIFY_CLOSE = "close_notify and close"
    ALERT = "a fatal alert, then FIN"
    JUNK = "a record of nothing, then FIN"
    STALL = "neither read nor write any more"


class Kind(Enum):
    """What answers at an endpoint."""

    MESH = "TLS with tcpmesh/1"
    FOREIGN = "TLS 1.3 without ALPN"
    OLD = "TLS 1.2 without ALPN"
    PROXY = "a real inbound, with a plain server behind it"
    RAW = "a server with the application's own TLS, which nobody here reads"


class Who(Enum):
    """Whose certificate it shows."""

    ORDERS = "the expected one"
    WEB = "another workload's"
    STRANGER = "one of an unknown authority"
    EXPIRED = "an expired one"


PREFACES = {
    "ok": OK,
    "retryable": Preface(ok=False, code="TM-U106", text="down").encode(),
    "final": Preface(ok=False, code="TM-P102", text="no").encode(),
    "unknown": Preface(ok=False, code="TM-X999", text="no").encode(),
    "clean": Preface(ok=False, code="TM-D100", text="done").encode(),
    "version": b"\x00\x02\x07\x00",
    "oversize": b"HTTP/1.1 200 OK\r\n",
}


@attrs.frozen
class Cut:
    """Where and how a session fails: as soon as ``stage`` has come to ``after``."""

    stage: Stage
    after: int
    how: How


@attrs.frozen
class EndpointPlan:
    """
    What becomes of connections to one endpoint.

    :param dial: ``connected``, ``silent``, ``refused``, ``unreachable``, ``reset``; ``after``: seconds until then.
    :param answer: bytes of payload that it sends.
    :param wants: with how many bytes of payload received it begins to send; -1 for not before the client's end.
    :param ends_first: whether it ends when it has sent everything, without waiting for the client's end.
    """

    kind: Kind = Kind.MESH
    dial: str = "connected"
    after: float = 0.0
    who: Who = Who.ORDERS
    preface: str = "ok"
    cut: Cut | None = None
    answer: int = 10
    wants: int = -1
    ends_first: bool = False

    @property
    def serves(self) -> bool:
        """Whether a connection to it comes to a good end, if the client lets it."""
        return (self.dial, self.who, self.preface, self.cut) == ("connected", Who.ORDERS, "ok", None)


@cache
def _certificate(who: Who) -> Leaf:
    key = ed25519.Ed25519PrivateKey.generate
    issuer: Issuer = now_authority("nobody's root", key=key()) if who is Who.STRANGER else WORLD.issuing
    if who is Who.EXPIRED:
        yesterday = wall_clock() - DAY
        return now_leaf(issuer, uri(ORDERS), not_before=yesterday, not_after=yesterday + 3600, key=key())
    return now_leaf(issuer, uri(WEB if who is Who.WEB else ORDERS), key=key())


@cache
def _context(kind: Kind, who: Who) -> SSL.Context:
    return configured(foreign_context(_certificate(who)), kind)


def configured(context: SSL.Context, kind: Kind) -> SSL.Context:
    """Let a server's context be of that kind."""
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *_step: True)
    if kind is Kind.MESH:
        context.set_alpn_select_callback(lambda _connection, _offered: ALPN)
    if kind is Kind.OLD:
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
    return context


class Session:
    """
    One accepted connection, over plain TCP.

    :ivar accepted: it said, in whatever way there is, that it takes the connection.
    :ivar received: payload, in order; ``saw_end``: and then the client's orderly end; ``saw_break``: or that it broke.
    :ivar sent: payload that it let go; ``ended``: and then said that this was all.
    :param stream: the number of the payload that it sends.
    """

    plain = True
    refused = False  # in words

    def __init__(self, plan: EndpointPlan, end: SimulatedEnd, stream: int) -> None:
        self.plan = plan
        self.stream = stream
        self.end = end
        self.received = bytearray()
        self.sent = bytearray()
        self.saw_end = False
        self.saw_break = False
        self.ended = False
        self.accepted = False
        self.broke = False  # by what the plan says
        self._to_send = payload(plan.answer, stream)
        self._out = bytearray()  # for the wire
        self._silent = False  # writes nothing more
        self._over = False
        self._closing = False
        self._fin_sent = False
        self._said = 0  # how many bytes were written when its preface was

    def __repr__(self) -> str:
        return f"session {self.stream} ({self.plan})"

    @property
    def foreign(self) -> bool:
        """Whether it has no way to say that it accepts."""
        return self.plan.kind in (Kind.FOREIGN, Kind.OLD)

    @property
    def was_heard(self) -> bool:
        """Whether the proxy has read its preface for sure; unknown of real sockets."""
        unread = getattr(self.end.peer, "incoming", None)
        return unread is not None and 0 < self._said <= len(self.end.written) - len(unread)

    # --- one turn

    def step(self, amount: int) -> bool:
        """Let one thing happen; says whether anything did."""
        if self._over:
            return False
        if self.end.reset:
            self._over = self.saw_break = True
            self.end.closed = True
            return True
        cut = self.plan.cut
        if cut is not None and not self.broke and self._counted(cut.stage) >= cut.after and self._flushed(cut.stage):
            self.broke = True
            self._break(cut)
            return True
        return self._write(amount) or self._read(amount) or self._speak(amount) or self._finish()

    def _limit(self, stage: Stage) -> int:
        """How much more there may be of what is counted at that stage."""
        cut = self.plan.cut
        if cut is None or self.broke or cut.stage is not stage:
            return WHOLE
        return cut.after - self._counted(stage)

    def _counted(self, stage: Stage) -> int:
        if stage is Stage.ACCEPT:
            return 0
        if not self.accepted:
            return -1
        return {Stage.RECEIVED: len(self.received), Stage.SENT: len(self.sent)}.get(stage, -1)

    def _flushed(self, stage: Stage) -> bool:
        return stage in (Stage.ACCEPT, Stage.HELLO, Stage.FLIGHT, Stage.FINISHED, Stage.RECORDS) or not self._out

    def _write(self, amount: int) -> bool:
        if not self._out or self._fin_sent:
            return False
        sent = self.end.send(bytes(self._out[: min(amount, self._room())]))
        del self._out[:sent]
        self._wrote(sent)
        return bool(sent)

    def _room(self) -> int:
        return WHOLE

    def _wrote(self, count: int) -> None:
        self.accepted = True

    def _read(self, amount: int) -> bool:
        if self.end.incoming:
            data = bytes(self.end.incoming[:amount])
            del self.end.incoming[:amount]
            self._take(data)
            return True
        if self.end.fin and not (self.saw_end or self.saw_break):
            self._take_end()
            return True
        return False

    def _take(self, data: bytes) -> None:
        self.accepted = True
        self.received += data

    def _take_end(self) -> None:
        self.saw_end = True

    def _speak(self, amount: int) -> bool:
        if not self.accepted or self._silent or self.ended or len(self._out) > amount:
            return False
        wants = self.plan.wants
        if not (self.saw_end or 0 <= wants <= len(self.received)):
            return False
        rest = self._to_send[len(self.sent) :][: min(amount, self._limit(Stage.SENT))]
        if rest:
            self.sent += rest
            self._out += self._encoded(rest)
            return True
        if len(self.sent) == len(self._to_send) and (self.saw_end or self.plan.ends_first):
            self.ended = True
            self._say_end()
            return True
        return False

    def _encoded(self, data: bytes) -> bytes:
        return data

    def _say_end(self) -> None:
        self._closing = True

    def _finish(self) -> bool:
        if self._out:
            return False
        if self._closing and not self._fin_sent:
            self._fin_sent = True
            self.end.shut_down()
            return True
        if (self._fin_sent and (self.saw_end or self.saw_break)) or self.saw_break:
            self._over = True
            self.end.close()
            return True
        return False

    def _break(self, cut: Cut) -> None:
        self._silent = True
        if cut.stage in (Stage.FLIGHT, Stage.RECORDS):
            self._out.clear()  # else it would not fail there
        how = cut.how
        match how:
            case _ if how is How.RESET or (self.plain and how in (How.ALERT, How.JUNK)):
                self._over = True
                self.end.abort()
            case How.CLOSE:
                self._over = True
                self.ended = self.ended or (self.plain and not self.end.incoming)
                self.end.close()
            case How.STALL:
                self._over = True
            case How.ALERT | How.JUNK:
                self._out += _ALERT if how is How.ALERT else _JUNK
                self._closing = True
            case How.FIN:
                self._closing = True
                self.ended = self.ended or self.plain
            case How.NOTIFY | How.NOTIFY_CLOSE:
                self.ended = True
                self._say_end()
                self._closing = how is How.NOTIFY_CLOSE or self._closing


class PlainSession(Session):
    """A plain server behind a real inbound."""

    def step(self, amount: int) -> bool:
        """Let one thing happen; says whether anything did."""
        self.accepted = True  # by its kernel
        return super().step(amount)


class TLSSession(Session):
    """A TLS server."""

    plain = False

    def __init__(
        self, plan: EndpointPlan, end: SimulatedEnd, stream: int, context: Callable[[Who], SSL.Context] | None = None
    ) -> None:
        super().__init__(plan, end, stream)
        made = configured(context(plan.who), plan.kind) if context is not None else _context(plan.kind, plan.who)
        self._tls = SSL.Connection(made, None)
        self._tls.set_accept_state()
        self._secured = False
        self._hello = 0
        self._flight = 0
        self._records = 0
        self._preface = PREFACES[plan.preface] if plan.kind is Kind.MESH else b""
        self._prefaced = 0

    def _counted(self, stage: Stage) -> int:
        match stage:
            case Stage.HELLO:
                return self._hello
            case Stage.FLIGHT:
                return WHOLE if self._secured else self._flight
            case Stage.FINISHED:
                return 0 if self._secured else -1
            case Stage.PREFACE:
                return self._prefaced if self._secured else -1
            case Stage.RECORDS:
                return self._records if self.accepted else -1
        return super()._counted(stage)

    def _room(self) -> int:
        if not self._secured:
            return self._limit(Stage.FLIGHT)
        return self._limit(Stage.RECORDS) if self.accepted else WHOLE

    def _wrote(self, count: int) -> None:
        if not self._secured:
            self._flight += count
        elif self.accepted:
            self._records += count
        elif self._preface and self._prefaced == len(self._preface) and not self._out and not self._said:
            self._said = len(self.end.written)
            self.accepted = not self.refused

    def _take(self, data: bytes) -> None:
        if not self._secured:
            self._hello += len(data)
        try:
            self._tls.bio_write(data)
            if not self._secured:
                self._tls.do_handshake()
                self._secure()
            while True:
                self.received += self._tls.recv(65536)
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self.saw_end = True
        except SSL.Error:
            self.saw_break = True
            self._closing = True
        if not self._silent:
            self._out += take(self._tls)

    def _secure(self) -> None:
        self._secured = True
        self.accepted = self.plan.kind is not Kind.MESH

    def _take_end(self) -> None:
        self.saw_break = True  # without close_notify

    def _speak(self, amount: int) -> bool:
        if self._secured and not self._silent and self._prefaced < len(self._preface):
            part = self._preface[self._prefaced :][: min(amount, self._limit(Stage.PREFACE))]
            if not part:
                return False
            self._prefaced += len(part)
            self._out += self._encoded(part)
            if self._prefaced == len(self._preface) and self.plan.preface != "ok":
                self.refused = self._silent = True
                self._say_end()
                self._closing = True
            return True
        return super()._speak(amount)

    def _encoded(self, data: bytes) -> bytes:
        rest = memoryview(data)
        while rest:
            rest = rest[self._tls.send(rest) :]  # a record at most
        return take(self._tls)

    def _say_end(self) -> None:
        if self._secured:
            with contextlib.suppress(SSL.Error):  # it is broken already
                self._tls.shutdown()
            self._out += take(self._tls)
        else:
            self._closing = True

    def _finish(self) -> bool:
        # As TLS wants it: FIN once both directions have ended.
        if self.ended and self.saw_end and not self._closing:
            self._closing = True
        return super()._finish()
