"""The workload-api source and a server that gRPC's own library makes."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from tcpmesh.sources.grpc_wire import MAX_MESSAGE
from tcpmesh.sources.workload_api import WorkloadAPISource, WorkloadAPIWorkload
from tcpmesh.testing import FakeIdentityObserver, TestAuthority, plugin_context
from tcpmesh.testing.workload_messages import protobuf_field, x509_svid_response
from tcpmesh.values import IdentitySnapshot, UnixAddress
from tests.integration import skip_or_fail
from tests.integration.mesh import in_thread, reactor

ROOT = Path(__file__).parents[2]


class Observer(FakeIdentityObserver):
    """One that can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: list[tuple[Callable[[], object], Deferred[None]]] = []

    def when(self, condition: Callable[[], object]) -> Deferred[None]:
        waiter: Deferred[None] = Deferred()
        self._waiting.append((condition, waiter))
        self.look()
        return waiter

    def look(self) -> None:
        for entry in [each for each in self._waiting if each[0]()]:
            self._waiting.remove(entry)
            entry[1].callback(None)

    def identity_changed(self, snapshot: IdentitySnapshot) -> None:
        super().identity_changed(snapshot)
        self.look()

    def identity_failed(self, reason: str) -> None:
        super().identity_failed(reason)
        self.look()

    def identity_revoked(self, reason: str) -> None:
        super().identity_revoked(reason)
        self.look()


class GRPCServerTests(TestCase):
    """A source with the real reactor, and a server in a process of its own."""

    timeout = 60

    def setUp(self) -> None:
        if importlib.util.find_spec("grpc") is None:
            skip_or_fail("gRPC's own library is not installed (pip install grpcio, or make lint)")
        self.directory = Path(tempfile.mkdtemp(prefix="tcpmesh"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.authority = TestAuthority()
        self.observer = Observer()

    def issue(self, size: int = 0) -> tuple[IdentitySnapshot, Path]:
        """New identities, and the file with the message of them, filled up to a size."""
        snapshot = self.authority.snapshot("/web", "/other")
        message = x509_svid_response(snapshot)
        if size:
            message += protobuf_field(99, bytes(size - len(message) - 6))
            self.assertEqual(len(message), size)
        file = self.directory / "message"
        file.write_bytes(message)
        return snapshot, file

    async def serve(self, file: Path) -> subprocess.Popen[str]:
        """Start the server; it is killed at the end of the test."""
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.grpc_server", str(self.directory / "agent.sock"), str(file)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

        def end() -> None:
            server.kill()
            server.communicate()

        self.addCleanup(end)
        assert server.stdout is not None
        self.assertEqual(await in_thread(server.stdout.readline), "READY\n")
        return server

    def tell(self, server: subprocess.Popen[str], order: str) -> None:
        assert server.stdin is not None
        server.stdin.write(order + "\n")
        server.stdin.flush()

    def start(self) -> None:
        context = plugin_context(
            clock=reactor, workloads={"web": self.authority.workload("web", WorkloadAPIWorkload())}
        )
        source = WorkloadAPISource(UnixAddress(str(self.directory / "agent.sock")), context, random=lambda: 1.0)
        self.addCleanup(source.stop)
        source.start(self.observer)

    async def until_served(self, snapshot: IdentitySnapshot) -> None:
        leaf = snapshot.svids[0].leaf
        await self.observer.when(lambda: self.observer.snapshots and self.observer.snapshots[-1].svids[0].leaf == leaf)

    async def test_messages_and_statuses(self) -> None:
        """A message, a rotation with one of the largest size, a denial, and a new entry."""
        first, file = self.issue()
        server = await self.serve(file)
        self.start()
        await self.until_served(first)
        second, file = self.issue(MAX_MESSAGE)
        self.tell(server, f"send {file}")
        await self.until_served(second)
        self.assertEqual([kind for kind, _ in self.observer.events], ["changed", "changed"])
        self.tell(server, "deny no identity issued: 'näh'")
        await self.observer.when(lambda: self.observer.revocations)
        self.assertIn("PermissionDenied: \"no identity issued: 'n\\xe4h'\"", self.observer.revocations[0])
        self.tell(server, f"send {file}")
        await self.observer.when(lambda: len(self.observer.snapshots) == 3)
        self.assertEqual(self.observer.failures, [])

    async def test_clean_end(self) -> None:
        """A call that the server ends is made again, and that is no failure."""
        _, file = self.issue()
        server = await self.serve(file)
        self.start()
        for count in (1, 2, 3):
            await self.observer.when(lambda count=count: len(self.observer.snapshots) == count)
            self.tell(server, "end")
        await self.observer.when(lambda: len(self.observer.snapshots) == 4)
        self.assertEqual(self.observer.failures, [])

    async def test_restart_in_order(self) -> None:
        """A server that stops in order breaks nothing; what follows it is found."""
        _, file = self.issue()
        server = await self.serve(file)
        self.start()
        await self.observer.when(lambda: self.observer.snapshots)
        self.tell(server, "stop")
        await in_thread(server.wait)
        again, file = self.issue()
        await self.serve(file)
        await self.until_served(again)
        for failure in self.observer.failures:
            self.assertIn("cannot connect: ", failure)

    async def test_death(self) -> None:
        """A server that is killed is a failure; what follows it is found, on the socket that it left."""
        _, file = self.issue()
        server = await self.serve(file)
        self.start()
        await self.observer.when(lambda: self.observer.snapshots)
        server.kill()
        await self.observer.when(lambda: self.observer.failures)
        self.assertIn("the server closed the connection without a status", self.observer.failures[0])
        again, file = self.issue()
        await self.serve(file)
        await self.until_served(again)
        self.assertEqual(self.observer.revocations, [])
