"""
The quick start: a plain echo service, the mesh of etc/quickstart.yaml around it, and what to type.

Usage: quickstart.py [CONFIGURATION]. ``make run`` calls it. Ctrl-C ends everything.
"""

from __future__ import annotations

import http.client
import signal
import subprocess
import sys
import time
from pathlib import Path

from tcpmesh.config import load
from tcpmesh.errors import ConfigurationError
from tcpmesh.plugins import PluginRegistry
from tcpmesh.settings import Settings
from tcpmesh.values import TCPAddress

HERE = Path(__file__).resolve().parent
START_TAKES_AT_MOST = 30.0  # seconds
BETWEEN_LOOKS = 0.05  # seconds

WHAT_TO_TYPE = """
The echo service on {target} is now reachable through mutual TLS. In another terminal:

  {allowed}, whose identity is {allowed_id}, gets each line back:
      nc {allowed_host} {allowed_port}
      {python} -c 'import socket; s = socket.create_connection(("{allowed_host}", {allowed_port})); s.sendall(b"hello\\n"); print(s.recv(99))'

  {refused}, whose identity is {refused_id}, is refused before the service hears of it (nc just ends):
      nc {refused_host} {refused_port}
      {python} -c 'import socket; s = socket.create_connection(("{refused_host}", {refused_port})); s.sendall(b"hello\\n"); print(s.recv(99))'

Each connection is recorded below, once by each of its two hops. Ctrl-C ends everything.
"""  # noqa: E501


def explain(settings: Settings) -> str:
    """Say what to type, with the addresses and identities of the configuration."""
    allowed, refused = settings.outbound[:2]
    inbound = settings.inbound[0]
    assert isinstance(allowed.listen, TCPAddress)
    assert isinstance(refused.listen, TCPAddress)
    return WHAT_TO_TYPE.format(
        target=inbound.target,
        allowed=allowed.name,
        allowed_id=settings.identity.workloads[allowed.workload].id,
        allowed_host=allowed.listen.host,
        allowed_port=allowed.listen.port,
        refused=refused.name,
        refused_id=settings.identity.workloads[refused.workload].id,
        refused_host=refused.listen.host,
        refused_port=refused.listen.port,
        python="python3",
    )


def is_ready(address: TCPAddress) -> bool:
    """Ask the proxy's admin address once."""
    connection = http.client.HTTPConnection(address.host, address.port, timeout=1)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class QuickStart:
    """The two processes, from start to end."""

    def __init__(self) -> None:
        self.echo: subprocess.Popen[str] | None = None
        self.proxy: subprocess.Popen[bytes] | None = None
        self.ending = False

    def run(self, file: Path) -> int:
        """Start both, wait for the proxy's end, end the other; give the proxy's exit status."""
        settings = load(file, PluginRegistry())
        target = settings.inbound[0].target
        assert isinstance(target, TCPAddress)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self.end)
        try:
            # Sessions of their own, so that Ctrl-C reaches only this process: the proxy takes a second signal as
            # "now", and the application has to outlive the proxy's drain.
            self.echo = subprocess.Popen(
                [sys.executable, str(HERE / "line_echo.py"), target.host, str(target.port)],
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            assert self.echo.stdout is not None
            if not self.echo.stdout.readline():
                return self.echo.wait()
            if self.ending:
                return 0
            self.proxy = subprocess.Popen([sys.executable, "-m", "tcpmesh", "run", str(file)], start_new_session=True)
            if self.ending:  # the signal came between these two lines
                self.proxy.terminate()
            elif self.wait_until_ready(settings):
                print(explain(settings), flush=True)
            return self.proxy.wait()
        finally:
            if self.echo is not None:
                self.echo.terminate()
                self.echo.wait()

    def wait_until_ready(self, settings: Settings) -> bool:
        """Ask the proxy whether it serves, until it says so or ends."""
        assert self.proxy is not None
        address = settings.admin.metrics
        assert address is not None
        deadline = time.monotonic() + START_TAKES_AT_MOST
        while self.proxy.poll() is None and not self.ending:
            if is_ready(address):
                return True
            if time.monotonic() > deadline:
                print(f"quickstart: http://{address}/ready never said yes; ending", file=sys.stderr)
                self.proxy.terminate()
                break
            time.sleep(BETWEEN_LOOKS)
        return False

    def end(self, number: int, frame: object) -> None:
        """Pass a signal on to the proxy: the first drains it, a second ends it at once."""
        if not self.ending:
            print("\nquickstart: ending; connections may finish, Ctrl-C again cuts them", flush=True)
        self.ending = True
        if self.proxy is not None:
            self.proxy.terminate()


def main() -> int:
    """Run the quick start."""
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent / "etc" / "quickstart.yaml"
    try:
        return QuickStart().run(file.absolute())
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
