"""The load generator of the benchmark: it has to notice every byte that a proxy loses, changes or moves."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from benchmarks.generator import Generator, LoadError, application, build, compiler, generating

MESSAGE_LIMIT = 60.0  # seconds until a silent generator fails the test
PATIENCE = 0.5  # seconds without progress after which the generator gives up, where that is tested

Tamper = Callable[[bytes], bytes]


class Relay:
    """A proxy that passes bytes on, and may do something to those on their way to the application."""

    def __init__(self, target: int, tamper: Tamper) -> None:
        self._target, self._tamper = target, tamper
        self._clients: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept no more, and end what was accepted."""
        for end in (self._listener, *self._clients):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _address = self._listener.accept()
                self._clients.append(client)
                server = socket.create_connection(("127.0.0.1", self._target))
                threading.Thread(target=self._pass_on, args=(client, server, self._tamper), daemon=True).start()
                threading.Thread(target=self._pass_on, args=(server, client, bytes), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, tamper: Tamper) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(tamper(data))
            target.shutdown(socket.SHUT_WR)
        except EOFError:
            target.shutdown(socket.SHUT_WR)
        except OSError:
            for end in (source, target):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)


def once(change: Tamper, after: int) -> Tamper:
    """Do something to the first piece of at least two bytes that comes after so many bytes, and to no other."""
    seen = [0]

    def tamper(data: bytes) -> bytes:
        before, seen[0] = seen[0], seen[0] + len(data)
        if before >= after and len(data) > 1 and seen[0] < 2**60:
            seen[0] = 2**60
            return change(data)
        return data

    return tamper


def end(data: bytes) -> bytes:
    raise EOFError


def cut(data: bytes) -> bytes:
    raise ConnectionAbortedError


class Bench(SynchronousTestCase):
    """A generator that is compiled here, its application, and relays in front of it."""

    if compiler() is None:
        skip = "no C compiler (on Debian: apt-get install gcc libc6-dev)"

    def setUp(self) -> None:
        self.program = build(Path("load-generator").absolute())  # once for all tests: the directory is trial's
        self.stack = contextlib.ExitStack()
        self.addCleanup(self.stack.close)
        self.port, self.pid = self.stack.enter_context(application(self.program))

    def through(self, tamper: Tamper = bytes) -> int:
        """The port of a relay to the application."""
        relay = Relay(self.port, tamper)
        self.addCleanup(relay.close)
        return relay.port

    def start(self, mode: str, port: int, **options: float) -> Generator:
        """A generator that has said it is ready, and has been told to begin."""
        generator = self.stack.enter_context(generating(self.program, mode, port=port, **options))
        generator.hear(MESSAGE_LIMIT)
        generator.say("go")
        return generator

    def load(self, mode: str, port: int, **options: float) -> dict[str, Any]:
        """The result of a generator without a failed operation."""
        return self.start(mode, port, **options).result(MESSAGE_LIMIT)

    def failure(self, mode: str, port: int, **options: float) -> str:
        """What the generator complains of."""
        return str(self.assertRaises(LoadError, self.load, mode, port, **options))


class BulkTests(Bench):
    def test_tells_how_much_arrived(self) -> None:
        """With one connection and with several, directly and through a relay that does nothing."""
        for port in (self.port, self.through()):
            for connections in (1, 8):
                result = self.load("bulk", port, connections=connections, bytes=3_000_000 * connections + 8)
                self.assertEqual(result["bytes"] // connections, 3_000_000 + 8 // connections)
                self.assertGreater(result["seconds"], 0)

    def test_notices_a_lost_byte(self) -> None:
        """Early and late in the stream."""
        for after in (1, 2_000_000):
            port = self.through(once(lambda data: data[:-1], after))
            self.assertIn("bytes were lost", self.failure("bulk", port, bytes=3_000_000, timeout=PATIENCE))

    def test_notices_an_early_end(self) -> None:
        """The application says what it got, and that is less."""
        port = self.through(once(end, 1_000_000))
        self.assertIn("the receiver got another number of bytes", self.failure("bulk", port, bytes=3_000_000))

    def test_notices_a_repeated_byte(self) -> None:
        """Then the last one is not the last one."""
        port = self.through(once(lambda data: data + data[-1:], 1_000_000))
        self.assertIn("the receiver got", self.failure("bulk", port, bytes=3_000_000))

    def test_notices_a_changed_bit(self) -> None:
        """The length is right, the hash is not."""
        port = self.through(once(lambda data: data[:-1] + bytes([data[-1] ^ 1]), 1_000_000))
        self.assertIn("the receiver got other bytes", self.failure("bulk", port, bytes=3_000_000))

    def test_notices_bytes_that_changed_places(self) -> None:
        """Neither the length nor which bytes came tells it, only their order."""
        port = self.through(once(lambda data: data[len(data) // 2 :] + data[: len(data) // 2], 1_000_000))
        self.assertIn("the receiver got other bytes", self.failure("bulk", port, bytes=3_000_000))

    def test_notices_a_connection_that_breaks(self) -> None:
        """The other seven may be as good as they like."""
        port = self.through(once(cut, 1_000_000))
        failure = self.failure("bulk", port, connections=8, bytes=24_000_000)
        self.assertTrue(
            "Connection reset" in failure or "Broken pipe" in failure or "closed before" in failure, failure
        )


class EchoTests(Bench):
    def test_counts_round_trips_and_their_time(self) -> None:
        """One connection and many, small messages and such that no socket buffer takes at once."""
        for connections, size in ((1, 1), (32, 64), (2, 262144)):
            result = self.load("echo", self.through(), connections=connections, size=size, seconds=0.2)
            self.assertGreaterEqual(result["operations"], connections)
            self.assertGreater(result["p50"], 0)
            self.assertLessEqual(result["p50"], result["p99"])
            self.assertLessEqual(result["p99"], result["most"] * 1.01)  # the histogram is that exact

    def test_notices_a_changed_byte(self) -> None:
        """Every byte of every message is compared."""
        port = self.through(once(lambda data: data[:-1] + bytes([data[-1] ^ 128]), 5000))
        self.assertIn("differs from what was sent", self.failure("echo", port, seconds=30))

    def test_notices_a_lost_byte(self) -> None:
        """The message never becomes complete."""
        port = self.through(once(lambda data: data[:-1], 5000))
        self.assertIn("no echo in time", self.failure("echo", port, seconds=30, timeout=PATIENCE))

    def test_notices_a_connection_that_breaks(self) -> None:
        """It ends the run."""
        failure = self.failure("echo", self.through(once(cut, 5000)), connections=4, seconds=30)
        self.assertTrue("Connection reset" in failure or "closed before" in failure, failure)

    def test_replaces_a_broken_connection_if_it_shall_keep_going(self) -> None:
        """The failure is counted, and round trips go on until it is told to stop."""
        generator = self.start("echo", self.through(once(cut, 200)), connections=2, seconds=0.5, keep_going=1)
        result = generator.hear(MESSAGE_LIMIT)
        self.assertEqual(result["failures"], 1, result)
        self.assertGreater(result["operations"], 0)

    def test_stops_when_told(self) -> None:
        """Long before its time."""
        generator = self.start("echo", self.port, seconds=3600)
        generator.say("stop")
        self.assertLess(generator.result(MESSAGE_LIMIT)["seconds"], 3600)


class ConnectTests(Bench):
    def test_counts_new_connections(self) -> None:
        """Each has carried a byte there and one back."""
        result = self.load("connect", self.through(), connections=4, seconds=0.2)
        self.assertGreaterEqual(result["operations"], 4)
        self.assertLessEqual(result["p50"], result["p99"])

    def test_counts_connections_that_fail(self) -> None:
        """After a while there is nobody any more."""
        left = [3]

        def accept_some(data: bytes) -> bytes:
            left[0] -= 1
            return data if left[0] >= 0 else cut(data)

        result = self.start("connect", self.through(accept_some), seconds=0.5).hear(MESSAGE_LIMIT)
        self.assertEqual(result["operations"], 2, "the first of the three is before the clock starts")
        self.assertGreater(result["failures"], 0)

    def test_tells_that_nobody_listens(self) -> None:
        """The reason is the kernel's."""
        with socket.create_server(("127.0.0.1", 0)) as holder:
            port = int(holder.getsockname()[1])
        self.assertIn("connect: Connection refused", self.failure("connect", port))


class IdleTests(Bench):
    def test_holds_as_many_as_it_is_told(self) -> None:
        """And more when it is told again."""
        generator = self.start("idle", self.port, connections=300)
        for count in (100, 300):
            generator.say(str(count))
            self.assertEqual(generator.result(MESSAGE_LIMIT)["held"], count)

    def test_notices_a_connection_that_was_closed(self) -> None:
        """When it is asked the next time."""
        relay = Relay(self.port, bytes)
        generator = self.start("idle", relay.port, connections=20)
        generator.say("10")
        self.assertEqual(generator.result(MESSAGE_LIMIT)["held"], 10)
        relay.close()

        def ask_on() -> None:
            for _number in range(1000):
                generator.say("10")
                generator.result(MESSAGE_LIMIT)

        self.assertIn("an idle connection was closed", str(self.assertRaises(LoadError, ask_on)))
