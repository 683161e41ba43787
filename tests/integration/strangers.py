"""
Refusals from all sides: what the peer on the wire saw, what the application saw, what records and log say.

Strangers are raw pyOpenSSL peers with crafted certificates, which watch what the proxy does to them.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from typing import Any

import attrs
from OpenSSL import SSL
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from zope.interface import implementer

from tests.integration.applications import END, name_of, receive
from tests.integration.foreign import ForeignTLS, TruncatedError
from tests.integration.mesh import MeshTestCase
from tests.unit.tls_pairs import names_of


@attrs.define
class Seen:
    """What a peer on the wire saw of one connection."""

    secured: bool = False  # its own side of the handshake was complete
    error: str = ""  # the alert that came, or what it did not like itself
    data: bytes = b""  # plaintext, a preface among it
    notified: bool = False  # close_notify came
    ending: str = ""  # END or RESET


class Stranger(ForeignTLS):
    """A peer that watches."""

    def watch(self, then: Callable[[Stranger], Any] | None = None) -> Seen:
        """
        Do the handshake, then ``then``, then read up to the end, whatever that is.

        A thread's function: nothing is raised for what the proxy does.
        """
        seen = Seen()
        try:
            self.handshake()
            seen.secured = True
            if then is not None:
                then(self)
            while data := self.recv(65536):
                seen.data += data
            seen.notified = True
        except TruncatedError:
            seen.ending = END
        except SSL.Error as error:
            seen.error = names_of(error)
            self._flush()
        except OSError as problem:
            seen.ending = name_of(problem)
        if not seen.ending:
            seen.ending = receive(self.socket).ending
        self.socket.close()
        return seen


class Target:
    """An application that is never to be called; the kernel takes connections for it, and it counts them."""

    def __init__(self, test: MeshTestCase) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        test.addCleanup(self._listener.close)
        self.port = int(self._listener.getsockname()[1])

    @property
    def was_dialled(self) -> bool:
        """On loopback a connection is complete before its caller gets it."""
        return bool(select.select([self._listener], [], [], 0)[0])


@implementer(ILogObserver)
class FailureLines:
    """What the failure logs of all proxies in this process have warned of."""

    def __init__(self, test: MeshTestCase) -> None:
        self._events: list[LogEvent] = []
        globalLogPublisher.addObserver(self)
        test.addCleanup(globalLogPublisher.removeObserver, self)

    def __call__(self, event: LogEvent) -> None:
        """Keep a warning. (ILogObserver)"""
        if event.get("log_namespace") == "tcpmesh.observe.failures" and event["log_level"] is LogLevel.warn:
            self._events.append(event)

    def take(self, listener: str) -> list[tuple[str, dict[str, str]]]:
        """The lines about a listener so far, each as text and as fields; they are not given again."""
        own = [event for event in self._events if event["fields"]["listener"] == listener]
        self._events = [event for event in self._events if event not in own]
        return [(formatEvent(event), event["fields"]) for event in own]
