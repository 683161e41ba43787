"""What goes wrong inside the proxy: the connection ends, visibly and on record, and nothing is left of it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any

from zope.interface import implementer

from tcpmesh.codes import BALANCER_FAILED, CLEAN, CONNECT_FAILED, INTERNAL, OWN_PROFILE, SHUTDOWN, Code
from tcpmesh.errors import Refusal
from tcpmesh.interfaces import ILoadBalancer
from tcpmesh.net.legs import PlainLeg
from tcpmesh.values import AttemptFailure, Endpoint
from tests.integration.applications import RESET, broken, exchange, receive, until, whole
from tests.integration.endings import EndingTestCase
from tests.integration.foreign import ForeignTestCase
from tests.integration.mesh import PATIENCE, Proxy, echo, in_thread, reactor, unused_port
from tests.integration.unix import UnixTestCase


class Full(Exception):
    """What a destination of records raises."""


@implementer(ILoadBalancer)
class TellingBalancer:
    """Writes down what it is told, and may raise at some of it."""

    def __init__(self, inner: ILoadBalancer, *raises: str) -> None:
        self._inner = inner
        self._raises = raises
        self.told: list[str] = []
        self.failures: list[Code] = []

    def _tell(self, what: str) -> None:
        self.told.append(what)
        if what in self._raises:
            raise Full

    def pick(self, endpoints: Sequence[Endpoint], exclude: frozenset[Endpoint]) -> Endpoint | None:
        self._tell("pick")
        return self._inner.pick(endpoints, exclude)

    def opened(self, endpoint: Endpoint) -> None:
        self._tell("opened")

    def established(self, endpoint: Endpoint, duration: float) -> None:
        self._tell("established")

    def failed(self, endpoint: Endpoint, failure: AttemptFailure) -> None:
        self.failures.append(failure.code)
        self._tell("failed")

    def closed(self, endpoint: Endpoint) -> None:
        self._tell("closed")


class FailureTestCase(ForeignTestCase, EndingTestCase, UnixTestCase):
    def balancer(self, outer: Proxy, *raises: str) -> TellingBalancer:
        """Put one in front of the proxy's own."""
        guarded = outer.service.composition.upstreams["orders"].pool.balancer
        balancer = TellingBalancer(guarded.balancer, *raises)
        object.__setattr__(guarded, "balancer", balancer)
        return balancer

    @staticmethod
    def counted(proxy: Proxy) -> tuple[int, int, int, int]:
        """Connections that live, and what the gate counts."""
        assert proxy.service.plane is not None
        gate = proxy.service.plane.gate
        return len(proxy.live), gate.connections, gate.handshakes, gate.sockets

    async def assert_nothing_left(self, *proxies: Proxy) -> None:
        for proxy in proxies:
            await until(lambda proxy=proxy: self.counted(proxy) == (0, 0, 0, 0), "nothing is left")  # type: ignore[misc]


class DialTests(FailureTestCase):
    async def test_an_endpoint_on_an_interface_that_is_gone_is_a_failed_attempt(self) -> None:
        """An IPv6 scope that the system does not know: one record, a reset, and the balancer hears of it."""
        retry = ", retry: {plugin: exponential, attempts: 2, base: 1ms, max: 1ms}"
        outer = self.start_outbound("[fe80::1%nosuch0]:9", "[fe80::1%nosuch0]:10", service=retry)
        balancer = self.balancer(outer)
        self.assertEqual(await in_thread(broken, self.connect(outer.port("to-orders"))), RESET)
        await self.assert_ends(outer, CONNECT_FAILED, "proxy")
        record = outer.tap.close[0]
        self.assertIn("connecting to [fe80::1%nosuch0]:10: ", record.reason)
        self.assertEqual([code for _record, code, _reason in outer.tap.attempts], [CONNECT_FAILED])
        self.assertEqual(balancer.told, ["pick", "opened", "failed"] * 2)
        await self.assert_nothing_left(outer)
        self.assertEqual((len(outer.tap.close), self.flushLoggedErrors()), (1, []))

    async def test_an_attempt_that_cannot_even_begin_is_told_to_the_balancer(self) -> None:
        """No matter whether that was to be expected: what was picked is opened, and fails."""
        outer = self.start_outbound(unused_port())
        balancer = self.balancer(outer)
        problems: list[Exception] = [Refusal(OWN_PROFILE, "OpenSSL does not take it"), Full()]

        def client(*_arguments: Any) -> Any:
            raise problems.pop(0)

        outer.service.composition.contexts.client = client  # type: ignore[method-assign]
        for number, code in ((1, OWN_PROFILE), (2, INTERNAL)):
            self.assertEqual(await in_thread(broken, self.connect(outer.port("to-orders"))), RESET)
            self.assertIs((await outer.closed(number)).code, code)
        self.assertEqual(balancer.told, ["pick", "opened", "failed"] * 2)
        self.assertEqual(balancer.failures, [OWN_PROFILE, INTERNAL])
        await self.assert_nothing_left(outer)
        self.assertEqual(len(self.flushLoggedErrors(Full)), 1)


class BalancerTests(FailureTestCase):
    async def test_a_balancer_that_raises_when_it_is_told_changes_nothing(self) -> None:
        """The connection is carried; of three failures of one kind the first two are in the log."""
        inner = self.start_inbound(self.application(echo))
        outer = self.start_outbound(inner.port("orders-in"))
        balancer = self.balancer(outer, "opened", "established", "failed", "closed")
        self.assertEqual(await in_thread(exchange, self.connect(outer.port("to-orders")), b"hello"), whole(b"hello"))
        await self.assert_ends(outer, CLEAN, "src")
        await self.assert_nothing_left(outer, inner)
        self.assertEqual(balancer.told, ["pick", "opened", "established", "closed"])
        self.assertEqual(len(self.flushLoggedErrors(Full)), 2)

    async def test_a_balancer_that_raises_when_it_is_asked_offers_nothing(self) -> None:
        """TM-U112: nobody is dialled."""
        outer = self.start_outbound(unused_port())
        balancer = self.balancer(outer, "pick")
        self.assertEqual(await in_thread(broken, self.connect(outer.port("to-orders"))), RESET)
        await self.assert_ends(outer, BALANCER_FAILED, "proxy")
        self.assertEqual(balancer.told, ["pick"])
        await self.assert_nothing_left(outer)
        self.assertEqual(len(self.flushLoggedErrors(Full)), 1)


class RecordTests(FailureTestCase):
    """The destination of the records raises, in the middle of the data path."""

    def raise_at(self, proxy: Proxy, event: str) -> None:
        """Once."""
        real: Callable[..., None] = getattr(proxy.tap, event)

        def fail(*_arguments: Any) -> None:
            setattr(proxy.tap, event, real)
            raise Full

        setattr(proxy.tap, event, fail)

    async def assert_ends_alone(self, outer: Proxy, inner: Proxy) -> None:
        """The application sees a reset, nothing is left, the failure is logged, and the next one is served."""
        client = self.connect(outer.port("to-orders"))
        client.sendall(b"hello")
        received = await in_thread(receive, client)
        self.assertEqual((received.length, received.ending), (0, RESET))
        await self.assert_nothing_left(outer, inner)
        self.assertEqual(len(self.flushLoggedErrors(Full)), 1)
        client = self.connect(outer.port("to-orders"))
        self.assertEqual(await in_thread(exchange, client, b"again"), whole(b"again"))

    async def test_when_a_connection_to_a_target_opens(self) -> None:
        """Over TCP and over a unix socket: the internal error is the record's code."""
        path = self.unix_path("target")
        self.unix_application(path, echo)
        for target in (self.application(echo), f"unix:{path}"):
            outer, inner, _port = self.start_two_hops(target)
            self.raise_at(inner, "opened")
            await self.assert_ends_alone(outer, inner)
            await inner.closed(2)
            self.assertEqual([record.code for record in inner.tap.close], [INTERNAL, CLEAN], target)

    async def test_when_a_connection_to_a_service_opens(self) -> None:
        """The same on the other side."""
        outer, inner, _port = self.start_two_hops(self.application(echo))
        self.raise_at(outer, "opened")
        await self.assert_ends_alone(outer, inner)
        await outer.closed(2)
        self.assertEqual([record.code for record in outer.tap.close], [INTERNAL, CLEAN])

    async def test_when_a_connection_is_accepted(self) -> None:
        """By either proxy: it ends with a record before anybody was dialled."""
        for role in (0, 1):
            outer, inner, _port = self.start_two_hops(self.application(echo))
            proxy = (outer, inner)[role]
            self.raise_at(proxy, "accepted")
            await self.assert_ends_alone(outer, inner)
            await proxy.closed(2)
            self.assertEqual([record.code for record in proxy.tap.close], [INTERNAL, CLEAN], role)
            self.assertEqual(proxy.tap.close[0].closed_by, "proxy", role)

    async def test_when_a_connection_ends(self) -> None:
        """The record is lost, but not the connection's place."""
        for role in (0, 1):
            outer, inner, port = self.start_two_hops(self.application(echo))
            self.raise_at((outer, inner)[role], "closed")
            await in_thread(exchange, self.connect(port), b"hello")
            await self.assert_nothing_left(outer, inner)
            self.assertEqual(len(self.flushLoggedErrors(Full)), 1)

    async def test_when_a_refused_connection_ends(self) -> None:
        """In front of the target, over the limit and while dialling."""
        down = self.start_outbound(unused_port())
        inner = self.start_inbound(self.application(echo), allow=())
        denied = self.start_outbound(inner.port("orders-in"))
        for proxy, raising in ((down, down), (denied, denied), (denied, inner)):
            self.raise_at(raising, "closed")
            received = await in_thread(receive, self.connect(proxy.port("to-orders")))
            self.assertEqual((received.length, received.ending), (0, RESET))
            await self.assert_nothing_left(down, denied, inner)
            self.assertEqual(len(self.flushLoggedErrors(Full)), 1)


class CutTests(FailureTestCase):
    async def test_a_connection_that_fails_as_it_is_cut_is_cut_all_the_same(self) -> None:
        """So are those behind it, and the stop is over."""
        outer, inner, port = self.start_two_hops(self.application(echo))
        clients: list[socket.socket] = [self.connect(port) for _ in range(3)]
        await outer.opened(3)
        bad = next(iter(outer.live))
        reset = PlainLeg.reset

        def fail(leg: PlainLeg) -> None:
            if leg is bad.src:
                raise Full
            reset(leg)

        self.patch(PlainLeg, "reset", fail)
        stopped = outer.service.stopService()
        outer.service.stop_now()
        await stopped.addTimeout(PATIENCE, reactor)
        self.assertEqual([await in_thread(broken, client) for client in clients], [RESET] * 3)
        self.assertEqual([record.code for record in outer.tap.close], [SHUTDOWN] * 3)
        self.assertEqual((outer.service.cut, len(self.flushLoggedErrors(Full))), (3, 1))
        await self.assert_nothing_left(inner)
