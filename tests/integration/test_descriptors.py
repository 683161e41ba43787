"""A proxy that runs out of file descriptors: it does not spin, it refuses visibly, and it recovers."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import socket
import sys
import time
from collections import Counter
from typing import Any

from tests.integration.applications import END, RESET, exchange, receive, whole
from tests.integration.foreign import ForeignTestCase
from tests.integration.mesh import echo, in_thread
from tests.integration.processes import TCPMESH, Running, free_port, is_ready, wait_until

WITH_HARD_LIMIT = (
    "import os, resource, sys; n = int(sys.argv[1]); resource.setrlimit(resource.RLIMIT_NOFILE, (n, n)); "
    "os.execv(sys.argv[2], sys.argv[2:])"
)
FEW = 64
CROWD = 100
WINDOW = 0.6  # seconds in which the processor time of a proxy that has nothing to do is looked at
TICKS = os.sysconf("SC_CLK_TCK")


class DescriptorTests(ForeignTestCase):
    """Real processes of ``tcpmesh run`` whose limit of open files is 64 (RLIMIT_NOFILE, getrlimit(2))."""

    def setUp(self) -> None:
        super().setUp()
        # Here, in the reactor's thread: the scenarios run beside it, where nothing of it may be called.
        self.elsewhere = self.start_inbound(self.application(echo)).port("orders-in")

    def run_proxy(self, *before: str) -> Running:
        """An inbound listener with an echo behind it, and an outbound one to an inbound proxy of this process."""
        self.inbound, self.outbound, self.admin = free_port(), free_port(), free_port()
        self.log = self.directory / "access.log"
        rules = f'[{{name: web, action: allow, from: [{{ids: ["{self.pki.id("web")}"]}}]}}]'
        file = self.directory / "starved.yaml"
        file.write_text(
            "version: 1\ntrust_domain: mesh.test\n"
            + self.identity("web", "orders")
            + f'services: {{orders: {{expect: ["{self.pki.id("orders")}"], '
            + f'discovery: {{plugin: static, endpoints: ["127.0.0.1:{self.elsewhere}"]}}}}}}\n'
            + f'outbound: [{{name: to-orders, listen: "127.0.0.1:{self.outbound}", service: orders, workload: web}}]\n'
            + f'inbound: [{{name: orders-in, listen: "127.0.0.1:{self.inbound}", workload: orders, '
            + f'target: "127.0.0.1:{self.application(echo)}"}}]\n'
            + f"authorization: [{{plugin: rules, policies: {rules}}}]\n"
            + f'admin: {{metrics: "127.0.0.1:{self.admin}"}}\n'
            + f'log: {{access: "{self.log.absolute()}"}}\n'
        )
        proxy = Running(self, (*before, *TCPMESH, "run", str(file.absolute())), directory=self.directory)
        proxy.wait_until(lambda: is_ready(self.admin), "the proxy is ready")
        return proxy

    def starve(self) -> Running:
        """Started with room for thousands, then left with 64: something in the process has eaten the others."""
        proxy = self.run_proxy()
        _soft, hard = resource.prlimit(proxy.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(proxy.process.pid, resource.RLIMIT_NOFILE, (FEW, hard))
        return proxy

    def codes(self) -> Counter[str]:
        """The codes of all close records so far."""
        lines = self.log.read_bytes().splitlines(keepends=True) if self.log.exists() else []
        records: list[dict[str, Any]] = [json.loads(line) for line in lines if line.endswith(b"\n")]
        return Counter(record["code"] for record in records if record["event"] == "close")

    def crowd(self, proxy: Running, port: int, *codes: str) -> list[socket.socket]:
        """A hundred silent clients: give those that are held, once all others were reset with one of these codes."""
        clients = [self.connect_or_not(port) for _ in range(CROWD)]
        proxy.wait_until(lambda: self.codes().total() > 0, "the first refusal")
        self.assert_rests(proxy)
        fates: list[str] = []

        def all_are_recorded() -> bool:
            fates[:] = [self.fate(client) for client in clients]
            return self.codes().total() == CROWD - fates.count("held")

        wait_until(all_are_recorded, lambda: f"{fates.count('held')} held, records: {self.codes()}")
        self.assertEqual(set(fates), {"held", RESET})
        self.assertTrue(set(self.codes()) <= set(codes), self.codes())
        return [client for client, fate in zip(clients, fates, strict=True) if client and fate == "held"]

    def connect_or_not(self, port: int) -> socket.socket | None:
        """Connect; None for a reset that is there before connect(2) has returned."""
        try:
            return self.connect(port)
        except ConnectionResetError:
            return None

    @staticmethod
    def fate(client: socket.socket | None) -> str:
        """What a silent client sees at this moment."""
        if client is None:
            return RESET
        poll = select.poll()
        poll.register(client, select.POLLIN)
        for _descriptor, events in poll.poll(0):
            return RESET if events & select.POLLERR else END
        return "held"

    def processor_time(self, proxy: Running) -> float:
        """Seconds that the process has used (proc(5), utime and stime)."""
        with open(f"/proc/{proxy.process.pid}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def assert_rests(self, proxy: Running) -> None:
        """Nobody asks for anything: next to no processor time may be used."""
        started, used = time.monotonic(), self.processor_time(proxy)
        wait_until(lambda: time.monotonic() - started > WINDOW, "the window is over")
        self.assertLess(self.processor_time(proxy) - used, WINDOW / 3, "the proxy spins")

    def is_answered_by_inbound(self) -> bool:
        """Ask as a real client."""
        with contextlib.suppress(ConnectionError):
            client = self.foreign_client(self.inbound)
            with client.socket:
                client.handshake()
                client.sendall(b"hello")
                client.close_notify()
                return receive(client) == whole(b"hello")
        return False

    def is_answered_by_outbound(self) -> bool:
        """Ask as an application."""
        with contextlib.suppress(ConnectionError), self.connect(self.outbound) as client:
            return exchange(client, b"hello") == whole(b"hello")
        return False

    def assert_served(self) -> None:
        """Both listeners serve, once the sockets of those who are gone are closed."""
        wait_until(self.is_answered_by_inbound, "the inbound listener serves")
        wait_until(self.is_answered_by_outbound, "the outbound listener serves")
        self.assertTrue(is_ready(self.admin))

    async def test_a_hard_limit_of_64_is_told_and_kept(self) -> None:
        """limits.connections is cut down to what fits, with a warning; more connections than that are TM-L101."""

        def scenario() -> None:
            proxy = self.run_proxy(sys.executable, "-c", WITH_HARD_LIMIT, str(FEW))
            self.assertIn("limits.connections 9000 does not fit: the hard limit of open files is 64", proxy.err)
            # Those that are being reset hold a descriptor for a moment, too.
            held = self.crowd(proxy, self.inbound, "TM-L101", "TM-L103")
            self.assertEqual(len(held), 1)
            self.assertGreater(self.codes()["TM-L101"], 0)
            held[0].close()
            wait_until(lambda: self.codes()["TM-D105"] == 1, "the place is free")
            self.assert_served()

        await in_thread(scenario)

    async def test_no_descriptor_left_for_inbound(self) -> None:
        """As many as fit are held; the others are reset and recorded as TM-L103; then everything works again."""

        def scenario() -> None:
            held = self.crowd(self.starve(), self.inbound, "TM-L103")
            self.assertGreater(len(held), FEW // 2)
            for client in held:
                client.close()
            wait_until(lambda: self.codes()["TM-D105"] == len(held), lambda: f"all are gone: {self.codes()}")
            self.assert_served()

        await in_thread(scenario)

    async def test_no_descriptor_left_for_outbound(self) -> None:
        """Here one connection takes two: without the second one it is refused, too."""

        def scenario() -> None:
            held = self.crowd(self.starve(), self.outbound, "TM-L103")
            self.assertGreater(len(held), FEW // 4)
            for client in held:
                client.close()
            wait_until(lambda: self.codes()["TM-D100"] == len(held), lambda: f"all are gone: {self.codes()}")
            self.assert_served()

        await in_thread(scenario)
