"""How much of one connection is read in a turn of the reactor: bytes and records are counted, not time."""

from __future__ import annotations

import socket
from typing import Any, cast

from twisted.internet.error import ConnectionDone
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.dataplane.record_layer import READ_BYTES
from tcpmesh.net.leg_owners import TLSLegOwner
from tcpmesh.net.plane import DataPlane
from tcpmesh.net.reset_watch import ResetWatch
from tcpmesh.net.tcp import MeshStream
from tcpmesh.net.tls import CAUTIOUS_BYTES, TLSLeg
from tcpmesh.settings import Timeouts
from tcpmesh.values import UnixAddress
from tests.simulated.world import Plane
from tests.unit.tls_pairs import Pair, World


class Reading:
    """A protocol that counts what it gets."""

    def __init__(self) -> None:
        self.pieces: list[int] = []

    def dataReceived(self, data: memoryview) -> None:
        self.pieces.append(len(data))

    def connectionLost(self, reason: Failure) -> None:
        """At the end of the test."""


class TurnTests(SynchronousTestCase):
    def test_reads_at_most_one_buffer_a_turn(self) -> None:
        """However much waits: two streams that are both full have turns of the same size."""
        reactor = MemoryReactorClock()
        watch = ResetWatch(reactor)
        self.addCleanup(watch.close)
        streams = []
        for _ in range(2):
            ours, theirs = socket.socketpair()
            self.addCleanup(theirs.close)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * READ_BYTES)
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 * READ_BYTES)
            theirs.setblocking(False)
            sent = theirs.send(bytes(3 * READ_BYTES))
            stream = MeshStream(ours, Reading(), UnixAddress(""), watch, reactor)
            self.addCleanup(stream.connectionLost, Failure(ConnectionDone()))
            stream.resumeProducing()
            streams.append((stream, sent))
        for _turn in range(2):
            for stream, _sent in streams:
                self.assertIsNone(stream.doRead())
        for stream, sent in streams:
            self.assertTrue(all(0 < piece <= READ_BYTES for piece in stream.protocol.pieces))
            self.assertEqual(len(stream.protocol.pieces), 2)
            self.assertLessEqual(sum(stream.protocol.pieces), sent)


class Owner(TLSLegOwner):
    """Takes payload and says nothing."""

    def leg_data(self, leg: Any, data: bytes | memoryview) -> None:
        self.got = getattr(self, "got", 0) + len(data)

    def leg_closed(self, leg: Any) -> None:
        """(LegKeeper)."""


class Transport:
    """As far as a leg that receives needs one."""

    read_bytes = READ_BYTES

    def pauseProducing(self) -> None:
        """(IPushProducer)."""

    resumeProducing = pauseProducing


class Wire(Transport):
    """What a handshake needs besides."""

    peer = UnixAddress("")  # a wire without options
    unsent = 0

    def __init__(self) -> None:
        self.sent = b""

    def write(self, data: bytes | memoryview) -> None:
        """(ITransport)."""
        self.sent += bytes(data)


class StrangerTests(SynchronousTestCase):
    def test_a_peer_is_read_in_small_pieces_until_it_is_known(self) -> None:
        """A quarter of a MiB of empty headers would be 15 ms for somebody without a certificate."""
        world = World()
        client, server = world.client(), world.server()
        owner, wire = Owner(), Wire()
        plane = cast(DataPlane, Plane(MemoryReactorClock()))
        leg = TLSLeg(owner, owner, server, Timeouts(), plane, client=False)
        leg.makeConnection(wire)
        self.assertEqual(wire.read_bytes, CAUTIOUS_BYTES)
        client.handshake()
        leg.dataReceived(client.take_output())
        self.assertEqual(wire.read_bytes, CAUTIOUS_BYTES)
        self.assertTrue(client.handshake(wire.sent))
        leg.dataReceived(client.take_output())
        self.assertIsNotNone(server.verification.peer)
        self.assertEqual(wire.read_bytes, READ_BYTES)


class PaceTests(SynchronousTestCase):
    def setUp(self) -> None:
        world = World()
        self.pair = Pair(world.client(), world.server()).handshake()
        clock = MemoryReactorClock()
        self.owner = Owner()
        self.leg = TLSLeg(
            self.owner, self.owner, self.pair.server, Timeouts(), cast(DataPlane, Plane(clock)), client=False
        )
        self.transport = Transport()
        self.leg.transport = self.transport
        self.leg.start_relaying()

    def receive(self, count: int, size: int) -> None:
        """So many records of this size, in one read."""
        self.leg.dataReceived(b"".join(bytes(self.pair.client.encrypt(bytes(size))) for _ in range(count)))

    def test_a_peer_with_tiny_records_is_read_in_small_pieces(self) -> None:
        """A full read of one-byte records would be ten thousand of them in one turn; the next reads are small."""
        self.receive(2000, 1)
        self.assertEqual(self.transport.read_bytes, CAUTIOUS_BYTES)
        self.assertEqual(self.owner.got, 2000)

    def test_it_is_read_as_everybody_else_once_its_records_are_large(self) -> None:
        """The pace follows what comes."""
        self.receive(2000, 1)
        self.receive(1, 16_384)
        self.assertEqual(self.transport.read_bytes, READ_BYTES)

    def test_bulk_and_messages_change_nothing(self) -> None:
        """Full records in full reads, and single small messages."""
        for count, size in ((15, 16_384), (1, 64), (40, 1000)):
            self.receive(count, size)
            self.assertEqual(self.transport.read_bytes, READ_BYTES)
