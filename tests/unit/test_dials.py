"""Dials on real sockets, without a reactor that runs: what each outcome of connect(2) becomes."""

from __future__ import annotations

import select
import socket
from typing import Any

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.codes import CONNECT_FAILED, CONNECT_REFUSED
from tcpmesh.errors import Refusal
from tcpmesh.net.dialling import Dial
from tcpmesh.net.reset_watch import ResetWatch
from tcpmesh.values import TCPAddress, UnixAddress

PATIENCE = 20  # seconds


class SelfConnecting(socket.socket):
    """The kernel picks the port that is dialled for the dialling end too: nobody listens there, so it is free."""

    def connect_ex(self, address: Any, /) -> int:
        self.bind(address)
        return super().connect_ex(address)


class DialCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.watch = ResetWatch(self.reactor)
        self.addCleanup(self.watch.close)
        self.protocol = Protocol()
        self.refusals: list[Refusal] = []

    def dial(self, host: str, port: int) -> Dial:
        """Begin; the test plays the reactor's part."""
        dial = Dial(TCPAddress(host, port), self.protocol, PATIENCE, self.refusals.append, self.watch, self.reactor)
        self.addCleanup(dial.cancel)
        return dial


class DialTests(DialCase):
    def assert_does_not_reach_itself(self, family: socket.AddressFamily, host: str) -> None:
        """Dial a port of this host at which nobody listens, from that very port."""
        with socket.socket(family) as free:
            free.bind((host, 0))
            port = free.getsockname()[1]
        self.patch(socket, "socket", SelfConnecting)
        dial = self.dial(host, port)
        poll = select.poll()
        poll.register(dial.fileno(), select.POLLOUT)
        self.assertTrue(poll.poll(PATIENCE * 1000))
        dial.doWrite()
        self.assertIsNone(self.protocol.transport)
        [refusal] = self.refusals
        self.assertEqual((refusal.code, refusal.errno), (CONNECT_REFUSED, "ECONNREFUSED"))
        self.assertEqual((self.reactor.getWriters(), self.reactor.getDelayedCalls(), dial.fileno()), ([], [], -1))

    def test_a_hang_up_behind_the_accept_is_no_failure(self) -> None:
        """An application that answers and closes before we look was reached: its answer is there, then its end."""
        path = f"{self.mktemp()}.sock"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            dial = Dial(UnixAddress(path), self.protocol, PATIENCE, self.refusals.append, self.watch, self.reactor)
            accepted, _ = listener.accept()
            accepted.sendall(b"bye")
            accepted.close()
        dial.connectionLost(Failure(ConnectionLost()))  # as a reactor tells of HUP without a wish to read
        self.assertEqual((self.refusals, self.reactor.getDelayedCalls()), ([], []))
        transport: Any = self.protocol.transport
        self.addCleanup(transport.connectionLost, Failure(ConnectionDone()))
        self.assertEqual((transport.socket.recv(10), transport.socket.recv(10)), (b"bye", b""))

    def test_nobody_is_connected_to_himself(self) -> None:
        """TCP allows it (RFC 9293 section 3.5): our own bytes would come back as the application's answer."""
        self.assert_does_not_reach_itself(socket.AF_INET, "127.0.0.1")

    def test_nobody_is_connected_to_himself_by_ipv6(self) -> None:
        """The same."""
        self.assert_does_not_reach_itself(socket.AF_INET6, "::1")

    def test_an_interface_that_is_not_there_is_named_in_words(self) -> None:
        """The resolver's numbers are not the system's errors."""
        self.dial("fe80::1%nosuch0", 9)
        self.reactor.advance(0)
        [refusal] = self.refusals
        self.assertEqual((refusal.code, refusal.errno), (CONNECT_FAILED, "ENODEV"))
        self.assertEqual(refusal.reason, "connecting to [fe80::1%nosuch0]:9: No such device")
