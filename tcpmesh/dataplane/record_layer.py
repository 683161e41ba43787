"""
TLS records in batches: ciphertext in, payload out, and back (RFC 8446 section 5).

Ring 2: pyOpenSSL, no I/O. :class:`RecordLayer` uses nothing but pyOpenSSL's public API. What it does is found again,
call by call, in :mod:`tcpmesh.dataplane.openssl_private`, which talks to OpenSSL without a layer in between.

Every record says in its header how long it is, so that OpenSSL is asked for payload exactly when a record is complete.
Asking until it has no more would cost an exception for each message.

What :meth:`RecordLayer.decrypt` and :meth:`RecordLayer.encrypt` give may be views of buffers that all connections
share: valid until the next call of the same method, whose ever it is.
"""

from __future__ import annotations

from OpenSSL import SSL

# What one read of a socket takes. Reading 64 KiB at a time halves bulk throughput; more than 256 KiB gains nothing.
READ_BYTES = 256 * 1024
# The plaintext of one record (RFC 8446 section 5.1): SSL_read returns at most this much.
RECORD_BYTES = 16384
# A full read, and what was missing of the record before it.
MAX_PAYLOAD_BYTES = READ_BYTES + RECORD_BYTES

HEADER_BYTES = 5
_MAX_BODY_BYTES = RECORD_BYTES + 2048  # of TLS 1.2 (RFC 5246 section 6.2.3), which allows more than TLS 1.3
_CONTENT_TYPES = range(20, 24)  # change_cipher_spec, alert, handshake, application_data

PAYLOAD = bytearray(MAX_PAYLOAD_BYTES)
_PAYLOAD = memoryview(PAYLOAD)
_OUTPUT_BYTES = RECORD_BYTES + 4096  # more than one record: a call that gives less has given everything


class RecordLayer:
    """
    The records of one connection, in both directions.

    :param connection: on memory BIOs, before its handshake.
    """

    __slots__ = ("_aligned", "_header", "_left", "connection", "control", "ended", "failure", "opened")

    def __init__(self, connection: SSL.Connection) -> None:
        self.connection = connection
        self.control = False  # the last batch held a record without payload: an end, an alert, a message of TLS's own
        self.opened = 0  # records in the last batch that was larger than a message
        self.ended = False  # close_notify came
        self.failure: SSL.Error | None = None  # a fatal alert or a record that does not decrypt: nothing more comes
        self._aligned = False  # whether OpenSSL holds nothing but the beginning of a record
        self._header = b""  # the first bytes of a record whose length is not known yet
        self._left = 0  # bytes of the present record that are still to come

    @property
    def inside(self) -> bool:
        """Whether a record has begun and is not complete: a stream that stops here was cut, and is no end."""
        return bool(self._left or self._header)

    def handshake(self, ciphertext: bytes | memoryview) -> None:
        """Take what comes before the handshake is complete; payload behind it waits for :meth:`decrypt`."""
        self._aligned = False
        start, end = 0, len(ciphertext)
        while start < end:
            start = self._next(ciphertext, start, end)
        if end:
            self._feed(ciphertext, 0, end)

    def decrypt(self, ciphertext: bytes | memoryview) -> memoryview:
        """
        Feed at most READ_BYTES of ciphertext and give all payload that it completes.

        Sets :attr:`control`, and :attr:`ended` or :attr:`failure` behind the last payload that there will be.
        """
        self.control = self.ended or self.failure is not None  # which stays so
        filled = start = opened = 0
        end = len(ciphertext)
        while start < end and not (self.ended or self.failure):
            stop = self._next(ciphertext, start, end)
            self._feed(ciphertext, start, stop)
            if not self._left and self._aligned:
                filled += self._open(filled)
                opened += 1
            start = stop
        self.opened = opened
        if not self._aligned:
            # Handshake and payload may share a segment, and what is no record at all is for OpenSSL to judge.
            self._aligned = True
            while opened := self._open(filled):
                filled += opened
        return _PAYLOAD[:filled]

    def encrypt(self, payload: bytes | memoryview) -> bytes | memoryview:
        """
        Turn at most MAX_PAYLOAD_BYTES of payload into records.

        :raises SSL.Error: when the connection can no longer carry data.
        """
        view = memoryview(payload)
        sealed = []
        while view:
            # pyOpenSSL enables partial writes: each call takes one record and no more.
            view = view[self.connection.send(view) :]
            sealed.append(self.take_output())
        return sealed[0] if len(sealed) == 1 else b"".join(sealed)

    def take_output(self) -> bytes:
        """Everything that waits to be sent to the peer."""
        taken: list[bytes] = []
        try:
            while True:
                taken.append(self.connection.bio_read(_OUTPUT_BYTES))
                if len(taken[-1]) < _OUTPUT_BYTES:
                    break
        except SSL.WantReadError:
            pass
        return taken[0] if len(taken) == 1 else b"".join(taken)

    def handshake_sent(self) -> None:
        """The handshake is complete and its last flight taken: memory that it needed may be given back."""

    # --- where records begin and end

    def _next(self, ciphertext: bytes | memoryview, start: int, end: int) -> int:
        """Where the record that begins or goes on at ``start`` ends, or ``end``; ``_left`` says what is missing."""
        if not self._left:
            if self._header or end - start < HEADER_BYTES:
                return self._complete_header(ciphertext, start, end)
            length = ciphertext[start + 3] << 8 | ciphertext[start + 4]
            if length > _MAX_BODY_BYTES or ciphertext[start] not in _CONTENT_TYPES or ciphertext[start + 1] != 3:
                self._aligned = False
                return end
            self._left = length + HEADER_BYTES
        stop = start + self._left
        if stop <= end:
            self._left = 0
            return stop
        self._left = stop - end
        return end

    def _complete_header(self, ciphertext: bytes | memoryview, start: int, end: int) -> int:
        """The header comes in pieces."""
        stop = min(end, start + HEADER_BYTES - len(self._header))
        header = self._header + bytes(ciphertext[start:stop])
        if len(header) < HEADER_BYTES:
            self._header = header
            return stop
        self._header = b""
        self._next(header, 0, HEADER_BYTES)  # only to learn its length, all of which is still to come
        return stop

    # --- what OpenSSL is asked

    def _feed(self, ciphertext: bytes | memoryview, start: int, stop: int) -> None:
        self.connection.bio_write(ciphertext[start:stop])

    def _open(self, filled: int) -> int:
        """Append the payload of one record to the shared buffer; how many bytes it has."""
        try:
            return self.connection.recv_into(_PAYLOAD[filled:], RECORD_BYTES)
        except SSL.Error as error:
            self._no_payload(error)
            return 0

    def _no_payload(self, error: SSL.Error) -> None:
        self.control = True
        if isinstance(error, SSL.ZeroReturnError):
            self.ended = True
        elif not isinstance(error, SSL.WantReadError) and self.failure is None:
            # What OpenSSL says after a fatal error says nothing of its cause.
            self.failure = error
