"""Whatever fails, and wherever: one receiver gets a prefix of what was sent, and an end only if it got everything."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import attrs
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.simulated.field import ClientPlan, SimulatedField
from tests.simulated.oracle import violations
from tests.simulated.sessions import PREFACES, Cut, EndpointPlan, How, Kind, Stage, Who

# The same cases each time, so that a failure in one run is one in the next; more of them, and others, when asked for.
CASES = int(os.environ.get("TCPMESH_INTEGRITY_CASES", "0"))
SHRINK = os.environ.get("TCPMESH_INTEGRITY_SHRINK", "1") == "1"


def cases(number: int) -> Any:
    """The settings of a property."""
    return settings(
        max_examples=CASES or number,
        derandomize=not CASES,
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate, *((Phase.shrink,) if SHRINK else ())),
        suppress_health_check=[HealthCheck.too_slow],
    )


KINDS = [kind for kind in Kind if kind is not Kind.RAW]
SIZES = st.one_of(st.sampled_from([0, 1, 2, 10]), st.integers(0, 20_000))
CUTS = st.builds(
    Cut,
    st.sampled_from(Stage),
    st.one_of(st.sampled_from([0, 1, 2, 3, 4, 5, 6, 9]), st.integers(0, 4000)),
    st.sampled_from(How),
)
PLANS = st.builds(
    EndpointPlan,
    kind=st.sampled_from(KINDS),
    dial=st.sampled_from(["connected"] * 6 + ["silent", "refused", "unreachable", "reset"]),
    after=st.sampled_from([0.0, 0.0, 0.001, 1.0]),
    who=st.sampled_from([Who.ORDERS] * 6 + list(Who)),
    preface=st.sampled_from(["ok"] * 8 + list(PREFACES)),
    cut=st.one_of(st.none(), CUTS, CUTS),
    answer=SIZES,
    wants=st.sampled_from([-1, -1, 0, 1, 10]),
    ends_first=st.booleans(),
)
CLIENTS = st.builds(
    ClientPlan,
    size=SIZES,
    starts=st.sampled_from([0.0, 0.0, 0.001, 3.0]),
    sends=st.sampled_from(["at once", "at once", "greeted", "late"]),
    ends=st.sampled_from(["half-close", "half-close", "last", "close", "reset", "leave"]),
    reset_after=st.sampled_from([0, 1, 100]),
)
RETRIES = {
    "none": ("{plugin: none}", 1),
    "fixed": ("{plugin: fixed, attempts: 3, wait: 10ms}", 3),
    "exponential": ("{plugin: exponential, attempts: 4, base: 1ms, max: 100ms}", 4),
}
BALANCERS = ["round-robin", "least-connections", "random", "source-hash", "p2c-ewma"]
ORDINARY = ["health: {ejection: {failures: 0}}"]
LIMITS = ["connections: 2", "per_endpoint: 1", "pending: 1", "connections: 2, per_endpoint: 1, pending: 1"]
MORE = st.lists(
    st.sampled_from(
        [
            *(f"limits: {{{limits}}}" for limits in LIMITS),
            *(f"limits: {{{limits}}}\n    queue: {{length: {length}}}" for limits in LIMITS for length in (1, 10)),
            "health: {ejection: {failures: 1, time: 1s}}",
            "health: {ejection: {failures: 1, max_share: 1.0}, circuit: {failures: 2, time: 1s}}",
            "health: {slow_start: 5s}",
            "retry_budget: {share: 0.0, minimum: 0}",
            "timeouts: {establish: 2s, queue: 500ms, resolve: 1s}",
        ]
    ),
    unique_by=lambda line: line.partition(":")[0],
    max_size=4,
)
FIELDS = st.fixed_dictionaries(
    {}, optional={"weight": st.integers(1, 3), "priority": st.integers(0, 1), "zone": st.sampled_from(["", "a", "b"])}
)
NAMES = st.sampled_from(["orders.a.test", "orders.a.test", "other.a.test", "", None])
ROUTES = [
    "[{sni: orders.a.test, service: orders}]",
    "[{sni: orders.a.test, failover: [orders, standby]}, {split: {orders: 1, standby: 1}}]",
    "[{sni: orders.a.test, service: orders, passthrough: true}]",
    "[{sni: orders.a.test, failover: [orders, standby], passthrough: true}, {service: standby, passthrough: true}]",
]
REFUSING = st.builds(EndpointPlan, preface=st.sampled_from(list(PREFACES)))
# What breaks about the first payload byte, on either side of it.
EDGES = st.builds(
    EndpointPlan,
    kind=st.sampled_from(KINDS),
    cut=st.builds(
        Cut,
        st.sampled_from([Stage.FINISHED, Stage.PREFACE, Stage.RECEIVED, Stage.SENT, Stage.RECORDS]),
        st.sampled_from([0, 0, 1, 2, 4, 30, 600]),
        st.sampled_from([How.RESET, How.RESET, *How]),
    ),
    answer=st.sampled_from([0, 1, 3000]),
    wants=st.sampled_from([-1, 0, 0, 1]),
    ends_first=st.booleans(),
)
WAITING = st.builds(
    ClientPlan,
    size=st.sampled_from([0, 1, 3000]),
    sends=st.sampled_from(["at once", "greeted", "late"]),
    ends=st.sampled_from(["half-close", "last"]),
)
CAPACITIES = st.sampled_from([50, 1000, 4000, 30_000])
MOMENTS = st.sampled_from([0.0, 0.0005, 0.001, 1.0, 2.0, 5.0, 8.0])
HAPPENINGS = st.lists(
    st.tuples(MOMENTS, st.sampled_from(["cut", "stop", "identities", "identities", "bundles", "fewer", "none", "all"])),
    max_size=3,
)


def service(retry: str, balance: str, more: Sequence[str] = ORDINARY) -> str:
    """Keys of the service, in the place where the configuration wants them."""
    lines = [f"retry: {RETRIES[retry][0]}", f"balance: {{plugin: {balance}}}", *more]
    return "".join(f"    {line}\n" for line in lines)


class IntegrityTests(SynchronousTestCase):
    """Real proxies, simulated sockets, endpoints that fail at every point."""

    def check(
        self,
        endpoints: Sequence[EndpointPlan],
        clients: Sequence[ClientPlan],
        *,
        retry: str = "exponential",
        balance: str = "round-robin",
        more: Sequence[str] = ORDINARY,
        services: int = 1,
        **field: Any,
    ) -> SimulatedField:
        """Run it to its end and look at it."""
        most = services * RETRIES[retry][1]
        made = SimulatedField(endpoints, clients, service=service(retry, balance, more), most_attempts=most, **field)
        made.run()
        case = f"{endpoints=}, {clients=}, {retry=}, {balance=}, {more=}, {field=}"
        self.assertEqual(violations(made), [], case)
        return made

    @cases(1200)
    @given(
        st.lists(PLANS, min_size=1, max_size=4),
        st.lists(CLIENTS, min_size=1, max_size=3),
        st.sampled_from(["none", "fixed", "exponential", "exponential"]),
        st.sampled_from(BALANCERS),
        st.integers(0, 1 << 30),
        CAPACITIES,
        st.booleans(),
    )
    def test_anything_fails_anywhere(
        self,
        endpoints: list[EndpointPlan],
        clients: list[ClientPlan],
        retry: str,
        balance: str,
        seed: int,
        capacity: int,
        gentle: bool,
    ) -> None:
        """Several applications, several endpoints, each of which fails in its own way, in any order of events."""
        self.check(endpoints, clients, retry=retry, balance=balance, seed=seed, capacity=capacity, gentle=gentle)

    @cases(800)
    @given(st.lists(EDGES, min_size=1, max_size=3), WAITING, st.integers(0, 1 << 30), CAPACITIES, st.booleans())
    def test_it_breaks_about_the_first_byte(
        self, endpoints: list[EndpointPlan], client: ClientPlan, seed: int, capacity: int, gentle: bool
    ) -> None:
        """Where a retry is right a moment before and wrong a moment after."""
        self.check([*endpoints, EndpointPlan()], [client], seed=seed, capacity=capacity, gentle=gentle)

    @cases(1200)
    @given(
        st.lists(st.tuples(PLANS, FIELDS), min_size=1, max_size=4),
        st.lists(CLIENTS, min_size=1, max_size=6),
        st.sampled_from(["none", "fixed", "exponential", "exponential"]),
        st.sampled_from(BALANCERS),
        MORE,
        HAPPENINGS,
        st.sampled_from([None, None, 0.0005, 1.0, 100.0]),
        st.integers(0, 1 << 30),
        CAPACITIES,
    )
    def test_anything_fails_anywhere_while_the_service_changes(
        self,
        endpoints: list[tuple[EndpointPlan, dict[str, Any]]],
        clients: list[ClientPlan],
        retry: str,
        balance: str,
        more: list[str],
        happenings: list[tuple[float, str]],
        resolved_after: float | None,
        seed: int,
        capacity: int,
    ) -> None:
        """The same with limits, queue, health, priorities; endpoints and identities come and go; it stops."""
        self.check(
            [plan for plan, _fields in endpoints],
            clients,
            retry=retry,
            balance=balance,
            more=more,
            endpoint_fields=[fields for _plan, fields in endpoints],
            happenings=happenings,
            resolved_after=resolved_after,
            excludes=False,
            seed=seed,
            capacity=capacity,
        )

    @cases(500)
    @given(
        st.lists(st.one_of(PLANS, PLANS, REFUSING), min_size=2, max_size=4),
        st.lists(CLIENTS, min_size=1, max_size=3),
        st.sampled_from(["none", "exponential"]),
        HAPPENINGS,
        st.integers(0, 1 << 30),
        CAPACITIES,
    )
    def test_anything_fails_anywhere_with_a_service_to_fall_back_on(
        self,
        endpoints: list[EndpointPlan],
        clients: list[ClientPlan],
        retry: str,
        happenings: list[tuple[float, str]],
        seed: int,
        capacity: int,
    ) -> None:
        """A route with failover: what the first service did not take goes to the second one, whole."""
        self.check(
            endpoints,
            clients,
            retry=retry,
            happenings=happenings,
            way="routes: [{failover: [orders, standby]}]",
            standbys=len(endpoints) // 2,
            services=2,
            excludes=False,
            seed=seed,
            capacity=capacity,
        )

    @cases(500)
    @given(
        st.lists(PLANS, min_size=2, max_size=4),
        st.lists(st.tuples(CLIENTS, NAMES), min_size=1, max_size=3),
        st.sampled_from(ROUTES),
        st.integers(0, 1 << 30),
        CAPACITIES,
    )
    def test_anything_fails_anywhere_behind_routes_by_server_name(
        self,
        endpoints: list[EndpointPlan],
        clients: list[tuple[ClientPlan, str | None]],
        routes: str,
        seed: int,
        capacity: int,
    ) -> None:
        """The ClientHello is read before anybody is dialled, and handed on once; with the mesh's TLS around, or raw."""
        raw = "passthrough" in routes
        self.check(
            [attrs.evolve(plan, kind=Kind.RAW) if raw else plan for plan in endpoints],
            [attrs.evolve(plan, name=name) for plan, name in clients],
            way=f"routes: {routes}",
            standbys=len(endpoints) // 2,
            services=2,
            excludes=False,
            seed=seed,
            capacity=capacity,
        )
