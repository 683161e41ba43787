"""The compiled policies always give the answer of reading them rule by rule, with the same rule named."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.policy.ruling import Ruling
from tcpmesh.values import Decision
from tests import naive_policies
from tests.unit.policy_samples import plain, read, request

_DOMAINS = ["a.test", "b.test"]
_SEGMENTS = ["x", "y", "xy"]
_PATHS = st.lists(st.sampled_from(_SEGMENTS), min_size=1, max_size=3)
_DOMAIN = st.sampled_from(_DOMAINS)
_IDS = st.builds(lambda domain, path: f"spiffe://{domain}/{'/'.join(path)}", _DOMAIN, _PATHS)
_WILD = st.builds(
    lambda domain, path, deep: f"spiffe://{domain}/{'/'.join([*path, *deep])}",
    _DOMAIN,
    st.lists(st.sampled_from([*_SEGMENTS, "*"]), min_size=1, max_size=2),
    st.sampled_from([[], ["**"]]),
)
_PREFIX = st.builds(
    lambda domain, path: "/".join(["spiffe:", "", domain, *path, ""]),
    _DOMAIN,
    st.lists(st.sampled_from(_SEGMENTS), max_size=2),
)
_NETWORK = st.sampled_from(
    [
        "10.0.0.0/8",
        "10.1.0.0/16",
        "10.1.2.0/24",
        "10.1.2.3",
        "0.0.0.0/0",
        "192.168.0.0/16",
        "fd00::/8",
        "fd00::/16",
        "::/0",
    ]
)
_DNS = st.sampled_from(["db.example.com", "*.example.com", "**.example.com", "**.com", "a.db.example.com"])
_SOURCE = st.sampled_from(
    [
        *("10.0.0.1", "10.1.0.1", "10.1.2.3", "10.1.2.4", "192.168.1.1", "11.0.0.0", "9.255.255.255"),
        *("10.0.0.0", "10.255.255.255", "10.1.0.0", "10.1.255.255", "10.1.2.0", "10.1.2.255", "fdff:ffff::"),
        *("::ffff:10.1.2.3", "fd00::1", "fd01::1", "fe80::1", "unix:/run/app.sock"),
    ]
)
_NAME = st.sampled_from(["", "db.example.com", "DB.example.com", "a.db.example.com", "example.com", "dbexample.com"])


def some(values: st.SearchStrategy[str], size: int = 3) -> st.SearchStrategy[list[str]]:
    return st.lists(values, min_size=1, max_size=size)


def _mapping(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=keys).filter(bool)


_ABOUT_IDS = st.one_of(
    st.fixed_dictionaries({"ids": some(st.one_of(_IDS, _WILD))}),
    st.fixed_dictionaries({"prefixes": some(_PREFIX)}),
    st.fixed_dictionaries({"trust_domains": some(_DOMAIN)}),
    st.fixed_dictionaries({"dns": some(_DNS)}),
    st.fixed_dictionaries({"ids": st.just(["spiffe://a.test/*"]), "trust_domains": st.just(["b.test", "a.test"])}),
    st.fixed_dictionaries({"prefixes": st.just(["spiffe://a.test/x/"]), "ids": some(st.just("spiffe://a.test/*/y"))}),
)
_ENTRY = st.one_of(
    _ABOUT_IDS,
    st.fixed_dictionaries({"networks": some(_NETWORK)}),
    st.builds(lambda one, networks: one | {"networks": networks}, _ABOUT_IDS, some(_NETWORK)),
    st.fixed_dictionaries({"any": st.just("authenticated")}, optional={"networks": some(_NETWORK)}),
)
_PRINCIPALS = st.one_of(
    _ENTRY,
    st.builds(lambda entry, excluded: entry | {"except": excluded}, _ENTRY, st.lists(_ENTRY, min_size=1, max_size=2)),
)
_INBOUND = _mapping(
    inbound=some(st.sampled_from(["a", "b"]), 2),
    ports=st.lists(st.sampled_from([1, 2, 5432]), min_size=1, max_size=2),
    sni=some(_DNS, 2),
    alpn=some(st.sampled_from(["tcpmesh/1", "pg"]), 2),
)
_SERVICES = st.fixed_dictionaries({"services": some(st.sampled_from(["db", "mail"]), 2)})
_WINDOW = _mapping(
    days=st.lists(st.sampled_from(naive_policies.DAYS), min_size=1, max_size=3),
    hours=some(st.sampled_from(["08:00-18:00", "22:00-06:00", "00:00-24:00", "12:30-12:31"]), 2),
    timezone=st.sampled_from(["UTC", "Asia/Kolkata", "America/New_York"]),
)
_AGE = st.one_of(
    st.sampled_from(
        [{"min_age": "1h"}, {"max_age": "1d"}, {"min_age": "1h", "max_age": "2d"}, {"min_remaining": "1d"}]
    ),
    st.sampled_from([{"max_remaining": "1d"}, {"min_age": "2d", "min_remaining": "2d"}]),
)
_WHEN = _mapping(windows=st.lists(_WINDOW, min_size=1, max_size=2), certificate=_AGE)
_STRANGERS = st.fixed_dictionaries(
    {"any": st.just("unauthenticated")},
    optional={
        "networks": some(_NETWORK),
        "except": st.lists(st.fixed_dictionaries({"networks": some(_NETWORK)}), min_size=1, max_size=2),
    },
)
_ABOUT_STRANGERS = st.fixed_dictionaries(
    {
        "action": st.sampled_from(["allow", "deny", "audit"]),
        "from": st.builds(lambda one, more: [*more, one], _STRANGERS, st.lists(_PRINCIPALS, max_size=1)),
    },
    optional={
        "to": _INBOUND,
        "when": st.fixed_dictionaries({"windows": st.lists(_WINDOW, min_size=1, max_size=2)}),
        "mode": st.sampled_from(["enforce", "dry-run"]),
    },
)
_ABOUT_PEERS = st.fixed_dictionaries(
    {"action": st.sampled_from(["allow", "deny", "audit"]), "from": st.lists(_PRINCIPALS, min_size=1, max_size=2)},
    optional={
        "to": st.one_of(_INBOUND, _INBOUND, _SERVICES),
        "when": _WHEN,
        "mode": st.sampled_from(["enforce", "dry-run"]),
    },
)
_POLICY = st.one_of(_ABOUT_PEERS, _ABOUT_PEERS, _ABOUT_STRANGERS)
_ANYBODY = st.just([{"any": "authenticated"}])
_TIMED = st.fixed_dictionaries({"action": st.sampled_from(["allow", "deny", "audit"]), "from": _ANYBODY, "when": _WHEN})
_NETWORKED = st.fixed_dictionaries(
    {
        "action": st.sampled_from(["allow", "deny"]),
        "from": st.lists(st.fixed_dictionaries({"networks": some(_NETWORK)}), min_size=1, max_size=1),
    },
    optional={"to": st.just({"sni": ["db.example.com"]})},
)
_START = 1_800_000_000.0  # an autumn without a change of the clocks would be no test of them; those are elsewhere
_REQUEST = st.fixed_dictionaries(
    {
        "id": st.one_of(_IDS, _IDS, st.none(), st.none()),
        "source": _SOURCE,
        "inbound": st.sampled_from(["a", "b", "c"]),
        "port": st.sampled_from([0, 1, 2, 5432]),
        "service": st.sampled_from(["", "", "db", "mail"]),
        "sni": _NAME,
        "alpn": st.sampled_from(["", "tcpmesh/1"]),
        "dns": _NAME,
        "now": st.integers(0, 10 * 86400).map(lambda offset: _START + offset),
        "not_before": st.just(_START),
        "not_after": st.just(_START + 6 * 86400),
    }
)


def named(drawn: list[dict[str, Any]]) -> list[dict[str, Any]]:
    policies = []
    for number, policy in enumerate(drawn):
        mode = "enforce" if policy["action"] == "audit" else policy.get("mode", "enforce")
        policies.append(policy | {"name": f"p{number}", "mode": mode})
    return policies


def answer(decision: Decision) -> naive_policies.Answer:
    def bare(rule: str) -> str:
        return rule.partition(" ")[0]

    notes = [(note.policy, bare(note.rule), note.says) for note in decision.notes]
    if decision.effect.value == "abstain":
        return "abstain", "", "", notes
    return decision.effect.value, decision.policy, bare(decision.rule), notes


class AgreementTests(SynchronousTestCase):
    """Ruling against tests/naive_policies.py."""

    @settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(_POLICY, min_size=1, max_size=8), st.lists(_REQUEST, min_size=1, max_size=6))
    @example(
        [{"action": "allow", "from": [{"networks": ["10.0.0.0/8"]}, {"any": "authenticated"}]}],
        [plain(source="10.0.0.1", inbound="a"), plain(source="::1", inbound="a")],
    )
    def test_gives_the_answer_of_reading_rule_by_rule(
        self, drawn: list[dict[str, Any]], asked: list[dict[str, Any]]
    ) -> None:
        """Effect, policy, rule and notes."""
        policies = named(drawn)
        moment = [0.0]
        ruling = Ruling(read(policies), lambda: moment[0])
        for one in asked:
            moment[0] = one["now"]
            self.assertEqual(answer(ruling.decide(request(**one))), naive_policies.decide(policies, one))

    @settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(_NETWORKED, min_size=2, max_size=6), _SOURCE, _NAME)
    def test_finds_every_network_that_holds_an_address(
        self, drawn: list[dict[str, Any]], source: str, sni: str
    ) -> None:
        """Also the wider ones, when more is asked of a rule about the narrower one."""
        policies = named(drawn)
        asked = plain(source=source, sni=sni)
        self.assertEqual(
            answer(Ruling(read(policies)).decide(request(**asked))), naive_policies.decide(policies, asked)
        )

    @settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
    @given(
        st.lists(_TIMED, min_size=1, max_size=3),
        st.integers(0, 10 * 86400),
        st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=4),
    )
    def test_an_answer_stands_as_long_as_it_says(
        self, drawn: list[dict[str, Any]], offset: int, shares: list[float]
    ) -> None:
        """valid_for never ends later than what it was told of."""
        policies = named(drawn)
        asked = plain(now=_START + offset, not_before=_START, not_after=_START + 6 * 86400)
        first = Ruling(read(policies), lambda: asked["now"]).decide(request(**asked))
        until = 30 * 86400.0 if first.valid_for is None else first.valid_for
        self.assertTrue(until >= 0 and math.isfinite(until))
        for share in shares:
            later = naive_policies.decide(policies, asked | {"now": asked["now"] + math.floor(share * until)})
            self.assertEqual(later, answer(first))
