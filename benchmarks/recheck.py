"""
What a change of policies costs connections that live: ``python -m benchmarks.recheck``.

Two hops, as users run them, carry 9,000 connections that rest, 90 of them of another workload. Then a file of policies
changes that denies that one, and the second hop is told to read it. Printed are the seconds from that signal until the
first and the last of the 90 had ended at their clients, and until the second hop had looked at all; and the longest
round trip of a message on one of the others, in the seconds before and meanwhile. Each round begins with new processes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import selectors
import signal
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from attrs import frozen

from benchmarks.generator import LoadError, application, build, generating
from benchmarks.peers.base import CLASSICAL, CLIENT_ID, SERVER_ID, Run, Running
from benchmarks.peers.hops import HOST, Hop, Ports, free_port
from benchmarks.peers.tcpmesh import Tcpmesh
from benchmarks.peers.throwaway import ThrowawayCertificates

CONNECTIONS: Final = 9_000
DENIED: Final = 90
ROUNDS: Final = 3
_OTHER_ID: Final = CLIENT_ID.replace("/client", "/other")
_LOOKED_AT: Final = b"live connections that are no longer allowed were ended"
_QUIET: Final = 2.0  # seconds of round trips before the change
_LIMIT: Final = 30.0  # seconds for everything after the change
_SPARE: Final = 100


@frozen
class Result:
    """One round; all in seconds."""

    first: float
    last: float
    all_looked_at: float
    trip_before: float
    trip_meanwhile: float


class _TwoWorkloads(Tcpmesh):
    """A first hop with a listener for each of two workloads, and a second one with its policies in a file."""

    def __init__(self, directory: Path) -> None:
        self.other_port = free_port()
        self._policies = directory / "policies.yaml"

    def hops(self, run: Run, ports: Ports) -> tuple[Hop, Hop]:
        self.say()
        certificates = run.certificates
        other = certificates.other  # type: ignore[attr-defined]  # of throwaway ones
        head = "version: 1\ntrust_domain: bench.test\nidentity:\n  sources:\n"
        head += f"    disk: {{plugin: files, bundles: {{bench.test: '{certificates.bundle}'}}}}\n  workloads:\n"
        limits = f"limits: {{connections: {run.max_connections}, handshakes: {run.max_connections}}}\n"

        def workload(name: str, spiffe_id: str, of: object) -> str:
            return f"    {name}: {{id: '{spiffe_id}', certificate: '{of.certificate}', key: '{of.key}'}}\n"  # type: ignore[attr-defined]

        (run.directory / "first.yaml").write_text(
            head + workload("client", CLIENT_ID, certificates.client) + workload("other", _OTHER_ID, other) + limits +
            f"services: {{application: {{expect: ['{SERVER_ID}'], "
            f"discovery: {{plugin: static, endpoints: ['{HOST}:{ports.dial}']}}}}}}\n"
            "outbound:\n"
            f"- {{name: client, listen: '{HOST}:{ports.entry}', service: application, workload: client}}\n"
            f"- {{name: other, listen: '{HOST}:{self.other_port}', service: application, workload: other}}\n"
        )  # fmt: skip
        (run.directory / "second.yaml").write_text(
            head + workload("server", SERVER_ID, certificates.server) + limits + "log: {access: server.records}\n"
            f"inbound: [{{name: in, listen: '{HOST}:{ports.tls}', target: '{HOST}:{run.target_port}', "
            "workload: server}]\n"
            f"authorization: [{{plugin: rules, interval: 1m, files: ['{self._policies}']}}]\n"
        )
        command = (str(Path(sys.executable).with_name("twistd")), "-n", "--pidfile=", "tcpmesh", "--config")
        return (
            Hop((*command, str(run.directory / "first.yaml")), ports.entry),
            Hop((*command, str(run.directory / "second.yaml")), ports.tls),
        )

    def say(self, *more: str) -> None:
        """Write the file of policies: everybody, and what else is given."""
        fresh = self._policies.with_suffix(".new")
        everybody = "{name: everybody, action: allow, from: [{any: authenticated}]}"
        fresh.write_text(f"policies: [{', '.join([everybody, *more])}]\n")
        fresh.replace(self._policies)


def _greeted(port: int) -> socket.socket:
    """A connection that has carried a byte each way."""
    connection = socket.create_connection((HOST, port), timeout=_LIMIT)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(b"E")
    if connection.recv(1) != b"e":
        raise LoadError("a connection was closed before the first answer")
    return connection


class _Trips:
    """Messages there and back, one after the other, and the longest that one took."""

    def __init__(self, port: int) -> None:
        self._socket = _greeted(port)
        self._stopped = False
        self._longest = 0.0
        self._error = ""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stopped:
                before = time.monotonic()
                self._socket.sendall(b"x" * 64)
                count = 0
                while count < 64:
                    count += len(self._socket.recv(64)) or 1 << 30
                if count > 64:
                    raise OSError("the connection was closed")
                self._longest = max(self._longest, time.monotonic() - before)
                time.sleep(0.001)
        except OSError as error:
            self._error = str(error)

    def longest(self) -> float:
        """Since the last call."""
        found, self._longest = self._longest, 0.0
        return found

    def stop(self) -> None:
        """
        End it.

        :raises LoadError: when it had failed.
        """
        self._stopped = True
        self._thread.join(_LIMIT)
        self._socket.close()
        if self._error:
            raise LoadError(f"a connection that is allowed broke: {self._error}")


def measure(program: Path, target_port: int, connections: int, denied: int) -> Result:
    """
    One round.

    :raises LoadError: when a connection is lost that should not be, or one is not that should.
    """
    with tempfile.TemporaryDirectory(prefix="tcpmesh-bench-") as place, contextlib.ExitStack() as stack:
        directory = Path(place)
        for name in ("certificates", "run"):
            (directory / name).mkdir()
        certificates = ThrowawayCertificates(directory / "certificates")
        hops = _TwoWorkloads(directory / "run")
        run = Run(directory / "run", target_port, CLASSICAL, connections + _SPARE, certificates)
        running = stack.enter_context(hops.running(run))
        load = stack.enter_context(generating(program, "idle", port=running.port, connections=connections - denied - 1))
        load.hear(10)
        load.say("go")
        load.say(str(connections - denied - 1))
        load.result(300)
        others = [stack.enter_context(_greeted(hops.other_port)) for _ in range(denied)]
        trips = _Trips(running.port)
        result = _change(hops, running, others, trips, directory / "run" / "second.log")
        trips.stop()
        load.say(str(connections - denied - 1))  # all of them are looked at again
        load.result(60)
    return result


def _change(hops: _TwoWorkloads, running: Running, others: Sequence[socket.socket], trips: _Trips, log: Path) -> Result:
    time.sleep(1)
    trips.longest()
    time.sleep(_QUIET)
    before = trips.longest()
    hops.say(f"{{name: not-others, action: deny, from: [{{ids: ['{_OTHER_ID}']}}]}}")
    started = time.monotonic()
    os.kill(running.pids[1], signal.SIGHUP)
    ends = list(_ends(others, started + _LIMIT))
    while _LOOKED_AT not in log.read_bytes():
        if time.monotonic() > started + _LIMIT:
            raise LoadError(f"the second hop has not looked at all connections within {_LIMIT:.0f} s")
        time.sleep(0.005)
    looked_at = time.monotonic()
    return Result(ends[0] - started, ends[-1] - started, looked_at - started, before, trips.longest())


def _ends(connections: Sequence[socket.socket], deadline: float) -> Iterator[float]:
    """When each of them ended."""
    left = len(connections)
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ)
        while left:
            found = selector.select(max(0.0, deadline - time.monotonic()))
            now = time.monotonic()
            if not found:
                raise LoadError(f"{left} of {len(connections)} connections that are denied still live")
            for key, _ in found:
                selector.unregister(key.fileobj)
                left -= 1
                yield now


def main(arguments: Sequence[str]) -> None:
    """Measure, and print a line for each round and their medians."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recheck", description=(__doc__ or "").splitlines()[1])
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument("--denied", type=int, default=DENIED)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args(arguments)
    program = build()
    print(f"{options.connections} connections, {options.denied} of them denied by the change; in seconds")
    print(f"{'':>8} {'first end':>10} {'last end':>10} {'all seen':>10} {'trip before':>12} {'meanwhile':>10}")
    results = []
    with application(program) as (port, _):
        for number in range(options.rounds):
            results.append(measure(program, port, options.connections, options.denied))
            _print(f"round {number + 1}", results[-1])
    columns = zip(*(_figures(result) for result in results), strict=True)
    _print("median", Result(*(statistics.median(column) for column in columns)))


def _figures(result: Result) -> tuple[float, ...]:
    return (result.first, result.last, result.all_looked_at, result.trip_before, result.trip_meanwhile)


def _print(title: str, one: Result) -> None:
    first, last, seen, before, meanwhile = _figures(one)
    print(f"{title:>8} {first:>10.3f} {last:>10.3f} {seen:>10.3f} {before:>12.4f} {meanwhile:>10.4f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
