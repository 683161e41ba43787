"""Both record layers, which count on headers, against a reader that asks OpenSSL until it has no more."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from itertools import accumulate, cycle
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.dataplane.openssl_private import record_layer
from tcpmesh.dataplane.record_layer import READ_BYTES, RECORD_BYTES, RecordLayer
from tests.unit.record_keys import (
    ALERT,
    ANSWER,
    APPLICATION_DATA,
    CLIENT,
    CLOSE_NOTIFY,
    DEMAND,
    HANDSHAKE,
    SERVER,
    RecordKeys,
    keep_secrets,
)
from tests.unit.tls_pairs import World, foreign_client, foreign_context, take

PADDED = 0
# A NewSessionTicket (RFC 8446 section 4.6.1): life time, age_add, nonce, ticket, no extensions.
_TICKET = bytes(8) + b"\x01\x00" + b"\x00\x40" + bytes(64) + b"\x00\x00"
TICKET = b"\x04" + len(_TICKET).to_bytes(3, "big") + _TICKET

SIZES = st.sampled_from((0, 1, 40, 1000, 4069, 4070, 4079, 4080, RECORD_BYTES)) | st.integers(0, 300)
DATA = st.tuples(st.just("data"), SIZES)
OF_TLS = st.tuples(st.sampled_from(("demand", "answer", "ticket", "padded", "in two")), st.integers(1, 3))
LAST = st.sampled_from(
    ("close_notify", "fatal", "damaged", "huge", "lie", "empty", "unknown", "old", "plain alert", "text")
)
# Mostly payload, and where the stream ends there may be more behind it.
PLANS = st.lists(DATA | DATA | OF_TLS, max_size=30).flatmap(
    lambda plan: (
        st.just(plan) | st.builds(lambda last, more: [*plan, (last, 0), *more], LAST, st.lists(DATA, max_size=3))
    )
)
# How much comes with the handshake, and in what pieces the rest.
CUTS = st.tuples(
    st.sampled_from((0, 1, 4, 5, 100, 20_000)),
    st.lists(
        st.sampled_from((1, 2, 4, 5, 6, 4095, 4096, 4097, 16_406, 40_000, READ_BYTES)) | st.integers(1, 1500),
        min_size=1,
        max_size=10,
    ),
)
FUZZ = settings(max_examples=100, deadline=None)
Plan = list[tuple[str, int]]
Cuts = tuple[int, list[int]]


class Step(NamedTuple):
    """What one piece brought."""

    payload: bytes
    ended: bool
    failed: bool
    inside: bool
    between: bool  # where it really ended
    output: int  # bytes: the peer's keys differ from reader to reader, the lengths do not


class Naive:
    """Asks OpenSSL, through pyOpenSSL's public API, after every piece until there is no more."""

    def __init__(self, connection: SSL.Connection) -> None:
        self._connection = connection
        self.ended = self.failed = self.inside = False

    def handshake(self, ciphertext: bytes) -> None:
        self._connection.bio_write(ciphertext)

    def handshake_sent(self) -> None:
        """Nothing is given back."""

    def decrypt(self, ciphertext: bytes) -> bytes:
        if ciphertext:
            self._connection.bio_write(ciphertext)
        got = b""
        while not self.failed:
            try:
                got += self._connection.recv(65536)
            except SSL.ZeroReturnError:
                self.ended = True
                break
            except SSL.WantReadError:
                break
            except SSL.Error:
                self.failed = True
        return got

    def output(self) -> bytes:
        return take(self._connection)


class Asked:
    """A layer as the product uses it: asked for output only when it says that there is more than payload."""

    def __init__(self, layer: RecordLayer) -> None:
        self._layer = layer
        self.handshake = layer.handshake
        self.handshake_sent = layer.handshake_sent
        self.decrypt = layer.decrypt

    ended = property(lambda self: self._layer.ended)
    failed = property(lambda self: self._layer.failure is not None)
    inside = property(lambda self: self._layer.inside)

    def output(self) -> bytes:
        return self._layer.take_output() if self._layer.control else b""


Reader = Naive | Asked


def step(reader: Reader, piece: bytes, *, between: bool) -> Step:
    payload = bytes(reader.decrypt(piece))
    return Step(payload, reader.ended, reader.failed, reader.inside, between, len(reader.output()))


def records(plan: Plan, keys: RecordKeys) -> Iterator[bytes]:
    """The sender's stream, record by record."""
    for number, (what, size) in enumerate(plan):
        match what:
            case "data":
                yield keys.seal(APPLICATION_DATA, bytes([number % 251]) * size)
            case "padded":
                yield keys.seal(PADDED, b"padded" + bytes([APPLICATION_DATA]) + bytes(size * 1000))
            case "demand" | "answer":
                yield keys.key_update(DEMAND if what == "demand" else ANSWER)
            case "ticket":
                yield keys.seal(HANDSHAKE, TICKET * size)
            case "in two":
                yield keys.seal(HANDSHAKE, DEMAND[: size + 1])
                yield keys.key_update(DEMAND[size + 1 :])
            case "close_notify":
                yield keys.seal(ALERT, CLOSE_NOTIFY)
            case "fatal":
                yield keys.seal(ALERT, b"\x02\x28")
            case "damaged":
                *good, last = keys.seal(APPLICATION_DATA, b"damaged")
                yield bytes([*good, last ^ 1])
            case "huge":
                yield b"\x17\x03\x03\xff\xff"
            case "lie":  # more than TLS 1.3 allows
                yield b"\x17\x03\x03\x48\x00"
            case "empty":
                yield b"\x17\x03\x03\x00\x00"
            case "unknown":
                yield b"\x18\x03\x03\x00\x03abc"
            case "old":
                yield b"\x17\x02\x00\x00\x20" + bytes(32)
            case "plain alert":
                yield b"\x15\x03\x03\x00\x02" + CLOSE_NOTIFY
            case "text":
                yield b"GET / HTTP/1.1\r\n\r\n"


def records_of_tls12(plan: Plan, sender: SSL.Connection) -> Iterator[bytes]:
    """The same as far as OpenSSL can be made to send it."""
    for number, (what, size) in enumerate(plan):
        match what:
            case "data" if size and not sender.get_shutdown():
                sender.send(bytes([number % 251]) * size)
                yield take(sender)
            case "damaged" if not sender.get_shutdown():
                sender.send(b"damaged")
                *good, last = take(sender)
                yield bytes([*good, last ^ 1])
            case "close_notify":
                sender.shutdown()
                yield take(sender)
            case "huge":
                yield b"\x17\x03\x03\xff\xff"
            case "text":
                yield b"GET / HTTP/1.1\r\n\r\n"


def run(connection: SSL.Connection) -> None:
    """A step of a handshake, which may want more."""
    with contextlib.suppress(SSL.WantReadError):
        connection.do_handshake()


class AgreementCase(SynchronousTestCase):
    """What each reader makes of each piece of the same stream, on connections of the same history."""

    tls12 = False

    def setUp(self) -> None:
        self.server_context = foreign_context(World().orders)
        self.server_secrets = keep_secrets(self.server_context)
        self.client_context = foreign_context()
        self.client_secrets = keep_secrets(self.client_context)
        for context in (self.server_context, self.client_context):
            context.set_mode(SSL.MODE_RELEASE_BUFFERS)
            context.set_max_proto_version(SSL.TLS1_2_VERSION if self.tls12 else SSL.TLS1_3_VERSION)

    def begin(self) -> tuple[SSL.Connection, bytes, SSL.Connection]:
        """A client, the first flight of the server, and the server."""
        client = foreign_client(self.client_context)
        server = SSL.Connection(self.server_context, None)
        server.set_accept_state()
        run(client)
        server.bio_write(take(client))
        run(server)
        return client, take(server), server

    def before_the_end(self, *, client: bool) -> tuple[SSL.Connection, bytes, RecordKeys]:
        """A reader that needs one more flight, that flight, and the keys for what follows it."""
        ours, flight, theirs = self.begin()
        if client:
            return ours, flight, RecordKeys(self.server_secrets[SERVER])
        ours.bio_write(flight)
        run(ours)
        return theirs, take(ours), RecordKeys(self.client_secrets[CLIENT])

    def before_the_end_of_tls12(self) -> tuple[SSL.Connection, bytes, SSL.Connection]:
        """A client that needs one more flight, that flight, and the server that has sent it."""
        client, flight, server = self.begin()
        for reader in (client, server):
            reader.bio_write(flight)
            run(reader)
            flight = take(reader)
        return client, flight, server

    def read(self, kind: Callable[[SSL.Connection], Reader], plan: Plan, cuts: Cuts, *, client: bool) -> list[Step]:
        """Let a reader read the stream of the plan, whose first bytes come together with the end of the handshake."""
        if self.tls12:
            connection, flight, sender = self.before_the_end_of_tls12()
            made = list(records_of_tls12(plan, sender))
        else:
            connection, flight, keys = self.before_the_end(client=client)
            made = list(records(plan, keys))
        stream = b"".join(made)
        ends = {0, *accumulate(map(len, made))}
        reader = kind(connection)
        early, sizes = min(cuts[0], len(stream)), cuts[1]
        reader.handshake(flight + stream[:early])
        connection.do_handshake()
        take(connection)
        reader.handshake_sent()
        steps = [step(reader, b"", between=early in ends)]
        for size in cycle(sizes):
            if early >= len(stream):
                return steps
            start, early = early, min(early + size, len(stream))
            steps.append(step(reader, stream[start:early], between=early in ends))
        raise AssertionError("no sizes")

    def compare(self, plan: Plan, cuts: Cuts, *, client: bool) -> None:
        """The layers give the same payload with the same piece; what they find out later is only how it broke."""
        wanted = self.read(Naive, plan, cuts, client=client)
        for layer in (RecordLayer, record_layer):
            found = self.read(lambda connection, layer=layer: Asked(layer(connection)), plan, cuts, client=client)
            self.assertEqual([each.payload for each in found], [each.payload for each in wanted])
            self.assertEqual([each.ended for each in found], [each.ended for each in wanted])
            for ours, theirs in zip(found, wanted, strict=True):
                self.assertTrue(theirs.failed or not ours.failed, plan)
                if not (theirs.failed or theirs.ended):
                    self.assertIsNot(ours.inside, ours.between, plan)
            self.assertTrue(found[-1].failed or found[-1].inside or not wanted[-1].failed, plan)
            if not wanted[-1].failed:
                self.assertEqual([each.output for each in found], [each.output for each in wanted])


class TLS13Tests(AgreementCase):
    @FUZZ
    @given(PLANS, CUTS, st.booleans())
    def test_agree(self, plan: Plan, cuts: Cuts, client: bool) -> None:
        """Payload of any size, messages of TLS's own, ends and damage, cut into pieces anywhere."""
        self.compare(plan, cuts, client=client)


class TLS12Tests(AgreementCase):
    tls12 = True

    @FUZZ
    @given(PLANS, CUTS)
    def test_agree(self, plan: Plan, cuts: Cuts) -> None:
        """The same for what a foreign peer sends there."""
        self.compare(plan, cuts, client=True)


class LikenessTests(AgreementCase):
    def test_the_inside_of_a_record_can_look_like_a_record(self) -> None:
        """A read that begins in the middle of one, at what might be the header of a record of just that length."""
        cut, size = 100, 1000
        for layer in (RecordLayer, record_layer):
            connection, flight, keys = self.before_the_end(client=False)
            reader = layer(connection)
            reader.handshake(flight)
            connection.do_handshake()
            self.assertEqual(reader.decrypt(b""), b"")
            # The cipher is a stream: what it makes of zeros tells what to send.
            blank = RecordKeys(self.client_secrets[CLIENT]).seal(APPLICATION_DATA, bytes(size))
            header = b"\x17\x03\x03" + (len(blank) - cut - 5).to_bytes(2, "big")
            content = bytearray(size)
            content[cut - 5 : cut] = (here ^ there for here, there in zip(header, blank[cut:], strict=False))
            record = keys.seal(APPLICATION_DATA, bytes(content))
            self.assertEqual(record[cut : cut + 5], header)
            self.assertEqual(reader.decrypt(record[:cut]), b"")
            self.assertEqual(reader.decrypt(record[cut:]), bytes(content))
            self.assertEqual(reader.decrypt(keys.seal(APPLICATION_DATA, b"behind it")), b"behind it")
            self.assertEqual((reader.inside, reader.failure), (False, None))
