"""A listening port outlives whatever happens to one connection."""

from __future__ import annotations

import socket
from errno import EMFILE
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.net.ports import REST, MeshPort
from tcpmesh.net.reserve import Reserve
from tcpmesh.values import Address


class Unlucky(Protocol):
    """Fails the moment that it is connected."""

    def connectionMade(self) -> None:
        raise RuntimeError("no luck")


class Legs(Factory):
    """Gives protocols as listeners' factories do."""

    noisy = False

    def __init__(self, *protocols: Protocol | None) -> None:
        self._protocols = list(protocols)
        self.unserved: list[Address] = []

    def take(self, _peer: Address, _own: Address) -> Protocol | None:
        return self._protocols.pop(0)

    def out_of_descriptors(self, peer: Address, _own: Address) -> None:
        self.unserved.append(peer)


class Exhausted:
    """A listening socket of which nothing can be accepted, whatever is given up for it."""

    def __init__(self, real: socket.socket) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def accept(self) -> Any:
        raise OSError(EMFILE, "Too many open files")


class PortTests(SynchronousTestCase):
    def listen(self, factory: Legs) -> MeshPort:
        self.reactor = MemoryReactorClock()
        port = MeshPort(0, factory, interface="127.0.0.1", reactor=self.reactor)
        port.reserve = Reserve()
        self.addCleanup(port.reserve.close)
        port.startListening()
        self.addCleanup(port.connectionLost, Failure(ConnectionDone()))
        return port

    def connect(self, port: MeshPort) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", port.getHost().port), timeout=20)
        self.addCleanup(client.close)
        return client

    def test_a_connection_that_fails_at_once_ends_alone(self) -> None:
        """What raises is logged and its connection closed; the next one is taken in the same turn."""
        second = Protocol()
        port = self.listen(Legs(Unlucky(), second))
        first, _other = self.connect(port), self.connect(port)
        port.doRead()
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        with self.assertRaises(ConnectionResetError):
            first.recv(1)
        assert second.transport is not None
        self.addCleanup(second.transport.connectionLost, Failure(ConnectionDone()))  # type: ignore[attr-defined]
        self.assertIn(port, self.reactor.getReaders())

    def test_what_the_factory_does_not_take_is_reset(self) -> None:
        """Never an orderly end."""
        port = self.listen(Legs(None))
        client = self.connect(port)
        port.doRead()
        with self.assertRaises(ConnectionResetError):
            client.recv(1)

    def test_rests_when_not_even_the_reserve_helps(self) -> None:
        """Another thread may be quicker: no error, no event for a while, and then it looks again."""
        factory = Legs()
        port = self.listen(factory)
        real, port.socket = port.socket, Exhausted(port.socket)
        port.doRead()
        self.assertEqual((factory.unserved, port in self.reactor.getReaders()), ([], False))
        self.reactor.advance(REST)
        self.assertIn(port, self.reactor.getReaders())
        port.socket = real
