"""
One connection to a peer as the data path makes it, on a blocking socket: its handshake, and whether the peer accepts.

Ring 4. No byte of payload is sent.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence

import attrs
from cryptography import x509
from OpenSSL import SSL, crypto

from tcpmesh.cli.presented import AFTERWARDS, Target, connect, receive
from tcpmesh.codes import (
    CLOSED_BEFORE_OK,
    HANDSHAKE_TIMEOUT,
    HANDSHAKE_TRUNCATED,
    PREFACE_MALFORMED,
    PREFACE_TIMEOUT,
    REFUSED_BY_PEER,
    by_id,
)
from tcpmesh.dataplane.preface import ALPN, InvalidPreface, Preface, PrefaceReader
from tcpmesh.dataplane.tls_core import TLSCore
from tcpmesh.dataplane.verification import PeerVerification
from tcpmesh.errors import Refusal
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.values import ExpectedIdentity, TrustBundle
from tcpmesh.wall_clock import wall_clock

__all__ = ["Acceptance", "PeerHandshake"]


@attrs.frozen
class Acceptance:
    """
    What the peer made of us.

    :ivar refusal: None if it did not refuse.
    :ivar told: whether it said that it accepts; else nobody knows.
    """

    text: str = ""
    refusal: Refusal | None = None
    told: bool = False


class _Verification(PeerVerification):
    """Keeps the leaf, whatever becomes of it."""

    __slots__ = ("leaf",)

    leaf: x509.Certificate | None

    def certificate(self, certificate: crypto.X509, error: int, depth: int, ok: bool) -> bool:
        """Take one step of OpenSSL's verification."""
        accepted = super().certificate(certificate, error, depth, ok)
        if depth == 0:
            self.leaf = self._leaf
        return accepted


class PeerHandshake:
    """
    Shakes hands as the data path would.

    :param expected: whom to accept; None for anybody whom the bundles vouch for.
    :param voucher: as for :class:`tcpmesh.dataplane.verification.PeerVerification`.
    :param preface: whether to ask for the hop preface.
    """

    def __init__(
        self,
        target: Target,
        context: SSL.Context,
        bundles: Mapping[TrustDomain, TrustBundle],
        expected: Sequence[ExpectedIdentity] | None,
        *,
        voucher: TrustDomain | None = None,
        sni: str = "",
        preface: bool = True,
    ) -> None:
        self.target = target
        self._verification = _Verification(bundles, expected, wall_clock, voucher)
        self._verification.leaf = None
        alpn = (ALPN,) if preface else ()
        self._core = TLSCore(context, self._verification, server=False, sni=sni, alpn=alpn)

    @property
    def leaf(self) -> x509.Certificate | None:
        """The peer's certificate, if it came so far and can be read."""
        return self._verification.leaf

    def connect(self, deadline: float) -> socket.socket:
        """
        Connect.

        :param deadline: by ``time.monotonic``.
        :raises Refusal: when nobody answers.
        """
        return connect(self.target, max(0.1, deadline - time.monotonic()))

    def shake_hands(self, stream: socket.socket, deadline: float) -> Refusal | None:
        """Give the reason why there was no handshake with whom is expected, None if there was one."""
        data = b""
        while True:
            try:
                done = self._core.handshake(data)
            except Refusal as refusal:
                self._send(stream)
                return refusal
            self._send(stream)
            if done:
                return None
            received = receive(stream, deadline)
            if received is None:
                return Refusal(HANDSHAKE_TIMEOUT, "the server did not finish the TLS handshake in time")
            if not received:
                return Refusal(HANDSHAKE_TRUNCATED, "the server closed the connection during the TLS handshake")
            data = received

    def acceptance(self, stream: socket.socket, deadline: float) -> Acceptance:
        """Wait for what the peer says, or for a moment in which one that has no way to say it would refuse."""
        asked = self._core.alpn == ALPN
        if not asked:
            deadline = min(deadline, time.monotonic() + AFTERWARDS)
        reader, data = PrefaceReader(), b""
        while True:
            plaintext = bytes(self._core.decrypt(data))
            if self._core.broken is not None:
                return Acceptance(refusal=self._core.broken)
            if asked and plaintext:
                try:
                    found = reader.feed(plaintext)
                except InvalidPreface as error:
                    return Acceptance(refusal=Refusal(PREFACE_MALFORMED, str(error)))
                if found is not None:
                    self._end(stream)
                    return _as_acceptance(found[0])
            received = b"" if self._core.peer_ended else receive(stream, deadline)
            if received:
                data = received
            elif asked:
                code = PREFACE_TIMEOUT if received is None else CLOSED_BEFORE_OK
                what = "it did not say in time" if received is None else "it closed the connection without saying"
                return Acceptance(refusal=Refusal(code, f"{what} whether it accepts"))
            elif received is None or plaintext:
                self._end(stream)
                return Acceptance("it has no way to say so (no tcpmesh/1), and has said nothing against us")
            else:
                return Acceptance("it has no way to say so (no tcpmesh/1), and closed the connection without a word")

    def _end(self, stream: socket.socket) -> None:
        output = self._core.close_notify()
        try:
            stream.sendall(output)
        except OSError:  # it is over already
            return

    def _send(self, stream: socket.socket) -> None:
        """Pass on what waits. That the server is gone will show when it is read from."""
        output = self._core.take_output()
        try:
            stream.sendall(output)
        except OSError:
            return


def _as_acceptance(preface: Preface) -> Acceptance:
    if preface.ok:
        return Acceptance("it said so: its policy lets us in, and its application answers", told=True)
    code = by_id(preface.code)
    text = ascii(preface.text or "without a reason")
    if code is None:
        return Acceptance(refusal=Refusal(REFUSED_BY_PEER, f"the peer refused with {preface.code!a}: {text}"))
    return Acceptance(refusal=Refusal(code, f"the peer refused: {text}"))
