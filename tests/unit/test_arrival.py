"""From accept to TLS on an inbound listener: what is kept of a header, which time counts, and which mesh state."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.codes import CLIENT_HELLO_TIMEOUT, HANDSHAKE_TIMEOUT, PROXY_HEADER_TIMEOUT
from tcpmesh.dataplane.proxy_header import TlvType, encode_v2
from tcpmesh.net.arrival import ArrivingConnection
from tcpmesh.net.legs import Leg
from tcpmesh.net.plane import Gate
from tcpmesh.net.prelude import Prelude
from tcpmesh.observe.records import ConnectionRecord
from tcpmesh.proxy_protocol_settings import ProxyProtocolSettings
from tcpmesh.route_settings import InboundRoute
from tcpmesh.route_table import RouteTable
from tcpmesh.settings import Timeouts
from tcpmesh.values import TCPAddress
from tests.unit.test_client_hello import openssl_hello
from tests.unit.test_prelude import Transport

BALANCER, FRONT = TCPAddress("127.0.0.77", 40000), TCPAddress("127.0.0.1", 4143)
CLIENT = TCPAddress("192.0.2.1", 50000)
HELLO = openssl_hello(b"orders.example.test")


@attrs.define
class State:
    generation: int = 1


@attrs.define
class Cell:
    current: State = attrs.field(factory=State)


class Sink:
    """Keeps the records of what has ended."""

    def __init__(self) -> None:
        self.ends: list[ConnectionRecord] = []

    def accepted(self, record: ConnectionRecord) -> None:
        pass

    def closed(self, record: ConnectionRecord) -> None:
        self.ends.append(record)


@attrs.define(eq=False)
class Plane:
    clock: Clock = attrs.field(factory=Clock)
    state: Cell = attrs.field(factory=Cell)
    sink: Sink = attrs.field(factory=Sink)
    gate: Gate = attrs.field(factory=lambda: Gate(10, 10))
    live: set[object] = attrs.field(factory=set)

    def next_number(self) -> int:
        return 1

    def wall_clock(self) -> float:
        return 0.0

    def forget(self, connection: object) -> None:
        self.live.discard(connection)


@attrs.define
class Settings:
    proxy_protocol: ProxyProtocolSettings = attrs.field(factory=ProxyProtocolSettings)
    routes: tuple[InboundRoute, ...] = (InboundRoute(TCPAddress("127.0.0.1", 5000)),)


class TLS(Leg):
    """Takes what it is given."""

    any_byte = True

    def __init__(self, keeper: Any, owner: Any) -> None:
        super().__init__(keeper, owner)
        self.taken = b""

    def connectionMade(self) -> None:
        self.transport.resumeProducing()

    def dataReceived(self, data: bytes | memoryview) -> None:
        self.taken += bytes(data)


@attrs.define(eq=False)
class Listener:
    plane: Plane = attrs.field(factory=Plane)
    name: str = "in"
    timeouts: Timeouts = attrs.field(factory=lambda: Timeouts(handshake=10.0))  # type: ignore[arg-type]
    limit: None = None
    looks_at_hello: bool = True
    header_sources: tuple[TCPAddress, ...] = (BALANCER,)
    settings: Settings = attrs.field(factory=Settings)
    routes: RouteTable[InboundRoute] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.routes = RouteTable((route.sni, route) for route in self.settings.routes)

    def tls_leg(self, connection: ArrivingConnection, _kind: object) -> TLS:
        return TLS(connection, connection)


class Wire(Transport):
    """A transport with both addresses."""

    def __init__(self, peer: TCPAddress) -> None:
        super().__init__()
        self.peer, self.own = peer, FRONT


class ArrivalTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.listener = Listener()
        self.plane = self.listener.plane

    def arrive(self, peer: TCPAddress = BALANCER) -> ArrivingConnection:
        self.connection = ArrivingConnection(self.listener)  # type: ignore[arg-type]
        self.wire = Wire(peer)
        prelude = Prelude(self.connection, self.connection, self.plane, self.connection.begin_early)  # type: ignore[arg-type]
        self.connection.src = self.wire.protocol = prelude
        prelude.makeConnection(self.wire)
        return self.connection

    def ended(self) -> list[object]:
        return [record.code for record in self.plane.sink.ends]

    def test_nothing_is_kept_of_what_nobody_uses(self) -> None:
        """A thousand TLVs with nothing in them are some 80 KB as Python objects, for the life of the connection."""
        connection = self.arrive()
        self.wire.deliver(encode_v2(CLIENT, FRONT, [(TlvType.NOOP, b"")] * 1000))
        carried = connection.carried
        assert carried is not None
        self.assertEqual((carried.source, carried.destination, carried.tlvs), (CLIENT, FRONT, ()))
        self.assertEqual((connection.record.src_addr, connection.record.src_via), (str(CLIENT), str(BALANCER)))

    def test_the_client_hello_is_a_part_of_the_handshake(self) -> None:
        """Who sends it at the last moment has no more time for the rest than who sends it at once."""
        self.arrive(CLIENT)
        self.plane.clock.advance(9.0)
        self.wire.deliver(HELLO)
        assert isinstance(self.connection.src, TLS)
        self.assertEqual(self.connection.src.taken, HELLO)
        self.plane.clock.advance(0.9)
        self.assertEqual(self.ended(), [])
        self.plane.clock.advance(0.2)
        self.assertEqual(self.ended(), [HANDSHAKE_TIMEOUT])
        self.assertTrue(self.wire.aborted)
        self.assertEqual(self.plane.gate.handshakes, 0)

    def test_each_part_has_its_limit(self) -> None:
        """A header in three seconds, then ten for the handshake, its ClientHello among them."""
        self.arrive()
        self.plane.clock.advance(2.9)
        self.wire.deliver(encode_v2(CLIENT, FRONT))
        self.plane.clock.advance(9.9)
        self.assertEqual(self.ended(), [])
        self.plane.clock.advance(0.2)
        self.assertEqual(self.ended(), [CLIENT_HELLO_TIMEOUT])
        self.arrive()
        self.plane.clock.advance(3.1)
        self.assertEqual(self.ended(), [CLIENT_HELLO_TIMEOUT, PROXY_HEADER_TIMEOUT])
        self.assertEqual(self.plane.gate.handshakes, 0)
        self.assertEqual(self.plane.clock.getDelayedCalls(), [])

    def test_the_state_that_counts_is_that_at_the_end_of_the_prelude(self) -> None:
        """An identity that was withdrawn and is there again meanwhile is not the one that is shown now."""
        self.arrive()
        self.assertEqual(self.connection.record.generation, 1)
        self.plane.state.current = State(7)
        self.wire.deliver(encode_v2(CLIENT, FRONT) + HELLO)
        self.assertEqual(self.connection.record.generation, 7)
