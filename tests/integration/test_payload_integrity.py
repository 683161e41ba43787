"""Endpoints that fail at every point, on real sockets: one receiver, prefixes, and ends only where all had come."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import attrs
from OpenSSL import SSL

from tests.integration.applications import deaf_port, until
from tests.integration.foreign import foreign_context
from tests.integration.live_field import LiveField, LiveProxy
from tests.integration.mesh import MeshTestCase, Pki, Proxy, reactor, unused_port
from tests.simulated.field import ClientPlan, CountingRegistry
from tests.simulated.oracle import violations
from tests.simulated.sessions import PREFACES, Cut, EndpointPlan, How, Kind, Stage, Who

# Short where a case waits for one; a good endpoint that is too slow for one fails like another, and nothing is wrong.
TIMES = "timeouts: {connect: 300ms, handshake: 300ms, preface: 300ms, idle: 300ms, half_close: 300ms, linger: 20ms}\n"
SERVICE = (
    ", retry: {plugin: exponential, attempts: 3, base: 1ms, max: 2ms}, tls: {min_version: '1.2'}"
    ", health: {ejection: {failures: 0}}"
)
# One speaks first and ends first, the other one waits for what comes and for the end.
TALKERS = (EndpointPlan(answer=3000, wants=0, ends_first=True), EndpointPlan(answer=3000, wants=1))
# Of each stage: nothing, one byte, some.
POINTS = {
    Stage.ACCEPT: (0,),
    Stage.HELLO: (1, 100),
    Stage.FLIGHT: (0, 1, 200),
    Stage.FINISHED: (0,),
    Stage.PREFACE: (0, 1, 4),
    Stage.RECEIVED: (0, 1, 5000),
    Stage.SENT: (0, 1, 2000),
    Stage.RECORDS: (1, 30, 1500),
}
STAGES = {
    Kind.MESH: tuple(POINTS),
    Kind.FOREIGN: tuple(stage for stage in POINTS if stage is not Stage.PREFACE),
    Kind.OLD: tuple(stage for stage in POINTS if stage is not Stage.PREFACE),
    Kind.PROXY: (Stage.ACCEPT, Stage.RECEIVED, Stage.SENT),
}
CLIENTS = (
    (
        ClientPlan(size=20_000),
        ClientPlan(size=20_000, ends="last"),
        ClientPlan(size=20_000, sends="greeted"),
        ClientPlan(size=20_000, ends="reset", reset_after=1),
    ),
    (ClientPlan(size=20_000), ClientPlan(size=20_000, ends="close"), ClientPlan(size=1, ends="reset", reset_after=1)),
)


def cuts(kind: Kind) -> Iterator[Cut]:
    """Every way to fail at every point."""
    for stage in STAGES[kind]:
        for after, how in itertools.product(POINTS[stage], How):
            yield Cut(stage, after, how)


class PayloadIntegrityTests(MeshTestCase):
    """One outbound proxy; of its two endpoints one serves, the other does what the case says."""

    registry = CountingRegistry

    def setUp(self) -> None:
        super().setUp()
        strange = Pki(self.directory / "stranger")
        strange.issue("orders")

        def context(who: Who) -> SSL.Context:
            pki = strange if who is Who.STRANGER else self.pki
            return foreign_context(pki, "web" if who is Who.WEB else "orders", trust=self.pki)

        self.field = LiveField(reactor, context)
        self.good = self.bad = TALKERS[0]

    def watched(self, proxy: Proxy) -> LiveProxy:
        """Note what it does."""
        registry: Any = proxy.plugins
        return LiveProxy(proxy.service, registry.balancers, self.field)

    def listening(self, listener: Any) -> int:
        self.addCleanup(listener.close)
        return int(listener.port)

    def start_outer(self, bad: int) -> None:
        """The proxy, with a bad endpoint at that port and a good one."""
        good = self.listening(self.field.tls_listener(lambda: self.good))
        proxy = self.start_outbound(bad, good, service=SERVICE, top=TIMES)
        self.port = proxy.port("to-orders")
        self.field.outbound = self.watched(proxy)
        state = proxy.service.composition.state.current
        self.field.endpoints = state.endpoints["orders"]
        self.field.most_attempts = 3

    async def check(self, *clients: ClientPlan) -> None:
        """Let these applications come, and judge when all is over."""
        field: Any = self.field
        for plan in clients:
            field.connect(plan, self.port)
        await until(lambda: field.is_over, f"{self.bad}: still open: {[vars(client) for client in field.clients]}")
        self.assertEqual(violations(field), [], self.bad)
        field.clear()

    async def fail_everywhere(self, kind: Kind) -> None:
        """Every cut; two applications, one of which comes to the bad endpoint first."""
        for number, cut in enumerate(cuts(kind)):
            self.good = TALKERS[number % 2]
            self.bad = attrs.evolve(self.good, kind=kind, cut=cut)
            clients = CLIENTS[number % 2]
            await self.check(clients[number // 2 % len(clients)], clients[number // 8 % len(clients)])

    async def test_tcpmesh_peers_that_fail_at_every_point(self) -> None:
        """With ALPN and preface."""
        self.start_outer(self.listening(self.field.tls_listener(lambda: self.bad)))
        await self.fail_everywhere(Kind.MESH)

    async def test_foreign_peers_that_fail_at_every_point(self) -> None:
        """TLS 1.3, payload at once."""
        self.start_outer(self.listening(self.field.tls_listener(lambda: self.bad)))
        await self.fail_everywhere(Kind.FOREIGN)

    async def test_foreign_peers_of_before_that_fail_at_every_point(self) -> None:
        """TLS 1.2."""
        self.start_outer(self.listening(self.field.tls_listener(lambda: self.bad)))
        await self.fail_everywhere(Kind.OLD)

    async def test_applications_behind_an_inbound_that_fail_at_every_point(self) -> None:
        """A real inbound proxy, and a plain server."""
        target = self.listening(self.field.plain_listener(lambda: self.bad))
        inner = self.start_inbound(target, top=TIMES)
        port = inner.port("orders-in")
        self.field.inbound[inner.service.bound_ports()["orders-in"]] = self.watched(inner)
        self.start_outer(port)
        await self.fail_everywhere(Kind.PROXY)

    async def test_refusals_and_strangers(self) -> None:
        """Every preface, and every certificate that is not the expected one."""
        self.start_outer(self.listening(self.field.tls_listener(lambda: self.bad)))
        for preface, who in itertools.product(PREFACES, (Who.ORDERS, Who.WEB, Who.STRANGER)):
            self.bad = attrs.evolve(self.good, preface=preface, who=who)
            await self.check(*CLIENTS[0])

    async def test_nobody_there(self) -> None:
        """Connections that are refused, and such that are never answered."""
        for bad in (unused_port(), deaf_port(self)):
            self.start_outer(bad)
            await self.check(*CLIENTS[0])
