"""What the benchmark asks of a peer: find it, run its two hops, renew their certificates."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Protocol

from attrs import define, field, frozen

POST_QUANTUM: Final = "X25519MLKEM768"
CLASSICAL: Final = "X25519"
GROUPS: Final = (POST_QUANTUM, CLASSICAL)

# The names of three rows that mean something to the report; every other name is a peer to be measured against.
OURS: Final = "tcpmesh"
DIRECT: Final = "direct"
STOCK: Final = "twisted-endpoints"

CLIENT_ID: Final = "spiffe://bench.test/client"
SERVER_ID: Final = "spiffe://bench.test/server"
SERVER_NAME: Final = "localhost"  # the DNS name that both certificates carry as well


@frozen
class Found:
    """A peer that is on this machine."""

    version: str  # "2.6.12", without the product's name
    tls_library: str  # "OpenSSL 3.0.17", as the program itself reports it
    groups: frozenset[str]  # those of GROUPS that it can be told to use


@frozen
class Missing:
    """A peer that is not here."""

    reason: str  # one line: what is missing and what would install it


@frozen
class Credentials:
    """PEM files of one hop. The names stay, `Certificates.reissue` replaces the contents by renaming."""

    certificate: Path
    key: Path
    combined: Path  # certificate, then key, in one file


class Certificates(Protocol):
    """The identities of a run: P-256, issued by one root, valid as TLS client and server."""

    @property
    def client(self) -> Credentials:
        """CLIENT_ID, and SERVER_NAME as DNS name."""

    @property
    def server(self) -> Credentials:
        """SERVER_ID, and SERVER_NAME as DNS name."""

    @property
    def bundle(self) -> Path:
        """The root certificate."""

    def reissue(self) -> None:
        """Replace both certificates and keys; the root stays. Call this first in `Running.renew`."""


@frozen
class Run:
    """What one start of a peer is given."""

    directory: Path  # empty, writable, gone afterwards: configurations, sockets and logs go here
    target_port: int  # the application, on 127.0.0.1
    group: str  # one of GROUPS, and of Found.groups: the only one that both hops may agree on
    max_connections: int  # at a time, through both hops
    certificates: Certificates
    # Certificates will be renewed while it runs. A peer that issues its own, and so renews by itself, gives them the
    # shortest life that it can, and a `Running.renew` that does nothing: the next renewal is waited for anyway.
    renewing: bool = False


@define
class Running:
    """A peer with both hops up and listening."""

    port: int  # the plain TCP entry, on 127.0.0.1
    pids: tuple[int, ...]  # one for each process that was started; their children are found by the benchmark
    start_seconds: float  # from the first fork until the last hop listens
    # Have both hops use new certificates the way this peer does it (with Certificates.reissue); return when told, not
    # when done. It may set `pids` if processes are replaced. None: the peer cannot without a stop.
    renew: Callable[[], None] | None = field(default=None)


class Peer(Protocol):
    """One proxy, with one process or thread for each hop, TLS 1.3 and client certificates, as all the others.

    client -> 127.0.0.1:Running.port (first hop) -> mutual TLS -> second hop -> 127.0.0.1:Run.target_port

    A half-close need not come through: stock Twisted has none, so that a receiver has to know where a message ends.
    """

    @property
    def name(self) -> str:
        """As it stands in the table."""

    def find(self) -> Found | Missing:
        """Look for the program; run it for its version if need be. Never raises for a program that is not there."""

    def running(self, run: Run) -> AbstractContextManager[Running]:
        """Start both hops, wait until both listen, and end them and all their children on exit.

        Raises RuntimeError that says which hop failed, with the end of what it printed.
        """
