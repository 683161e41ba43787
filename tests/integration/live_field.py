"""
The field of the simulated network on real sockets: one outbound proxy, endpoints that fail as told, case by case.

The judge of ``tests.simulated.oracle`` reads it as it reads the other one.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any

from OpenSSL import SSL

from tcpmesh.errors import Refusal
from tcpmesh.values import Address, Endpoint, TCPAddress
from tests.integration.live_ends import LiveEnd, LiveListener
from tests.simulated.field import Client, ClientPlan, CountingBalancer, Dialled, RecordingSink
from tests.simulated.sessions import EndpointPlan, PlainSession, Session, TLSSession, Who

_FIRST_SESSION = 64  # streams below are clients'


class LiveProxy:
    """
    A started service, with its records kept and its dials noted.

    :param field: knows whose connections these are.
    """

    def __init__(self, service: Any, balancers: list[CountingBalancer], field: LiveField) -> None:
        self.plane = service.plane
        self.sink = RecordingSink()
        self.plane.sink = self.sink
        self.balancers = balancers
        self.upstreams = service.composition.upstreams
        self.dials: list[Dialled] = []
        self._sockets = self.plane.sockets
        self._field = field
        self.plane.sockets = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sockets, name)

    def dial(self, address: Address, protocol: Any, timeout: float, on_failed: Callable[[Refusal], None]) -> Any:
        """(tcpmesh.net.sockets.Sockets)."""
        record = protocol.keeper.record
        accepted = protocol.keeper.src.transport
        client = self._field.by_ports[accepted.own.port, accepted.peer.port]
        self.dials.append(Dialled(client, address, record.bytes_sent, record.bytes_recv))
        dial = self._sockets.dial(address, protocol, timeout, on_failed)
        if dial.fileno() >= 0:
            self._field.by_ports[address.port, dial._socket.getsockname()[1]] = client  # type: ignore[union-attr]
        return dial


class LiveField:
    """
    What the judge looks at.

    :param context: gives the TLS context of a server that shows somebody's certificate.
    """

    excludes = True
    most_attempts: int | None = None

    def __init__(self, reactor: Any, context: Callable[[Who], SSL.Context]) -> None:
        self._reactor = reactor
        self._context = context
        # By the ports of both ends: the kernel gives one port to several connections, when they go to different ones.
        self.by_ports: dict[tuple[int, int], Client] = {}
        self.clients: list[Client] = []
        self.sessions: list[Session] = []
        self.outbound: Any = None
        self.inbound: dict[Address, LiveProxy] = {}
        self.endpoints: Sequence[Endpoint] = ()
        self._ends: list[LiveEnd] = []

    def tls_listener(self, plan: Callable[[], EndpointPlan]) -> LiveListener:
        """An endpoint that does what the plan of the moment says."""

        def serve(end: LiveEnd, port: int) -> None:
            self._begin(TLSSession(plan(), end, self._next, self._context), port)  # type: ignore[arg-type]

        return LiveListener(serve, self._reactor)

    def plain_listener(self, plan: Callable[[], EndpointPlan]) -> LiveListener:
        """The same behind an inbound proxy."""

        def serve(end: LiveEnd, port: int) -> None:
            self._begin(PlainSession(plan(), end, self._next), port)  # type: ignore[arg-type]

        return LiveListener(serve, self._reactor)

    @property
    def _next(self) -> int:
        return _FIRST_SESSION + len(self.sessions)

    def _begin(self, session: Session, port: int) -> None:
        end: Any = session.end
        end.client = self.by_ports[end.socket.getsockname()[1], port]
        self.sessions.append(session)
        self._ends.append(end)
        end.start(session.step)

    def connect(self, plan: ClientPlan, port: int) -> Client:
        """Let an application come."""
        sock = socket.create_connection(("127.0.0.1", port))
        end: Any = LiveEnd(sock, self._reactor)
        client = Client(plan, len(self.clients) + 1, end, self._reactor)
        client.address = TCPAddress(*sock.getsockname())
        end.client = client
        self.by_ports[port, client.address.port] = client
        self.clients.append(client)
        self._ends.append(end)
        end.start(client.step)
        return client

    @property
    def is_over(self) -> bool:
        """Whether every application is done and no connection is left in any proxy."""
        proxies = [self.outbound, *self.inbound.values()]
        if len(self.outbound.sink.accepted_records) < len(self.clients):
            return False
        return all(client.end.closed for client in self.clients) and not any(proxy.plane.live for proxy in proxies)

    def clear(self) -> None:
        """Forget the case that is over."""
        for end in self._ends:
            end.close()
        for proxy in (self.outbound, *self.inbound.values()):
            proxy.dials.clear()
            for kept in (proxy.sink.accepted_records, proxy.sink.open_records, proxy.sink.close_records):
                kept.clear()
        self._ends.clear()
        self.by_ports.clear()
        self.clients.clear()
        self.sessions.clear()
