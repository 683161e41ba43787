"""The discovery that asks name servers: when it asks whom, and what it makes of what it hears."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.discovery.dns_answers import Answer, Record
from tcpmesh.discovery.dns_settings import DnsSettings, RefreshSettings
from tcpmesh.interfaces import DISCOVERY
from tcpmesh.sources.dns import DnsDiscovery, DnsFactory
from tcpmesh.sources.dns_exchange import ExchangeError
from tcpmesh.sources.resolv_conf import ResolvConf
from tcpmesh.testing import FakeDiscoveryObserver, plugin_context
from tcpmesh.values import Duration, Endpoint, TCPAddress
from tests.unit.config_samples import PLUGINS, ConfigTestCase, variant

ONE, TWO = TCPAddress("192.0.2.1", 53), TCPAddress("192.0.2.2", 53)
DB = "db.example.test"
NOBODY = Answer(3, authority=(Record("test", "SOA", 3600, minimum=30),))
NONE = Answer(0, authority=(Record("test", "SOA", 3600, minimum=30),))


def addresses(*hosts: str, name: str = DB, ttl: int = 60) -> Answer:
    return Answer(0, tuple(Record(name, "AAAA" if ":" in host else "A", ttl, host) for host in hosts))


def services(*entries: tuple[str, int, int, int], additional: Iterable[Record] = (), ttl: int = 60) -> Answer:
    """Targets with their priority, weight and port."""
    return Answer(
        0,
        tuple(Record(DB, "SRV", ttl, target, priority, weight, port) for target, priority, weight, port in entries),
        (),
        tuple(additional),
    )


class Servers:
    """Name servers, by what a test says they answer; what is not said is not there."""

    def __init__(self) -> None:
        self.zone: dict[tuple[str, str], Answer | Exception | Deferred[Answer]] = {}
        self.down: dict[TCPAddress, str] = {}
        self.asked: list[tuple[TCPAddress, str, str]] = []

    def __call__(self, server: TCPAddress, name: str, kind: str) -> Deferred[Answer]:
        self.asked.append((server, name, kind))
        if server in self.down:
            return fail(ExchangeError(self.down[server]))
        answer = self.zone.get((name, kind), NOBODY)
        if isinstance(answer, Deferred):
            return answer
        return fail(answer) if isinstance(answer, Exception) else succeed(answer)

    def questions(self) -> list[str]:
        """What was asked since the last look."""
        found = [f"{name} {kind} @{server.host}" for server, name, kind in self.asked]
        self.asked.clear()
        return found


class DnsCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.servers = Servers()
        self.unrouted: set[str] = set()
        self.observer = FakeDiscoveryObserver()
        self.events: list[dict[str, Any]] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)

    def started(self, kind: Any = "a", **more: Any) -> DnsDiscovery:
        settings = DnsSettings(
            DB, kind, None if kind == "srv" else 5432, more.pop("resolvers", [ONE]), Duration(2.0), **more
        )
        discovery = DnsDiscovery(
            settings, plugin_context("db", clock=self.clock), self.servers, lambda host: host not in self.unrouted
        )
        self.addCleanup(discovery.stop)
        discovery.start(self.observer)
        return discovery

    def hosts(self) -> list[str]:
        """The addresses that were delivered last."""
        return [str(endpoint.address) for endpoint in self.observer.deliveries[-1]]

    def lines(self) -> list[str]:
        found = [formatEvent(event) for event in self.events]
        self.events.clear()
        return found


class AddressTests(DnsCase):
    def test_addresses_are_endpoints(self) -> None:
        """Sorted, so that the same set in another order is the same."""
        self.servers.zone[DB, "A"] = addresses("10.0.0.2", "10.0.0.1")
        self.started()
        self.assertEqual(self.hosts(), ["10.0.0.1:5432", "10.0.0.2:5432"])
        self.assertEqual(self.servers.questions(), [f"{DB} A @192.0.2.1"])

    def test_both_families(self) -> None:
        """IPv4 first; one of them may have nothing."""
        self.servers.zone[DB, "A"] = addresses("10.0.0.1")
        self.servers.zone[DB, "AAAA"] = addresses("2001:db8::1")
        self.started("both")
        self.assertEqual(self.hosts(), ["10.0.0.1:5432", "[2001:db8::1]:5432"])
        self.servers.zone[DB, "AAAA"] = NONE
        self.clock.advance(60)
        self.assertEqual(self.hosts(), ["10.0.0.1:5432"])
        self.assertEqual(self.observer.failures, [])

    def test_a_family_without_a_network_is_left_out(self) -> None:
        """While the other one has a way: each connection to it would be lost. Told once; a route that comes counts."""
        self.servers.zone[DB, "A"] = addresses("10.0.0.1", ttl=1)
        self.servers.zone[DB, "AAAA"] = addresses("2001:db8::1", "2001:db8::2", ttl=1)
        self.unrouted |= {"2001:db8::1", "2001:db8::2"}
        self.started("both")
        self.clock.pump([1] * 30)
        self.assertEqual(self.hosts(), ["10.0.0.1:5432"])
        self.assertEqual(
            self.lines(),
            [f"{DB}: not used: this machine has no route to [2001:db8::1]:5432, [2001:db8::2]:5432"],
        )
        self.unrouted.discard("2001:db8::2")
        self.clock.advance(1)
        self.assertEqual(self.hosts(), ["10.0.0.1:5432", "[2001:db8::2]:5432"])
        self.unrouted |= {"10.0.0.1", "2001:db8::2"}
        self.clock.advance(1)
        self.assertEqual(self.hosts(), ["10.0.0.1:5432", "[2001:db8::1]:5432", "[2001:db8::2]:5432"])

    def test_the_ttl_says_when_to_ask_again(self) -> None:
        """Not before."""
        self.servers.zone[DB, "A"] = addresses("10.0.0.1", ttl=17)
        self.started()
        self.servers.questions()
        self.clock.advance(16.9)
        self.assertEqual(self.servers.questions(), [])
        self.clock.advance(0.2)
        self.assertEqual(len(self.servers.questions()), 1)

    def test_a_ttl_of_nothing_does_not_spin(self) -> None:
        """Once a second is the least, once in five minutes the most."""
        self.servers.zone[DB, "A"] = addresses("10.0.0.1", ttl=0)
        self.started()
        self.servers.questions()
        self.clock.pump([0.1] * 100)
        self.assertIn(len(self.servers.questions()), (9, 10))
        self.servers.zone[DB, "A"] = addresses("10.0.0.1", ttl=10**6)
        self.clock.advance(1)
        self.servers.questions()
        self.clock.pump([1] * 299)
        self.assertEqual(self.servers.questions(), [])
        self.clock.advance(2)
        self.assertEqual(len(self.servers.questions()), 1)

    def test_nothing_there_is_remembered_too(self) -> None:
        """As long as the zone says, with why and who said so."""
        for answer, why in (
            (NOBODY, f"{DB} does not exist (NXDOMAIN), says 192.0.2.1:53"),
            (NONE, f"{DB} has no records of type A, says 192.0.2.1:53"),
            (
                attrs.evolve(NOBODY, answers=(Record(DB, "CNAME", 60, "b\n.test"),)),
                f"{DB}, which is another name for 'b\\n.test', does not exist (NXDOMAIN), says 192.0.2.1:53",
            ),
        ):
            self.servers.zone[DB, "A"] = answer
            self.started()
            self.assertEqual(self.observer.deliveries[-1], ())
            self.servers.questions()
            self.clock.pump([1] * 29)
            self.assertEqual(self.servers.questions(), [])
            self.clock.pump([1] * 2)
            self.assertEqual(len(self.servers.questions()), 1)
            self.assertEqual((self.observer.reasons, self.lines()), ([why, why], []))
            self.doCleanups()
            self.setUp()

    def test_addresses_that_no_server_may_give_are_left_out(self) -> None:
        """With a line, and told once; of such alone nothing is made."""
        self.servers.zone[DB, "A"] = addresses("10.0.0.1", "0.0.0.0", "224.0.0.1", ttl=1)
        self.started()
        self.clock.pump([1] * 30)
        self.assertEqual(self.hosts(), ["10.0.0.1:5432"])
        [line] = self.lines()
        self.assertIn("not used: 0.0.0.0:5432 is an address to listen on", line)
        self.servers.zone[DB, "A"] = addresses("0.0.0.0", ttl=1)
        self.clock.advance(1)
        self.assertEqual(self.hosts(), ["10.0.0.1:5432"])
        self.assertIn("nothing of the answer can be used: 0.0.0.0:5432", self.observer.failures[-1])


class AliasTests(DnsCase):
    def test_an_alias_that_the_server_does_not_follow_is_followed(self) -> None:
        """And its TTL counts."""
        self.servers.zone[DB, "A"] = Answer(0, (Record(DB, "CNAME", 3, "b.test"),))
        self.servers.zone["b.test", "A"] = addresses("10.0.0.1", name="b.test")
        self.started()
        self.assertEqual(self.hosts(), ["10.0.0.1:5432"])
        self.assertEqual(self.servers.questions(), [f"{DB} A @192.0.2.1", "b.test A @192.0.2.1"])
        self.clock.advance(3)
        self.assertEqual(len(self.servers.questions()), 2)

    def test_circles_over_several_answers_end(self) -> None:
        """After sixteen steps."""
        self.servers.zone[DB, "A"] = Answer(0, (Record(DB, "CNAME", 60, "b.test"),))
        self.servers.zone["b.test", "A"] = Answer(0, (Record("b.test", "CNAME", 60, DB),))
        self.started()
        self.assertIn("lead in a circle", self.observer.failures[-1])
        self.assertEqual(self.observer.deliveries, [])
        self.assertEqual(len(self.servers.questions()), 17)

    def test_an_alias_for_what_is_no_name_ends(self) -> None:
        """The root, and bytes that no name has."""
        for target in ("", "a b.test", "x" * 64, "\\xff.test"):
            self.servers.zone[DB, "A"] = Answer(0, (Record(DB, "CNAME", 60, target),))
            self.started()
            self.assertIn("which is no name to ask for", self.observer.failures[-1])


class ServerTests(DnsCase):
    def test_are_asked_in_turn(self) -> None:
        """The one that answers is asked first from then on."""
        self.servers.zone[DB, "A"] = addresses("10.0.0.1", ttl=1)
        self.servers.down[ONE] = "gave no answer within 2s"
        self.started(resolvers=[ONE, TWO])
        self.assertEqual(self.servers.questions(), [f"{DB} A @192.0.2.1", f"{DB} A @192.0.2.2"])
        self.clock.advance(1)
        self.assertEqual(self.servers.questions(), [f"{DB} A @192.0.2.2"])
        self.assertEqual(self.observer.failures, [])

    def test_a_failure_is_told_from_a_name_that_does_not_exist(self) -> None:
        """Another server may know; that a name does not exist needs no second opinion."""
        self.servers.zone[DB, "A"] = Answer(2)
        self.started(resolvers=[ONE, TWO])
        self.assertEqual(len(self.servers.questions()), 4)
        self.assertEqual(self.observer.failures, [f"{DB} (A): 192.0.2.1:53: SERVFAIL; 192.0.2.2:53: SERVFAIL"])
        self.assertEqual(self.observer.deliveries, [])
        self.servers.zone[DB, "A"] = NOBODY
        self.clock.advance(1)
        self.assertEqual(self.servers.questions(), [f"{DB} A @192.0.2.1"])
        self.assertEqual(self.observer.deliveries, [()])

    def test_while_none_answers_the_last_addresses_stay(self) -> None:
        """And the servers are asked less and less often."""
        self.servers.zone[DB, "A"] = addresses("10.0.0.1", ttl=1)
        self.started()
        self.servers.down[ONE] = "refuses datagrams"
        self.clock.advance(1)
        self.servers.questions()
        self.clock.pump([1] * 86400)
        self.assertEqual(self.hosts(), ["10.0.0.1:5432"])
        self.assertEqual(len(self.observer.deliveries), 1)
        self.assertLess(len(self.servers.questions()), 2 * 86400 / 30 + 20)
        del self.servers.down[ONE]
        self.clock.pump([1] * 31)
        self.assertEqual(len(self.observer.deliveries) > 1, True)

    def test_stale_ends_that(self) -> None:
        """With a line that says so."""
        self.servers.zone[DB, "A"] = addresses("10.0.0.1", ttl=1)
        self.started(stale=Duration(3600.0))
        self.servers.down[ONE] = "refuses datagrams"
        self.clock.pump([1] * 3500)
        self.assertEqual(self.hosts(), ["10.0.0.1:5432"])
        self.lines()
        self.clock.pump([1] * 200)
        self.assertEqual(self.observer.deliveries[-1], ())
        self.assertEqual(self.observer.reasons[-1], f"no name server has answered for {DB} for 1h (stale)")

    def test_stale_ends_that_for_each_family(self) -> None:
        """One that nobody answers for goes, although the other one is answered."""
        self.servers.zone[DB, "A"] = addresses("10.0.0.1", ttl=1)
        self.servers.zone[DB, "AAAA"] = addresses("2001:db8::1", ttl=120)
        self.started("both", stale=Duration(60.0))
        self.servers.zone[DB, "AAAA"] = Answer(2)
        self.clock.pump([1] * 115)  # its TTL is longer than stale
        self.assertEqual(self.hosts(), ["10.0.0.1:5432", "[2001:db8::1]:5432"])
        self.clock.pump([1] * 10)
        self.assertEqual(self.hosts(), ["10.0.0.1:5432"])
        self.assertEqual(self.observer.events[-1][0], "failed")

    def test_one_family_that_fails_keeps_what_it_had(self) -> None:
        """While the other one changes."""
        self.servers.zone[DB, "A"] = addresses("10.0.0.1", ttl=5)
        self.servers.zone[DB, "AAAA"] = addresses("2001:db8::1", ttl=5)
        self.started("both")
        self.servers.zone[DB, "A"] = addresses("10.0.0.2", ttl=5)
        self.servers.zone[DB, "AAAA"] = Answer(2)
        self.clock.advance(5)
        self.assertEqual(self.hosts(), ["10.0.0.2:5432", "[2001:db8::1]:5432"])
        self.assertEqual(self.observer.failures, [f"{DB} (AAAA): 192.0.2.1:53: SERVFAIL"])
        self.clock.pump([1] * 20)
        self.assertEqual(len(self.observer.deliveries), 2)
        self.assertGreater(len(self.observer.failures), 3)
        self.servers.zone[DB, "A"] = addresses("10.0.0.3", ttl=5)
        self.clock.pump([1] * 5)  # although the other one is asked for less and less often
        self.assertEqual(self.hosts(), ["10.0.0.3:5432", "[2001:db8::1]:5432"])
        self.servers.zone[DB, "AAAA"] = addresses("2001:db8::1", ttl=5)
        self.clock.pump([1] * 20)
        self.assertEqual(self.observer.events[-1][0], "changed")

    def test_whatever_is_raised_kills_nobody(self) -> None:
        """Told with its traceback, and tried again."""
        self.servers.zone[DB, "A"] = RuntimeError("oh")
        self.started()
        self.assertIn("failed; see the traceback above", self.observer.failures[-1])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.servers.zone[DB, "A"] = addresses("10.0.0.1")
        self.clock.advance(1)
        self.assertEqual(self.hosts(), ["10.0.0.1:5432"])

    def test_stops_in_the_middle_of_a_question(self) -> None:
        """Which is cancelled."""
        cancelled = []
        waiting: Deferred[Answer] = Deferred(cancelled.append)
        self.servers.zone[DB, "A"] = waiting
        discovery = self.started()
        discovery.stop()
        self.assertEqual(cancelled, [waiting])
        self.assertEqual((self.observer.events, self.clock.getDelayedCalls()), ([], []))

    def test_reload_asks_now(self) -> None:
        """Also behind a question that is under way."""
        self.servers.zone[DB, "A"] = addresses("10.0.0.1", ttl=300)
        discovery = self.started()
        discovery.reload()
        self.assertEqual(len(self.servers.questions()), 2)
        waiting: Deferred[Answer] = Deferred()
        self.servers.zone[DB, "A"] = waiting
        discovery.reload()
        discovery.reload()
        self.assertEqual(len(self.servers.questions()), 1)
        self.servers.zone[DB, "A"] = addresses("10.0.0.2")
        waiting.callback(addresses("10.0.0.1"))
        self.clock.advance(0)
        self.assertEqual(self.hosts(), ["10.0.0.2:5432"])


class ServiceRecordTests(DnsCase):
    def test_targets_are_endpoints_with_their_priority_and_weight(self) -> None:
        """With addresses of the additional section, or asked for."""
        told = [Record("a.test", "A", 60, "10.0.0.1"), Record("a.test", "AAAA", 60, "2001:db8::1")]
        self.servers.zone[DB, "SRV"] = services(("a.test", 1, 5, 5432), ("b.test", 2, 7, 5433), additional=told)
        self.servers.zone["b.test", "A"] = addresses("10.0.0.2", name="b.test")
        self.started("srv")
        self.assertEqual(
            self.observer.deliveries[-1],
            (
                Endpoint(TCPAddress("10.0.0.1", 5432), 5, priority=1, metadata=(("dns", "a.test"),)),
                Endpoint(TCPAddress("2001:db8::1", 5432), 5, priority=1, metadata=(("dns", "a.test"),)),
                Endpoint(TCPAddress("10.0.0.2", 5433), 7, priority=2, metadata=(("dns", "b.test"),)),
            ),
        )
        self.assertEqual(
            self.servers.questions(), [f"{DB} SRV @192.0.2.1", "b.test A @192.0.2.1", "b.test AAAA @192.0.2.1"]
        )

    def test_each_name_has_its_own_time(self) -> None:
        """A target with a short TTL is asked for alone."""
        self.servers.zone[DB, "SRV"] = services(("a.test", 0, 0, 5432), ttl=300)
        self.servers.zone["a.test", "A"] = addresses("10.0.0.1", name="a.test", ttl=5)
        self.servers.zone["a.test", "AAAA"] = NONE
        self.started("srv")
        self.servers.questions()
        self.clock.advance(5)
        self.assertEqual(self.servers.questions(), ["a.test A @192.0.2.1"])

    def test_what_came_by_the_way_has_its_own_time_too(self) -> None:
        """An address of the additional section is asked for when its TTL is over, although the SRV record's is not."""
        told = [Record("a.test", "A", 5, "10.0.0.1"), Record("a.test", "AAAA", 2**31, "2001:db8::1")]
        self.servers.zone[DB, "SRV"] = services(("a.test", 0, 0, 5432), ttl=300, additional=told)
        self.servers.zone["a.test", "A"] = addresses("10.0.0.9", name="a.test", ttl=5)
        self.servers.zone["a.test", "AAAA"] = addresses("2001:db8::9", name="a.test", ttl=60)
        self.started("srv")
        self.assertEqual(self.hosts(), ["10.0.0.1:5432", "[2001:db8::1]:5432"])
        self.servers.questions()
        self.clock.pump([1] * 5)
        self.assertEqual(self.servers.questions(), ["a.test AAAA @192.0.2.1", "a.test A @192.0.2.1"])
        self.assertEqual(self.hosts(), ["10.0.0.9:5432", "[2001:db8::9]:5432"])

    def test_the_root_as_a_target_means_none(self) -> None:
        """RFC 2782, with a line."""
        self.servers.zone[DB, "SRV"] = services(("", 0, 0, 0))
        self.started("srv")
        self.assertEqual(self.observer.deliveries, [()])
        self.assertEqual(
            self.observer.reasons,
            [f"{DB} is a service that is decidedly not available (the SRV target is '.'), says 192.0.2.1:53"],
        )

    def test_targets_that_change_each_time_are_not_remembered(self) -> None:
        """Also while another one fails, and none can be used."""
        discovery = self.started("srv")
        for number in range(50):
            name = f"t{number}.test"
            told = [Record(name, "A", 60, "0.0.0.0"), Record(name, "AAAA", 60, "::")]
            self.servers.zone[DB, "SRV"] = services((name, 0, 0, 1), ("bad.test", 0, 0, 1), ttl=0, additional=told)
            self.servers.zone["bad.test", "A"] = self.servers.zone["bad.test", "AAAA"] = Answer(2)
            discovery.reload()
        lookup = discovery._lookup
        known = [number for number in range(50) if lookup.last(f"t{number}.test", "A")]
        self.assertEqual(known, [49])

    def test_a_target_that_does_not_resolve_costs_only_itself(self) -> None:
        """One that failed keeps what it had; when all do, all is kept."""
        self.servers.zone[DB, "SRV"] = services(("a.test", 0, 0, 1), ("b.test", 0, 0, 1), ("c.test", 0, 0, 1), ttl=5)
        for number, name in enumerate(("a.test", "b.test")):
            self.servers.zone[name, "A"] = addresses(f"10.0.0.{number}", name=name, ttl=5)
            self.servers.zone[name, "AAAA"] = NONE
        self.started("srv")
        self.assertEqual(self.hosts(), ["10.0.0.0:1", "10.0.0.1:1"])
        self.assertEqual(self.lines(), [f"{DB}: not used: the target c.test has no address"])
        self.servers.zone["a.test", "A"] = Answer(2)
        self.servers.zone["b.test", "A"] = addresses("10.0.0.9", name="b.test", ttl=5)
        self.clock.advance(5)
        self.assertEqual(self.hosts(), ["10.0.0.0:1", "10.0.0.9:1"])
        self.assertEqual(self.observer.failures, ["a.test (A): 192.0.2.1:53: SERVFAIL"])

    def test_names_that_nobody_answers_are_not_all_asked_for(self) -> None:
        """After three, what is known of the others has to do."""
        self.servers.zone[DB, "SRV"] = services(*((f"t{number}.test", 0, 0, 1) for number in range(100)))
        for number in range(100):
            self.servers.zone[f"t{number}.test", "A"] = self.servers.zone[f"t{number}.test", "AAAA"] = Answer(2)
        self.started("srv")
        self.assertEqual(len(self.servers.questions()), 1 + 3 * 2)
        self.assertEqual(self.observer.deliveries, [])

    def test_targets_are_bounded(self) -> None:
        """The first 256 are used, by priority."""
        entries = [(f"t{number}.test", number, 0, 1) for number in range(300)]
        told = [
            Record(f"t{n}.test", kind, 60, host)
            for n in range(300)
            for kind, host in (("A", f"10.0.{n // 256}.{n % 256}"), ("AAAA", f"2001:db8::{n:x}"))
        ]
        self.servers.zone[DB, "SRV"] = services(*entries, additional=told)
        self.started("srv")
        self.assertEqual(len(self.hosts()), 2 * 256)
        self.assertEqual(self.lines(), [f"{DB}: not used: there are 300 SRV records, of which 256 are used"])
        self.assertEqual(len(self.servers.questions()), 1)


class SettingsTests(ConfigTestCase):
    plugins = PLUGINS.with_plugin(DISCOVERY, "dns", DnsFactory())

    def test_what_cannot_be_is_refused_at_its_key(self) -> None:
        """Names, ports, servers and times."""
        for keys, message in (
            ("name: ‸10.0.0.1, port: 1", ".name: '10.0.0.1' looks like an IP address; addresses are listed by the "
             "plugin 'static'"),
            ('name: ‸"a b", port: 1', ".name: 'a b' is not a name to ask for; write it in full, such as "
             "db.example.test"),
            ('name: ‸"bücher.test", port: 1', ".name: 'b\\xfccher.test' is not a DNS name in ASCII form; write its "
             "labels as xn--…"),
            ("name: db.test, port: ‸0", ".port: 0 is not a port from 1 to 65535"),
            ("name: db.test, type: srv, port: ‸5", ".port: SRV records name the ports; leave port out"),
            ("name: db.test, port: 1, resolvers: ‸[]", ".resolvers: the list is empty; name a server, or leave the key "
             "out for those of /etc/resolv.conf"),
            ('name: db.test, port: 1, resolvers: ‸["0.0.0.0:53"]', ".resolvers: 0.0.0.0:53 is an address to listen on, "
             "and none to connect to"),
            ('name: db.test, port: 1, resolvers: ‸["10.0.0.1:53", "10.0.0.1:53"]', ".resolvers: a server is listed "
             "twice"),
            ("name: db.test, port: 1, timeout: ‸1m", ".timeout: a timeout of 1m is outside 100ms to 30s"),
            ("name: db.test, port: 1, refresh: {min: ‸10ms}", ".refresh.min: 10ms is outside 1s to 1d"),
            ("name: db.test, port: 1, refresh: ‸{min: 2m, max: 1m}", ".refresh: min, 2m, is longer than max, 1m"),
        ):  # fmt: skip
            self.check_problems(
                variant('{plugin: static, endpoints: ["127.0.0.1:4143"]}', f"{{plugin: dns, {keys}}}"),
                f"services.orders.discovery{message}",
            )

    def test_a_port_is_needed_but_for_srv(self) -> None:
        """A name with a dot at its end is the same, in whatever case."""
        settings = DnsSettings("DB.Example.Test.", port=1)
        self.assertEqual((settings.name, settings.type, settings.refresh), (DB, "both", RefreshSettings()))
        self.assertEqual(DnsSettings("_pg._tcp.example.test", "srv").port, None)
        error = self.assertRaises(ValueError, DnsSettings, DB)
        self.assertEqual(str(error), "key 'port' is missing: only SRV records name ports")


class ResolvConfTests(SynchronousTestCase):
    def test_reads_name_servers_and_again_when_they_change(self) -> None:
        """Three at most, as the C library; what is no address is passed over."""
        path = Path(self.mktemp())
        servers = ResolvConf(path)
        self.assertEqual(servers(), (TCPAddress("127.0.0.1", 53),))
        path.write_text("# x\nsearch a.test\nnameserver 10.0.0.1\nnameserver ::1\nnameserver x\nnameserver\n")
        self.assertEqual(servers(), (TCPAddress("10.0.0.1", 53), TCPAddress("::1", 53)))
        path.write_text("".join(f"nameserver 10.0.0.{number}\n" for number in range(1, 9)))
        self.assertEqual(len(servers()), 3)
        path.unlink()
        self.assertEqual(servers(), (TCPAddress("127.0.0.1", 53),))
