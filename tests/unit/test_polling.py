"""The base for sources that ask from time to time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.task import Clock
from twisted.logger import LogEvent, Logger
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tcpmesh.interfaces import IIdentitySource, IReloadable, PluginContext
from tcpmesh.sources.polling import PollingIdentitySource, in_caller, in_daemon_thread
from tcpmesh.testing import FakeIdentityObserver, plugin_context
from tcpmesh.values import IdentitySnapshot


class Threads:
    """Stands for a thread: the test says when what was started ends, and how."""

    def __init__(self) -> None:
        self.running: list[Callable[[Any], None]] = []
        self.most = 0

    def __call__(self, function: Callable[[], Any], done: Callable[[Any], None]) -> None:
        self.running.append(done)
        self.most = max(self.most, len(self.running))

    def end(self, result: Any) -> None:
        self.running.pop(0)(result)

    def fail(self, error: BaseException) -> None:
        self.end(Failure(error))


class Source(PollingIdentitySource):
    interval = 30.0
    deadline = 10.0


class Crowded(PollingIdentitySource):
    """An author's class, with attributes and methods of all the names that one might think of."""

    _call = _observer = _retry = _clock = _random = _in_thread = "the author's own"

    def __init__(self, context: PluginContext, answer: IdentitySnapshot) -> None:
        super().__init__(context)
        self._observer = self._call = self._clock = "the author's own, too"
        self._answer = answer

    def fetch(self) -> IdentitySnapshot:
        return self._fetch()

    def _fetch(self) -> IdentitySnapshot:
        return self._answer

    def _begin(self) -> None:
        raise AssertionError("not for the base to call")

    _ended = _too_late = _succeeded = _again = _wait = _failed = _begin


class PollingCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.threads = Threads()
        self.observer = FakeIdentityObserver()
        self.events: list[LogEvent] = []
        self.chance = 0.5
        context = plugin_context(clock=self.clock)
        self.context = attrs.evolve(context, log=Logger(observer=self.events.append))
        self.source = Source(self.context, self.threads, lambda: self.chance)

    def started(self) -> Source:
        self.source.start(self.observer)
        return self.source


class SubclassTests(PollingCase):
    def test_may_use_any_name_that_is_not_documented(self) -> None:
        """Nothing of the base is overwritten by it, and no subclass has to know what the base is made of."""
        answer = IdentitySnapshot((), {})
        source = Crowded(self.context, answer)
        source.start(self.observer)
        source.reload()
        self.clock.pump([70.0] * 3)
        self.assertEqual(self.observer.events, [("changed", answer)] * 5)
        source.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_the_base_keeps_nothing_else_under_a_plain_name(self) -> None:
        """Only what is documented, and may be set or called."""
        own = {name for name in vars(self.source) if not name.startswith("_PollingIdentitySource__")}
        methods = {
            name for name in vars(PollingIdentitySource) if not name.startswith(("__", "_PollingIdentitySource__"))
        }
        self.assertEqual(own, {"context"})
        self.assertEqual(methods, {"interval", "deadline", "fetch", "start", "stop", "reload"})


class ScheduleTests(PollingCase):
    def test_provides_its_interface(self) -> None:
        """A subclass is a whole identity source."""
        verifyObject(IIdentitySource, self.source)

    def test_asks_at_once_and_then_at_its_interval(self) -> None:
        """Counted from the end of one to the start of the next."""
        self.started()
        self.assertEqual(len(self.threads.running), 1)
        first, second = IdentitySnapshot(), IdentitySnapshot()
        self.clock.advance(5)
        self.threads.end(first)
        self.clock.advance(29)
        self.assertEqual(self.threads.running, [])
        self.clock.advance(1)
        self.threads.end(second)
        self.assertEqual(self.observer.events, [("changed", first), ("changed", second)])

    def test_asks_now_when_it_is_told_to(self) -> None:
        """Instead of at the end of its wait, whose next one is counted anew; never beside one that is under way."""
        self.assertTrue(verifyObject(IReloadable, self.source))
        self.source.reload()
        self.assertEqual(self.threads.running, [])
        self.started()
        self.source.reload()
        self.threads.end(IdentitySnapshot())
        self.clock.advance(20)
        self.source.reload()
        self.source.reload()
        self.assertEqual((len(self.threads.running), self.threads.most), (1, 1))
        self.threads.end(IdentitySnapshot())
        self.clock.advance(29)
        self.assertEqual(self.threads.running, [])
        self.clock.advance(1)
        self.assertEqual(len(self.threads.running), 1)
        self.source.stop()
        self.source.reload()
        self.assertEqual((len(self.threads.running), self.clock.getDelayedCalls()), (1, []))

    def test_spreads_by_chance(self) -> None:
        """A tenth each way."""
        for chance, wait in ((0.0, 27), (1.0, 33)):
            self.setUp()
            self.chance = chance
            self.started()
            self.threads.end(IdentitySnapshot())
            self.clock.advance(wait - 0.5)
            self.assertEqual(self.threads.running, [])
            self.clock.advance(0.5)
            self.assertEqual(len(self.threads.running), 1)

    def test_refuses_times_that_make_no_sense(self) -> None:
        """A plugin's mistake is said at its start."""
        self.source.interval = 0
        error = self.assertRaises(ValueError, self.source.start, self.observer)
        self.assertIn("Source: interval and deadline must be more than 0", str(error))


class FailureTests(PollingCase):
    def test_reports_an_error_in_one_line_and_keeps_the_last(self) -> None:
        """Nothing is withdrawn; the traceback is for debug."""
        self.started()
        self.threads.end(IdentitySnapshot())
        self.clock.advance(30)
        self.threads.fail(OSError("first line\nsecond \x1b[31mline"))
        self.assertEqual(self.observer.failures, ["fetching failed: OSError: 'first line'"])
        self.assertEqual(len(self.observer.snapshots), 1)
        self.assertEqual([event["log_level"].name for event in self.events], ["debug"])

    def test_reports_an_error_without_words(self) -> None:
        """Its kind is enough."""
        self.started()
        self.threads.fail(KeyError())
        self.assertEqual(self.observer.failures, ["fetching failed: KeyError"])

    def test_reports_nonsense(self) -> None:
        """None is what a forgotten return gives."""
        for nonsense, shown in ((None, "None"), ("x" * 500, "xxx"), ({}, "'{}'")):
            self.setUp()
            self.started()
            self.threads.end(nonsense)
            self.assertIn("instead of an IdentitySnapshot", self.observer.failures[0])
            self.assertIn(shown, self.observer.failures[0])
            self.assertTrue(len(self.observer.failures[0]) < 200)

    def test_tries_again_with_growing_pauses(self) -> None:
        """One second, doubling up to the interval; a success resets it."""
        self.started()
        for pause in (1, 2, 4, 8, 16, 30, 30):
            self.threads.fail(OSError("down"))
            self.clock.advance(pause - 0.5)
            self.assertEqual(self.threads.running, [], pause)
            self.clock.advance(0.5)
            self.assertEqual(len(self.threads.running), 1, pause)
        self.threads.end(IdentitySnapshot())
        self.clock.advance(30)
        self.threads.fail(OSError("down"))
        self.clock.advance(1)
        self.assertEqual(len(self.threads.running), 1)

    def test_waits_a_minute_at_most(self) -> None:
        """However long the interval is."""
        self.source.interval = 86400.0
        self.started()
        for _ in range(12):
            self.threads.fail(OSError("down"))
            self.clock.advance(60)
            self.assertEqual(len(self.threads.running), 1)

    def test_survives_a_thread_that_cannot_be_started(self) -> None:
        """An attempt that failed, no more."""
        attempts = []

        def no_thread(function: Callable[[], Any], done: Callable[[Any], None]) -> None:
            attempts.append(function)
            raise RuntimeError("can't start new thread")

        source = Source(self.context, no_thread, lambda: 0.5)
        source.start(self.observer)
        self.assertIn("can't start new thread", self.observer.failures[0])
        self.clock.advance(1)
        self.assertEqual(len(attempts), 2)
        source.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class DeadlineTests(PollingCase):
    def test_reports_a_fetch_that_is_late(self) -> None:
        """At its deadline, and again each time that it has taken twice as long."""
        self.started()
        self.clock.advance(9.5)
        self.assertEqual(self.observer.failures, [])
        self.clock.advance(0.5)
        self.assertEqual(self.observer.failures, ["fetching has taken longer than 10 s and goes on"])
        self.clock.advance(10)
        self.assertEqual(self.observer.failures[1:], ["fetching has taken longer than 20 s and goes on"])
        self.clock.advance(19)
        self.assertEqual(len(self.observer.failures), 2)

    def test_drops_a_result_that_is_late(self) -> None:
        """It may be older than it looks; the next attempt follows soon."""
        self.started()
        self.clock.advance(10)
        self.threads.end(IdentitySnapshot())
        self.assertEqual(self.observer.snapshots, [])
        self.clock.advance(1)
        fresh = IdentitySnapshot()
        self.threads.end(fresh)
        self.assertEqual(self.observer.snapshots, [fresh])
        self.assertEqual(len(self.observer.failures), 1)

    def test_never_runs_two_at_once(self) -> None:
        """One that hangs is waited for, however long."""
        self.started()
        for _ in range(1000):
            self.clock.advance(10)
        self.assertEqual(self.threads.most, 1)
        self.assertTrue(len(self.observer.failures) < 15)


class StopTests(PollingCase):
    def test_while_waiting(self) -> None:
        """Nothing is left on the clock."""
        source = self.started()
        self.threads.end(IdentitySnapshot())
        source.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_while_fetching(self) -> None:
        """Whatever comes afterwards is dropped."""
        for result in (IdentitySnapshot(), Failure(OSError("late")), None):
            self.setUp()
            self.started().stop()
            self.threads.end(result)
            self.clock.advance(1000)
            self.assertEqual(self.observer.events, [])
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_by_the_observer(self) -> None:
        """In the middle of a delivery."""
        source = self.started()
        self.observer.identity_changed = lambda snapshot: source.stop()  # type: ignore[method-assign,misc]
        self.threads.end(IdentitySnapshot())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_before_the_start(self) -> None:
        """Harmless."""
        self.source.stop()


class TenLineTests(SynchronousTestCase):
    def test_a_plugin_needs_only_fetch(self) -> None:
        """With a test's clock ``fetch`` runs at once, so that an author's tests are simple."""

        class Mine(PollingIdentitySource):
            def fetch(self) -> IdentitySnapshot:
                return snapshot

        snapshot = IdentitySnapshot()
        clock, observer = Clock(), FakeIdentityObserver()
        source = Mine(plugin_context(clock=clock))
        source.start(observer)
        clock.advance(70)
        self.assertEqual(observer.snapshots, [snapshot, snapshot])
        source.stop()

    def test_forgetting_fetch_is_said(self) -> None:
        """With the class's name."""
        observer = FakeIdentityObserver()
        source = PollingIdentitySource(plugin_context())
        source.start(observer)
        self.assertIn("PollingIdentitySource does not implement fetch()", observer.failures[0])
        source.stop()


@implementer(IReactorFromThreads)
class Inbox(Clock):
    """A clock that takes calls from threads, as a reactor does; the test waits for them."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived = threading.Semaphore(0)
        self.posted: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []

    def callFromThread(self, callable: Callable[..., Any], *args: Any, **kwargs: Any) -> None:  # noqa: A002
        self.posted.append((callable, args))
        self.arrived.release()

    def take(self) -> None:
        assert self.arrived.acquire(timeout=60), "no call came from the thread"
        function, arguments = self.posted.pop(0)
        function(*arguments)


class DaemonThreadTests(SynchronousTestCase):
    def test_runs_elsewhere_and_comes_back(self) -> None:
        """``fetch`` in a thread of its own that keeps no process alive, the result in the reactor's."""
        where: list[threading.Thread] = []

        class Mine(PollingIdentitySource):
            def fetch(self) -> IdentitySnapshot:
                where.append(threading.current_thread())
                return IdentitySnapshot()

        inbox, observer = Inbox(), FakeIdentityObserver()
        source = Mine(plugin_context(clock=inbox))
        source.start(observer)
        self.assertEqual(observer.snapshots, [])
        inbox.take()
        self.assertEqual(len(observer.snapshots), 1)
        self.assertIsNot(where[0], threading.current_thread())
        self.assertTrue(where[0].daemon)
        source.stop()

    def test_brings_every_exception_back(self) -> None:
        """``sys.exit`` in a plugin must not end silently."""
        inbox = Inbox()
        results: list[Any] = []
        in_daemon_thread(inbox)(_exit, results.append)
        inbox.take()
        self.assertIsInstance(results[0].value, SystemExit)
        in_caller(_exit, results.append)
        self.assertIsInstance(results[1].value, SystemExit)


class ReactorTests(TestCase):
    """With the real reactor that trial runs."""

    def test_delivers_in_the_reactors_thread(self) -> Deferred[None]:
        """End to end, without anything injected."""
        from twisted.internet import reactor  # noqa: TID251

        done: Deferred[None] = Deferred()
        here = threading.current_thread()
        observer = FakeIdentityObserver()

        class Mine(PollingIdentitySource):
            def fetch(self) -> IdentitySnapshot:
                return IdentitySnapshot()

        def arrived(snapshot: IdentitySnapshot) -> None:
            source.stop()
            try:
                self.assertIs(threading.current_thread(), here)
            except BaseException:
                done.errback()
            else:
                done.callback(None)

        observer.identity_changed = arrived  # type: ignore[method-assign]
        context: PluginContext = plugin_context(clock=reactor)  # type: ignore[arg-type]
        source = Mine(context)
        source.start(observer)
        return done


def _exit() -> None:
    raise SystemExit(3)
