"""
The leg that crosses the network: a TLS connection over one transport.

Ring 3. It moves bytes between a transport and a :class:`~tcpmesh.dataplane.tls_core.TLSCore`. A byte goes read →
decrypt → the other leg's write in one call stack; nothing is queued here. Its life is the method that gets the next
bytes: handshake, (preface,) held, payload, discard.
"""

from __future__ import annotations

from typing import Any

from twisted.logger import Logger

from tcpmesh.codes import (
    CLOSED_BEFORE_OK,
    HANDSHAKE_TRUNCATED,
    INTERNAL,
    NO_BYTE,
    PREFACE_MALFORMED,
    TRUNCATED,
    UNREAD_ANSWERS,
)
from tcpmesh.dataplane.preface import InvalidPreface, PrefaceReader
from tcpmesh.dataplane.record_layer import READ_BYTES
from tcpmesh.dataplane.tls_core import TLSCore
from tcpmesh.errors import Refusal
from tcpmesh.net.leg_owners import LegKeeper, Loss
from tcpmesh.net.lingering import LingeringLeg
from tcpmesh.net.plane import DataPlane
from tcpmesh.net.sockets import tune_wire
from tcpmesh.settings import Timeouts

_log = Logger()

CAUTIOUS_BYTES = 16 * 1024  # of a read, when what comes is, or may be, mostly headers
_TINY_BYTES = 256
_RECORD_OVERHEAD = 22  # bytes of header, content type and tag around a record's payload (RFC 8446 section 5.2)
_FULL_RECORD = 2**14 + _RECORD_OVERHEAD
_WAITING_ANSWERS = 64 * 1024  # bytes of answers to TLS's own messages that a peer may leave unread


class TLSLeg(LingeringLeg):
    """
    A TLS connection to a peer.

    :param truncation_is_end: take a FIN without close_notify for an end, for peers that never send one.
    :param client: whether we speak first.
    """

    __slots__ = (
        "_client",
        "_close_notify_bytes",
        "_early",
        "_truncation_is_end",
        "_waiting_answers",
        "any_byte",
        "core",
    )

    def __init__(
        self,
        keeper: LegKeeper,
        owner: Any,
        core: TLSCore,
        timeouts: Timeouts,
        plane: DataPlane,
        *,
        client: bool,
        truncation_is_end: bool = False,
    ) -> None:
        super().__init__(keeper, owner, self._on_handshake, timeouts, plane)
        self.core = core
        self._client = client
        self._truncation_is_end = truncation_is_end
        self.any_byte = False
        self._early = b""  # payload that came together with the preface
        self._close_notify_bytes = 0
        self._waiting_answers = 0

    # --- establishing

    def connectionMade(self) -> None:
        """Set the wire's options; a client sends its ClientHello. (IProtocol)"""
        if tune_wire(self.transport, self._timeouts):
            self._plane.liveness.add(self.transport, self._timeouts.user_timeout)
        # Whoever this is, its headers are looked at before it has its turn.
        self.transport.read_bytes = CAUTIOUS_BYTES
        self.transport.resumeProducing()
        if self._client:
            self._on_handshake(b"")

    def dataReceived(self, data: bytes | memoryview) -> None:
        """Ciphertext. (IProtocol)"""
        self.any_byte = True
        self._receive(data)

    def _on_handshake(self, data: bytes | memoryview) -> None:
        try:
            self.core.feed_handshake(data)
        except Refusal as refusal:
            self._refuse(refusal)
            return
        if not self._plane.handshake_turns.take(self._step):
            self.transport.pauseProducing()

    def _step(self) -> None:
        """Go on with the handshake: it is this connection's turn."""
        if self._given_up or self._receive != self._on_handshake:
            return  # it came to its end while it waited
        try:
            self.transport.resumeProducing()
            self._handshake()
        except Exception:  # noqa: BLE001  the turn may be another connection's event
            _log.failure("a handshake failed")
            self.lost(Loss(INTERNAL, "an internal error during the handshake"))

    def _handshake(self) -> None:
        try:
            complete = self.core.handshake()
        except Refusal as refusal:
            self._refuse(refusal)
            return
        self._flush()
        if complete:
            self.core.handshake_sent()
            self.transport.read_bytes = READ_BYTES
            # Nothing is read until somebody asks for the preface or for payload.
            self._receive = self._on_held
            self.transport.pauseProducing()
            self.owner.leg_secured(self)

    def _on_held(self, _data: bytes | memoryview) -> None:
        raise AssertionError("a paused transport delivered data")

    def await_preface(self) -> None:
        """Read the peer's preface and tell the owner."""
        reader = PrefaceReader()

        def on_preface(data: bytes | memoryview) -> None:
            plaintext = self.core.decrypt(data)
            try:
                complete = reader.feed(plaintext)
            except InvalidPreface as problem:
                self._refuse(Refusal(PREFACE_MALFORMED, str(problem)))
                return
            if complete is not None:
                preface, self._early = complete
                self._receive = self._on_held
                self.transport.pauseProducing()
                self.owner.leg_prefaced(self, preface)
            elif self.core.broken is not None:
                self._refuse(self.core.broken)
            elif self.core.peer_ended:
                self._refuse(Refusal(CLOSED_BEFORE_OK, "the peer closed without saying whether it accepts"))
            elif self.core.control:
                self._answer()

        self._receive = on_preface
        self.transport.resumeProducing()
        # The preface may have arrived in the same read as the end of the handshake.
        on_preface(b"")

    def send_preface(self, encoded: bytes) -> None:
        """Tell the peer what was decided."""
        self._write(encoded)

    def refuse(self, preface: bytes) -> None:
        """Say why in a preface, then close in order, so that the peer gets to read it."""
        self._write(preface)
        if not self._given_up:
            self.end()
            self.finish()

    def _refuse(self, refusal: Refusal) -> None:
        """The handshake or the preface failed: let the alert out, tell the owner, close behind it."""
        self._flush()
        self._close_behind()
        self.owner.leg_refused(self, refusal)

    # --- payload

    def start_relaying(self) -> None:
        """Deliver payload, beginning with whatever was read already."""
        self._receive = self._on_payload
        # Before anything is delivered: the delivery may pause us again.
        self.transport.resumeProducing()
        early, self._early = self._early, b""
        if early:
            self.owner.leg_data(self, early)
        if not self._given_up:
            self._on_payload(b"")

    def _on_payload(self, data: bytes | memoryview) -> None:
        core = self.core
        plaintext = core.decrypt(data)
        if plaintext:
            self.owner.leg_data(self, plaintext)
        if len(data) >= CAUTIOUS_BYTES:
            self._pace(len(data))
        if core.control:
            self._on_control()

    def _pace(self, size: int) -> None:
        """Read less at a time from a peer whose records are tiny: each costs as much as a thousand bytes."""
        tiny = self.core.opened * _TINY_BYTES > size
        self.transport.read_bytes = CAUTIOUS_BYTES if tiny else READ_BYTES

    def _on_control(self) -> None:
        """Something else than payload came."""
        core = self.core
        if core.broken is not None:
            self._flush()
            self.lost(Loss(core.broken.code, core.broken.reason))
        elif core.peer_ended:
            self._receive = self._on_discard
            self.ended = True
            self.owner.leg_ended(self)
        else:
            self._answer()

    def _answer(self) -> None:
        answers = self.core.take_output()
        if not answers:
            return
        # Backpressure stops the other leg, not this one: what a peer makes us say must be bounded here.
        self.transport.write(answers)
        self._waiting_answers = self._waiting_answers + len(answers) if self.unsent else 0
        if self._waiting_answers > _WAITING_ANSWERS:
            reason = f"{self._waiting_answers} bytes of answers to TLS's own messages (KeyUpdate) were not read"
            self.lost(Loss(UNREAD_ANSWERS, reason))

    def send(self, data: bytes | memoryview) -> None:
        """Encrypt and write payload."""
        self._write(data)

    def _write(self, data: bytes | memoryview) -> None:
        try:
            ciphertext = self.core.encrypt(data)
        except Refusal as broken:
            self.lost(Loss(broken.code, broken.reason))
            return
        self.transport.write(ciphertext)

    def _flush(self) -> None:
        output = self.core.take_output()
        if output:
            self.transport.write(output)

    # --- closing

    def end(self) -> None:
        """Send close_notify after what is queued, without FIN: the other direction lives on (RFC 8446 section 6.1)."""
        self.transport.unregisterProducer()
        close_notify = self.core.close_notify()
        self._close_notify_bytes = len(close_notify)
        self.transport.write(close_notify)

    @property
    def unsent_payload(self) -> int:
        """What is queued, without the close_notify that is the last of it and without the overhead of full records."""
        queued = max(0, self.unsent - self._close_notify_bytes)
        return max(0, queued - _RECORD_OVERHEAD * -(-queued // _FULL_RECORD))

    def readConnectionLost(self) -> None:
        """The peer's FIN. (IHalfCloseableProtocol)"""
        self._fin_received = True
        if self.finishing:
            self._end_lingering()
        elif self.ended:
            # close_notify came before it: all is in order, and we may still have something to say.
            return
        elif self._receive == self._on_payload:
            if self._truncation_is_end and not self.core.inside_record:
                self.truncated = True
                self.ended = True
                self._receive = self._on_discard
                self.owner.leg_ended(self)
            else:
                self.lost(Loss(TRUNCATED, "the connection ended without a TLS close_notify"))
        else:
            self._refuse(self._explain_early_end())

    def _explain_early_end(self) -> Refusal:
        if self._receive != self._on_handshake:
            return Refusal(CLOSED_BEFORE_OK, "the peer closed the connection before it accepted it")
        if not self.any_byte and not self._client:
            return Refusal(NO_BYTE, "the peer connected and closed without a byte")
        return Refusal(HANDSHAKE_TRUNCATED, "the peer closed the connection during the TLS handshake")
