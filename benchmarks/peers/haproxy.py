"""HAProxy in TCP mode, as Debian packages it.

One thread; Debian's ``-Ws`` without systemd is ``-W``, so each hop has a master, which idles, and a worker. Buffers,
and all that is not set here, are the defaults; haproxy logs nothing unless told to. The second hop demands a
certificate of the bundle, the first one also the name in it.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable

from benchmarks.peers.base import SERVER_NAME, Found, Missing, Run
from benchmarks.peers.hops import (
    FOREVER,
    HOST,
    Hop,
    Ports,
    TwoHops,
    installed,
    openssl_groups,
    program_output,
    signal_all,
)


class HAProxy(TwoHops):
    """Two haproxy processes with ``nbthread 1``."""

    name = "haproxy"

    def locate(self) -> Found | Missing:
        """Ask ``haproxy -vv``."""
        program = installed("haproxy")
        if program is None:
            return Missing("haproxy is not installed: apt-get install haproxy")
        output = program_output(program, "-vv")
        version = re.search(r"HAProxy version ([^\s-]+)", output)
        library = re.search(r"Running on (?:Open)?SSL (?:library )?version : (\S+ \S+)", output)
        if version is None or library is None:
            return Missing(f"{program} -vv names no version or TLS library; a haproxy with OpenSSL is needed")
        return Found(version[1], library[1], frozenset())

    def hops(self, run: Run, ports: Ports) -> tuple[Hop, Hop]:
        """One ``listen`` section each."""
        certificates = run.certificates
        # No resumption: an empty cache on one side, none of its sessions used on the other.
        head = (
            f"global\n  nbthread 1\n  maxconn {run.max_connections}\n  tune.ssl.cachesize 0\n"
            "defaults\n  mode tcp\n  timeout connect 10s\n"
            f"  timeout client {FOREVER}\n  timeout server {FOREVER}\n"
        )
        first, second = run.directory / "first.cfg", run.directory / "second.cfg"
        first.write_text(
            f"{head}listen first\n  bind {HOST}:{ports.entry}\n  server second {HOST}:{ports.dial} ssl verify required "
            f"verifyhost {SERVER_NAME} ca-file '{certificates.bundle}' crt '{certificates.client.combined}' "
            "ssl-min-ver TLSv1.3 no-ssl-reuse\n"
        )
        second.write_text(
            f"{head}listen second\n  bind {HOST}:{ports.tls} ssl crt '{certificates.server.combined}' verify required "
            f"ca-file '{certificates.bundle}' ssl-min-ver TLSv1.3 no-tls-tickets curves {run.group}\n"
            f"  server application {HOST}:{run.target_port}\n"
        )
        # "curves" of a server line came with 2.9 or later, hence the environment.
        groups = openssl_groups(run)
        command = (installed("haproxy") or "haproxy", "-W", "-db", "-f")
        return Hop((*command, str(first)), ports.entry, groups), Hop((*command, str(second)), ports.tls, groups)

    def renewal(self, run: Run, pids: tuple[int, ...]) -> Callable[[], None]:
        """A hitless reload: the master starts a new worker, which takes over the listening sockets of the old one."""

        def renew() -> None:
            run.certificates.reissue()
            signal_all(pids, signal.SIGUSR2)

        return renew
