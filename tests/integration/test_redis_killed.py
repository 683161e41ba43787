"""A Redis that is killed and started again under load: no command is executed twice, none that was answered is lost."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections import Counter

from tests.integration.field import FieldTestCase
from tests.integration.processes import PATIENCE, wait_until
from tests.integration.servers import Redis

CLIENTS = 4
KILLS = 3
_INCR = b"*2\r\n$4\r\nINCR\r\n$7\r\ncounter\r\n"


class Counting(threading.Thread):
    """
    Counts up, one command at a time, on a connection that is made anew whenever it breaks.

    :ivar answers: what Redis answered, in order.
    :ivar connections: how many it made; all but the last ended with a command that got no answer.
    """

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._port = port
        self.answers: list[int] = []
        self.connections = 0
        self.endings: Counter[str] = Counter()
        self.stop = False

    def run(self) -> None:
        while not self.stop:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), PATIENCE) as redis:
                self.connections += 1
                self._count(redis)

    def _count(self, redis: socket.socket) -> None:
        lines = redis.makefile("rb")
        while not self.stop:
            try:
                redis.sendall(_INCR)
                line = lines.readline()
            except ConnectionError as problem:
                self.endings[type(problem).__name__] += 1
                return
            if not line.endswith(b"\r\n"):
                self.endings["end"] += 1
                return
            if line.startswith(b":"):
                self.answers.append(int(line[1:]))
            elif not line.startswith(b"-LOADING"):  # it reads its file, and has not counted
                raise AssertionError(f"Redis says {line!r}")


class KilledRedisTests(FieldTestCase):
    """SIGKILL, three times, with retries configured as far as they go."""

    def test_counts_no_command_twice(self) -> None:
        """What was answered is in the count, once; what is more in it was asked for and not answered."""
        redis = Redis(self, durable=True)
        self.start_inbound(redis.port)
        outer = self.start_outbound(
            service="retry: {plugin: exponential, attempts: 10, base: 1ms, max: 20ms}, "
            "retry_budget: {share: 1.0, minimum: 100}"
        )
        clients = [Counting(self.outbound_port) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        for _ in range(KILLS):
            self.count_on(clients)
            os.kill(redis.server.process.pid, signal.SIGKILL)
            redis.server.wait()
            redis.start()
        self.count_on(clients)
        for client in clients:
            client.stop = True
        for client in clients:
            client.join(PATIENCE)
            self.assertFalse(client.is_alive())

        answers = [answer for client in clients for answer in client.answers]
        for client in clients:
            self.assertEqual(client.answers, sorted(client.answers))
        self.assertEqual(len(answers), len(set(answers)), "two commands got one number")
        records = outer.closed(sum(client.connections for client in clients))
        # Each connection that carried anything ended over one command, but for the last one of each client. (What its
        # code is does not tell: the kernel closes a killed server's socket with FIN, if it had read everything.)
        carried = [record for record in records if record["bytes_sent"]]
        under_way = len(carried) - CLIENTS
        self.assertGreaterEqual(under_way, KILLS)
        count = int(redis.answers("GET", "counter"))
        self.assertLessEqual(max(answers), count)
        self.assertLessEqual(len(answers), count)
        self.assertLessEqual(count, len(answers) + under_way)
        for record in records:
            if not record["bytes_sent"]:
                self.assertEqual(record["bytes_recv"], 0, record)

    def count_on(self, clients: list[Counting]) -> None:
        """Wait until every client has had fifty more answers."""
        wanted = [len(client.answers) + 50 for client in clients]
        wait_until(
            lambda: all(len(client.answers) >= least for client, least in zip(clients, wanted, strict=True)),
            lambda: f"they do not count on: {[(len(client.answers), client.endings) for client in clients]}",
        )
