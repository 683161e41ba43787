"""
Connects to a server on this machine.

Ring 3.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, UNIXClientEndpoint
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.python.failure import Failure

from tcpmesh.addresses import Address, TCPAddress

__all__ = ["CONNECT_TIME", "Connect", "connect_to", "why_not"]

CONNECT_TIME = 10.0  # seconds

#: Makes a connection: ``connect(reactor, address, factory)``.
Connect = Callable[[Any, Address, IProtocolFactory], Deferred[Any]]


def connect_to(reactor: Any, address: Address, factory: IProtocolFactory) -> Deferred[Any]:
    """Connect to a unix or TCP socket, within :data:`CONNECT_TIME`; cancelling the Deferred ends the attempt."""
    endpoint: IStreamClientEndpoint
    if not isinstance(address, TCPAddress):
        endpoint = UNIXClientEndpoint(reactor, address.path, timeout=CONNECT_TIME)
    elif ":" in address.host:
        endpoint = TCP6ClientEndpoint(reactor, address.host, address.port, timeout=CONNECT_TIME)
    else:
        endpoint = TCP4ClientEndpoint(reactor, address.host, address.port, timeout=CONNECT_TIME)
    return endpoint.connect(factory)


def why_not(failure: Failure) -> str:
    """In the system's words, why there is no connection: ``No such file or directory``."""
    number = getattr(failure.value, "osError", None)
    return os.strerror(number) if isinstance(number, int) else failure.getErrorMessage()
