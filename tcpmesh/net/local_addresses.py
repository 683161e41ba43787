"""
Which addresses are this machine's.

Ring 3.
"""

from __future__ import annotations

import socket

__all__ = ["is_local"]


def is_local(host: str) -> bool:
    """Whether the IP address is one of this machine's now: whether a socket can be bound to it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        target = socket.getaddrinfo(host, 0, family, socket.SOCK_DGRAM, 0, socket.AI_NUMERICHOST)[0][4]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind(target)
    except OSError:
        return False
    return True
