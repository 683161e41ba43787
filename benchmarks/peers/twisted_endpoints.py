"""Stock Twisted: what its endpoints and ``TLSMemoryBIOProtocol`` do on the reactor that a user gets without asking.

The base line that tcpmesh's own transports are held against; same interpreter, same OpenSSL. No log, as the hops write
one only of failures. The second hop demands a certificate of the bundle, the first one also the name in it.
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

from benchmarks.peers.base import SERVER_NAME, STOCK, Credentials, Found, Missing, Run
from benchmarks.peers.hops import Hop, Ports, TwoHops, openssl_groups
from benchmarks.peers.tcpmesh import bundled_openssl

_PROGRAM = Path(__file__).with_name("twisted_hop.py")


class TwistedEndpoints(TwoHops):
    """Two processes of `benchmarks.peers.twisted_hop`."""

    name = STOCK

    def locate(self) -> Found | Missing:
        """tcpmesh depends on it."""
        return Found(metadata.version("twisted"), bundled_openssl(), frozenset())

    def hops(self, run: Run, ports: Ports) -> tuple[Hop, Hop]:
        """Twisted has no setting for groups, hence the environment."""
        groups = openssl_groups(run)

        def hop(side: str, listen: int, connect: int, credentials: Credentials) -> Hop:
            # -P: the folder of the program holds modules that are named like what it must not import instead.
            command = (
                *(sys.executable, "-P", str(_PROGRAM), side),
                *("--listen", str(listen), "--connect", str(connect), "--server-name", SERVER_NAME),
                *("--certificate", str(credentials.certificate), "--key", str(credentials.key)),
                *("--bundle", str(run.certificates.bundle)),
            )
            return Hop(command, listen, groups)

        return (
            hop("first", ports.entry, ports.dial, run.certificates.client),
            hop("second", ports.tls, run.target_port, run.certificates.server),
        )

    # renewal: there is none in stock Twisted; a context is made once.
