"""Damaged bytes from a Workload API: none crashes the source, makes it hang, or leaves something behind."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.sources.grpc_stream import ANSWER_TIME, KEEPALIVE, PONG_TIME
from tcpmesh.sources.workload_api import SLOW_RETRY, WorkloadAPISource
from tcpmesh.testing import FakeIdentityObserver, FakeWorkloadAPI, TestAuthority, plugin_context
from tcpmesh.testing.memory_pipe import connect_in_memory
from tcpmesh.values import UnixAddress

NOW = 1_800_000_000.0
AUTHORITY = TestAuthority(now=NOW)
WORKLOADS = {"web": AUTHORITY.workload("web")}
SNAPSHOT = AUTHORITY.snapshot("/web")


class Tape(Protocol):
    """A server that says what is on its tape, whatever it is asked."""

    def __init__(self, tape: bytes) -> None:
        self.tape = tape
        self.lost = 0

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(self.tape)

    def connectionLost(self, reason: object = None) -> None:
        self.lost += 1


def recorded() -> bytes:
    """What a good server says: settings, headers, two messages, PING, trailers."""
    api = FakeWorkloadAPI(SNAPSHOT)
    tape: list[bytes] = []

    def connect(reactor: object, address: object, factory: IProtocolFactory) -> Deferred[Any]:
        client: Any = factory.buildProtocol(None)  # type: ignore[arg-type]
        received = client.dataReceived

        def record(data: bytes) -> None:
            tape.append(data)
            received(data)

        client.dataReceived = record
        return api.connect(reactor, address, _Ready(client))

    source = WorkloadAPISource(
        UnixAddress("/a"), plugin_context(workloads=WORKLOADS), lambda: NOW, lambda: 0.0, connect
    )
    source.start(FakeIdentityObserver())
    api.serve(SNAPSHOT)
    api.flood_pings(1)
    api.end(5, "words")
    source.stop()
    return b"".join(tape)


class _Ready:
    """A factory whose protocol is made already."""

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol

    def buildProtocol(self, address: object) -> Any:
        return self._protocol


TAPE = recorded()


class FuzzedServerTests(SynchronousTestCase):
    def play(self, tape: bytes, chunk: int) -> FakeIdentityObserver:
        """Let a source hear the tape, and then nothing, until it gives up; give what its observer heard."""
        clock = Clock()
        servers: list[Tape] = []

        def connect(_reactor: object, _address: object, factory: Any) -> Deferred[Any]:
            client = factory.buildProtocol(None)
            servers.append(Tape(tape))
            connect_in_memory(client, servers[-1], chunk)  # type: ignore[arg-type]
            return succeed(client)

        observer = FakeIdentityObserver()
        context = plugin_context(clock=clock, workloads=WORKLOADS)
        source = WorkloadAPISource(UnixAddress("/a"), context, lambda: NOW, lambda: 0.0, connect)
        source.start(observer)
        # Whatever state it is in: a frame that never ends, a message that never comes, or silence.
        for wait in (ANSWER_TIME, KEEPALIVE, PONG_TIME, SLOW_RETRY):
            clock.advance(wait)
        self.assertGreaterEqual(len(servers), 2, "it holds a connection on which nothing comes")
        self.assertEqual(servers[0].lost, 1)
        source.stop()
        self.assertEqual(clock.getDelayedCalls(), [])
        self.assertEqual([server.lost for server in servers], [1] * len(servers))
        for text in (*observer.failures, *observer.revocations):
            self.assertTrue(text.isprintable() and len(text) < 1000, text)
        return observer

    def test_the_tape_is_good(self) -> None:
        """Without damage both messages are delivered and the status is reported."""
        heard = [kind for kind, _ in self.play(TAPE, 0).events]
        self.assertEqual(heard[:3], ["changed", "changed", "failed"])

    @settings(max_examples=150, deadline=None)
    @given(st.integers(0, len(TAPE)), st.binary(max_size=12), st.integers(0, 12), st.sampled_from([0, 1, 7]))
    def test_damage(self, where: int, put: bytes, cut: int, chunk: int) -> None:
        """Bytes replaced, inserted or taken out anywhere."""
        self.play(TAPE[:where] + put + TAPE[where + cut :], chunk)

    @settings(max_examples=100, deadline=None)
    @given(st.binary(max_size=300))
    def test_noise(self, noise: bytes) -> None:
        """Bytes without any sense."""
        self.assertEqual(self.play(noise, 0).snapshots, [])

    @settings(max_examples=150, deadline=None)
    @given(
        st.lists(
            st.tuples(st.integers(0, 12), st.integers(0, 255), st.sampled_from([0, 1, 2, 3]), st.binary(max_size=40)),
            max_size=12,
        ),
        st.integers(0, 5),
    )
    def test_frames(self, frames: list[tuple[int, int, int, bytes]], good: int) -> None:
        """Well-formed frames of every type, in an order that makes no sense, after some that make sense."""
        tape = _frames(TAPE)[:good] + [
            len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body
            for kind, flags, stream, body in frames
        ]
        self.play(b"".join(tape), 0)


def _frames(tape: bytes) -> list[bytes]:
    """The frames on the tape."""
    found = []
    while tape:
        end = 9 + int.from_bytes(tape[:3], "big")
        found.append(tape[:end])
        tape = tape[end:]
    return found
