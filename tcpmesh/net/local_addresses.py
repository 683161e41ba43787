"""
Which addresses are this machine's, and which it knows a way to.

Ring 3.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

__all__ = ["has_route", "is_local"]


def is_local(host: str) -> bool:
    """Whether the IP address is one of this machine's now: whether a socket can be bound to it."""
    return _works(host, socket.socket.bind)


def has_route(host: str) -> bool:
    """Whether this machine would send something to the IP address; nothing is sent."""
    return _works(host, socket.socket.connect)


def _works(host: str, attempt: Callable[[socket.socket, Any], None]) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        target = socket.getaddrinfo(host, 0, family, socket.SOCK_DGRAM, 0, socket.AI_NUMERICHOST)[0][4]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            attempt(probe, target)
    except OSError:
        return False
    return True
