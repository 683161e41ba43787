"""The prelude of a connection: reading, time, ends, and giving the transport to the real leg."""

from __future__ import annotations

import attrs
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.codes import NO_BYTE, PROXY_HEADER_MALFORMED, PROXY_HEADER_TIMEOUT
from tcpmesh.dataplane.record_layer import READ_BYTES
from tcpmesh.errors import Refusal
from tcpmesh.net.leg_owners import LegOwner, Loss
from tcpmesh.net.legs import Leg, PlainLeg
from tcpmesh.net.prelude import Prelude, ReplayingLeg


class Transport:
    """Keeps what it was asked; ``deliver`` is the peer."""

    def __init__(self) -> None:
        self.protocol: Leg | None = None
        self.read_bytes = READ_BYTES
        self.reading = False
        self.errno_name = ""
        self.aborted = False
        self.unsent = 0

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        self.reading = True

    def abortConnection(self) -> None:
        self.reading = False
        self.aborted = True

    def deliver(self, data: bytes) -> None:
        """One read: the buffer is another's afterwards."""
        assert self.reading
        assert self.protocol is not None
        shared = bytearray(data)
        self.protocol.dataReceived(memoryview(shared))
        shared[:] = b"?" * len(shared)


class UntilSemicolon:
    """Takes bytes up to a semicolon, no digit among them."""

    def __init__(self) -> None:
        self.taken = b""
        self.rest = b""

    def feed(self, data: bytes | memoryview) -> bytes | None:
        self.taken += bytes(data)
        head, found, self.rest = self.taken.partition(b";")
        if any(chr(byte).isdigit() for byte in head):
            raise Refusal(PROXY_HEADER_MALFORMED, "a digit")
        return head if found else None

    def ended(self) -> Refusal:
        return Refusal(PROXY_HEADER_MALFORMED if self.taken else NO_BYTE, "ended")

    def late(self, seconds: float) -> Refusal:
        return Refusal(PROXY_HEADER_TIMEOUT, f"{seconds:g} s")


@attrs.define
class Plane:
    clock: Clock = attrs.field(factory=Clock)


class Connection(LegOwner):
    """Owner and keeper; ``told`` is what it was told."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.src: Leg | None = None

    def leg_replaced(self, old: Leg, new: Leg) -> None:
        assert self.src is old
        self.src = new

    def leg_closed(self, leg: Leg) -> None:
        self.told.append(("closed", leg))

    def leg_lost(self, leg: Leg, loss: Loss) -> None:
        self.told.append(("lost", leg, loss.errno))

    def leg_data(self, leg: Leg, data: bytes | memoryview) -> None:
        self.told.append(bytes(data))

    def leg_ended(self, leg: Leg) -> None:
        self.told.append("ended")


class RecordingLeg(Leg):
    """Reads at once and says what it was given, as a TLS leg would."""

    def connectionMade(self) -> None:
        self.keeper.told.append("connected")  # type: ignore[attr-defined]
        self.transport.resumeProducing()

    def dataReceived(self, data: bytes | memoryview) -> None:
        self.owner.leg_data(self, data)

    def readConnectionLost(self) -> None:
        self.owner.leg_ended(self)


class PreludeCase(SynchronousTestCase):
    """A prelude on a transport; its result goes to ``read``."""

    def setUp(self) -> None:
        self.plane = Plane()
        self.connection = Connection()
        self.transport = Transport()
        self.reader = UntilSemicolon()
        self.prelude = Prelude(self.connection, self.connection, self.plane, self.begin)  # type: ignore[arg-type]
        self.connection.src = self.transport.protocol = self.prelude
        self.leg = RecordingLeg(self.connection, self.connection)

    def begin(self, prelude: Prelude) -> None:
        self.assertIs(prelude.transport, self.transport)
        prelude.read(self.reader, 3.0, self.read, self.refused)

    def read(self, result: bytes) -> None:
        self.connection.told.append(("read", result))
        self.prelude.hand_over(self.leg, self.reader.rest)

    def refused(self, refusal: Refusal) -> None:
        self.connection.told.append(refusal.code)
        self.prelude.reset()

    def connect(self) -> None:
        self.prelude.makeConnection(self.transport)


class PreludeTests(PreludeCase):
    def test_gives_the_result_and_then_the_rest_to_the_leg(self) -> None:
        """Header and the first bytes of what follows come in one read."""
        self.connect()
        self.transport.deliver(b"head;rest")
        self.assertEqual(self.connection.told, [("read", b"head"), "connected", b"rest"])
        self.assertIs(self.connection.src, self.leg)
        self.assertIs(self.transport.protocol, self.leg)
        self.assertEqual(self.plane.clock.getDelayedCalls(), [])

    def test_keeps_no_view_of_the_shared_buffer(self) -> None:
        """What arrives byte by byte is the same as what arrives at once."""
        self.connect()
        for byte in b"head;":
            self.transport.deliver(bytes([byte]))
        self.transport.deliver(b"rest")
        self.assertEqual(self.connection.told, [("read", b"head"), "connected", b"rest"])

    def test_the_leg_hears_what_happens_after_the_hand_over(self) -> None:
        """FIN and the end of the socket are its own; the prelude says nothing more."""
        self.connect()
        self.transport.deliver(b"head;")
        del self.connection.told[:]
        self.transport.protocol.readConnectionLost()  # type: ignore[union-attr]
        self.transport.errno_name = "ECONNRESET"
        self.transport.protocol.connectionLost()  # type: ignore[union-attr]
        self.assertEqual(self.connection.told, ["ended", ("lost", self.leg, "ECONNRESET"), ("closed", self.leg)])

    def test_a_refusal_ends_the_reading(self) -> None:
        """The owner is told once; it resets, and the deadline is gone."""
        self.connect()
        self.transport.deliver(b"he4d")
        self.assertEqual(self.connection.told, [PROXY_HEADER_MALFORMED])
        self.assertTrue(self.transport.aborted)
        self.transport.protocol.connectionLost()  # type: ignore[union-attr]
        self.assertEqual(self.connection.told, [PROXY_HEADER_MALFORMED, ("closed", self.prelude)])
        self.assertEqual(self.plane.clock.getDelayedCalls(), [])

    def test_what_is_withheld_is_waited_for_as_long_as_said(self) -> None:
        """A byte now and then does not prolong it."""
        self.connect()
        self.transport.deliver(b"h")
        self.plane.clock.advance(2.0)
        self.transport.deliver(b"e")
        self.plane.clock.advance(0.9)
        self.assertEqual(self.connection.told, [])
        self.plane.clock.advance(0.2)
        self.assertEqual(self.connection.told, [PROXY_HEADER_TIMEOUT])

    def test_an_end_is_what_the_reader_says_it_is(self) -> None:
        """Before the first byte it is another thing than after it."""
        self.connect()
        self.prelude.readConnectionLost()
        self.assertEqual(self.connection.told, [NO_BYTE])
        self.assertFalse(self.prelude.any_byte)

    def test_half_of_it_and_an_end(self) -> None:
        """That was no header."""
        self.connect()
        self.transport.deliver(b"hea")
        self.prelude.readConnectionLost()
        self.assertEqual(self.connection.told, [PROXY_HEADER_MALFORMED])
        self.assertTrue(self.prelude.any_byte)

    def test_a_reset_is_a_lost_leg(self) -> None:
        """As with every other leg; no deadline stays behind."""
        self.connect()
        self.transport.deliver(b"hea")
        self.transport.errno_name = "ECONNRESET"
        self.prelude.connectionLost(None)
        self.assertEqual(self.connection.told, [("lost", self.prelude, "ECONNRESET"), ("closed", self.prelude)])
        self.plane.clock.advance(4.0)
        self.assertEqual(len(self.connection.told), 2)

    def test_an_exception_of_ours_is_internal(self) -> None:
        """A reader that breaks is what the reactor finds; the connection gets its end."""
        self.connect()
        self.prelude.connectionLost(Failure(ZeroDivisionError()))
        self.assertEqual(self.connection.told, [("lost", self.prelude, ""), ("closed", self.prelude)])

    def test_nothing_is_delivered_to_a_leg_that_was_refused_as_it_was_connected(self) -> None:
        """Its owner has reset it."""

        class Refused(RecordingLeg):
            def connectionMade(self) -> None:
                self.reset()

        self.leg = Refused(self.connection, self.connection)
        self.connect()
        self.transport.deliver(b"head;rest")
        self.assertEqual(self.connection.told, [("read", b"head")])

    def test_reads_less_at_a_time(self) -> None:
        """A stranger gets no large read before anything is known of it; the leg starts with the usual one."""
        self.connect()
        self.assertLess(self.transport.read_bytes, READ_BYTES)
        self.transport.deliver(b"head;")
        self.assertEqual(self.transport.read_bytes, READ_BYTES)


class ChainTests(PreludeCase):
    """A second reader begins with what the first has left."""

    def read(self, result: bytes) -> None:
        if result == b"first":
            rest, self.reader = self.reader.rest, UntilSemicolon()
            self.prelude.read(self.reader, 3.0, self.read, self.refused, first=rest)
        else:
            super().read(result)

    def test_everything_in_one_read(self) -> None:
        """Both results are there at once."""
        self.connect()
        self.transport.deliver(b"first;second;rest")
        self.assertEqual(self.connection.told, [("read", b"second"), "connected", b"rest"])

    def test_split_anywhere(self) -> None:
        """Wherever the bytes are split, the leg gets the rest."""
        whole = b"first;second;rest"
        for cut in range(1, len(whole)):
            self.setUp()
            self.connect()
            self.transport.deliver(whole[:cut])
            self.transport.deliver(whole[cut:])
            told = self.connection.told
            self.assertEqual(told[:2], [("read", b"second"), "connected"], cut)
            self.assertEqual(b"".join(part for part in told[2:] if isinstance(part, bytes)), b"rest", cut)


class ReplayingLegTests(PreludeCase):
    """A plain leg holds what was read before it until payload flows."""

    def read(self, result: bytes) -> None:
        self.plain = ReplayingLeg(self.connection, self.connection, early=result + b";" + self.reader.rest)
        self.prelude.hand_over(self.plain)

    def test_delivers_what_was_read_first(self) -> None:
        """Once, and before what follows."""
        self.connect()
        self.transport.deliver(b"head;rest")
        self.assertFalse(self.transport.reading)
        self.assertEqual(self.connection.told, [])
        self.plain.start_relaying()
        self.transport.deliver(b"more")
        self.plain.start_relaying()
        self.assertEqual(self.connection.told, [b"head;rest", b"more"])

    def test_is_a_plain_leg(self) -> None:
        """The relay does not know."""
        self.assertTrue(issubclass(ReplayingLeg, PlainLeg))
