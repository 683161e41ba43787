"""Answers of name servers as bytes: whatever they are, they are read or refused."""

from __future__ import annotations

import ipaddress
import socket
import subprocess
import sys
from pathlib import Path
from unittest import SkipTest

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
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


class AskingTests(SynchronousTestCase):
    """Datagrams, without a reactor that runs: real sockets are read when a test says so."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(self.server.close)
        self.server.bind(("127.0.0.1", 0))
        self.server.settimeout(5)

    def ask(self, host: str = "127.0.0.1") -> Deferred[Answer]:
        asked = ask(self.reactor, TCPAddress(host, self.server.getsockname()[1]), DB, "A", 2.0)
        self.addCleanup(asked.addErrback, lambda _: None)
        self.addCleanup(asked.cancel)
        return asked

    def check_nothing_left(self) -> None:
        self.assertEqual((self.reactor.getReaders(), self.reactor.getDelayedCalls()), ([], []))

    def test_takes_the_answer_of_the_server_alone(self) -> None:
        """What comes to its port from elsewhere, with everything right, is dropped by the kernel."""
        asked = self.ask()
        [reader] = self.reactor.getReaders()
        question, place = self.server.recvfrom(1000)
        right = question[:2] + GOOD[2:]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.sendto(right, place)
            reader.doRead()
            self.assertNoResult(asked)
        self.server.sendto(right, place)
        reader.doRead()
        self.assertEqual(self.successResultOf(asked), read_answer(GOOD, DB, "A"))
        self.check_nothing_left()
        self.assertEqual(reader.fileno(), -1)

    def test_leaves_nothing_behind_when_cancelled(self) -> None:
        """No timer, and no socket."""
        asked = self.ask()
        [reader] = self.reactor.getReaders()
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.assertEqual(reader.fileno(), -1)
        self.check_nothing_left()
        reader.doRead()
        reader.connectionLost(Failure(ConnectionDone()))

    def test_is_told_when_nobody_listens(self) -> None:
        """At the next reading, or as the reactor that polls has it."""
        self.server.close()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for polled in (False, True):
            asked = ask(self.reactor, TCPAddress("127.0.0.1", port), DB, "A", 2.0)
            [reader] = self.reactor.getReaders()
            if polled:
                reader.connectionLost(Failure(ConnectionDone()))
            else:
                reader.doRead()
            failure = self.failureResultOf(asked, ExchangeError)
            self.assertEqual(failure.getErrorMessage(), "refuses datagrams: nobody listens there")
            self.check_nothing_left()

    def test_says_what_else_keeps_it_from_asking(self) -> None:
        """No such interface, no such address; instead of raising."""
        for host, why in (("fe80::1%nowhere", "cannot be asked: "), ("fe80::1", "cannot be asked: Invalid argument")):
            failure = self.failureResultOf(self.ask(host), ExchangeError)
            self.assertIn(why, failure.getErrorMessage())
            self.check_nothing_left()

    def test_asks_a_server_on_the_link(self) -> None:
        """Whose address means something with its interface alone, and came with a router's advertisement."""
        found = [line.split() for line in Path("/proc/net/if_inet6").read_text().splitlines()]
        local = [(fields[0], fields[5]) for fields in found if fields[3] == "20" and int(fields[4], 16) & 0x40 == 0]
        if not local:
            raise SkipTest("no interface has a link-local IPv6 address")
        self.server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self.addCleanup(self.server.close)
        self.server.bind(("::", 0))
        self.server.settimeout(5)
        asked = self.ask(f"{ipaddress.IPv6Address(bytes.fromhex(local[0][0]))}%{local[0][1]}")
        question, place = self.server.recvfrom(1000)
        self.server.sendto(question[:2] + GOOD[2:], place)
        [reader] = self.reactor.getReaders()
        reader.doRead()
        self.successResultOf(asked)

    def test_a_flood_leaves_others_their_turn(self) -> None:
        """Twenty datagrams at a time; after a hundred the question is given up."""
        asked = self.ask()
        [reader] = self.reactor.getReaders()
        _, place = self.server.recvfrom(1000)
        for _ in range(120):
            self.server.sendto(b"x" * 20, place)
        for _ in range(5):
            reader.doRead()
            self.assertNoResult(asked)
        reader.doRead()
        self.assertIn("more than 100", self.failureResultOf(asked, ExchangeError).getErrorMessage())
        self.check_nothing_left()


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
