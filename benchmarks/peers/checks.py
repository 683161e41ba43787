"""Whether a peer runs in the topology that the benchmark says: tried from both sides of its TLS connection."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from attrs import frozen
from cryptography import x509

from benchmarks import processes
from benchmarks.peers.base import Credentials, Run
from benchmarks.peers.hops import TwoHops, free_port
from benchmarks.peers.throwaway import ThrowawayCertificates, answer_after_end, counting, echo, round_trip
from benchmarks.peers.tls_ends import Refused, stand_in, tls_round_trip
from benchmarks.peers.trial import CONNECTIONS
from benchmarks.peers.wire import tap

_ROUND_TRIPS: Final = 3
_SETTLE: Final = 0.5  # seconds; haproxy's master listens before it hears signals
_RENEWAL_LIMIT: Final = 20.0  # seconds


@frozen
class Outcome:
    """One line of the report."""

    good: bool
    text: str


def checks(peer: TwoHops, group: str) -> Iterator[Outcome]:
    """Try the peer with the group."""
    for check in (_handshake, _half_close, _second_hop, _first_hop, _renewal):
        try:
            yield from check(peer, group)
        except (OSError, RuntimeError, Refused) as error:
            yield Outcome(False, f"{check.__name__.strip('_').replace('_', ' ')}: {error or type(error).__name__}")


@contextmanager
def _run(group: str, target: int) -> Iterator[tuple[Run, ThrowawayCertificates]]:
    with tempfile.TemporaryDirectory(prefix="tcpmesh-bench-") as name:
        places = Path(name, "certificates"), Path(name, "run")
        for place in places:
            place.mkdir()
        certificates = ThrowawayCertificates(places[0])
        yield Run(places[1], target, group, CONNECTIONS, certificates), certificates


def _handshake(peer: TwoHops, group: str) -> Iterator[Outcome]:
    with echo() as target, _run(group, target) as (run, _certificates), tap() as between:
        with peer.started(run, between.towards) as running:
            for _number in range(_ROUND_TRIPS):
                round_trip(running.port)
            hops = [processes.family([pid]) for pid in running.pids]
            threads = [sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in hop) for hop in hops]
        seen = between.negotiated
    good = len(seen) == _ROUND_TRIPS and all((each.version, each.group) == ("TLS 1.3", group) for each in seen)
    choices = sorted({f"{each.version}, {each.group}, {each.cipher}" for each in seen})
    yield Outcome(good, f"between the hops: {' and '.join(choices) or 'no ServerHello'}")
    resumed, retried = sum(each.resumed for each in seen), sum(each.retried for each in seen)
    yield Outcome(not resumed, f"{resumed} of {len(seen)} connections in a row are resumed")
    yield Outcome(not retried, f"{retried} of them needed a HelloRetryRequest")
    each_hop = ", ".join(f"{len(hop)} and {count}" for hop, count in zip(hops, threads, strict=True))
    yield Outcome(True, f"up in {running.start_seconds:.3f} s; processes and threads of the hops: {each_hop}")


def _half_close(peer: TwoHops, group: str) -> Iterator[Outcome]:
    """Not all peers can, so that either answer is good."""
    with counting() as target, _run(group, target) as (run, _certificates), peer.started(run) as running:
        try:
            answer = answer_after_end(running.port)
        except ConnectionError:
            answer = b""
    yield Outcome(answer in (b"", b"64"), f"an answer comes after the client's end: {'yes' if answer else 'no'}")


def _second_hop(peer: TwoHops, group: str) -> Iterator[Outcome]:
    ports: list[int] = []

    def remember(port: int) -> int:
        ports.append(port)
        return port

    with echo() as target, _run(group, target) as (run, certificates), peer.started(run, remember):
        tls_round_trip(ports[0], certificates.client, certificates.bundle)
        for who, own in (("no certificate", None), ("a stranger's certificate", certificates.stranger)):
            attempt = partial(tls_round_trip, ports[0], own, certificates.bundle)
            yield _is_refused(f"second hop: a client with {who}", attempt)


def _first_hop(peer: TwoHops, group: str) -> Iterator[Outcome]:
    with _run(group, free_port()) as (run, certificates):
        with stand_in(certificates.server, certificates.bundle) as server:
            with peer.started(run, server.instead_of) as running:
                round_trip(running.port)
            shown = server.clients == [_serial_number(certificates.client)]
            yield Outcome(shown, "first hop: shows its certificate to a server that demands one")
        for who, own in (
            ("a stranger's certificate", certificates.stranger),
            ("a certificate for another name", certificates.other),
        ):
            with stand_in(own, certificates.bundle) as server, peer.started(run, server.instead_of) as running:
                outcome = _is_refused(f"first hop: a server with {who}", partial(round_trip, running.port))
            yield Outcome(outcome.good and not server.received, outcome.text)


def _renewal(peer: TwoHops, group: str) -> Iterator[Outcome]:
    ports: list[int] = []
    with (
        echo() as target,
        _run(group, target) as (run, certificates),
        stand_in(certificates.server, certificates.bundle) as server,
    ):

        def between(port: int) -> int:
            ports.append(port)
            return server.instead_of(port)

        with peer.started(run, between) as running:
            if running.renew is None:
                yield Outcome(True, "renewal: not without a stop")
                return
            time.sleep(_SETTLE)
            started = time.perf_counter()
            running.renew()
            renewed = {"first hop": certificates.client, "second hop": certificates.server}
            serial_numbers = {hop: _serial_number(own) for hop, own in renewed.items()}
            taken: dict[str, float] = {}
            while len(taken) < len(serial_numbers) and time.perf_counter() - started < _RENEWAL_LIMIT:
                round_trip(running.port)
                shown = tls_round_trip(ports[0], certificates.client, certificates.bundle)
                for hop, serial_number in (("first hop", server.clients[-1]), ("second hop", shown)):
                    if serial_number == serial_numbers[hop]:
                        taken.setdefault(hop, time.perf_counter() - started)
    for hop in serial_numbers:
        text = f"uses its new certificate after {taken[hop]:.2f} s" if hop in taken else "uses its old certificate"
        yield Outcome(hop in taken, f"renewal: {hop} {text}")


def _is_refused(who: str, attempt: Callable[[], object]) -> Outcome:
    try:
        attempt()
    except (Refused, ConnectionError) as error:
        return Outcome(True, f"{who} is refused ({error})")
    except OSError as error:
        return Outcome(False, f"{who} is neither served nor refused ({error})")
    return Outcome(False, f"{who} is served")


def _serial_number(credentials: Credentials) -> int:
    return x509.load_pem_x509_certificate(credentials.certificate.read_bytes()).serial_number
