"""
Applications, a real outbound proxy, and endpoints that fail as they are told to, in one simulated network.

Everything between the accepted connection and the wire is the product's: listener, connection, establishment, attempts,
balancer, retry strategy, TLS, relay, and for endpoints of the kind PROXY a whole inbound proxy. One step moves bytes
over one end of one connection or runs a timer that is due; who has the next step is the test's choice.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any

import attrs
from OpenSSL import SSL
from twisted.internet.task import Clock
from zope.interface import alsoProvides, implementer, providedBy

from tcpmesh import config
from tcpmesh.codes import SHUTDOWN, Code
from tcpmesh.composition import compose
from tcpmesh.dataplane.contexts import TLSContexts
from tcpmesh.errors import Refusal
from tcpmesh.interfaces import BALANCE, ILoadBalancer, PluginContext, PluginKind
from tcpmesh.net.liveness import Liveness
from tcpmesh.net.plane import DataPlane, Gate
from tcpmesh.observe.records import ConnectionRecord
from tcpmesh.plugins import PluginRegistry
from tcpmesh.settings import PluginChoice, Settings
from tcpmesh.values import Address, AttemptFailure, Endpoint, TCPAddress
from tcpmesh.wall_clock import wall_clock
from tests.simulated.kernel import OWN, SimulatedDial, SimulatedEnd, SimulatedStream, connected_ends
from tests.simulated.sessions import WORLD, EndpointPlan, Kind, PlainSession, Session, TLSSession, payload
from tests.unit.tls_pairs import foreign_client, take

_TARGET = TCPAddress("127.0.0.1", 5000)
_FIRST_SESSION = 64  # streams below are clients'
_CONTEXTS = TLSContexts()
_ALIVE = bytes(256)  # a struct tcp_info with nothing to complain of

OUTBOUND = """
version: 1
trust_domain: a.test
identity:
  sources: {{local: {{plugin: embedded, state: state}}}}
  workloads: {{web: {{id: "spiffe://a.test/web"}}}}
services:
  orders:
    expect: ["spiffe://a.test/orders"]
    discovery: {{plugin: static, endpoints: ["192.0.2.1:1"]}}
    tls: {{min_version: "1.2"}}
{service}
  standby:
    expect: ["spiffe://a.test/orders"]
    discovery: {{plugin: static, endpoints: ["192.0.2.1:1"]}}
    tls: {{min_version: "1.2"}}
{service}
outbound:
  - {{name: to-orders, listen: "127.0.0.1:15000", {way}, workload: web}}
timeouts: {{connect: 3s, handshake: 10s, preface: 10s, idle: 60s, half_close: 60s, linger: 1s}}
log: {{access: none}}
"""
INBOUND = """
version: 1
trust_domain: a.test
identity:
  sources: {local: {plugin: embedded, state: state}}
  workloads: {orders: {id: "spiffe://a.test/orders"}}
inbound:
  - {name: orders-in, listen: "127.0.0.1:4143", target: "127.0.0.1:5000", workload: orders}
authorization:
  - {plugin: rules, policies: [{name: web-may, action: allow, from: [{ids: ["spiffe://a.test/web"]}]}]}
timeouts: {connect: 2s, idle: 60s, half_close: 60s, linger: 1s}
log: {access: none}
"""


@attrs.frozen
class ClientPlan:
    """
    What an application does.

    :param starts: seconds after which it connects.
    :param sends: ``at once``; ``greeted``, when it has received something; ``late``, seconds after it connected.
    :param ends: ``half-close`` when it has sent everything; ``last``, when it has seen the end; ``close``, without
        looking for answers; ``reset``, when it has sent ``reset_after`` bytes; ``leave``, by a reset after two seconds.
    :param name: the server name in the ClientHello that its payload begins with; None for payload without one.
    """

    size: int = 10
    starts: float = 0.0
    sends: str = "at once"
    ends: str = "half-close"
    reset_after: int = 0
    name: str | None = None


@cache
def client_hello(name: str) -> bytes:
    """What an application with TLS of its own says first; without a server name, if that is empty."""
    client = foreign_client(None)
    if name:
        client.set_tlsext_host_name(name.encode("ascii"))
    with contextlib.suppress(SSL.WantReadError):
        client.do_handshake()
    return take(client)


class Client:
    """One application on one connection."""

    def __init__(self, plan: ClientPlan, number: int, end: SimulatedEnd, clock: Clock) -> None:
        self.plan = plan
        self.number = number
        self.address = TCPAddress("127.0.0.1", 30000 + number)
        self.end = end
        hello = client_hello(plan.name) if plan.name is not None else b""
        self.payload = hello + payload(plan.size, number)
        self.sent = bytearray()
        self.received = bytearray()
        self.ended = False  # said that this was all
        self.left = False  # by a reset, or by a close that nobody could tell from one
        self.saw_end = False
        self.saw_reset = False
        self._ready = plan.sends == "at once"
        if plan.sends == "late":
            clock.callLater(5.0, self._get_ready)
        if plan.ends == "leave":
            clock.callLater(2.0, self._leave)

    def _get_ready(self) -> None:
        self._ready = True

    def _leave(self) -> None:
        if not self.end.closed:
            self.left = True
            self.end.abort()

    def step(self, amount: int) -> bool:
        """Send, receive or end; says whether anything happened."""
        end = self.end
        if end.closed:
            return False
        if end.reset:
            self.saw_reset = end.closed = True
            return True
        return self._send(amount) or self._receive(amount) or self._end()

    def _send(self, amount: int) -> bool:
        plan = self.plan
        if not (self._ready or (plan.sends == "greeted" and self.received)):
            return False
        if plan.ends == "reset" and len(self.sent) >= plan.reset_after:
            self._leave()
            return True
        rest = self.payload[len(self.sent) :][:amount]
        taken = self.end.send(rest) if rest and not self.ended else 0
        self.sent += rest[:taken]
        return bool(taken)

    def _receive(self, amount: int) -> bool:
        if self.plan.ends == "close":
            return False
        if self.end.incoming:
            self.received += self.end.incoming[:amount]
            del self.end.incoming[:amount]
            return True
        if self.end.fin and not self.saw_end:
            self.saw_end = True
            return True
        return False

    def _end(self) -> bool:
        plan = self.plan
        everything = len(self.sent) == len(self.payload)
        if not self.ended and ((everything and plan.ends in ("half-close", "close")) or self.saw_end):
            self.ended = True
            if plan.ends == "close":
                self.left = True
                self.end.close()
            else:
                self.end.shut_down()
            return True
        if self.ended and self.saw_end:
            self.end.close()
            return True
        return False


class RecordingSink:
    """Keeps every record of one proxy."""

    def __init__(self) -> None:
        self.accepted_records: list[ConnectionRecord] = []
        self.open_records: list[ConnectionRecord] = []
        self.close_records: list[ConnectionRecord] = []
        self.failures: list[tuple[ConnectionRecord, Code]] = []

    def accepted(self, record: ConnectionRecord) -> None:
        self.accepted_records.append(record)

    def opened(self, record: ConnectionRecord) -> None:
        self.open_records.append(record)

    def closed(self, record: ConnectionRecord) -> None:
        self.close_records.append(record)

    def attempt_failed(self, record: ConnectionRecord, code: Code, _reason: str) -> None:
        self.failures.append((record, code))


@implementer(ILoadBalancer)
class CountingBalancer:
    """Counts what a balancer is told, endpoint by endpoint, and complains of what cannot be."""

    def __init__(self, balancer: Any) -> None:
        self._balancer = balancer
        self.dialling: Counter[Endpoint] = Counter()
        self.open: Counter[Endpoint] = Counter()
        self.most_connections = self.most_of_one = self.most_pending = 0
        self.complaints: list[str] = []
        alsoProvides(self, *providedBy(balancer))

    def __getattr__(self, name: str) -> Any:
        # What it may be able to do besides: tcpmesh.balance_interfaces.
        return getattr(self._balancer, name)

    def pick(self, endpoints: Sequence[Endpoint], exclude: frozenset[Endpoint]) -> Endpoint | None:
        return self._balancer.pick(endpoints, exclude)  # type: ignore[no-any-return]

    def opened(self, endpoint: Endpoint) -> None:
        self.dialling[endpoint] += 1
        pending = self.dialling.total()
        self.most_pending = max(self.most_pending, pending)
        self.most_connections = max(self.most_connections, pending + self.open.total())
        self.most_of_one = max(self.most_of_one, self.dialling[endpoint] + self.open[endpoint])
        self._balancer.opened(endpoint)

    def established(self, endpoint: Endpoint, duration: float) -> None:
        self._less(self.dialling, endpoint, "established")
        self.open[endpoint] += 1
        self._balancer.established(endpoint, duration)

    def failed(self, endpoint: Endpoint, failure: AttemptFailure) -> None:
        self._less(self.dialling, endpoint, f"failed ({failure.code})")
        self._balancer.failed(endpoint, failure)

    def closed(self, endpoint: Endpoint) -> None:
        self._less(self.open, endpoint, "closed")
        self._balancer.closed(endpoint)

    def _less(self, counter: Counter[Endpoint], endpoint: Endpoint, what: str) -> None:
        counter[endpoint] -= 1
        if counter[endpoint] < 0:
            self.complaints.append(f"{endpoint.address} {what} without having been before")


class CountingRegistry(PluginRegistry):
    """The installed plugins, with every balancer counted, and randomness that can be repeated."""

    def __init__(self) -> None:
        super().__init__()
        self.balancers: list[CountingBalancer] = []
        self.generator = random.Random()

    def find(self, kind: PluginKind, name: str) -> Any:
        """The same, with our randomness where a plugin has any."""
        factory = super().find(kind, name)
        if "generator" in signature(type(factory)).parameters:
            return type(factory)(self.generator)  # type: ignore[call-arg]
        return factory

    def create(self, kind: PluginKind, choice: PluginChoice, context: PluginContext) -> Any:
        """The same, counted."""
        product = super().create(kind, choice, context)
        if kind is not BALANCE:
            return product
        self.balancers.append(CountingBalancer(product))
        return self.balancers[-1]


_REGISTRY = CountingRegistry()


@cache
def settings_of(text: str) -> Settings:
    """Read a configuration, once."""
    return config.loads(text.encode(), Path("/nowhere/tcpmesh.yaml"), _REGISTRY)


@attrs.define(eq=False)
class Dialled:
    """A dial, for whom, and what had moved by then."""

    client: Client | None
    address: Address
    bytes_sent: int
    bytes_recv: int


class Proxy:
    """A real proxy on simulated sockets."""

    def __init__(self, field: SimulatedField, text: str, dial: Callable[..., Any]) -> None:
        settings = settings_of(text)
        _REGISTRY.balancers.clear()
        _REGISTRY.generator.seed(field.seed)
        composition = compose(settings, _REGISTRY, field.clock, wall_clock)
        self.balancers = list(_REGISTRY.balancers)
        self.sink = RecordingSink()
        self.state = composition.state
        self.state.current = _with_identities(self.state.current)
        self.upstreams = composition.upstreams
        self.dials: list[Dialled] = []
        self._dial = dial
        self.plane = DataPlane(
            clock=field.clock,
            wall_clock=wall_clock,
            sockets=self,  # type: ignore[arg-type]
            state=composition.state,
            contexts=_CONTEXTS,
            sink=self.sink,
            gate=Gate(1000, 1000),
            liveness=Liveness(field.clock, lambda _socket: _ALIVE),
            random=random.Random(field.seed),
        )
        self.listeners = {factory.name: factory for _address, factory in composition.listeners(self.plane)}

    def dial(self, address: Address, protocol: Any, timeout: float, on_failed: Callable[[Refusal], None]) -> Any:
        """(tcpmesh.net.sockets.Sockets)."""
        record = protocol.keeper.record
        self.dials.append(Dialled(_client_of(protocol), address, record.bytes_sent, record.bytes_recv))
        return self._dial(address, protocol, timeout, on_failed)


def _client_of(protocol: Any) -> Client:
    """The application that a leg of ours was dialled for."""
    client = protocol.keeper.src.transport.end.client
    assert isinstance(client, Client)
    return client


@cache
def _identities() -> Any:
    return WORLD.state()


def _with_identities(state: Any) -> Any:
    return attrs.evolve(state, generation=1, svids=_identities().svids, bundles=_identities().bundles)


class SimulatedField:
    """
    The whole: clients, an outbound proxy, endpoints.

    :param service: further keys of the service, indented by four.
    :param seed: who has its turn when, and how many bytes it moves.
    :param happenings: what else happens, after so many seconds: ``cut`` (all connections), ``stop`` (take no more),
        ``identities`` (the same again, as a new state), ``bundles`` (none are left), ``fewer``, ``none`` or ``all`` (of
        the endpoints).
    :param resolved_after: seconds until discovery says anything.
    :param way: where the listener leads, in YAML's flow form; there is a service ``standby`` of the last ``standbys``
        endpoints.
    :param excludes: whether every endpoint is dialled before one is dialled again.
    """

    def __init__(
        self,
        endpoints: Sequence[EndpointPlan],
        clients: Sequence[ClientPlan],
        *,
        service: str = "",
        seed: int = 0,
        capacity: int = 4000,
        gentle: bool = True,
        endpoint_fields: Sequence[dict[str, Any]] = (),
        happenings: Sequence[tuple[float, str]] = (),
        resolved_after: float | None = None,
        way: str = "service: orders",
        standbys: int = 0,
        excludes: bool = True,
        most_attempts: int | None = None,
    ) -> None:
        self.clock = Clock()
        self.seed = seed
        self._random = random.Random(seed)
        self._capacity = capacity
        self._gentle = gentle
        self._actors: list[Callable[[int], bool]] = []
        self.sessions: list[Session] = []
        self.clients: list[Client] = []
        self.excludes = excludes
        self.most_attempts = most_attempts
        self.outbound = Proxy(self, OUTBOUND.format(service=service, way=way), self._dial_endpoint)
        fields = endpoint_fields or [{}] * len(endpoints)
        self.standbys = standbys
        self.endpoints = [
            Endpoint(TCPAddress(f"192.0.2.{number}", 4143), **more) for number, more in enumerate(fields, 1)
        ]
        self._plans = dict(zip([each.address for each in self.endpoints], endpoints, strict=True))
        self.inbound = {
            endpoint.address: Proxy(self, INBOUND, self._dialler_of(plan))
            for endpoint, plan in zip(self.endpoints, endpoints, strict=True)
            if plan.kind is Kind.PROXY
        }
        if resolved_after is None:
            self._let_happen("all")
        else:
            self.clock.callLater(resolved_after, self._let_happen, "all")
        self.not_taken = 0
        for after, what in happenings:
            self.clock.callLater(after, self._let_happen, what)
            self.excludes = self.excludes and what not in ("fewer", "none", "all")
        for number, plan in enumerate(clients, 1):
            self.clock.callLater(plan.starts, self._connect, plan, number)

    def _let_happen(self, what: str) -> None:
        state = self.outbound.state
        match what:
            case "stop":
                self.outbound.plane.stopping = True
                for upstream in self.outbound.upstreams.values():
                    upstream.stop()
            case "cut":
                for connection in list(self.outbound.plane.live):
                    connection.cut(SHUTDOWN, "the test cuts it")
            case "identities":
                state.swap(svids=dict(state.current.svids), bundles=dict(state.current.bundles))
            case "bundles":
                state.swap(bundles={})
            case _:
                count = {"fewer": len(self.endpoints) // 2, "none": 0, "all": len(self.endpoints)}[what]
                own = len(self.endpoints) - self.standbys
                listed = {"orders": tuple(self.endpoints[:own][:count])}
                if self.standbys:
                    listed["standby"] = tuple(self.endpoints[own:])
                state.swap(endpoints=listed)

    # --- connecting

    def _connect(self, plan: ClientPlan, number: int) -> None:
        here, there = connected_ends(self._capacity)
        client = Client(plan, number, here, self.clock)
        here.client = there.client = client
        self.clients.append(client)
        self._actors.append(client.step)
        self._accept(self.outbound, "to-orders", there, client.address)

    def _accept(self, proxy: Proxy, listener: str, end: SimulatedEnd, peer: Address) -> None:
        protocol = proxy.listeners[listener].take(peer, OWN)
        if protocol is None:
            self.not_taken += 1
            end.abort()
            return
        stream = SimulatedStream(end, protocol, peer, gentle=self._gentle)
        self._actors.append(stream.step)
        protocol.makeConnection(stream)

    def _dial_endpoint(self, address: Address, protocol: Any, timeout: float, on_failed: Any) -> SimulatedDial:
        plan = self._plans[address]
        if plan.kind is Kind.PROXY:
            # Its own dial is what fails.
            accept = self._accepting(address, protocol, lambda end: self._accept_inbound(address, end))
            return SimulatedDial(
                self.clock, address, protocol, timeout, on_failed, outcome="connected", after=0.0, accept=accept
            )
        session = PlainSession if plan.kind is Kind.RAW else TLSSession
        accept = self._accepting(address, protocol, lambda end: self._serve(session, plan, end))
        return self._dial_plan(plan, address, protocol, timeout, on_failed, accept)

    def _dialler_of(self, plan: EndpointPlan) -> Callable[..., SimulatedDial]:
        def dial(address: Address, protocol: Any, timeout: float, on_failed: Any) -> SimulatedDial:
            accept = self._accepting(address, protocol, lambda end: self._serve(PlainSession, plan, end))
            return self._dial_plan(plan, address, protocol, timeout, on_failed, accept)

        return dial

    def _dial_plan(
        self, plan: EndpointPlan, address: Address, protocol: Any, timeout: float, on_failed: Any, accept: Any
    ) -> SimulatedDial:
        return SimulatedDial(
            self.clock, address, protocol, timeout, on_failed, outcome=plan.dial, after=plan.after, accept=accept
        )

    def _accepting(self, address: Address, protocol: Any, serve: Callable[[SimulatedEnd], None]) -> Any:
        def accept(_protocol: Any) -> SimulatedStream:
            here, there = connected_ends(self._capacity)
            here.client = there.client = _client_of(protocol)
            serve(there)
            stream = SimulatedStream(here, protocol, address, gentle=self._gentle)
            self._actors.append(stream.step)
            return stream

        return accept

    def _accept_inbound(self, address: Address, end: SimulatedEnd) -> None:
        self._accept(self.inbound[address], "orders-in", end, TCPAddress("192.0.2.200", 40000))

    def _serve(self, kind: type[Session], plan: EndpointPlan, end: SimulatedEnd) -> None:
        session = kind(plan, end, _FIRST_SESSION + len(self.sessions))
        self.sessions.append(session)
        self._actors.append(session.step)

    # --- time

    def run(self) -> None:
        """
        Let everything happen, in the order that the seed says, until nothing is left to happen.

        :raises AssertionError: when it does not come to rest.
        """
        choose = self._random
        for _turn in range(200_000):
            self.clock.advance(0)
            actors = list(self._actors)
            choose.shuffle(actors)
            # A few of them at a time, so that one can be far ahead of another.
            moved = False
            for act in actors[: choose.randint(1, len(actors))] if actors else ():
                moved = act(choose.choice((1, 7, 100, 5000, self._capacity))) or moved
            if moved or sum(act(self._capacity) for act in actors):
                continue
            waiting = self.clock.getDelayedCalls()
            if not waiting:
                return
            self.clock.advance(max(0.0, min(call.getTime() for call in waiting) - self.clock.seconds()))
        raise AssertionError("it never comes to rest")
