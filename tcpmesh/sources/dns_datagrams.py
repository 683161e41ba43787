"""
The socket of one question to a name server over UDP.

Ring 3. The ports of Twisted have their number before they are connected, lose the scope of a link-local address, and
raise what routers report.
"""

from __future__ import annotations

import os
import socket
from typing import Any, Protocol

from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from tcpmesh.values import TCPAddress

__all__ = ["Asker", "Datagrams", "words"]

_READ_AT_ONCE = 20  # datagrams, in one turn of the reactor


class Asker(Protocol):
    """Whose question it is."""

    def datagram(self, data: bytes) -> None:
        """From the server's address, or from who forges that."""

    def failed(self, why: str) -> None:
        """None will come."""


def words(error: BaseException | None) -> str:
    """What keeps a server from being asked."""
    if isinstance(error, ConnectionRefusedError):
        return "refuses datagrams: nobody listens there"
    return f"cannot be asked: {(isinstance(error, OSError) and error.strerror) or error}"


@implementer(IReadDescriptor)
class Datagrams:
    """
    Connected before it has a port: it takes nothing from anybody else.

    :raises OSError: when there is no such socket to be had.
    """

    def __init__(self, reactor: Any, server: TCPAddress, question: Asker) -> None:
        self._reactor = reactor
        self._question = question
        family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
        numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        place = socket.getaddrinfo(server.host, server.port, family, socket.SOCK_DGRAM, 0, numeric)[0][4]
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.connect(place)
        except OSError:
            self._socket.close()
            raise

    def send(self, datagram: bytes) -> None:
        """:raises OSError: when it cannot be sent."""
        self._reactor.addReader(self)
        self._socket.send(datagram)

    def leave(self) -> None:
        """Close; nothing more comes. Safe in every order."""
        if self._socket.fileno() >= 0:
            self._reactor.removeReader(self)
            self._socket.close()

    def fileno(self) -> int:
        """(IReadDescriptor)."""
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """(IReadDescriptor)."""
        return "DNS"

    def doRead(self) -> None:
        """Some of what has come, and then it is somebody else's turn. (IReadDescriptor)"""
        for _ in range(_READ_AT_ONCE):
            if self._socket.fileno() < 0:
                return
            try:
                data = self._socket.recv(65535)
            except BlockingIOError:
                return
            except OSError as error:
                self._question.failed(words(error))
                return
            self._question.datagram(data)

    def connectionLost(self, reason: Failure) -> None:
        """How reactors that poll take the kernel's word for what the server, or a router, has reported."""
        if self._socket.fileno() >= 0:
            number = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            error = OSError(number, os.strerror(number)) if number else reason.value
            self._question.failed(words(error))
