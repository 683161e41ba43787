"""The relay: payload, producers, time and the record's verdict, with legs that only write down what they are told."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.codes import (
    CLEAN,
    HALF_CLOSE_TIMEOUT,
    IDLE_TIMEOUT,
    LIFETIME,
    RESET,
    SHUTDOWN,
    TRUNCATED,
    TRUNCATED_AS_EOF,
)
from tcpmesh.net.leg_owners import Loss
from tcpmesh.net.legs import Leg
from tcpmesh.net.relay import Relay
from tcpmesh.observe.records import ConnectionRecord
from tcpmesh.settings import Timeouts
from tcpmesh.values import Duration


class RecordingTransport:
    """The consumer side of a transport."""

    def __init__(self) -> None:
        self.producer: Any = None
        self.unsent = 0
        self.reading = False

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert self.producer is None
        assert streaming
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        self.reading = True

    def abortConnection(self) -> None:
        self.reading = False


class RecordingLeg(Leg):
    """A leg whose transport takes everything at once; ``told`` is what the relay asked of it."""

    def __init__(self) -> None:
        super().__init__(self, None)  # type: ignore[arg-type]
        self.transport = RecordingTransport()
        self.told: list[Any] = []

    def send(self, data: bytes | memoryview) -> None:
        self.told.append(bytes(data))

    def end(self) -> None:
        self.transport.unregisterProducer()
        self.told.append("end")

    def finish(self) -> None:
        self.finishing = True
        self.told.append("finish")

    def reset(self) -> None:
        self.told.append("reset")
        super().reset()

    def deliver(self, data: bytes) -> None:
        """The peer sent payload."""
        self.owner.leg_data(self, data)

    def peer_ends(self) -> None:
        """The peer sent its last byte."""
        self.ended = True
        self.owner.leg_ended(self)


IDLE = Timeouts(idle=Duration(8), half_close=Duration(4))


class RelayTests(SynchronousTestCase):
    """One connection at a time."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.src, self.dst = RecordingLeg(), RecordingLeg()
        self.closed = 0
        self.record = ConnectionRecord(1, "inbound", "in", "127.0.0.1:1", 0.0)

    def relay(self, timeouts: Timeouts = IDLE, lifetime: float | None = None, early: Any = None) -> Relay:
        """A started relay between the two legs."""
        relay = Relay(self.record, self.src, self.dst, timeouts, self.clock, self.count_close, early)
        relay.start(lifetime)
        return relay

    def count_close(self) -> None:
        self.closed += 1

    def assert_closed(self, code: Any, closed_by: str) -> None:
        """It is over, once, for this reason, and no timer is left."""
        self.assertEqual((self.closed, self.record.code, self.record.closed_by), (1, code, closed_by))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_each_leg_is_the_producer_of_the_other(self) -> None:
        """So that a full kernel buffer on one side stops the sender on the other."""
        self.relay()
        self.assertIs(self.src.transport.producer, self.dst)
        self.assertIs(self.dst.transport.producer, self.src)
        self.assertTrue(self.src.transport.reading and self.dst.transport.reading)

    def test_carries_payload_both_ways_and_counts_it(self) -> None:
        """bytes_sent is towards dst, bytes_recv towards src."""
        self.relay()
        self.src.deliver(b"question")
        self.dst.deliver(b"answer!")
        self.assertEqual((self.dst.told, self.src.told), ([b"question"], [b"answer!"]))
        self.assertEqual((self.record.bytes_sent, self.record.bytes_recv), (8, 7))

    def test_ends_cleanly_when_both_sides_ended_and_both_legs_are_gone(self) -> None:
        """Not before: what is queued must be with the kernel first."""
        self.relay()
        self.src.peer_ends()
        self.assertEqual(self.dst.told, ["end"])
        self.dst.deliver(b"late answer")
        self.dst.peer_ends()
        self.assertEqual(self.src.told, [b"late answer", "end", "finish"])
        self.assertEqual(self.dst.told, ["end", "finish"])
        self.src.gone()
        self.assertEqual(self.closed, 0)
        self.dst.gone()
        self.assert_closed(CLEAN, "src")

    def test_a_loss_resets_the_other_side_at_once(self) -> None:
        """And the record carries the cause and the system's error."""
        self.relay()
        self.src.lost(Loss(RESET, "reset by the peer", "ECONNRESET"))
        self.assertEqual(self.dst.told, ["reset"])
        self.assert_closed(RESET, "src")
        self.assertEqual((self.record.errno, self.record.reason), ("ECONNRESET", "reset by the peer"))

    def test_what_a_reset_dropped_is_not_counted_as_sent(self) -> None:
        """The record says what the kernel got."""
        self.relay()
        self.src.deliver(b"x" * 1000)
        self.dst.transport.unsent = 300
        self.dst.lost(Loss(TRUNCATED, "cut"))
        self.assertEqual(self.record.bytes_sent, 700)

    def test_a_loss_while_finishing_lets_the_other_side_finish(self) -> None:
        """Both streams were complete."""
        self.relay()
        self.src.peer_ends()
        self.dst.peer_ends()
        self.src.lost(Loss(RESET, "reset by the peer", "ECONNRESET"))
        self.assertNotIn("reset", self.dst.told)
        self.assertEqual(self.closed, 0)
        self.dst.gone()
        self.assert_closed(CLEAN, "src")

    def test_a_loss_while_finishing_with_data_queued_is_no_clean_end(self) -> None:
        """That side did not get everything, and the record must not say that it did."""
        self.relay()
        self.src.peer_ends()
        self.dst.peer_ends()
        self.dst.transport.unsent = 10
        self.dst.lost(Loss(RESET, "reset by the peer", "ECONNRESET"))
        self.src.gone()
        self.assert_closed(RESET, "dst")

    def test_a_truncated_stream_taken_for_an_end_is_recorded_as_such(self) -> None:
        """With truncation: eof the connection is fine, and yet not CLEAN."""
        self.relay()
        self.dst.truncated = True
        self.dst.peer_ends()
        self.src.peer_ends()
        self.src.gone()
        self.dst.gone()
        self.assert_closed(TRUNCATED_AS_EOF, "dst")

    # --- time

    def pass_time(self, seconds: float) -> None:
        """In steps smaller than any look."""
        for _step in range(int(seconds * 4)):
            self.clock.advance(0.25)

    def test_without_idle_there_is_no_timer(self) -> None:
        """Idle is off by default, and a connection at rest costs nothing."""
        self.relay(Timeouts())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_ends_after_the_idle_time_without_a_byte(self) -> None:
        """Both sides see a reset."""
        self.relay()
        self.pass_time(7.75)
        self.assertEqual(self.closed, 0)
        self.pass_time(2.25)
        self.assert_closed(IDLE_TIMEOUT, "proxy")
        self.assertEqual((self.src.told, self.dst.told), (["reset"], ["reset"]))
        self.assertEqual(self.record.reason, "no byte for 8s")

    def test_a_byte_in_either_direction_starts_the_idle_time_anew(self) -> None:
        """One side may be silent for as long as it likes while the other talks."""
        self.relay()
        for _round in range(5):
            self.pass_time(6)
            self.dst.deliver(b".")
        self.assertEqual(self.closed, 0)
        self.pass_time(10)
        self.assert_closed(IDLE_TIMEOUT, "proxy")

    def test_half_close_counts_silence_not_time(self) -> None:
        """A long answer that keeps coming is never cut; a silent half-closed connection is."""
        self.relay(Timeouts(half_close=Duration(4)))
        self.src.peer_ends()
        for _round in range(10):
            self.pass_time(3)
            self.dst.deliver(b"row")
        self.assertEqual(self.closed, 0)
        self.pass_time(5)
        self.assert_closed(HALF_CLOSE_TIMEOUT, "proxy")

    def test_a_slow_reader_of_the_last_bytes_is_not_silent(self) -> None:
        """While finishing, progress of the queue counts; standstill ends it, and not as a clean end."""
        self.relay(Timeouts(half_close=Duration(4)))
        self.src.peer_ends()
        self.dst.peer_ends()
        self.dst.gone()
        for left in range(20, 0, -1):
            self.src.transport.unsent = left
            self.pass_time(3)
        self.assertEqual(self.closed, 0)
        self.pass_time(5)
        self.assert_closed(HALF_CLOSE_TIMEOUT, "proxy")
        self.assertEqual(self.src.told[-1], "reset")

    def test_ends_at_its_lifetime(self) -> None:
        """Whatever is going on."""
        self.relay(lifetime=30)
        for _second in range(29):
            self.pass_time(1)
            self.src.deliver(b".")
        self.assertEqual(self.closed, 0)
        self.pass_time(1)
        self.assert_closed(LIFETIME, "proxy")

    def test_can_be_ended_from_outside(self) -> None:
        """As a stop does; a second time changes nothing."""
        relay = self.relay()
        relay.expire(SHUTDOWN, "stopped")
        relay.expire(LIFETIME, "late")
        self.assert_closed(SHUTDOWN, "proxy")
        self.assertEqual(self.record.reason, "stopped")

    # --- letting go

    def test_asks_before_it_passes_on_a_loss_that_no_byte_preceded(self) -> None:
        """Whoever takes care of it gets the source leg back, paused and without a consumer."""
        asked: list[Loss] = []
        self.relay(early=lambda loss: asked.append(loss) or True)
        loss = Loss(RESET, "reset by the peer", "ECONNRESET")
        self.dst.lost(loss)
        self.assertEqual(asked, [loss])
        self.assertEqual((self.src.told, self.closed), ([], 0))
        self.assertFalse(self.src.transport.reading)
        self.assertIsNone(self.src.transport.producer)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_never_asks_once_a_byte_has_moved(self) -> None:
        """In whichever direction: it might have had an effect."""
        for leg in ("src", "dst"):
            self.setUp()
            asked: list[Loss] = []
            self.relay(early=asked.append)
            getattr(self, leg).deliver(b"x")
            self.dst.lost(Loss(RESET, "reset by the peer"))
            self.assertEqual(asked, [])
            self.assert_closed(RESET, "dst")

    def test_never_asks_when_the_source_is_lost(self) -> None:
        """There is nobody left to serve."""
        asked: list[Loss] = []
        self.relay(early=asked.append)
        self.src.lost(Loss(RESET, "reset by the peer"))
        self.assertEqual(asked, [])
        self.assert_closed(RESET, "src")
