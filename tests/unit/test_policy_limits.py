"""Counting connections against the limits of policies."""

from __future__ import annotations

from typing import Any

import attrs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.codes import POLICY_CONNECTIONS
from tcpmesh.limit_interfaces import Limit
from tcpmesh.policy.limits import Limits, Places, Who
from tcpmesh.values import TCPAddress, UnixAddress
from tests.naive_limits import NaiveLimits

FEW = Limit("few", "policies[0]", connections=2, per=("identity",))
SLOW = Limit("slow", "policies[1]", rate=2.0, burst=3, per=("identity",))


def who(identity: str = "web", source: str = "192.0.2.1", listener: str = "orders-in") -> Who:
    if source.startswith("unix:"):
        return Who(f"spiffe://example.test/{identity}", UnixAddress(source[5:]), listener)
    return Who(f"spiffe://example.test/{identity}", TCPAddress(source, 40000), listener)


class Counting:
    """Limits with a time of their own, and the connections that hold places."""

    def __init__(self, *limits: Limit, most: int = 100) -> None:
        self.limits = Limits(most)
        self.now = 1000.0
        self.use(*limits)

    def use(self, *limits: Limit) -> None:
        self.applied = [(0, limit) for limit in limits]
        self.limits.use(self.applied, self.now)

    def open(self, one: Who) -> Places | str:
        """The places, or why not."""
        places, full = self.limits.take(self.applied, one, self.now)
        refused = [each for each in full if each.limit.enforced]
        return f"{refused[0].code.id} {refused[0].reason}" if refused else places

    def taken(self, one: Who, count: int = 1) -> list[Places]:
        found = [self.open(one) for _ in range(count)]
        for places in found:
            assert not isinstance(places, str), places
        return found  # type: ignore[return-value]

    def close(self, places: Places) -> None:
        self.limits.release(places, self.now)


class ConnectionsTests(SynchronousTestCase):
    """``connections``."""

    def test_each_has_as_many_as_it_says(self) -> None:
        """One more is refused, of that identity only, until one of them has gone."""
        counting = Counting(FEW)
        first, _ = counting.taken(who(), 2)
        reason = "TM-L106 spiffe://example.test/web has 2 connections, and policy 'few' lets each identity have 2"
        self.assertEqual(counting.open(who()), reason)
        counting.taken(who("batch"), 2)
        counting.close(first)
        counting.taken(who())
        self.assertEqual(counting.open(who()), reason)

    def test_without_per_all_are_counted_together(self) -> None:
        """Whoever they are."""
        counting = Counting(attrs.evolve(FEW, per=()))
        counting.taken(who("web"))
        counting.taken(who("batch"))
        self.assertEqual(
            counting.open(who("other")),
            "TM-L106 there are 2 connections, and policy 'few' lets all together have 2",
        )

    def test_a_refused_connection_is_counted_nowhere(self) -> None:
        """Not by the limits before the one that refuses, nor the ones after it, and uses up no rate."""
        counting = Counting(SLOW, FEW, Limit("all", connections=9))
        counting.taken(who(), 2)
        places, full = counting.limits.take(counting.applied, who(), counting.now)
        self.assertEqual((places, [each.code for each in full]), ((), [POLICY_CONNECTIONS]))
        self.assertEqual(counting.limits.in_use(), {"slow": 2, "few": 2, "all": 2})
        self.assertEqual(counting.limits.refused, {"few": 1})
        counting.use(SLOW)
        counting.taken(who())  # the third at once, which the refused one has not used
        self.assertIn("TM-L107", str(counting.open(who())))

    def test_nothing_is_remembered_of_who_has_gone(self) -> None:
        """Without a rate there is nothing to remember."""
        counting = Counting(FEW)
        for number in range(1000):
            counting.close(counting.taken(who(f"w{number}"))[0])
        self.assertEqual(len(counting.limits), 0)


class PerTests(SynchronousTestCase):
    """What is counted apart."""

    def together(self, one: Who, other: Who, *per: Any, **changes: Any) -> bool:
        """Whether these two count together."""
        counting = Counting(Limit("one", connections=1, per=per, **changes))
        counting.taken(one)
        return isinstance(counting.open(other), str)

    def test_tells_sources_apart_by_address(self) -> None:
        """The port does not matter, nor that IPv4 is written in IPv6 form; unix sockets are one source."""
        self.assertTrue(self.together(who("a"), who("b"), "source"))
        self.assertFalse(self.together(who(), who(source="192.0.2.2"), "source"))
        self.assertTrue(self.together(who(), who(source="::ffff:192.0.2.1"), "source"))
        self.assertTrue(self.together(who(source="unix:/a"), who(source="unix:/b"), "source"))
        self.assertFalse(self.together(who(), who(source="unix:/b"), "source"))

    def test_tells_networks_apart_by_their_bits(self) -> None:
        """24 and 64 unless told otherwise."""
        for one, other, same in (
            ("192.0.2.0", "192.0.2.255", True),
            ("192.0.2.255", "192.0.3.0", False),
            ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", True),
            ("2001:db8::1", "2001:db8:0:1::1", False),
            ("192.0.2.1", "2001:db8::1", False),
            ("unix:/a", "unix:/b", True),
        ):
            self.assertEqual(self.together(who(source=one), who(source=other), "network"), same, (one, other))
        self.assertTrue(self.together(who(), who(source="192.1.0.0"), "network", ipv4_bits=8))
        self.assertFalse(self.together(who(), who(source="192.0.2.2"), "network", ipv4_bits=32))
        long = {"ipv6_bits": 128}
        self.assertFalse(self.together(who(source="::1"), who(source="::2"), "network", **long))
        # Where the number of an IPv4 network would lie if its last bits were cut off.
        self.assertFalse(self.together(who(source="0.0.0.0"), who(source="100::"), "network", **long))

    def test_tells_listeners_apart(self) -> None:
        """Each on its own."""
        self.assertTrue(self.together(who("a", "192.0.2.1"), who("b", "192.0.2.2"), "listener"))
        self.assertFalse(self.together(who(), who(listener="cart-in"), "listener"))

    def test_tells_apart_whatever_differs_in_one_part(self) -> None:
        """Several parts are one key."""
        per = ("identity", "listener")
        self.assertTrue(self.together(who(), who(source="192.0.2.9"), *per))
        self.assertFalse(self.together(who(), who("b"), *per))
        self.assertFalse(self.together(who(), who(listener="b"), *per))

    def test_says_who_it_was(self) -> None:
        """In the words of the file."""
        for per, one, text in (
            (
                ("source",),
                who(source="::ffff:192.0.2.1"),
                "192.0.2.1 has 1 connection, and policy 'p' lets each source",
            ),
            (("network",), who(), "192.0.2.0/24 has 1 connection, and policy 'p' lets each network have 1"),
            (("network",), who(source="fd00::1"), "fd00::/64 has"),
            (("source",), who(source="fe80::1%eth0"), "fe80::1 has"),
            (("source",), who(source="unix:/a"), "the unix socket has"),
            (("identity", "listener"), who(), "spiffe://example.test/web with listener 'orders-in' has 1 connection"),
        ):
            counting = Counting(Limit("p", connections=1, per=per))  # type: ignore[arg-type]
            counting.taken(one)
            self.assertIn(f"TM-L106 {text}", str(counting.open(one)))


class RateTests(SynchronousTestCase):
    """``rate`` and ``burst``."""

    def test_lets_so_many_come_at_once_and_then_at_the_rate(self) -> None:
        """After half a second of 2/s there is room for one more."""
        counting = Counting(SLOW)
        counting.taken(who(), 3)
        reason = (
            "TM-L107 spiffe://example.test/web comes too often: policy 'slow' lets each identity have 2/s new ones "
            "(burst 3); the next one in 500ms"
        )
        self.assertEqual(counting.open(who()), reason)
        self.assertEqual(counting.open(who()), reason)
        counting.now += 0.5
        counting.taken(who())
        self.assertEqual(counting.open(who()), reason)
        counting.taken(who("batch"), 3)
        counting.now += 100
        counting.taken(who(), 3)
        self.assertEqual(counting.open(who()), reason)

    def test_counts_new_connections_whether_or_not_they_last(self) -> None:
        """Ending a connection gives nothing back."""
        counting = Counting(SLOW)
        for places in counting.taken(who(), 3):
            counting.close(places)
        self.assertIn("TM-L107", str(counting.open(who())))

    def test_is_exact_where_floating_point_is_not(self) -> None:
        """A burst of a rate that has no finite binary form is that many, and no more."""
        for rate, burst in ((3.0, 3), (10.0, 10), (7 / 60, 7), (1 / 3600, 1), (0.3, 1000)):
            counting = Counting(Limit("p", rate=rate, burst=burst))
            counting.taken(who(), burst)
            self.assertIn("TM-L107", str(counting.open(who())))
            counting.now += 1 / rate
            counting.taken(who())
            self.assertIn("TM-L107", str(counting.open(who())))

    def test_says_the_rate_as_it_is_written(self) -> None:
        """By second, minute or hour, whichever is whole."""
        for rate, text in ((10.0, "10/s new"), (90 / 60, "90/m new"), (7 / 3600, "7/h new"), (0.0001, "0.0001/s new")):
            counting = Counting(Limit("p", rate=rate))
            counting.taken(who())
            self.assertIn(
                f"connections come too often: policy 'p' lets all together have {text}", str(counting.open(who()))
            )


class BoundTests(SynchronousTestCase):
    """However many there are, memory stays."""

    def test_forgets_whoever_may_come_as_ever(self) -> None:
        """100,000 identities, one after the other, leave no more than come in the time that it takes to fill."""
        counting = Counting(attrs.evolve(SLOW, burst=1), most=1000)
        most = 0
        for number in range(100_000):
            counting.close(counting.taken(who(f"w{number}"))[0])
            counting.now += 0.001
            most = max(most, len(counting.limits))
        self.assertLessEqual(most, 501)

    def test_refuses_newcomers_while_it_remembers_as_many_as_it_may(self) -> None:
        """Who is remembered already, or has a connection, is judged as ever, and time makes room."""
        counting = Counting(SLOW, most=3)
        counting.taken(who("lasting"))
        for name in ("a", "b", "c"):
            counting.close(counting.taken(who(name))[0])
        self.assertEqual(
            counting.open(who("d")),
            "TM-L107 spiffe://example.test/d is new, and policy 'slow' lets each identity have 2/s new ones (burst 3), "
            "which it counts for 3 others already",
        )
        counting.taken(who("lasting"))
        counting.close(counting.taken(who("a"))[0])
        self.assertIn("is new", str(counting.open(who("d"))))
        counting.now += 0.5
        counting.taken(who("d"))
        self.assertEqual(len(counting.limits), 3)  # d, lasting, and a, who came twice

    def test_one_policys_strangers_are_not_anothers(self) -> None:
        """Each remembers for itself."""
        counting = Counting(SLOW, most=1)
        counting.close(counting.taken(who("a"))[0])
        self.assertIn("is new", str(counting.open(who("b"))))
        counting.use(SLOW, attrs.evolve(SLOW, policy="other"))
        counting.applied = counting.applied[1:]
        counting.taken(who("b"))

    def test_forgets_policies_that_are_gone(self) -> None:
        """Counters, and the numbers for metrics, of 1,000 policies that each lived for one reload."""
        counting = Counting()
        for number in range(1000):
            counting.use(attrs.evolve(SLOW, policy=f"p{number}", burst=1))
            counting.close(counting.taken(who())[0])
            self.assertIn("TM-L107", str(counting.open(who())))
        self.assertEqual((len(counting.limits), len(counting.limits.refused)), (1, 1))
        lasting, leaving = counting.taken(who("lasting"))[0], counting.taken(who("leaving"))[0]
        counting.use()
        counting.close(leaving)
        self.assertEqual(len(counting.limits), 1)
        self.assertEqual(counting.limits.in_use(), {"p999": 1})
        counting.close(lasting)
        self.assertEqual((counting.limits.in_use(), len(counting.limits), counting.limits.refused), ({}, 0, {}))


class DryRunTests(SynchronousTestCase):
    """``mode: dry-run``."""

    def test_notes_what_it_would_refuse(self) -> None:
        """And counts as if it had: what it would let in later is what it would let in if it were enforced."""
        counting = Counting(attrs.evolve(FEW, enforced=False))
        first, _ = counting.taken(who(), 2)
        places, full = counting.limits.take(counting.applied, who(), 0.0)
        self.assertEqual([(each.limit.policy, each.code) for each in full], [("few", POLICY_CONNECTIONS)])
        self.assertEqual((counting.limits.noted, counting.limits.refused), ({"few": 1}, {}))
        self.assertEqual(counting.limits.in_use(), {"few": 2})
        counting.close(first)
        places = counting.limits.retake(places, counting.applied, who(), 0.0)
        self.assertEqual(counting.limits.in_use(), {"few": 1})
        counting.close(places)
        self.assertEqual(counting.limits.in_use(), {"few": 1})


class ReloadTests(SynchronousTestCase):
    """Limits that change under live connections."""

    def test_a_changed_number_holds_for_those_who_live(self) -> None:
        """Lower: nobody new until enough have gone. Higher: room at once."""
        counting = Counting(FEW)
        lasting = counting.taken(who(), 2)
        counting.use(attrs.evolve(FEW, connections=1))
        self.assertIn("web has 2 connections, and policy 'few' lets each identity have 1", str(counting.open(who())))
        counting.close(lasting.pop())
        self.assertIn("web has 1 connection", str(counting.open(who())))
        counting.close(lasting.pop())
        counting.taken(who())
        counting.use(attrs.evolve(FEW, connections=3))
        counting.taken(who(), 2)
        self.assertIn("TM-L106", str(counting.open(who())))

    def test_a_rate_goes_on_over_a_reload(self) -> None:
        """The same limit again, as a new value, resets nothing."""
        counting = Counting(SLOW)
        counting.close(counting.taken(who(), 3)[0])
        counting.use(attrs.evolve(SLOW))
        self.assertIn("TM-L107", str(counting.open(who())))
        counting.use(attrs.evolve(SLOW, connections=100))
        self.assertIn("TM-L107", str(counting.open(who())))

    def test_nobody_waits_longer_than_the_new_rate_takes(self) -> None:
        """An hour's wait ends with the limit that asked for it, with or without a connection."""
        for keep in (True, False):
            counting = Counting(attrs.evolve(SLOW, rate=1 / 3600, burst=1))
            places = counting.taken(who())[0]
            if not keep:
                counting.close(places)
            self.assertIn("in 1h", str(counting.open(who())))
            counting.use(SLOW)
            self.assertIn("in 500ms", str(counting.open(who())))
            counting.now += 1.5
            counting.taken(who(), 3)

    def test_live_connections_are_counted_by_what_is_counted_apart_now(self) -> None:
        """When ``per`` changes, each moves to its new counter and leaves the old one."""
        counting = Counting(FEW)
        live = [counting.taken(who("a"))[0], counting.taken(who("b"))[0]]
        counting.use(attrs.evolve(FEW, per=("source",)))
        live = [
            counting.limits.retake(places, counting.applied, who(name), 0.0)
            for name, places in zip("ab", live, strict=True)
        ]
        self.assertEqual(counting.limits.in_use(), {"few": 2})
        self.assertIn("192.0.2.1 has 2 connections", str(counting.open(who("c"))))
        for places in live:
            counting.close(places)
        self.assertEqual((counting.limits.in_use(), len(counting.limits)), ({"few": 0}, 0))

    def test_other_networks_are_counted_anew(self) -> None:
        """What was counted by wider ones says nothing of narrower ones."""
        counting = Counting(Limit("one", connections=1, per=("network",), ipv4_bits=8))
        places = counting.taken(who(source="192.0.2.1"))[0]
        counting.use(Limit("one", connections=1, per=("network",), ipv4_bits=32))
        counting.taken(who(source="192.0.0.0"))  # which the wider network is called by
        places = counting.limits.retake(places, counting.applied, who(source="192.0.2.1"), counting.now)
        self.assertIn("192.0.2.1/32 has 1", str(counting.open(who(source="192.0.2.1"))))
        counting.close(places)
        counting.taken(who(source="192.0.2.1"))

    def test_live_connections_use_up_no_rate_of_a_new_limit(self) -> None:
        """They are not new."""
        counting = Counting()
        live = counting.taken(who(), 5)
        counting.use(SLOW)
        for places in live:
            counting.limits.retake(places, counting.applied, who(), counting.now)
        self.assertEqual(counting.limits.in_use(), {"slow": 5})
        counting.taken(who(), 3)

    def test_a_limit_that_nobody_announced_is_a_mistake(self) -> None:
        """What a plugin invents for each connection could grow without end."""
        counting = Counting(FEW)
        self.assertRaises(LookupError, counting.limits.take, [(0, SLOW)], who(), 0.0)
        self.assertRaises(LookupError, counting.limits.take, [(1, FEW)], who(), 0.0)
        self.assertEqual(counting.limits.in_use(), {"few": 0})


_PER = st.sampled_from(
    [(), ("identity",), ("source",), ("network",), ("identity", "listener"), ("listener", "network")]
)
_LIMIT = st.fixed_dictionaries(
    {
        "connections": st.sampled_from([None, 1, 2, 3]),
        "rate": st.sampled_from([None, 0.5, 1.0, 4.0]),  # exact in floating point, as are the times
        "burst": st.integers(1, 3),
        "per": _PER,
        "enforced": st.sampled_from([True, True, False]),
        "ipv4_bits": st.just(24),
        "ipv6_bits": st.just(64),
    }
)
_LIMITS = st.lists(_LIMIT, max_size=3).map(
    lambda drawn: [limit | {"name": name} for name, limit in zip("abc", drawn, strict=False)]
)
_WHO = st.fixed_dictionaries(
    {
        "identity": st.sampled_from(["spiffe://example.test/a", "spiffe://example.test/b"]),
        "source": st.sampled_from(["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.9", "198.51.100.1", "fd00::1", "unix:/a"]),
        "listener": st.sampled_from(["one", "two"]),
    }
)
_STEP = st.one_of(
    st.tuples(st.just("open"), _WHO),
    st.tuples(st.just("open"), _WHO),
    st.tuples(st.just("close"), st.integers(0, 20)),
    st.tuples(st.just("wait"), st.integers(0, 16).map(lambda eighths: eighths / 8)),
    st.tuples(st.just("use"), _LIMITS),
)


class AgreementTests(SynchronousTestCase):
    """The counters always say what looking at every connection says."""

    @settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
    @given(_LIMITS, st.lists(_STEP, max_size=40))
    def test_agree(self, first: list[dict[str, Any]], steps: list[tuple[str, Any]]) -> None:
        """Whoever comes, goes and reloads, and in whatever order."""
        naive, counting = NaiveLimits(), Counting()
        counting.now = 0.0
        live: dict[int, tuple[Who, Places]] = {}
        for number, (step, value) in enumerate([("use", first), *steps]):
            if step == "wait":
                naive.now += value
                counting.now += value
            elif step == "use":
                naive.use(value)
                counting.use(*(as_limit(limit) for limit in value))
                for key, (one, places) in live.items():
                    live[key] = one, counting.limits.retake(places, counting.applied, one, counting.now)
            elif step == "close":
                if value in live:
                    counting.close(live.pop(value)[1])
                    del naive.live[value]
            else:
                one = who(value["identity"].rpartition("/")[2], value["source"], value["listener"])
                allowed, full = naive.open(number, value)
                places, found = counting.limits.take(counting.applied, one, counting.now)
                self.assertEqual([each.limit.policy for each in found], full)
                self.assertEqual(all(not each.limit.enforced for each in found), allowed)
                if allowed:
                    live[number] = one, places
            in_use = {
                limit["name"]: sum((limit["name"], limit["per"]) not in noted for _, noted in naive.live.values())
                for limit in naive.limits
            }
            self.assertEqual(counting.limits.in_use(), in_use)
        for _, places in live.values():
            counting.close(places)
        self.assertEqual(sum(counting.limits.in_use().values()), 0)
        counting.use()
        self.assertEqual(len(counting.limits), 0)


def as_limit(limit: dict[str, Any]) -> Limit:
    return Limit(
        policy=limit["name"],
        connections=limit["connections"],
        rate=limit["rate"],
        burst=limit["burst"],
        per=limit["per"],
        enforced=limit["enforced"],
    )
