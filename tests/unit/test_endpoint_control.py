"""What becomes of what discoveries deliver: good, bad, too often, and nothing at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.logger import LogLevel, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tcpmesh.codes import PLUGIN_UNUSABLE, STATE_UNUSABLE
from tcpmesh.discovery.circles import OwnListeners
from tcpmesh.discovery.intake import change, take_in
from tcpmesh.endpoint_control import PACE, EndpointControl
from tcpmesh.endpoint_lines import AGAIN, BURST, OTHER
from tcpmesh.errors import ConfigurationError, Mark, Problem, StartError
from tcpmesh.identity.spiffe import SpiffeId
from tcpmesh.interfaces import ICheckable, IDiscoveryObserver, IReloadable, IServiceDiscovery
from tcpmesh.mesh_state import MeshState, MeshStateCell
from tcpmesh.net.local_addresses import has_route, is_local
from tcpmesh.observe.discovery_metrics import DiscoveryMetrics
from tcpmesh.testing import endpoint
from tcpmesh.values import DNSName, Endpoint, TCPAddress, UnixAddress

A, B, C = endpoint(1), endpoint(2), endpoint(3)


@implementer(IServiceDiscovery, ICheckable, IReloadable)
class Told:
    """A discovery that says what a test tells it to."""

    def __init__(self, at_start: Sequence[Endpoint] | None = None, raises: Exception | None = None) -> None:
        self._at_start = at_start
        self._raises = raises
        self.reloads = self.stops = 0
        self.reloading: Any = None
        self.checks: Exception | None = None
        self.stopping: Any = None

    def start(self, observer: IDiscoveryObserver) -> None:
        self.observer = observer
        if self._at_start is not None:
            observer.endpoints_changed(self._at_start)
        if self._raises is not None:
            raise self._raises

    def stop(self) -> Deferred[None] | None:
        self.stops += 1
        return cast("Deferred[None] | None", self.stopping)

    def check(self) -> None:
        if self.checks is not None:
            raise self.checks

    def reload(self) -> Any:
        self.reloads += 1
        if isinstance(self.reloading, Exception):
            raise self.reloading
        return self.reloading

    def say(self, *endpoints: Any) -> None:
        self.observer.endpoints_changed(endpoints)


class ControlCase(SynchronousTestCase):
    """One service, of which a test says everything."""

    def setUp(self) -> None:
        self.clock, self.cell = Clock(), MeshStateCell()
        self.swaps: list[MeshState] = []
        self.cell.observe(self.swaps.append)
        self.control = EndpointControl(self.cell, self.clock)
        self.events: list[dict[str, Any]] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)
        self.addCleanup(self.control.stop)

    def started(self, *at_start: Endpoint, **how: Any) -> Told:
        discovery = Told(at_start or None, **how)
        self.control.add("orders", discovery, [SpiffeId.parse("spiffe://a.test/orders")], "told")
        self.control.start()
        return discovery

    def endpoints(self) -> tuple[Endpoint, ...] | None:
        return self.cell.current.endpoints.get("orders")

    def lines(self, least: LogLevel = LogLevel.info) -> list[str]:
        """What was logged since the last look."""
        order = [LogLevel.debug, LogLevel.info, LogLevel.warn, LogLevel.error, LogLevel.critical]
        found = [formatEvent(event) for event in self.events if order.index(event["log_level"]) >= order.index(least)]
        self.events.clear()
        return found


class DeliveryTests(ControlCase):
    def test_nothing_said_is_not_none_said(self) -> None:
        """No key before the first word, an empty tuple when there are none."""
        discovery = self.started()
        self.assertNotIn("orders", self.cell.current.endpoints)
        [status] = self.control.statuses()
        self.assertEqual((status.endpoints, status.said, status.failing), (None, None, None))
        self.clock.advance(7)
        discovery.say()
        self.assertEqual(self.cell.current.endpoints, {"orders": ()})
        [status] = self.control.statuses()
        self.assertEqual((status.plugin, status.endpoints, status.said), ("told", 0, 7.0))
        self.assertEqual(
            self.lines(),
            ["service 'orders' has no endpoints, its discovery says: connections to it are refused until there is one"],
        )

    def test_what_comes_with_the_start_is_told_at_level_debug(self) -> None:
        """The start block lists services already."""
        self.started(A, B)
        self.assertEqual(self.endpoints(), (A, B))
        self.assertEqual(self.lines(), [])

    def test_what_comes_later_is_told(self) -> None:
        """Three addresses of them."""
        discovery = self.started()
        discovery.say(*(endpoint(number) for number in range(1, 6)))
        self.assertEqual(
            self.lines(),
            ["service 'orders' has endpoints: 5; 127.0.0.1:1, 127.0.0.1:2, 127.0.0.1:3, and 2 more"],
        )

    def test_changes_are_sets(self) -> None:
        """One line says what was added, removed and altered."""
        discovery = self.started(A, B)
        self.clock.advance(PACE)
        heavier = endpoint(2, weight=5)
        discovery.say(heavier, C)
        self.assertEqual(self.endpoints(), (heavier, C))
        self.assertEqual(
            self.lines(),
            [
                "service 'orders' has endpoints: 2; 1 added (127.0.0.1:3), 1 removed (127.0.0.1:1), 1 altered "
                "(127.0.0.1:2)"
            ],
        )

    def test_the_same_again_changes_nothing(self) -> None:
        """In whatever order."""
        discovery = self.started(A, B)
        self.clock.advance(10)
        self.swaps.clear()
        discovery.say(A, B)
        discovery.say(B, A)
        self.clock.advance(10)
        self.assertEqual(self.swaps, [])
        self.assertEqual(self.endpoints(), (A, B))
        self.assertEqual([status.changes for status in self.control.statuses()], [1])

    def test_removal_of_all_is_taken_at_its_word(self) -> None:
        """And said loudly."""
        discovery = self.started(A, B)
        self.clock.advance(PACE)
        discovery.say()
        self.assertEqual(self.endpoints(), ())
        self.assertEqual(
            self.lines(LogLevel.warn),
            [
                "service 'orders' has no endpoints, its discovery says: connections to it are refused until there is "
                "one; removed: 2"
            ],
        )

    def test_why_there_are_none_is_known_while_there_are_none(self) -> None:
        """Another reason is news, too; of endpoints that are there none is kept."""
        discovery = self.started(A)
        for reason in ("db.test does not exist", "db.test does not exist", "db.test has no records"):
            self.clock.advance(PACE)
            discovery.observer.endpoints_changed((), reason)
            self.assertEqual((self.endpoints(), self.cell.current.no_endpoints), ((), {"orders": reason}))
            self.assertEqual([(one.failing, one.reason) for one in self.control.statuses()], [(None, reason)])
        self.assertEqual(
            self.lines(),
            [
                "service 'orders' has no endpoints, its discovery says: db.test does not exist; connections to it are "
                "refused until there is one; removed: 1",
                "service 'orders' has no endpoints, its discovery says: db.test has no records; connections to it are "
                "refused until there is one",
            ],
        )
        self.clock.advance(PACE)
        discovery.observer.endpoints_changed([B], "nobody knows")
        self.assertEqual(self.cell.current.no_endpoints, {})
        self.clock.advance(PACE)
        discovery.observer.endpoints_changed((), "x" * 10**6)
        self.assertEqual(len(self.cell.current.no_endpoints["orders"]), 500)

    def test_after_stop_nothing_is_taken(self) -> None:
        """Nor is anything left to be done."""
        discovery = self.started(A)
        discovery.say(B)
        self.control.stop()
        discovery.say(C)
        discovery.observer.endpoints_failed("late")
        self.clock.advance(10)
        self.assertEqual(self.endpoints(), (A,))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual((discovery.stops, self.control.stop(), discovery.stops), (1, [], 1))


class FlappingTests(ControlCase):
    def test_the_first_change_counts_at_once(self) -> None:
        """Whoever has been quiet is heard."""
        discovery = self.started(A)
        self.clock.advance(PACE)
        discovery.say(B)
        self.assertEqual(self.endpoints(), (B,))

    def test_every_ten_milliseconds_costs_ten_swaps_a_second(self) -> None:
        """And the last word counts."""
        discovery = self.started(A)
        self.clock.advance(1)
        self.swaps.clear()
        for number in range(100):
            discovery.say(*((A, B) if number % 3 else (A, C)))
            self.clock.advance(0.01)
        self.assertLessEqual(len(self.swaps), 11)
        self.assertGreaterEqual(len(self.swaps), 5)
        discovery.say(C)
        self.clock.advance(1)
        self.assertEqual(self.endpoints(), (C,))
        self.assertLessEqual(len(self.lines()), BURST + 1)

    def test_all_gone_and_back_again_and_again_says_little(self) -> None:
        """Also at level WARN: six lines, and then one in ten seconds."""
        discovery = self.started(A)
        for _ in range(300):
            self.clock.advance(PACE)
            discovery.say()
            self.clock.advance(PACE)
            discovery.say(A)
        lines = self.lines(LogLevel.warn)
        self.assertIn(len(lines), (BURST + 5, BURST + 6))
        self.assertIn("such lines were left out)", lines[-1])

    def test_what_takes_long_is_done_less_often(self) -> None:
        """Nine parts of the time are for others, whether it is a change or the same again; not more than 5 s each."""
        cost, looks = 0.05, []

        def objection(address: object) -> str:
            looks.append(address)
            self.clock.rightNow += cost  # time passes, and no timer is due meanwhile
            return ""

        self.control = EndpointControl(self.cell, self.clock, objection)
        discovery = self.started()
        for number in range(200):
            discovery.say(A if number % 2 else B)
            self.clock.advance(0.01)
        self.assertIn(len(looks), (4, 5, 6))
        cost, begun = 10.0, len(looks)
        self.clock.advance(1)
        discovery.say(C)
        self.assertEqual(len(looks), begun + 1)
        discovery.say(A)
        self.clock.advance(4.9)
        self.assertEqual(len(looks), begun + 1)
        self.clock.advance(0.2)
        self.assertEqual(self.endpoints(), (A,))

    def test_gone_and_back_within_the_pace_is_no_change(self) -> None:
        """Nobody has seen it go."""
        discovery = self.started(A, B)
        self.swaps.clear()
        discovery.say(A)
        self.clock.advance(PACE / 2)
        discovery.say(A, B)
        self.clock.advance(10)
        self.assertEqual(self.swaps, [])
        self.assertEqual(self.endpoints(), (A, B))


class NonsenseTests(ControlCase):
    def test_what_is_no_endpoint_is_left_out_with_a_line(self) -> None:
        """The others are used."""
        discovery = self.started(A)
        self.clock.advance(PACE)
        wrong = (
            "127.0.0.1:9", endpoint(0), endpoint(4, weight=-1), endpoint(5, weight=65536),
            Endpoint(TCPAddress("0.0.0.0", 1)), Endpoint(TCPAddress("224.0.0.1", 1)),
            Endpoint(TCPAddress("db.test", 1)), Endpoint(TCPAddress("::ffff:10.0.0.1", 1)),
            Endpoint(cast(Any, 5)), Endpoint(B.address, metadata=cast(Any, 7)),
            Endpoint(B.address, expect=(DNSName("a.test"),)), Endpoint(B.address, metadata=cast(Any, (["a", "b"],))),
        )  # fmt: skip
        for one in wrong:
            discovery.say(A, one)
            self.clock.advance(OTHER + 1)
            self.assertEqual(self.endpoints(), (A,), one)
            [line] = self.lines()
            self.assertTrue(line.startswith("TM-U113 discovery of service 'orders' delivered what is not used: "), line)
        discovery.say(A, B, *wrong[:3])
        self.assertEqual(self.endpoints(), (A, B))

    def test_of_two_with_one_address_the_first_counts(self) -> None:
        """With a line that names it."""
        self.started(A, endpoint(1, weight=7), B)
        self.assertEqual(self.endpoints(), (A, B))
        self.assertEqual(
            self.lines(),
            [
                "TM-U113 discovery of service 'orders' delivered what is not used: 127.0.0.1:1 comes twice, and the "
                "first counts"
            ],
        )

    def test_nonsense_alone_removes_nobody(self) -> None:
        """It is no word that there are none."""
        discovery = self.started(A)
        self.clock.advance(PACE)
        for nonsense in ([None], 5, None, ["127.0.0.1:1"], self.broken(), [endpoint(0)]):
            discovery.observer.endpoints_changed(cast(Any, nonsense))
            self.assertEqual(self.endpoints(), (A,))
            self.assertIn("it delivered", self.cell.current.discovery_failures["orders"])
        self.assertIn("TM-U113", self.lines()[0])

    def broken(self) -> Iterator[Endpoint]:
        yield B
        raise RuntimeError("no more")

    def test_too_many_are_cut(self) -> None:
        """The first ten thousand are used, of a list without an end, too."""

        def endless() -> Iterator[Endpoint]:
            number = 0
            while True:
                number += 1
                yield endpoint(number % 60000 + 1, host=f"10.0.0.{number // 60000 + 1}")

        discovery = self.started()
        discovery.observer.endpoints_changed(cast(Any, endless()))
        self.assertEqual(len(self.endpoints() or ()), 10_000)
        self.assertIn("there are more than 10000, of which those are used", self.lines()[0])

    def test_own_outbound_listeners_are_no_endpoints(self) -> None:
        """Not the address itself, nor one that a wildcard listener takes."""
        own = OwnListeners(
            [("out", A.address), ("all", TCPAddress("0.0.0.0", 9)), ("sock", UnixAddress("/s"))], is_local
        )
        self.assertIn("own outbound listener 'out': a circle", own.objection(A.address))
        self.assertIn("own outbound listener 'all': a circle", own.objection(TCPAddress("127.0.0.7", 9)))
        self.assertIn("own outbound listener 'sock': a circle", own.objection(UnixAddress("/s")))
        for other in (B.address, TCPAddress("192.0.2.1", 9), TCPAddress("::1", 9), UnixAddress("/t")):
            self.assertEqual(own.objection(other), "")
        self.control = EndpointControl(self.cell, self.clock, own.objection)
        self.started(A, B)
        self.assertEqual(self.endpoints(), (B,))

    def test_a_route_is_known_without_sending_anything(self) -> None:
        """To itself there is one, and none where the interface does not exist."""
        self.assertTrue(has_route("127.0.0.1"))
        self.assertFalse(has_route("fe80::1%nowhere"))


class FailureTests(ControlCase):
    def test_the_last_endpoints_go_on_to_serve(self) -> None:
        """Its reason is in the state until it works again."""
        discovery = self.started(A)
        self.clock.advance(3)
        discovery.observer.endpoints_failed("no server answers")
        self.assertEqual(self.endpoints(), (A,))
        self.assertEqual(self.cell.current.discovery_failures, {"orders": "no server answers"})
        [status] = self.control.statuses()
        self.assertEqual((status.failing, status.reason, status.said), (3.0, "no server answers", 0.0))
        self.assertEqual(
            self.lines(),
            ["TM-U113 discovery of service 'orders' fails, its last endpoints (1) go on to serve: no server answers"],
        )
        self.clock.advance(4)
        discovery.say(A)
        self.assertEqual(self.cell.current.discovery_failures, {})
        self.clock.advance(0)
        self.assertEqual(self.lines(), ["discovery of service 'orders' works again, after 4s"])

    def test_what_it_can_say_beside_what_it_cannot_is_no_recovery(self) -> None:
        """One of two families may fail for ever while the other one changes: it fails since it began to."""
        discovery = self.started(A)
        self.clock.advance(3)
        discovery.observer.endpoints_failed("no AAAA")
        self.lines()
        for number in range(2, 9):
            self.clock.advance(5)
            discovery.say(endpoint(number))
            discovery.observer.endpoints_failed("no AAAA")
            self.assertEqual(self.endpoints(), (endpoint(number),))
            self.assertEqual(self.cell.current.discovery_failures, {"orders": "no AAAA"})
        self.assertEqual([status.failing for status in self.control.statuses()], [3.0])
        self.assertEqual([line for line in self.lines() if "again" in line or "TM-U113" in line], [])
        self.clock.advance(5)
        discovery.say(A)
        self.clock.advance(0)
        self.assertEqual(self.lines()[-1], "discovery of service 'orders' works again, after 40s")

    def test_a_failure_after_what_waits_is_the_last_word(self) -> None:
        """What was delivered before it is used, and ends no failure."""
        discovery = self.started(A)
        discovery.say(B)
        discovery.observer.endpoints_failed("no")
        self.clock.advance(PACE)
        self.assertEqual(self.endpoints(), (B,))
        self.assertEqual(self.cell.current.discovery_failures, {"orders": "no"})

    def test_the_same_failure_is_told_once_a_minute(self) -> None:
        """With how often it was not told; another one within ten seconds."""
        discovery = self.started()
        self.swaps.clear()
        for _ in range(100):
            discovery.observer.endpoints_failed("no")
            self.clock.advance(0.1)
        self.assertEqual(self.lines(), ["TM-U113 discovery of service 'orders' fails, it has no endpoints yet: no"])
        self.assertEqual(len(self.swaps), 1)
        self.clock.advance(0.1)
        discovery.observer.endpoints_failed("other")
        self.assertEqual(
            self.lines(),
            [
                "TM-U113 discovery of service 'orders' fails, it has no endpoints yet: other (99 such lines were left "
                "out)"
            ],
        )
        self.clock.advance(AGAIN)
        discovery.observer.endpoints_failed("other")
        self.assertEqual(len(self.lines()), 1)

    def test_a_flapping_failure_says_little(self) -> None:
        """Ten times a second well and ill for a minute: six times at once, and then once in ten seconds."""
        discovery = self.started(A)
        for number in range(600):
            discovery.observer.endpoints_failed(f"no {number}")
            discovery.say(A)
            self.clock.advance(0.1)
        failures = [line for line in self.lines() if "TM-U113" in line]
        self.assertIn(len(failures), (BURST + 5, BURST + 6))
        self.assertIn("such lines were left out)", failures[-1])

    def test_a_reason_is_one_line(self) -> None:
        """A file may have several mistakes, and a plugin may say anything."""
        discovery = self.started(A)
        discovery.observer.endpoints_failed("a.yaml:1:4: no\na.yaml:2:4: neither\n")
        self.assertEqual(self.cell.current.discovery_failures, {"orders": "a.yaml:1:4: no; a.yaml:2:4: neither"})
        self.assertEqual(
            self.lines(),
            [
                "TM-U113 discovery of service 'orders' fails, its last endpoints (1) go on to serve: a.yaml:1:4: no; "
                "a.yaml:2:4: neither"
            ],
        )

    def test_a_reason_is_cut(self) -> None:
        """A plugin may say a megabyte."""
        discovery = self.started()
        discovery.observer.endpoints_failed("x" * 10**6)
        self.assertEqual(len(self.cell.current.discovery_failures["orders"]), 500)

    def test_who_raises_at_start_leaves_its_service_without_endpoints(self) -> None:
        """The others start; the traceback is in the log, once."""
        other = Told((B,))
        self.control.add("broken", Told(raises=RuntimeError("oh")), [], "bad")
        self.control.add("other", other, [], "good")
        self.control.start()
        self.assertEqual(self.cell.current.endpoints, {"broken": (), "other": (B,)})
        self.assertEqual(
            self.cell.current.discovery_failures,
            {"broken": "it could not be started: RuntimeError: oh; the log has the traceback"},
        )
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_who_raises_after_it_delivered_keeps_that(self) -> None:
        """It may go on to deliver."""
        self.started(A, raises=RuntimeError("oh"))
        self.assertEqual(self.endpoints(), (A,))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_who_must_not_start_says_so(self) -> None:
        """A StartError or ConfigurationError is the proxy's."""
        for error in (StartError(STATE_UNUSABLE, "taken"), ConfigurationError([Problem("wrong")])):
            control = EndpointControl(self.cell, self.clock)
            control.add("orders", Told(raises=error))
            self.assertRaises(type(error), control.start)
            control.stop()

    def test_who_raises_at_stop_is_logged(self) -> None:
        """And stops nobody from stopping."""
        discovery = self.started()
        discovery.stopping = fail(RuntimeError("oh"))
        [stopped] = self.control.stop()
        self.successResultOf(stopped)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_who_delivers_while_it_is_stopped_is_not_heard(self) -> None:
        """Nor in a generator that delivers again while it is gone through; and what it raises stops nobody."""
        control = self.control

        class Loud(Told):
            def start(self, observer: IDiscoveryObserver) -> None:
                super().start(observer)
                observer.endpoints_changed(cast(Any, self.nested()))

            def nested(self) -> Iterator[Endpoint]:
                self.observer.endpoints_changed([B])
                yield C

            def stop(self) -> None:
                self.say(A)
                self.observer.endpoints_failed("going")
                control.stop()
                raise RuntimeError("oh")

        control.add("orders", Loud(), [], "loud")
        control.start()
        self.assertEqual(self.endpoints(), (B,))
        self.clock.advance(PACE)
        self.assertEqual(self.endpoints(), (C,))
        self.swaps.clear()
        for stopped in control.stop():
            self.successResultOf(stopped)
        self.clock.advance(10)
        self.assertEqual((self.swaps, self.clock.getDelayedCalls()), ([], []))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)


class MetricsTests(ControlCase):
    def scraped(self) -> dict[str, float]:
        families = DiscoveryMetrics(self.control).collect()
        samples = [sample for family in families for sample in family.samples]
        self.assertEqual({sample.labels["service"] for sample in samples}, {"orders"})
        return {sample.name.removeprefix("tcpmesh_service_"): sample.value for sample in samples}

    def test_tell_whether_discovery_works(self) -> None:
        """And since when nothing was heard, how often it failed, and how often that was something new."""
        discovery = self.started()
        self.assertEqual(
            self.scraped(), {"discovery_failing": 0, "discovery_failures_total": 0, "endpoint_changes_total": 0}
        )
        discovery.say(A)
        self.clock.advance(7)
        discovery.observer.endpoints_failed("no")
        discovery.observer.endpoints_failed("no")
        self.assertEqual(
            self.scraped(),
            {
                "discovery_failing": 1,
                "discovery_age_seconds": 7.0,
                "discovery_failures_total": 2,
                "endpoint_changes_total": 1,
            },
        )
        discovery.say(A)
        self.assertEqual(self.scraped()["discovery_failing"], 0)


class AskedTests(ControlCase):
    def test_check_collects_complaints(self) -> None:
        """Those that a start would have, and what is raised instead."""
        discovery = self.started()
        self.assertEqual(self.control.check(), [])
        placed = Problem("wrong", Mark("endpoints.yaml", 3, 4))
        discovery.checks = ConfigurationError([placed, Problem("endpoints.yaml: it is not there")])
        [error] = self.control.check()
        assert isinstance(error, ConfigurationError)
        self.assertEqual(
            list(error.problems),
            [placed, Problem("discovery of service 'orders': endpoints.yaml: it is not there")],
        )
        discovery.checks = StartError(PLUGIN_UNUSABLE, "/e/x.yaml: there is no such file or directory")
        [error] = self.control.check()
        self.assertEqual(
            str(error),
            f"{PLUGIN_UNUSABLE.id} discovery of service 'orders': /e/x.yaml: there is no such file or directory",
        )
        discovery.checks = RuntimeError("oh")
        [error] = self.control.check()
        assert isinstance(error, StartError)
        self.assertEqual(
            (error.code, error.reason),
            (PLUGIN_UNUSABLE, "the discovery of service 'orders' cannot be checked: RuntimeError: oh"),
        )
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_reload_reaches_who_can(self) -> None:
        """What it raises, at once or later, is a failure of that discovery."""
        discovery = self.started()
        self.control.reload()
        self.assertEqual((discovery.reloads, self.cell.current.discovery_failures), (1, {}))
        for failing in (RuntimeError("oh"), fail(RuntimeError("oh"))):
            discovery.reloading = failing
            self.control.reload()
            self.assertEqual(self.cell.current.discovery_failures, {"orders": "reloading failed: RuntimeError: oh"})
            self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
            discovery.say(A)


class IntakeTests(SynchronousTestCase):
    def test_complaints_are_counted_and_few(self) -> None:
        """Ten thousand bad ones make one sentence."""
        found = take_in(
            [A, *("x" for _ in range(99)), *(endpoint(n, weight=-n) for n in range(1, 9))], (), lambda e: ""
        )
        self.assertEqual(found.endpoints, (A,))
        self.assertEqual(
            found.remark,
            "it is no Endpoint but of type 'str' (99 times); a weight is a whole number from 0 to 65535, not '-1'; a "
            "weight is a whole number from 0 to 65535, not '-2'; and 6 more",
        )

    def test_a_change_shows_few_addresses(self) -> None:
        """Of many, three and their number."""
        self.assertEqual(
            str(change((), [endpoint(number) for number in range(1, 6)])),
            "5 added (127.0.0.1:1, 127.0.0.1:2, 127.0.0.1:3, and 2 more)",
        )
