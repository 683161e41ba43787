"""Name servers that do whatever they can do wrong, on real sockets: each question has its answer or its reason."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from twisted.internet.protocol import DatagramProtocol, Factory, Protocol
from twisted.trial.unittest import TestCase

from tcpmesh.discovery.dns_answers import Answer, Record
from tcpmesh.discovery.dns_settings import DnsSettings
from tcpmesh.sources.dns import DnsDiscovery
from tcpmesh.sources.dns_exchange import ExchangeError, ask
from tcpmesh.testing import FakeDiscoveryObserver, plugin_context
from tcpmesh.values import Duration, TCPAddress
from tests.integration.mesh import reactor
from tests.integration.processes import free_port
from tests.unit import dns_samples as dns

DB = "db.example.test"
CUT = 0x8380  # the flags of an answer that did not fit
ENOUGH = 20.0  # seconds in which an answer certainly comes
SOON = 0.2  # seconds after which a silent server is given up

Respond = Callable[[bytes, bytes], list[bytes]]  # (the question's number, its question section) gives messages


def answer(number: bytes, asked: bytes, **more: Any) -> bytes:
    return dns.message(asked, number=struct.unpack("!H", number)[0], **more)


class NameServer(DatagramProtocol):
    """Answers over UDP, and over TCP when there is something for it."""

    transport: Any

    def __init__(self) -> None:
        self.respond: Respond = lambda number, asked: []
        self.respond_tcp: Respond = lambda number, asked: []
        self.close_tcp = False
        self.asked: list[tuple[str, int]] = []  # over what, and from which port
        self.numbers: list[bytes] = []

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        self.asked.append(("UDP", addr[1]))
        self.numbers.append(datagram[:2])
        for message in self.respond(datagram[:2], datagram[12:]):
            self.transport.write(message, addr)


class Stream(Protocol):
    transport: Any

    def __init__(self, server: NameServer) -> None:
        self.server = server
        self.received = b""

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        if len(self.received) < 14:
            return
        self.server.asked.append(("TCP", self.transport.getPeer().port))
        for message in self.server.respond_tcp(self.received[2:4], self.received[14:]):
            framed = struct.pack("!H", len(message)) + message
            for begin in range(0, len(framed), 1000):  # in pieces
                self.transport.write(framed[begin : begin + 1000])
        if self.server.close_tcp:
            self.transport.loseConnection()


class HostileTestCase(TestCase):
    timeout = 120

    def setUp(self) -> None:
        self.server, self.place = self.name_server()

    def name_server(self) -> tuple[NameServer, TCPAddress]:
        server, port = NameServer(), free_port()
        datagrams = reactor.listenUDP(port, server, interface="127.0.0.1", maxPacketSize=65535)
        streams = Factory()
        streams.buildProtocol = lambda addr: Stream(server)  # type: ignore[method-assign]
        listening = reactor.listenTCP(port, streams, interface="127.0.0.1")
        self.addCleanup(datagrams.stopListening)
        self.addCleanup(listening.stopListening)
        return server, TCPAddress("127.0.0.1", port)

    async def ask(self, kind: str = "A", timeout: float = ENOUGH) -> Answer:
        return await ask(reactor, self.place, DB, kind, timeout)

    async def failure(self, timeout: float = ENOUGH) -> str:
        try:
            found = await self.ask(timeout=timeout)
        except ExchangeError as error:
            return str(error)
        raise AssertionError(f"answered {found}")


class ExchangeTests(HostileTestCase):
    async def test_reads_every_type(self) -> None:
        """Names in lower case, addresses as they are written everywhere."""
        self.server.respond = lambda number, asked: [
            answer(
                number,
                asked,
                answers=[
                    dns.cname("DB.Example.Test", "X.Test", 7),
                    dns.a("x.test", "10.0.0.1", 5),
                    dns.record("x.test", dns.AAAA, bytes(15) + b"\1"),
                    dns.srv("x.test", "y.test", 5432, 1, 2),
                    dns.record("x.test", dns.TXT, b"\1a"),
                    dns.record("x.test", dns.A, b"\1\1\1\1", cls=3),
                ],
                authority=[dns.soa("test", 30)],
            )
        ]
        found = await self.ask()
        self.assertEqual(
            found,
            Answer(
                0,
                (
                    Record(DB, "CNAME", 7, "x.test"),
                    Record("x.test", "A", 5, "10.0.0.1"),
                    Record("x.test", "AAAA", 60, "::1"),
                    Record("x.test", "SRV", 60, "y.test", 1, 2, 5432),
                ),
                (Record("test", "SOA", 3600, minimum=30),),
            ),
        )

    async def test_every_question_has_a_number_and_a_port_of_its_own(self) -> None:
        """Both have to be guessed by who wants to answer instead."""
        self.server.respond = lambda number, asked: [answer(number, asked)]
        for _ in range(20):
            await self.ask()
        self.assertGreater(len(set(self.server.numbers)), 15)
        self.assertGreater(len({port for _, port in self.server.asked}), 15)

    async def test_what_did_not_fit_is_asked_for_over_tcp(self) -> None:
        """Of the same server; what the datagram held is not used."""
        many = [dns.a(b"\xc0\x0c", f"10.0.{number // 256}.{number % 256}") for number in range(900)]
        self.server.respond = lambda number, asked: [answer(number, asked, flags=CUT, answers=many[:20])]
        self.server.respond_tcp = lambda number, asked: [answer(number, asked, answers=many)]
        self.assertEqual(len((await self.ask()).answers), 900)
        self.assertEqual([over for over, _ in self.server.asked], ["UDP", "TCP"])

    async def test_a_server_that_has_no_tcp_is_told_so(self) -> None:
        """That ends it halfway, answers something else, says nothing or too much."""
        self.server.respond = lambda number, asked: [answer(number, asked, flags=CUT)]
        self.server.close_tcp = True
        self.assertEqual(await self.failure(), "closed the TCP connection before its answer was complete")
        self.server.respond_tcp = lambda number, asked: [b"x" * 12]
        self.assertEqual(await self.failure(), "answered another question over TCP")
        self.server.respond_tcp = lambda number, asked: [
            answer(number, asked, answers=[dns.a(b"\xc0\x0c", "10.0.0.1")] * 4000)
        ]
        self.assertEqual(await self.failure(), "its answer cannot be read: it has 4000 records; at most 1000 are read")
        self.server.close_tcp, self.server.respond_tcp = False, lambda number, asked: []
        self.assertEqual(await self.failure(SOON), "gave no answer within 200ms")

    async def test_answers_to_other_questions_are_not_taken(self) -> None:
        """Wrong numbers, questions, garbage, and questions instead of answers: the right one counts."""

        def respond(number: bytes, asked: bytes) -> list[bytes]:
            wrong = bytes([number[0] ^ 1, number[1]])
            bad = [dns.a(DB, "10.6.6.6")]
            return [
                b"", b"x", number, b"\xff" * 600, answer(wrong, asked, answers=bad),
                answer(number, asked, flags=0x0100, answers=bad),
                answer(number, asked, answers=[dns.a(DB, "10.0.0.1")]),
            ]  # fmt: skip

        self.server.respond = respond
        self.assertEqual([record.data for record in (await self.ask()).answers], ["10.0.0.1"])
        self.server.respond = lambda number, asked: [answer(number, dns.question("other.test", dns.A))]
        self.assertEqual(await self.failure(), "its answer cannot be read: it repeats another question")

    async def test_a_flood_of_other_answers_ends_the_question(self) -> None:
        """After a hundred."""
        self.server.respond = lambda number, asked: [b"\0" * 20] * 150
        self.assertIn(
            await self.failure(2.0), ("sent more than 100 answers to other questions", "gave no answer within 2s")
        )

    async def test_what_cannot_be_read_is_a_reason(self) -> None:
        """Compression that never ends, records that are not there, ten thousand of them."""
        itself = 12 + len(dns.question(DB, dns.A))
        for more, why in (
            (
                {"answers": [dns.a(struct.pack("!H", 0xC000 | itself), "10.0.0.1")]},
                "a compressed name goes in a circle",
            ),
            ({"counts": (1, 1, 0, 0)}, "it ends within a name"),
            ({"counts": (1, 10_000, 0, 0)}, "it has 10000 records; at most 1000 are read"),
            ({"answers": [dns.record(DB, dns.A, b"\1")]}, "a record of type A has 1 bytes"),
            ({"counts": (0, 0, 0, 0)}, "it repeats 0 questions instead of one"),
        ):
            self.server.respond = lambda number, asked, more=more: [answer(number, asked, **more)]  # type: ignore[misc]
            self.assertEqual(await self.failure(), f"its answer cannot be read: {why}")

    async def test_a_server_that_says_nothing_or_is_not_there(self) -> None:
        """The second is known at once."""
        self.assertEqual(await self.failure(SOON), "gave no answer within 200ms")
        self.place = TCPAddress("127.0.0.1", free_port())
        self.assertEqual(await self.failure(), "refuses datagrams: nobody listens there")

    async def test_says_failures_as_they_are(self) -> None:
        """They are for the reader of the answer to judge."""
        for code in (0, 2, 3, 5):
            self.server.respond = lambda number, asked, code=code: [  # type: ignore[misc]
                answer(number, asked, flags=0x8180 | code)
            ]
            self.assertEqual((await self.ask()).code, code)


class DiscoveryTests(HostileTestCase):
    """The plugin with such servers, and the time that the reactor has."""

    def setUp(self) -> None:
        super().setUp()
        self.observer = FakeDiscoveryObserver()
        self.other, other_place = self.name_server()
        settings = DnsSettings(DB, "a", 5432, [self.place, other_place], Duration(SOON))
        self.discovery = DnsDiscovery(settings, plugin_context("db", clock=reactor))
        self.addCleanup(self.discovery.stop)

    async def heard(self, count: int) -> None:
        while len(self.observer.events) < count:
            await self.pause()

    def pause(self) -> Any:
        from twisted.internet.task import deferLater

        return deferLater(reactor, 0.01)

    async def test_another_server_is_asked_when_one_is_silent_or_lies(self) -> None:
        """And the second one's answer is what counts."""
        self.server.respond = lambda number, asked: [answer(number, asked, counts=(1, 1, 0, 0))]
        self.other.respond = lambda number, asked: [answer(number, asked, answers=[dns.a(DB, "10.0.0.1")])]
        self.discovery.start(self.observer)
        await self.heard(1)
        self.assertEqual([str(one.address) for one in self.observer.deliveries[0]], ["10.0.0.1:5432"])

    async def test_tells_what_each_server_did(self) -> None:
        """When none was of use."""
        self.server.respond = lambda number, asked: [answer(number, asked, counts=(1, 1, 0, 0))]
        self.discovery.start(self.observer)
        await self.heard(1)
        self.assertEqual(self.observer.deliveries, [])
        self.assertRegex(
            self.observer.failures[0],
            r"\Adb.example.test \(A\): 127.0.0.1:\d+: its answer cannot be read: it ends within a name; "
            r"127.0.0.1:\d+: gave no answer within 200ms\Z",
        )

    async def test_stops_in_the_middle(self) -> None:
        """Without a socket left."""
        self.discovery.start(self.observer)
        self.discovery.stop()
        await self.pause()
        self.assertEqual(self.observer.events, [])
