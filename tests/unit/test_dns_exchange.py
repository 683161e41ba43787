"""Answers of name servers as bytes: whatever they are, they are read or refused."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.discovery.dns_answers import Answer, Record
from tcpmesh.sources.dns_exchange import ExchangeError, ask, read_answer
from tcpmesh.values import TCPAddress
from tests.documents import ROOT
from tests.unit import dns_samples as dns

DB = "db.example.test"
ASKED = dns.question(DB, dns.A)
GOOD = dns.message(
    ASKED,
    answers=[dns.cname(b"\xc0\x0c", "x.test"), dns.a("x.test", "10.0.0.1"), dns.srv(DB, "x.test", 5432, 1, 2)],
    authority=[dns.soa("test", 30)],
    additional=[dns.record("t.test", dns.TXT, b"\x01a"), dns.record("", 41, b"")],
)


class ReadingTests(SynchronousTestCase):
    def test_reads_what_is_well_formed(self) -> None:
        """Types that nobody asked for are passed over, an OPT record among them."""
        self.assertEqual(
            read_answer(GOOD, DB, "A"),
            Answer(
                0,
                (
                    Record(DB, "CNAME", 60, "x.test"),
                    Record("x.test", "A", 60, "10.0.0.1"),
                    Record(DB, "SRV", 60, "x.test", 1, 2, 5432),
                ),
                (Record("test", "SOA", 3600, minimum=30),),
            ),
        )

    def test_reads_whether_the_server_knows_or_asks(self) -> None:
        """AA or RA; of others an empty answer is a referral."""
        asked = dns.question("a.test", dns.A)
        for flags, final in ((0x8000, False), (0x8400, True), (0x8080, True), (0x8100, False)):
            self.assertEqual(read_answer(dns.message(asked, flags=flags), "a.test", "A").final, final, hex(flags))

    def test_refuses_answers_to_other_questions(self) -> None:
        """Another name, type or class, and what is no answer to a query."""
        for asked in (dns.question("e.test", dns.A), dns.question(DB, dns.AAAA), dns.name(DB) + b"\0\1\0\3"):
            self.assertRaises(ExchangeError, read_answer, dns.message(asked), DB, "A")
        self.assertRaises(ExchangeError, read_answer, dns.message(ASKED, flags=0xA800), DB, "A")

    @given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4))
    def test_a_few_wrong_bytes_kill_nobody(self, changes: list[tuple[int, int]]) -> None:
        """Read, or refused with a reason: nothing else happens."""
        data = bytearray(GOOD)
        for place, value in changes:
            data[place] = value
        try:
            self.assertIsInstance(read_answer(bytes(data), DB, "A"), Answer)
        except ExchangeError as error:
            self.assertIn("its answer cannot be read: ", str(error))

    @given(st.binary(max_size=600))
    def test_garbage_kills_nobody(self, data: bytes) -> None:
        """Behind a good header and question, too."""
        for whole in (data, GOOD[: 12 + len(ASKED)] + data):
            self.assertRaises(ExchangeError, read_answer, whole, DB, "SRV")


class Socket:
    """As much of a connected UDP socket as the exchange uses."""

    def __init__(self, protocol: Any) -> None:
        self.sent: list[bytes] = []
        self.open = True
        protocol.transport = self

    def connect(self, host: str, port: int) -> None:
        """To the server."""

    def write(self, datagram: bytes) -> None:
        self.sent.append(datagram)

    def stopListening(self) -> None:
        self.open = False


class WithSockets(MemoryReactorClock):
    """A reactor that remembers the UDP sockets that it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.sockets: list[Socket] = []

    def listenUDP(self, port: int, protocol: Any, **_more: Any) -> Socket:
        self.sockets.append(Socket(protocol))
        return self.sockets[-1]


class AskingTests(SynchronousTestCase):
    def test_leaves_nothing_behind_when_cancelled(self) -> None:
        """No timer, and no socket."""
        reactor = WithSockets()
        asked = ask(reactor, TCPAddress("192.0.2.1", 53), DB, "A", 2.0)
        [socket] = reactor.sockets
        self.assertEqual((len(socket.sent), socket.open), (1, True))
        asked.cancel()
        self.assertFalse(socket.open)
        self.failureResultOf(asked, CancelledError)
        self.assertEqual(reactor.getDelayedCalls(), [])

    def test_says_when_there_is_no_socket_to_be_had(self) -> None:
        """Instead of raising."""

        class NoSockets(MemoryReactorClock):
            def listenUDP(self, *args: object, **kwargs: object) -> object:  # type: ignore[override]
                raise OSError(24, "Too many open files")

        reactor = NoSockets()
        failure = self.failureResultOf(ask(reactor, TCPAddress("192.0.2.1", 53), DB, "A", 2.0), ExchangeError)
        self.assertIn("cannot be asked: ", failure.getErrorMessage())
        self.assertEqual(reactor.getDelayedCalls(), [])


class CostTests(SynchronousTestCase):
    def test_is_not_imported_by_who_does_not_use_it(self) -> None:
        """A proxy without the plugin has no need for its memory."""
        program = (
            "import sys, tcpmesh.service, tcpmesh.config, tcpmesh.plugins;"
            "tcpmesh.plugins.PluginRegistry().names(tcpmesh.interfaces.DISCOVERY);"
            "print([name for name in sys.modules if name.startswith(('twisted.names', 'tcpmesh.sources.dns'))])"
        )
        ended = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
        )
        self.assertEqual(ended.stdout, "[]\n")
