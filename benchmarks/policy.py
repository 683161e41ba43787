"""
What a decision of the policy plugin ``rules`` costs, by how many rules there are: ``python -m benchmarks.policy``.

Of the rules 60 % name one SPIFFE ID, 20 % a pattern, 20 % a network; one in ten denies; each is about one of 20 inbound
listeners. Half of the requests are by peers that a rule is about, half by others, from 2,000 machines. The clock is
read before and after each decision, and what reading it costs is taken off. Of five rounds the quietest counts.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
import tracemalloc
from collections.abc import Sequence
from typing import Literal

import attrs

from tcpmesh.identity.spiffe import SpiffeId
from tcpmesh.policy.identities import parse_id_pattern
from tcpmesh.policy.language import Policy, Principals, Targets
from tcpmesh.policy.networks import parse_network
from tcpmesh.policy.ruling import Ruling
from tcpmesh.values import AuthorizationRequest, InboundName, PeerIdentity, TCPAddress

SIZES = (10, 100, 1_000, 10_000, 100_000)
LISTENERS = tuple(InboundName(f"listener-{number}") for number in range(20))
MACHINES = 2_000
DECISIONS = 20_000
ROUNDS = 5
SEED = 20


@attrs.frozen
class Result:
    """One size: microseconds a decision, seconds to compile, bytes that are kept."""

    rules: int
    median: float
    p99: float
    compiled: float
    size: int


def workload(chance: random.Random) -> str:
    """One of a great many workloads, as Kubernetes or Nomad would name it."""
    space, account = chance.randrange(500), chance.randrange(2_000)
    return f"spiffe://mesh.example/ns/team-{space}/sa/service-{account}"


def host(chance: random.Random) -> str:
    """An address of a private network."""
    return f"10.{chance.randrange(256)}.{chance.randrange(256)}.{chance.randrange(1, 255)}"


def policies(count: int, chance: random.Random) -> list[Policy]:
    """As many policies with one rule each."""
    made: list[Policy] = []
    for number in range(count):
        kind = chance.random()
        if kind < 0.6:
            entry = Principals([parse_id_pattern(workload(chance))])
        elif kind < 0.8:
            parts = workload(chance).split("/")
            parts[chance.choice((4, 6))] = "*"
            if chance.random() < 0.5:
                parts[-1] = "**"
            entry = Principals([parse_id_pattern("/".join(parts))])
        else:
            bits = chance.randrange(16, 33)
            mask = (0xFFFFFFFF << (32 - bits)) & 0xFFFFFFFF
            numbers = [int(part) for part in host(chance).split(".")]
            base = int.from_bytes(bytes(numbers), "big") & mask
            text = ".".join(str(byte) for byte in base.to_bytes(4, "big"))
            entry = Principals(networks=[parse_network(f"{text}/{bits}")])
        action: Literal["allow", "deny"] = "deny" if chance.random() < 0.1 else "allow"
        made.append(Policy(f"p{number}", action, [entry], Targets([chance.choice(LISTENERS)])))
    return made


def requests(count: int, made: Sequence[Policy], chance: random.Random) -> list[AuthorizationRequest]:
    """Half by peers that an exact rule names, at its listener; half by anybody."""
    hosts = [host(chance) for _ in range(MACHINES)]
    exact = [policy for policy in made if policy.from_[0].ids and policy.from_[0].ids[0].is_exact]
    found = []
    for number in range(count):
        listener, text = chance.choice(LISTENERS), workload(chance)
        if exact and number % 2:
            policy = chance.choice(exact)
            assert policy.to is not None
            assert policy.to.inbound is not None
            assert policy.from_[0].ids is not None
            listener, text = policy.to.inbound[0], str(policy.from_[0].ids[0])
        peer = PeerIdentity(SpiffeId.parse(text), "01", 0.0, 4e9)
        found.append(AuthorizationRequest(peer, TCPAddress(chance.choice(hosts), 40_000), listener, "db", port=5432))
    return found


def measure(count: int) -> Result:
    """Compile so many rules and decide."""
    chance = random.Random(SEED)
    made = policies(count, chance)
    tracemalloc.start()
    ruling = Ruling(made)
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    before = time.perf_counter()
    ruling = Ruling(made)
    compiled = time.perf_counter() - before
    asked = requests(DECISIONS, made, chance)
    for request in asked[:1000]:
        ruling.decide(request)
    clock, decide = time.perf_counter_ns, ruling.decide
    idle = statistics.median(-(clock() - clock()) for _ in range(1000))
    rounds = []
    for _ in range(ROUNDS):
        times = []
        for request in asked:
            start = clock()
            decide(request)
            times.append(clock() - start - idle)
        times.sort()
        rounds.append((times[len(times) // 2] / 1000, times[len(times) * 99 // 100] / 1000))
    return Result(count, *min(rounds), compiled, kept)


def main(arguments: Sequence[str]) -> None:
    """Measure each size and print a line for it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.policy", description=(__doc__ or "").splitlines()[1])
    parser.add_argument("sizes", nargs="*", type=int, default=SIZES, help="how many rules; by default 10 to 100000")
    print(f"{'rules':>8} {'median':>10} {'p99':>10} {'compile':>10} {'memory':>10}")
    for count in parser.parse_args(arguments).sizes:
        one = measure(count)
        times = f"{one.median:>7.2f} us {one.p99:>7.2f} us {one.compiled:>8.3f} s"
        print(f"{one.rules:>8} {times} {one.size / 2**20:>6.1f} MiB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
