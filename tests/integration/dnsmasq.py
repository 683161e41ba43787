"""dnsmasq as a name server for one zone, whose answers a test changes."""

from __future__ import annotations

import signal
import socket
import struct
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.integration import program
from tests.integration.processes import Running, free_port, wait_until
from tests.integration.servers import temporary_directory
from tests.unit import dns_samples as dns

__all__ = ["Dnsmasq"]

ZONE = "mesh.test"


class Dnsmasq:
    """
    Serves ``mesh.test`` on a port of its own, with a TTL of one second; what is not in it does not exist.

    :param options: further ones, such as ``--srv-host=…``, until the next start.
    """

    def __init__(self, test: SynchronousTestCase, *options: str) -> None:
        self._test = test
        self._program = program("dnsmasq", "dnsmasq-base")
        self.port = free_port()
        self._directory = temporary_directory(test)
        self._hosts = Path(self._directory, "hosts")
        self._hosts.write_text("")
        self._running: Running | None = None
        self._options = options

    def start(self, *options: str) -> None:
        """Start it, and wait until it answers."""
        self._running = Running(
            self._test,
            [
                self._program, "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts",
                "--pid-file", f"--port={self.port}", "--listen-address=127.0.0.1", "--bind-interfaces",
                f"--addn-hosts={self._hosts}", "--local-ttl=1", f"--local=/{ZONE}/", "--auth-ttl=1",
                "--user=root", "--log-facility=-", *self._options, *options,
            ],
            directory=self._directory,
        )  # fmt: skip
        self._running.wait_until(self._answers, "dnsmasq does not answer")

    def _answers(self) -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(0.2)
            try:
                client.connect(("127.0.0.1", self.port))
                client.send(struct.pack("!HHHHHH", 1, 0x0100, 1, 0, 0, 0) + dns.question(ZONE, dns.A))
                return bool(client.recv(512))
            except OSError:
                return False

    def set_hosts(self, **hosts: str | tuple[str, ...]) -> None:
        """These names of the zone have these addresses from now on, and no others have any."""
        lines = []
        for name, addresses in hosts.items():
            for address in (addresses,) if isinstance(addresses, str) else addresses:
                lines.append(f"{address} {name}.{ZONE}\n")
        self._hosts.write_text("".join(lines))
        if self._running is not None:
            self._running.signal(signal.SIGHUP)

    def kill(self) -> None:
        """End it at once."""
        assert self._running is not None
        self._running.kill()
        wait_until(lambda: not self._answers(), "dnsmasq still answers")
