"""
Which of several routes is for a server name.

Ring 0, pure. A question costs a few look-ups, however many routes there are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

from tcpmesh.dns_patterns import ONE, DnsPattern

__all__ = ["MAX_SERVER_NAME", "RouteTable", "normal_server_name"]

MAX_SERVER_NAME = 253  # characters, RFC 1035 section 2.3.4 without the root's dot

_R = TypeVar("_R")


def normal_server_name(name: str) -> str:
    """
    A server name as clients send it, in the form in which names are compared; empty for what can be none.

    In lower case, without a final dot, which RFC 6066 section 3 leaves out and some clients send all the same. Names in
    other scripts come as A-labels (RFC 5890); anything else than ASCII is no name.
    """
    lower = name.lower().removesuffix(".")
    if len(lower) > MAX_SERVER_NAME or not (lower.isascii() and lower.isprintable()) or "" in lower.split("."):
        return ""
    return lower


class RouteTable(Generic[_R]):
    """
    Routes by server name: that for the very name, else for one label in front of the rest of it (``*.``), else for any
    number of labels in front of its longest end (``**.``), else the one for all others.

    :param routes: each with its pattern; None for all others.
    """

    __slots__ = ("_deep", "_exact", "_one", "default")

    def __init__(self, routes: Iterable[tuple[DnsPattern | None, _R]]) -> None:
        self.default: _R | None = None
        self._exact: dict[str, _R] = {}
        self._one: dict[str, _R] = {}
        self._deep: dict[str, _R] = {}
        for pattern, route in routes:
            if pattern is None:
                self.default = route
            elif pattern.deep:
                self._deep[".".join(reversed(pattern.labels))] = route
            elif pattern.labels[-1] == ONE:
                self._one[".".join(reversed(pattern.labels[:-1]))] = route
            else:
                self._exact[".".join(reversed(pattern.labels))] = route

    def find(self, server_name: str) -> _R | None:
        """The route for a name as it came, empty for none; None if there is no route for it."""
        name = normal_server_name(server_name)
        if not name:
            return self.default
        if name in self._exact:
            return self._exact[name]
        rest = name.partition(".")[2]
        if rest in self._one:
            return self._one[rest]
        while rest and self._deep:
            if rest in self._deep:
                return self._deep[rest]
            rest = rest.partition(".")[2]
        return self.default
