"""stunnel, as Debian packages it (stunnel4).

It has a thread for each connection and cannot be told to do with less, so that it alone may use several cores. Its log
is at the default level, which has lines for each connection, and goes to a file. The second hop demands a certificate
of the bundle, the first one also the name in it.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable

from benchmarks.peers.base import SERVER_NAME, Found, Missing, Run
from benchmarks.peers.hops import HOST, Hop, Ports, TwoHops, installed, program_output, signal_all

_FOREVER = 86400  # seconds


class Stunnel(TwoHops):
    """Two stunnel processes, a service in each."""

    name = "stunnel"

    def locate(self) -> Found | Missing:
        """Ask ``stunnel -version``."""
        program = _program()
        if program is None:
            return Missing("stunnel is not installed: apt-get install stunnel4")
        output = program_output(program, "-version")
        version = re.search(r"stunnel (\S+) on", output)
        library = re.search(r"(?:[Rr]unning +with) (\S+ \S+)", output)
        if version is None or library is None:
            return Missing(f"{program} -version names no version or TLS library")
        return Found(version[1], library[1], frozenset())

    def hops(self, run: Run, ports: Ports) -> tuple[Hop, Hop]:
        """A service with ``client = yes`` and one without.

        ``Run.max_connections`` needs no option: stunnel takes about half as many as there may be open files.
        """
        certificates = run.certificates
        program = _program() or "stunnel"
        first, second = run.directory / "first.conf", run.directory / "second.conf"
        head = "foreground = yes\npid =\nsyslog = no\ndebug = notice\n"
        tail = (
            f"CAfile = {certificates.bundle}\nverifyChain = yes\nsslVersionMin = TLSv1.3\ncurves = {run.group}\n"
            "sessionResume = no\n"
            f"socket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n"
            f"libwrap = no\nTIMEOUTconnect = 10\nTIMEOUTidle = {_FOREVER}\n"
        )
        first.write_text(
            f"{head}[first]\nclient = yes\naccept = {HOST}:{ports.entry}\nconnect = {HOST}:{ports.dial}\n"
            f"cert = {certificates.client.certificate}\nkey = {certificates.client.key}\n"
            f"checkHost = {SERVER_NAME}\n{tail}"
        )
        second.write_text(
            f"{head}[second]\nclient = no\naccept = {HOST}:{ports.tls}\nconnect = {HOST}:{run.target_port}\n"
            f"cert = {certificates.server.certificate}\nkey = {certificates.server.key}\n{tail}"
        )
        return Hop((program, str(first)), ports.entry), Hop((program, str(second)), ports.tls)

    def renewal(self, run: Run, pids: tuple[int, ...]) -> Callable[[], None]:
        """A reload: the same process reads its configuration again."""

        def renew() -> None:
            run.certificates.reissue()
            signal_all(pids, signal.SIGHUP)

        return renew


def _program() -> str | None:
    return installed("stunnel4") or installed("stunnel")
