"""ghostunnel, from the PATH or built with ``go install`` into a cache outside the checkout.

One processor for Go code (``GOMAXPROCS=1``). Its default log has lines for each connection, and goes to a file. It can
be told neither TLS 1.3 nor a group: Go chooses both, and the group set without X25519MLKEM768 is Go's own switch. Each
hop demands a certificate of the bundle with the SPIFFE ID of the other.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks.peers.base import CLASSICAL, CLIENT_ID, SERVER_ID, SERVER_NAME, Credentials, Found, Missing, Run
from benchmarks.peers.hops import HOST, Hop, Ports, TwoHops, installed, program_output, signal_all

VERSION: Final = "v1.11.1"
_MODULE: Final = "github.com/ghostunnel/ghostunnel"
_BUILD_LIMIT: Final = 900  # seconds


class Ghostunnel(TwoHops):
    """``ghostunnel client`` and ``ghostunnel server``."""

    name = "ghostunnel"

    def locate(self) -> Found | Missing:
        """Build it if it is not there, and ask the program what it is, or Go, when it calls itself ``master``."""
        go = installed("go")
        program = _program()
        if program is None:
            if go is None:
                return Missing(f"ghostunnel is not here, and neither is go, which would build {_MODULE}@{VERSION}")
            failure = _build(go)
            program = _program()
            if program is None:
                return Missing(f"go install {_MODULE}@{VERSION} failed: {failure}")
        said = program_output(program, "--version")
        found = re.search(r"^rev v?(\S+) built with go(\S+)", said, re.MULTILINE)
        if found is None:
            return Missing(f"{program} --version names no version: {said.strip()[:200]!r}")
        version, compiler = found.groups()
        if version == "master" and go is not None:  # as go install makes it
            contents = program_output(go, "version", "-m", program)
            built = re.search(rf"\smod\s+{re.escape(_MODULE)}\s+v?(\S+)", contents)
            version = built[1] if built is not None else version
        return Found(version, f"Go {compiler} crypto/tls", frozenset())

    def hops(self, run: Run, ports: Ports) -> tuple[Hop, Hop]:
        """All is said on the command line; there is no limit of connections, and no idle timeout, unless asked for."""
        environment = {"GOMAXPROCS": "1"}
        if run.group == CLASSICAL:
            environment["GODEBUG"] = "tlsmlkem=0,tlssecpmlkem=0"

        def hop(mode: str, own: Credentials, listen: int, target: int, *options: str) -> Hop:
            files = ("--cert", str(own.certificate), "--key", str(own.key), "--cacert", str(run.certificates.bundle))
            addresses = ("--listen", f"{HOST}:{listen}", "--target", f"{HOST}:{target}")
            return Hop((_program() or "ghostunnel", mode, *files, *addresses, *options), listen, environment)

        server_name = ("--override-server-name", SERVER_NAME)
        return (
            hop("client", run.certificates.client, ports.entry, ports.dial, *server_name, "--verify-uri", SERVER_ID),
            hop("server", run.certificates.server, ports.tls, run.target_port, "--allow-uri", CLIENT_ID),
        )

    def renewal(self, run: Run, pids: tuple[int, ...]) -> Callable[[], None]:
        """A reload: the same process reads the files again."""

        def renew() -> None:
            run.certificates.reissue()
            signal_all(pids, signal.SIGHUP)

        return renew


def _program() -> str | None:
    built = _directory() / "ghostunnel"
    return str(built) if built.exists() else installed("ghostunnel")


def _directory() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache, "tcpmesh-bench", f"ghostunnel-{VERSION}")


def _build(go: str) -> str:
    """Build the pinned version; give what Go said last, in one line."""
    print(f"ghostunnel: building {VERSION} with go install, once ...", file=sys.stderr)
    try:
        done = subprocess.run(
            (go, "install", f"{_MODULE}@{VERSION}"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_BUILD_LIMIT,
            check=False,
            env={**os.environ, "GOBIN": str(_directory())},
        )
    except subprocess.TimeoutExpired:
        return f"not finished after {_BUILD_LIMIT} s"
    lines = [line.strip() for line in done.stdout.splitlines() if not line.startswith("go: downloading")]
    return "; ".join(lines[-2:]) or f"status {done.returncode} and no word"
