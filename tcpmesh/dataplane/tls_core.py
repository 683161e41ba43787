"""
One TLS connection on memory BIOs, written for proxying.

Ring 2: pyOpenSSL, no I/O. Bytes go in and come out; the caller moves them. Unlike ``TLSMemoryBIOProtocol`` it can
half-close (``close_notify`` in one direction while the other lives, RFC 8446 section 6.1), tells a truncated stream
from an ended one, and works on batches of records.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from OpenSSL import SSL, crypto

from tcpmesh.codes import (
    CERTIFICATE_TOO_LARGE,
    NO_CERTIFICATE,
    PEER_ALERT,
    PLAINTEXT_PEER,
    TLS_BROKEN,
    TLS_FAILED,
    Code,
)
from tcpmesh.dataplane.negotiation import nothing_in_common
from tcpmesh.dataplane.openssl_private import record_layer
from tcpmesh.dataplane.proxy_header import looks_like_header
from tcpmesh.dataplane.record_layer import RecordLayer
from tcpmesh.dataplane.verification import PeerVerification
from tcpmesh.errors import Refusal

_EXPORTER_LABEL = b"EXPORTER-tcpmesh-connection"  # RFC 5705; "EXPORTER-" prefixes are for specifications like ours


class TLSCore:
    """
    The state of one TLS connection.

    :param verification: judges the peer's certificate during the handshake.
    :param alpn: what a client offers.
    :param records: makes the record layer for a connection.
    """

    __slots__ = ("_connection", "_first_bytes_seen", "_records", "_server", "broken", "verification")

    def __init__(
        self,
        context: SSL.Context,
        verification: PeerVerification,
        *,
        server: bool,
        sni: str = "",
        alpn: Sequence[bytes] = (),
        records: Callable[[SSL.Connection], RecordLayer] = record_layer,
    ) -> None:
        connection = SSL.Connection(context, None)
        connection.set_app_data(verification)
        if server:
            connection.set_accept_state()
        else:
            connection.set_connect_state()
            if sni:
                connection.set_tlsext_host_name(sni.encode("ascii"))
            if alpn:
                connection.set_alpn_protos(list(alpn))
        self._connection = connection
        self._records = records(connection)
        self._first_bytes_seen = False
        self._server = server
        self.verification = verification
        self.broken: Refusal | None = None  # a fatal alert or an unreadable record: nothing more comes

    def feed_handshake(self, ciphertext: bytes | memoryview) -> None:
        """
        Take bytes of the handshake, and whatever came behind it.

        :raises Refusal: PLAINTEXT_PEER.
        """
        if ciphertext and not self._first_bytes_seen:
            self._first_bytes_seen = True
            if bytes(ciphertext[:1]) not in (b"\x16", b"\x15"):
                raise Refusal(PLAINTEXT_PEER, f"expected a TLS handshake record, got {self._show(ciphertext)}")
        self._records.handshake(ciphertext)

    def _show(self, data: bytes | memoryview) -> str:
        """How something begins that is not TLS."""
        if looks_like_header(data):
            return f"a PROXY header where none is due (proxy_protocol.accept_from): {_begin(data, 16)}"
        # A server greets. A client in plaintext may begin with a password.
        return _begin(data, 5 if self._server else 16)

    def handshake(self, ciphertext: bytes | memoryview = b"") -> bool:
        """
        Go on with the handshake; true once it is complete on this side.

        Whatever the outcome, :meth:`take_output` may hold bytes for the peer (an alert, when it failed).

        :raises Refusal: with the verification's own refusal, or PLAINTEXT_PEER, PEER_ALERT, NO_CERTIFICATE, TLS_FAILED.
        """
        self.feed_handshake(ciphertext)
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return False
        except SSL.Error as error:
            raise self._explain(error) from None
        _empty_error_queue()
        if self.verification.peer is None:
            # Never reached while the verify callback does its work; without it nobody may get in.
            raise self.verification.refusal or Refusal(NO_CERTIFICATE, "the peer's certificate was never verified")
        return True

    def decrypt(self, ciphertext: bytes | memoryview) -> memoryview:
        """
        Feed ciphertext, at most READ_BYTES, and give all plaintext that it completes: a view that is valid until the
        next call, whose ever it is.

        Sets :attr:`control` when there was more than plaintext to it, and :attr:`broken` (PEER_ALERT, TLS_BROKEN) at a
        fatal alert or a record that does not decrypt: what came before them is given all the same.
        """
        records = self._records
        plaintext = records.decrypt(ciphertext)
        if records.failure is not None and self.broken is None:
            self.broken = self._explain(records.failure, TLS_BROKEN)
        return plaintext

    @property
    def control(self) -> bool:
        """
        Whether the last batch held more than plaintext: the end, a break, or a message of TLS's own.

        Some of these (KeyUpdate, RFC 8446 section 4.6.3) ask for an answer, which :meth:`take_output` then has.
        """
        return self._records.control

    @property
    def opened(self) -> int:
        """How many records the last batch held, if it was larger than a message."""
        return self._records.opened

    @property
    def peer_ended(self) -> bool:
        """close_notify came: the peer's stream is complete."""
        return self._records.ended

    @property
    def inside_record(self) -> bool:
        """Whether a record has begun and is not complete: a stream that stops here was cut."""
        return self._records.inside

    def encrypt(self, plaintext: bytes | memoryview) -> bytes | memoryview:
        """
        Turn payload, at most MAX_PAYLOAD_BYTES, into records: a view that is valid until the next call, whose ever.

        :raises Refusal: TLS_BROKEN when the connection can no longer carry data.
        """
        try:
            return self._records.encrypt(plaintext)
        except SSL.Error as error:
            raise self._explain(error, TLS_BROKEN) from None

    def close_notify(self) -> bytes:
        """End our direction: the peer may go on sending, we may not."""
        # An error here means that the connection is beyond an orderly end; its reader reports that.
        with contextlib.suppress(SSL.Error):
            self._connection.shutdown()
        return self.take_output()

    def take_output(self) -> bytes:
        """Everything that waits to be sent to the peer."""
        return self._records.take_output()

    def handshake_sent(self) -> None:
        """The handshake is complete and its last flight taken: give back the memory that it needed."""
        self._records.handshake_sent()

    @property
    def alpn(self) -> bytes:
        """The protocol that was negotiated, empty if none."""
        return self._connection.get_alpn_proto_negotiated()

    @property
    def sni(self) -> str:
        """The server name that the client asked for, empty if none."""
        name = self._connection.get_servername()
        return name.decode("ascii", "backslashreplace") if name else ""

    @property
    def version(self) -> str:
        """For example ``TLSv1.3``."""
        return self._connection.get_protocol_version_name()

    @property
    def cipher(self) -> str:
        """For example ``TLS_AES_256_GCM_SHA384``."""
        return self._connection.get_cipher_name() or ""

    @property
    def group(self) -> str:
        """The key exchange group, for example ``X25519MLKEM768``."""
        return self._connection.get_group_name() or ""

    def exporter(self) -> str:
        """8 bytes in hex that both ends compute alike and nobody else can: they join two proxies' records."""
        return self._connection.export_keying_material(_EXPORTER_LABEL, 8).hex()

    def _explain(self, error: SSL.Error, otherwise: Code = TLS_FAILED) -> Refusal:
        """Say in our terms what OpenSSL reports."""
        if self.verification.refusal is not None and self.verification.peer is None:
            return self.verification.refusal
        reasons = [entry[-1] for entry in error.args[0]] if error.args and isinstance(error.args[0], list) else []
        text = "; ".join(reason for reason in reasons if reason) or str(error) or type(error).__name__
        if any("alert" in reason for reason in reasons):
            name = text.partition("alert ")[2] or text
            why = nothing_in_common(self._connection, reasons)
            return Refusal(PEER_ALERT, f"the peer sent the TLS alert {name!r}{why}")
        if any("did not return a certificate" in reason for reason in reasons):
            return Refusal(NO_CERTIFICATE, "the client presented no certificate")
        # Once the hellos have agreed on a cipher, nothing in a handshake is as long as certificates.
        if "excessive message size" in reasons and self._connection.get_cipher_name() is not None:
            reason = "the peer's certificates are longer than OpenSSL takes (100 KiB); 64 KiB are accepted"
            return Refusal(CERTIFICATE_TOO_LARGE, reason)
        return Refusal(otherwise, f"OpenSSL says: {text}{nothing_in_common(self._connection, reasons)}")


def _empty_error_queue() -> None:
    """
    Forget what OpenSSL noted on the way to a success.

    A handshake that succeeds can leave errors behind (about a superfluous certificate that the peer sent along, say).
    The queue is the thread's, and before OpenSSL 4 the next call on any connection took them for its own failure. Only
    a failing call empties it; this one costs about a microsecond.
    """
    with contextlib.suppress(crypto.Error):
        crypto.load_certificate(crypto.FILETYPE_ASN1, b"")


def _begin(data: bytes | memoryview, length: int) -> str:
    return ascii(bytes(data[:length]).decode("latin-1"))
