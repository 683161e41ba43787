"""Listening ports when accept(2) fails: nobody sees an orderly end, nothing spins, and the port lives on."""

from __future__ import annotations

import os
import select
import socket
import tempfile
from collections.abc import Callable
from errno import EAGAIN, ECONNABORTED, EINVAL, EMFILE, ENFILE, ENOSPC, errorcode
from pathlib import Path
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.net.legs import Leg, PlainLeg
from tcpmesh.net.ports import ACCEPTS, REST, MeshListeningPort, MeshPort, MeshUNIXPort
from tcpmesh.net.reserve import Reserve
from tcpmesh.net.reset_watch import ResetWatch
from tcpmesh.net.tcp import address_from_name
from tcpmesh.values import Address, TCPAddress
from tests.unit.descriptors import no_descriptor_left

PATIENCE = 20  # seconds


class Owner:
    """Of a leg that is accepted and does nothing."""

    def leg_closed(self, leg: Leg) -> None:
        """Not counted."""


class Taking(Factory):
    """Takes what comes and writes down what could not be taken."""

    connected: Callable[[Leg], None] | None = None

    def __init__(self) -> None:
        self.taken: list[Address] = []
        self.lost: list[tuple[Address, Address]] = []
        self.given_back: list[Address] = []
        self.refuses = False
        self.raises = False

    def take(self, peer: Address, own: Address) -> Leg | None:
        self.taken.append(peer)
        if self.raises:
            raise ZeroDivisionError
        owner: Any = Owner()
        return None if self.refuses else PlainLeg(owner, owner, on_connected=self.connected)

    def not_taken(self, peer: Address, own: Address) -> None:
        self.given_back.append(peer)

    def out_of_descriptors(self, peer: Address, own: Address) -> None:
        self.lost.append((peer, own))
        if self.raises:
            raise ZeroDivisionError


class Stubborn:
    """A listening socket whose accept fails so many times before it works again."""

    def __init__(self, listener: socket.socket, problem: int, times: int) -> None:
        self._listener = listener
        self._problem = problem
        self.left = times
        self.asked = 0

    def accept(self) -> Any:
        self.asked += 1
        if self.left:
            self.left -= 1
            raise OSError(self._problem, os.strerror(self._problem))
        return self._listener.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._listener, name)


def fate(client: socket.socket) -> str:
    """What a silent client learns of its connection: an error's name, or END."""
    poll = select.poll()
    poll.register(client, select.POLLIN)
    assert poll.poll(PATIENCE * 1000), "nothing happened to the connection"
    number = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return errorcode[number] if number else "END"


def held(client: socket.socket) -> bool:
    """Whether nothing has happened to the connection."""
    poll = select.poll()
    poll.register(client, select.POLLIN)
    return not poll.poll(0)


class PortCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.factory = Taking()
        self.reserve = Reserve()
        self.addCleanup(self.reserve.close)
        self.watch = ResetWatch(self.reactor)
        self.addCleanup(self.watch.close)

    def listening(self, port: Any) -> Any:
        """Start it; its sockets are closed at the end."""
        port.reserve = self.reserve
        port.watch = self.watch
        port.startListening()
        self.addCleanup(self.close, port)
        return port

    def close(self, port: Any) -> None:
        for reader in self.reactor.getReaders():
            if reader is not port:
                reader.connectionLost(Failure(ConnectionDone()))
        if port.connected:
            port.connectionLost(Failure(ConnectionDone()))

    def is_reading(self, port: MeshListeningPort) -> bool:
        return port in self.reactor.getReaders()


class PortTests(PortCase):
    def setUp(self) -> None:
        super().setUp()
        self.port = self.listening(MeshPort(0, self.factory, 200, "127.0.0.1", self.reactor))  # type: ignore[arg-type]

    def fail_accept(self, problem: int, times: int = 1) -> Stubborn:
        self.port.socket = Stubborn(self.port.socket, problem, times)
        return self.port.socket

    def client(self) -> socket.socket:
        """Connected as far as the kernel is concerned."""
        client = socket.create_connection(("127.0.0.1", self.port.getHost().port), timeout=PATIENCE)
        self.addCleanup(client.close)
        return client

    def assert_works(self) -> None:
        """The next client is taken."""
        before, client = len(self.factory.taken), self.client()
        self.assertTrue(self.is_reading(self.port))
        self.port.doRead()
        self.assertEqual(self.factory.taken[before:], [TCPAddress(*client.getsockname())])
        self.assertTrue(held(client))

    def test_out_of_descriptors_resets_and_tells(self) -> None:
        """With the descriptor in reserve, one after the other; the client sees RST, and who it was is told."""
        clients = [self.client() for _ in range(3)]
        with no_descriptor_left():
            for _client in clients:
                self.port.doRead()
        self.assertEqual([fate(client) for client in clients], ["ECONNRESET"] * 3)
        own = TCPAddress("127.0.0.1", self.port.getHost().port)
        self.assertEqual(self.factory.lost, [(TCPAddress(*client.getsockname()), own) for client in clients])
        self.assertEqual((self.factory.taken, self.reactor.getDelayedCalls()), ([], []))
        self.assert_works()

    def test_the_system_s_own_limit_is_the_same(self) -> None:
        """ENFILE says it of all processes together."""
        for problem in (EMFILE, ENFILE):
            client = self.client()
            self.fail_accept(problem)
            self.port.doRead()
            self.assertEqual(fate(client), "ECONNRESET")
        self.assertEqual((len(self.factory.lost), self.factory.taken), (2, []))
        self.assert_works()

    def test_without_even_the_reserve_it_rests(self) -> None:
        """The event would come back at once: it is not listened to for a second, then all is tried again."""
        client = self.client()
        self.reserve.close()
        with no_descriptor_left():
            self.port.doRead()
        self.assertFalse(self.is_reading(self.port))
        self.assertTrue(held(client))
        self.reactor.advance(REST - 0.01)
        self.assertFalse(self.is_reading(self.port))
        self.reactor.advance(0.01)
        self.assertTrue(self.is_reading(self.port))
        self.port.doRead()
        self.assertEqual(self.factory.taken, [TCPAddress(*client.getsockname())])

    def test_a_client_that_is_gone_by_then_is_no_reason_to_spin(self) -> None:
        """The descriptor is there, and nobody to be reset with it: the port rests."""
        self.fail_accept(EMFILE)
        self.port.doRead()
        self.assertEqual((self.factory.lost, self.is_reading(self.port)), ([], False))
        self.reactor.advance(REST)
        self.assert_works()

    def test_a_port_that_is_closed_while_it_rests_stays_closed(self) -> None:
        """The timer finds nothing to do."""
        self.fail_accept(EINVAL)
        self.port.doRead()
        self.port.connectionLost(Failure(ConnectionDone()))
        self.reactor.advance(REST)
        self.assertFalse(self.is_reading(self.port))
        self.flushLoggedErrors(OSError)

    def test_an_unknown_error_is_logged_and_not_in_a_loop(self) -> None:
        """Whatever it is, once a second is often enough."""
        listener = self.fail_accept(EINVAL, 2)
        self.port.doRead()
        self.assertFalse(self.is_reading(self.port))
        self.reactor.advance(REST)
        self.port.doRead()
        self.assertEqual(listener.asked, 2)
        self.assertEqual([failure.value.errno for failure in self.flushLoggedErrors(OSError)], [EINVAL] * 2)
        self.reactor.advance(REST)
        self.assert_works()

    def test_nobody_there_is_no_error(self) -> None:
        """EAGAIN: asked once, nothing logged, no rest."""
        listener = self.fail_accept(EAGAIN)
        self.port.doRead()
        self.assertEqual((listener.asked, self.is_reading(self.port)), (1, True))

    def test_a_client_that_gave_up_does_not_stop_those_behind_it(self) -> None:
        """ECONNABORTED: the next one is taken in the same turn."""
        self.client()
        self.fail_accept(ECONNABORTED)
        self.port.doRead()
        self.assertEqual((len(self.factory.taken), self.is_reading(self.port)), (1, True))

    def test_takes_a_bounded_number_a_turn(self) -> None:
        """Those who are served already get their turn in a flood of new ones."""
        for _ in range(ACCEPTS + 1):
            self.client()
        self.port.doRead()
        self.assertEqual(len(self.factory.taken), ACCEPTS)
        self.port.doRead()
        self.assertEqual(len(self.factory.taken), ACCEPTS + 1)

    def test_who_is_not_taken_is_reset(self) -> None:
        """The factory has recorded why."""
        self.factory.refuses = True
        client = self.client()
        self.port.doRead()
        self.assertEqual((fate(client), len(self.factory.taken)), ("ECONNRESET", 1))
        self.factory.refuses = False
        self.assert_works()

    def assert_fails_alone(self, client: socket.socket, failures: int = 1) -> None:
        """The client is reset, the failure is logged, the next client is taken."""
        self.reactor.advance(0)
        self.assertEqual(fate(client), "ECONNRESET")
        self.assertEqual(len(self.flushLoggedErrors()), failures)
        self.factory.raises = False
        self.factory.connected = None
        self.assert_works()

    def test_a_factory_that_fails_does_not_close_the_port(self) -> None:
        """As a record's destination may: it is that one connection's failure."""
        self.factory.raises = True
        client = self.client()
        self.port.doRead()
        self.assert_fails_alone(client)

    def test_a_factory_that_fails_when_there_is_no_descriptor_does_not_close_the_port(self) -> None:
        """The same for those who are turned away."""
        self.factory.raises = True
        client = self.client()
        with no_descriptor_left():
            self.port.doRead()
        self.assert_fails_alone(client)

    def test_a_transport_that_cannot_be_made_gives_its_place_back(self) -> None:
        """As when the kernel has no room to watch one more descriptor."""

        def no_room(*_arguments: Any) -> Any:
            raise OSError(ENOSPC, "no room in epoll")

        self.port.transport = no_room
        client = self.client()
        self.port.doRead()
        del self.port.transport
        self.assertEqual(self.factory.given_back, self.factory.taken)
        self.assertEqual(len(self.factory.taken), 1)
        self.assertEqual([failure.type for failure in self.flushLoggedErrors()], [OSError])
        self.assertEqual(fate(client), "ECONNRESET")

    def test_a_leg_that_fails_as_it_is_connected_does_not_close_the_port(self) -> None:
        """And its client sees no orderly end."""

        def fail(_leg: Leg) -> None:
            raise ZeroDivisionError

        self.factory.connected = fail
        client = self.client()
        self.port.doRead()
        self.assert_fails_alone(client, 2)


class UNIXPortTests(PortCase):
    def setUp(self) -> None:
        super().setUp()
        directory = tempfile.TemporaryDirectory()  # sun_path is short (unix(7))
        self.addCleanup(directory.cleanup)
        self.path = Path(directory.name) / "entry"
        factory: Any = self.factory
        self.port = self.listening(MeshUNIXPort(str(self.path), factory, 200, 0o600, self.reactor))

    def client(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        self.addCleanup(client.close)
        client.connect(str(self.path))
        return client

    def test_out_of_descriptors_closes_and_tells(self) -> None:
        """A unix socket knows no reset: the connection is closed, what it had sent unread makes that an error."""
        client = self.client()
        client.sendall(b"question")
        with no_descriptor_left():
            self.port.doRead()
        self.assertEqual((fate(client), len(self.factory.lost), self.factory.taken), ("ECONNRESET", 1, []))

    def test_closes_its_socket_and_removes_its_path(self) -> None:
        """As anybody would expect."""
        descriptor = self.port.fileno()
        self.port.connectionLost(Failure(ConnectionDone()))
        self.assertRaises(OSError, os.fstat, descriptor)
        self.assertFalse(self.path.exists())

    def test_closes_its_socket_though_somebody_else_removed_its_path(self) -> None:
        """Else it would listen, unreachable, for as long as the process lives."""
        self.path.unlink()
        descriptor = self.port.fileno()
        self.port.connectionLost(Failure(ConnectionDone()))
        self.assertRaises(OSError, os.fstat, descriptor)
        self.assertEqual((self.is_reading(self.port), self.flushLoggedErrors()), (False, []))


class AddressTests(SynchronousTestCase):
    """What a socket's name becomes, be it the peer's or our own."""

    def test_a_scope_belongs_to_the_host(self) -> None:
        """Of the same link-local address there may be one on every interface (RFC 4007 section 11)."""
        number, name = socket.if_nameindex()[0]
        self.assertEqual(address_from_name(("fe80::1", 9, 0, number)), TCPAddress(f"fe80::1%{name}", 9))

    def test_without_a_scope_there_is_none(self) -> None:
        """Neither IPv4 nor an IPv6 address that is valid everywhere gets one."""
        for name in (("192.0.2.1", 9), ("2001:db8::1", 9, 0, 0)):
            self.assertEqual(address_from_name(name), TCPAddress(*name[:2]))
