"""
Two proxies between two applications, without a network: pipes with bounded buffers, moved step by step by the test.

Everything from the TLS cores to the relays is the product's own; only the sockets are simulated. A step moves bytes
over one pipe, so that a test can choose any interleaving, and find the order in which something is lost.
"""

from __future__ import annotations

from typing import Any, cast

from twisted.internet import error
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from tcpmesh.net.handshake_turns import HandshakeTurns
from tcpmesh.net.leg_owners import Loss
from tcpmesh.net.legs import Leg, PlainLeg
from tcpmesh.net.liveness import Liveness
from tcpmesh.net.plane import DataPlane
from tcpmesh.net.relay import Relay
from tcpmesh.net.tls import TLSLeg
from tcpmesh.observe.records import ConnectionRecord
from tcpmesh.settings import Timeouts
from tcpmesh.values import UnixAddress
from tests.unit.tls_pairs import World

CAPACITY = 1000  # bytes that one direction of a simulated connection holds


class SimulatedSocket:
    """The kernel's side of one end: what its peer has sent and it has not read, and how that ended."""

    def __init__(self) -> None:
        self.peer: SimulatedSocket
        self.incoming = bytearray()
        self.fin = False
        self.reset = False

    def send(self, data: bytes) -> int:
        """Take what fits."""
        taken = data[: CAPACITY - len(self.peer.incoming)]
        self.peer.incoming += taken
        return len(taken)

    def shut_down(self) -> None:
        self.peer.fin = True

    def abort(self) -> None:
        self.peer.reset = True


def connected_pair() -> tuple[SimulatedSocket, SimulatedSocket]:
    """Both ends of one connection."""
    one, other = SimulatedSocket(), SimulatedSocket()
    one.peer, other.peer = other, one
    return one, other


class SimulatedTransport:
    """Behaves as MeshStream does, on a simulated socket; :meth:`step` is one event of the reactor."""

    def __init__(self, socket: SimulatedSocket, protocol: Any) -> None:
        self.socket_end = socket
        self.protocol = protocol
        self.producer: Any = None
        self.producer_paused = False
        self.queue = bytearray()
        self.paused = False
        self.read_ended = False
        self.ending = False
        self.fin_sent = False
        self.closing = False
        self.aborted = False
        self.connected = True
        self.errno_name = ""

    @property
    def unsent(self) -> int:
        return len(self.queue)

    peer = UnixAddress("")  # a wire without options
    read_bytes = CAPACITY

    def write(self, data: bytes | memoryview) -> None:
        if not self.connected or self.fin_sent:
            return
        rest = bytes(data)
        if not self.queue:
            rest = rest[self.socket_end.send(rest) :]
        if rest:
            self.queue += rest
            if self.producer is not None:
                self.producer_paused = True
                self.producer.pauseProducing()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert self.producer is None
        assert streaming
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        if not self.read_ended:
            self.paused = False

    def loseWriteConnection(self) -> None:
        self.ending = True

    def loseConnection(self) -> None:
        self.closing = True

    def abortConnection(self) -> None:
        if self.connected:
            self.aborted = True

    # --- the reactor's part

    def step(self, amount: int) -> bool:
        """Let one thing happen; says whether anything did."""
        if not self.connected:
            return False
        if self.aborted:
            self.socket_end.abort()
            return self._lose(error.ConnectionAborted())
        if self.socket_end.reset:
            self.errno_name = "ECONNRESET"
            return self._lose(error.ConnectionLost())
        return self._write_some() or self._read_some(amount)

    def _write_some(self) -> bool:
        if self.queue:
            sent = self.socket_end.send(bytes(self.queue))
            del self.queue[:sent]
            if sent and not self.queue and self.producer is not None and self.producer_paused:
                self.producer_paused = False
                self.producer.resumeProducing()
            return bool(sent)
        if self.ending and not self.fin_sent:
            self.fin_sent = True
            self.socket_end.shut_down()
            self.protocol.writeConnectionLost()
            return True
        if self.closing:
            return self._lose(error.ConnectionDone())
        return False

    def _read_some(self, amount: int) -> bool:
        if self.paused or self.read_ended:
            return False
        if self.socket_end.incoming:
            data = bytes(self.socket_end.incoming[:amount])
            del self.socket_end.incoming[:amount]
            self.protocol.dataReceived(memoryview(data))
            return True
        if self.socket_end.fin:
            self.read_ended = True
            self.protocol.readConnectionLost()
            return True
        return False

    def _lose(self, why: Exception) -> bool:
        self.connected = False
        if not self.fin_sent:
            self.socket_end.shut_down()
        self.protocol.connectionLost(Failure(why))
        return True


class Application:
    """What a program sees of its plain connection."""

    def __init__(self, socket: SimulatedSocket) -> None:
        self.socket = socket
        self.sent = bytearray()
        self.received = bytearray()
        self.to_send = bytearray()
        self.will_end = False
        self.has_ended = False
        self.saw_end = False
        self.saw_reset = False

    def step(self, amount: int) -> bool:
        """Send or receive a little."""
        if self.socket.reset:
            news, self.saw_reset = not self.saw_reset, True
            return news
        if self.to_send and not self.has_ended:
            taken = self.socket.send(bytes(self.to_send[:amount]))
            self.sent += self.to_send[:taken]
            del self.to_send[:taken]
            if taken:
                return True
        elif self.will_end and not self.has_ended:
            self.has_ended = True
            self.socket.shut_down()
            return True
        return False

    def read(self, amount: int) -> bool:
        """Receive a little."""
        if self.socket.reset:
            return False
        if self.socket.incoming:
            self.received += self.socket.incoming[:amount]
            del self.socket.incoming[:amount]
            return True
        if self.socket.fin and not self.saw_end:
            self.saw_end = True
            return True
        return False


class Keeper:
    """Owner and keeper of the legs while the handshake is under way."""

    def __init__(self) -> None:
        self.secured: set[TLSLeg] = set()
        self.closed: list[Leg] = []

    def leg_secured(self, leg: TLSLeg) -> None:
        self.secured.add(leg)

    def leg_closed(self, leg: Leg) -> None:
        self.closed.append(leg)

    def leg_lost(self, leg: Leg, loss: Loss) -> None:
        raise AssertionError(f"{leg} lost in the handshake: {loss}")

    def leg_refused(self, leg: Leg, refusal: Exception) -> None:
        raise AssertionError(f"{leg} refused: {refusal}")


class Plane:
    """The little of a DataPlane that legs use."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.liveness = Liveness(clock)
        self.handshake_turns = HandshakeTurns(clock)


class SimulatedMesh:
    """client application - outbound relay - TLS - inbound relay - server application, handshake done."""

    def __init__(self, world: World) -> None:
        self.clock = Clock()
        plane = cast(DataPlane, Plane(self.clock))
        times = Timeouts()
        keeper = Keeper()
        client_end, source_end = connected_pair()
        dialled_end, accepted_end = connected_pair()
        target_end, server_end = connected_pair()
        self.client, self.server = Application(client_end), Application(server_end)
        source = PlainLeg(keeper, keeper)  # type: ignore[arg-type]
        dialled = TLSLeg(keeper, keeper, world.client(), times, plane, client=True)
        accepted = TLSLeg(keeper, keeper, world.server(), times, plane, client=False)
        target = PlainLeg(keeper, keeper)  # type: ignore[arg-type]
        self.keeper = keeper
        self.legs: list[Leg] = [source, dialled, accepted, target]
        ends = (source_end, dialled_end, accepted_end, target_end)
        self.transports = [SimulatedTransport(end, leg) for end, leg in zip(ends, self.legs, strict=True)]
        for leg, transport in zip(self.legs, self.transports, strict=True):
            leg.makeConnection(transport)
        while len(keeper.secured) < 2:
            assert any(transport.step(CAPACITY) for transport in self.transports)
            self.clock.advance(0)
        self.closed: list[str] = []
        self.records = []
        relays = []
        for name, src, dst in (("outbound", source, dialled), ("inbound", accepted, target)):
            record = ConnectionRecord(len(relays), name, name, "", 0.0)  # type: ignore[arg-type]
            self.records.append(record)
            relays.append(Relay(record, src, dst, times, self.clock, lambda name=name: self.closed.append(name)))
        self.relays = relays
        for relay in relays:
            relay.start(None)

    def step(self, choice: int, amount: int) -> bool:
        """One thing of the ten that can happen: an application writes or reads, or a transport has an event."""
        actors = [
            self.client.step,
            self.client.read,
            self.server.step,
            self.server.read,
            *(transport.step for transport in self.transports),
        ]
        return actors[choice % len(actors)](amount)

    def run_to_rest(self) -> None:
        """Let everything happen that still can, and the time for lingering pass."""
        for _round in range(100_000):
            moved = [self.step(choice, CAPACITY) for choice in range(8)]
            if not any(moved):
                if not self.clock.getDelayedCalls():
                    return
                self.clock.advance(120)
        raise AssertionError("it never comes to rest")
