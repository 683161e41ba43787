"""What is measured: one small object for each case, in a table."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from attrs import frozen

from benchmarks import processes
from benchmarks.generator import Generator, generating
from benchmarks.peers.base import Running
from benchmarks.renewals import renewals

_SETTLE: Final = 1.0  # seconds until memory is read: what is given back late shall not count


@frozen
class Effort:
    """How long and how much."""

    rounds: int = 5
    seconds: float = 3.0  # of each timed case
    bulk_bytes: int = 10**9
    idle: tuple[int, int] = (2000, 9000)  # connections
    groupless_once: bool = False  # cases that no group changes are measured with one group only


QUICK: Final = Effort(rounds=2, seconds=1.0, bulk_bytes=256 * 10**6, idle=(500, 2000), groupless_once=True)


@frozen
class Metric:
    """One figure of a case."""

    key: str
    title: str
    unit: str
    brief: str  # the same, where there is little room
    digits: int = 1
    more_is_better: bool = False

    def in_words(self, effort: Effort) -> str:
        """With its unit, and numbers of connections filled in."""
        title = self.title.format(few=effort.idle[0], many=effort.idle[1])
        return f"{title}, {self.unit}" if self.unit else title

    def in_short(self, effort: Effort) -> str:
        """For a narrow column."""
        return self.brief.format(few=effort.idle[0], many=effort.idle[1])


@frozen
class Share:
    """Who used the processors while a case was timed, in CPU seconds."""

    seconds: float
    client: float
    application: float
    proxies: float
    others: float  # what did not belong to the benchmark, the kernel's threads included


@frozen
class Sample:
    """The figures of one case for one peer in one round."""

    values: Mapping[str, float]
    share: Share | None = None
    note: str = ""  # what the reader of the figures has to know


@frozen
class Session:
    """A running peer and all that is needed to measure it."""

    running: Running
    program: Path  # the load generator
    application_pid: int
    effort: Effort


@frozen
class Case:
    """A row of the plan."""

    key: str
    title: str
    metrics: tuple[Metric, ...]
    measure: Callable[[Session], Sample]
    group_matters: bool = False
    once: bool = False  # in one round only: it is long, and hardly varies
    needs_hops: bool = False  # says nothing about `direct`
    renewing: bool = False  # see `benchmarks.peers.base.Run`

    def metric(self, key: str) -> Metric:
        """The metric of that key."""
        return next(metric for metric in self.metrics if metric.key == key)


def timed(session: Session, mode: str, **options: float) -> tuple[dict[str, Any], Share]:
    """Set the load up, read the clocks, let it run, read the clocks again.

    :raises LoadError: when an operation failed.
    """
    limit = session.effort.seconds + 90
    with generating(session.program, mode, port=session.running.port, **options) as generator:
        generator.hear(limit)
        before = _clocks(session, generator)
        generator.say("go")
        result = generator.result(limit)
        after = _clocks(session, generator)
    machine, proxies, application = (late - early for late, early in zip(after, before, strict=True))
    client = float(result["cpu_seconds"])
    others = max(0.0, machine - proxies - application - client)
    return result, Share(float(result["seconds"]), client, application, proxies, others)


def _clocks(session: Session, generator: Generator) -> tuple[float, float, float]:
    return (
        processes.machine_cpu_seconds(),
        processes.cpu_seconds(session.running.pids),
        processes.cpu_seconds([session.application_pid]),
    )


def _bulk(connections: int) -> Case:
    def measure(session: Session) -> Sample:
        result, share = timed(session, "bulk", connections=connections, bytes=session.effort.bulk_bytes)
        amount = result["bytes"]
        return Sample({"rate": amount / 1e6 / share.seconds, "cpu": share.proxies / (amount / 1e9)}, share)

    return Case(
        f"bulk-{connections}",
        f"bulk, {connections} connection{'s' if connections > 1 else ''}",
        (
            Metric("rate", "rate", "MB/s", "MB/s", 0, more_is_better=True),
            Metric("cpu", "CPU of both hops", "s/GB", "s/GB", 2),
        ),
        measure,
    )


def _echo(size: int, connections: int) -> Case:
    def measure(session: Session) -> Sample:
        result, share = timed(session, "echo", size=size, connections=connections, seconds=session.effort.seconds)
        count = result["operations"]
        return Sample(
            {
                "p50": result["p50"],
                "p99": result["p99"],
                "rate": count / share.seconds,
                "cpu": share.proxies / count * 1e6,
            },
            share,
        )

    return Case(
        f"echo-{size}-{connections}",
        f"echo of {size} B, {connections} connection{'s' if connections > 1 else ''}",
        (
            Metric("p50", "p50", "us", "p50 us", 0),
            Metric("p99", "p99", "us", "p99 us", 0),
            Metric("rate", "rate", "round trips/s", "rt/s", 0, more_is_better=True),
            Metric("cpu", "CPU of both hops", "us each", "CPU us", 0),
        ),
        measure,
    )


def _connect(session: Session) -> Sample:
    result, share = timed(session, "connect", connections=16, seconds=session.effort.seconds)
    count = result["operations"]
    return Sample(
        {
            "rate": count / share.seconds,
            "cpu": share.proxies / count * 1e3,
            "p50": result["p50"] / 1e3,
            "p99": result["p99"] / 1e3,
        },
        share,
    )


def _idle(session: Session) -> Sample:
    values = {}
    few, many = session.effort.idle
    pids = session.running.pids
    with generating(session.program, "idle", port=session.running.port, connections=many) as generator:
        generator.hear(10)
        generator.say("go")
        # One connection first: what the first one ever allocates is not the price of each.
        generator.say("1")
        generator.result(60)
        before = _settled(pids)
        for key, count in (("few", few), ("many", many)):
            generator.say(str(count))
            generator.result(300)
            values[key] = (_settled(pids) - before) / (count - 1) / 1000
        generator.say(str(many))  # all of them are looked at again
        generator.result(60)
    return Sample(values)


def _settled(pids: tuple[int, ...]) -> int:
    time.sleep(_SETTLE)
    return processes.memory(pids).pss


def _rest(session: Session) -> Sample:
    time.sleep(_SETTLE)
    used = processes.memory(session.running.pids)
    return Sample(
        {"pss": used.pss / 2 / 1e6, "rss": used.rss / 2 / 1e6, "start": session.running.start_seconds},
    )


def _renewals(session: Session) -> Sample:
    values, first_failure = renewals(session.running, session.program)
    return Sample(values, note=first_failure and f"the first failure: {first_failure}")


CASES: Final = (
    _bulk(1),
    _bulk(8),
    _echo(64, 1),
    _echo(64, 32),
    _echo(1024, 1),
    _echo(1024, 32),
    Case(
        "connect",
        "new connections, full handshakes",
        (
            Metric("rate", "rate", "per s", "per s", 0, more_is_better=True),
            Metric("cpu", "CPU of both hops", "ms each", "CPU ms", 2),
            Metric("p50", "p50", "ms", "p50 ms", 1),
            Metric("p99", "p99", "ms", "p99 ms", 1),
        ),
        _connect,
        group_matters=True,
    ),
    Case(
        "rest",
        "at rest, and start",
        (
            Metric("pss", "PSS of one hop", "MB", "PSS MB", 1),
            Metric("rss", "RSS of one hop", "MB", "RSS MB", 1),
            Metric("start", "start of both hops until they listen", "s", "start s", 3),
        ),
        _rest,
        needs_hops=True,
    ),
    Case(
        "idle",
        "idle connections",
        (
            Metric("few", "PSS of both hops, {few:,} connections", "KB each", "KB at {few:,}", 1),
            Metric("many", "PSS of both hops, {many:,} connections", "KB each", "KB at {many:,}", 1),
        ),
        _idle,
        group_matters=True,
        once=True,
        needs_hops=True,
    ),
    Case(
        "renewals",
        "three renewals under load",
        (
            Metric("failed", "failed operations", "", "failed", 0),
            Metric("operations", "operations", "", "operations", 0, more_is_better=True),
            Metric("shown", "slowest until the new certificate was shown", "s", "shown s", 2),
        ),
        _renewals,
        once=True,
        needs_hops=True,
        renewing=True,
    ),
)
