"""The reactor of our own on real descriptors, beside the one that runs the tests."""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableDescriptor, IReactorFDSet
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.logger import ILogObserver, globalLogPublisher
from twisted.python import context, log
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, SynchronousTestCase
from zope.interface import implementer, provider
from zope.interface.verify import verifyObject

from tcpmesh.net.dialling import Dial
from tcpmesh.net.ports import MeshPort, MeshUNIXPort
from tcpmesh.net.reset_watch import ResetWatch
from tcpmesh.net.tcp import MeshStream

try:
    from tcpmesh.net.reactor import BATCH, MeshReactor
except ImportError as missing:
    raise SkipTest(f"no epoll here: {missing}") from None

PATIENCE = 20  # seconds


def nothing() -> None:
    """What a descriptor does when it is called, unless a test says otherwise."""


class Descriptor:
    """One end of a connection, and what the reactor has told it."""

    def __init__(self, test: ReactorTestCase, ends: tuple[socket.socket, socket.socket] | None = None) -> None:
        self.socket, self.peer = ends or socket.socketpair()
        test.at_end += (self.socket.close, self.peer.close)
        self.number = self.socket.fileno()
        self.told: list[str] = []
        self.lost: Failure | None = None
        self.log_system: object = None
        self.at_read: Callable[[], Any] = nothing
        self.at_write: Callable[[], Any] = nothing
        self.at_loss: Callable[[], Any] = nothing

    def fileno(self) -> int:
        return self.number

    def logPrefix(self) -> str:
        return "a descriptor"

    def doRead(self) -> Any:
        self.told.append("read")
        self.log_system = (context.get(log.ILogContext) or {}).get("system")
        return self.at_read()

    def doWrite(self) -> Any:
        self.told.append("write")
        return self.at_write()

    def connectionLost(self, reason: Failure) -> None:
        self.told.append("lost")
        self.lost = reason
        self.at_loss()

    def ready(self) -> Descriptor:
        """There is something to read, and it is never read."""
        self.peer.send(b"x")
        return self


class Marked(Descriptor):
    """One of ours."""

    direct_dispatch = True


@implementer(IHalfCloseableDescriptor)
class HalfCloseable(Marked):
    """One that can go on writing after its peer's end."""

    def readConnectionLost(self, reason: Failure) -> None:
        self.told.append("read lost")
        self.lost = reason

    def writeConnectionLost(self, reason: Failure) -> None:
        self.told.append("write lost")


class ReactorTestCase(SynchronousTestCase):
    """Has a reactor for itself, which is turned by hand or run until something stops it."""

    def setUp(self) -> None:
        self.reactor: Any = MeshReactor()
        self.at_end: list[Callable[[], object]] = []
        self.addCleanup(self.dispose)

    def dispose(self) -> None:
        self.reactor.removeAll()
        for reader in list(self.reactor._internalReaders):
            self.reactor.removeReader(reader)
            reader.connectionLost(Failure(CONNECTION_DONE))
        self.reactor._poller.close()
        for close in self.at_end:  # what was registered until now
            close()

    def reading(self, descriptor: Descriptor) -> Descriptor:
        self.reactor.addReader(descriptor)
        return descriptor

    def turn(self) -> None:
        """Run what is due and dispatch a batch, without waiting."""
        self.reactor.iterate(0)

    def run_reactor(self) -> None:
        """Run until something stops it; the test fails when nothing does."""
        alarm = Descriptor(self)
        overdue: list[bool] = []

        def give_up() -> None:
            overdue.append(True)
            self.reactor.stop()

        alarm.at_read = give_up
        self.reactor.addReader(alarm)
        # Not a timed call: without one the reactor sleeps until an event comes.
        timer = threading.Timer(PATIENCE, alarm.peer.send, [b"x"])
        timer.daemon = True
        timer.start()
        self.addCleanup(timer.join)
        self.addCleanup(timer.cancel)
        self.reactor.run(installSignalHandlers=False)
        self.assertEqual(overdue, [], "nothing stopped the reactor")


class DispatchTests(ReactorTestCase):
    """Who is called how."""

    def test_is_a_reactor_of_descriptors(self) -> None:
        """As Twisted defines it."""
        verifyObject(IReactorFDSet, self.reactor)

    def test_calls_ours_directly_and_others_in_their_log_context(self) -> None:
        """The context is what costs; who is not marked may rely on it."""
        ours, other = self.reading(Marked(self).ready()), self.reading(Descriptor(self).ready())
        self.turn()
        self.assertEqual((ours.told, other.told), (["read"], ["read"]))
        self.assertEqual((ours.log_system, other.log_system), ("-", "a descriptor"))

    def test_the_data_path_is_marked(self) -> None:
        """Its connections, dials and ports, and the watch over those that are paused."""
        for kind in (MeshStream, Dial, MeshPort, MeshUNIXPort, ResetWatch):
            self.assertIs(getattr(kind, "direct_dispatch", None), True, kind)

    def test_reads_before_it_writes(self) -> None:
        """When both are possible, in one turn."""
        both = self.reading(Marked(self).ready())
        self.reactor.addWriter(both)
        self.turn()
        self.assertEqual(both.told, ["read", "write"])

    def test_writes(self) -> None:
        """Only to whom wants to."""
        writer = Marked(self)
        self.reactor.addWriter(writer)
        self.turn()
        self.reactor.removeWriter(writer)
        self.turn()
        self.assertEqual(writer.told, ["write"])

    def test_does_not_read_after_an_earlier_event_stopped_it(self) -> None:
        """What was reported is not what is wanted any more, while writing still is."""
        first, second = (self.reading(Marked(self).ready()) for _ in range(2))
        for one, other in ((first, second), (second, first)):
            self.reactor.addWriter(one)
            one.at_read = lambda other=other: self.reactor.removeReader(other)  # type: ignore[misc]
        self.turn()
        self.assertEqual(sorted([first.told, second.told]), [["read", "write"], ["write"]])

    def test_does_not_write_after_reading_stopped_it(self) -> None:
        """Nor after reading ended it."""
        stopped, ended = Marked(self).ready(), Marked(self).ready()
        stopped.at_read = lambda: self.reactor.removeWriter(stopped)
        ended.at_read = lambda: CONNECTION_LOST
        for descriptor in (stopped, ended):
            self.reactor.addReader(descriptor)
            self.reactor.addWriter(descriptor)
        self.turn()
        self.assertEqual((stopped.told, ended.told), (["read"], ["read", "lost"]))

    def test_takes_one_who_lost_his_descriptor_for_lost(self) -> None:
        """Though nobody of ours does that."""
        mislaid = self.reading(Marked(self).ready())
        mislaid.number = -1
        self.turn()
        self.assertEqual(mislaid.told, ["lost"])
        self.assertEqual(self.reactor.getReaders(), list(self.reactor._internalReaders))


class EndingTests(ReactorTestCase):
    """What a descriptor's return value, its exception and the kernel's events end."""

    def test_an_exception_is_logged_and_ends_the_descriptor_only(self) -> None:
        """Whoever else was ready is called; the reason is the exception."""
        for stage in ("at_read", "at_write"):
            bad = self.reading(Marked(self).ready())
            self.reactor.addWriter(bad)
            good = [self.reading(Marked(self).ready()) for _ in range(2)]
            setattr(bad, stage, lambda: 1 / 0)
            self.turn()
            self.assertEqual(bad.told, ["read", "lost"] if stage == "at_read" else ["read", "write", "lost"])
            assert bad.lost is not None
            self.assertIs(bad.lost.type, ZeroDivisionError)
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
            self.assertEqual([each.told for each in good], [["read"], ["read"]])
            self.assertNotIn(bad, self.reactor.getReaders() + self.reactor.getWriters())

    def test_the_log_names_who_raised(self) -> None:
        """As in the stock reactor, although there is no context on the way."""
        events: list[Any] = []

        @provider(ILogObserver)
        def observer(event: Any) -> None:
            events.append(event)

        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        bad = self.reading(Marked(self).ready())
        bad.at_read = lambda: 1 / 0
        self.turn()
        self.flushLoggedErrors(ZeroDivisionError)
        self.assertEqual([event.get("system") for event in events if event.get("isError")], ["a descriptor"])

    def test_an_exception_in_the_end_itself_is_logged(self) -> None:
        """And the others' turn comes."""
        bad, good = (self.reading(Marked(self).ready()) for _ in range(2))
        for each in (bad, good):
            each.at_read = lambda: CONNECTION_LOST
        bad.at_loss = lambda: 1 / 0
        self.turn()
        self.assertEqual((bad.told, good.told), (["read", "lost"],) * 2)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_an_end_found_by_reading_is_half_a_close(self) -> None:
        """For whom can go on writing; it reads no more."""
        ours = HalfCloseable(self).ready()
        ours.at_read = lambda: CONNECTION_DONE
        self.reading(ours)
        self.reactor.addWriter(ours)
        self.turn()
        self.assertEqual(ours.told, ["read", "read lost"])
        self.assertIn(ours, self.reactor.getWriters())
        self.assertNotIn(ours, self.reactor.getReaders())

    def test_an_end_found_otherwise_is_an_end(self) -> None:
        """By writing, or an error found by reading, or an end raised."""
        by_writing, by_error, raised = (HalfCloseable(self).ready() for _ in range(3))
        by_writing.at_write = lambda: CONNECTION_DONE
        by_error.at_read = lambda: CONNECTION_LOST
        raised.at_read = lambda: Failure(ConnectionDone()).raiseException()
        for each, reason in ((by_writing, ConnectionDone), (by_error, ConnectionLost), (raised, ConnectionDone)):
            self.reading(each)
            self.reactor.addWriter(each)
            self.turn()
            self.assertEqual(each.told[-1], "lost")
            assert each.lost is not None
            self.assertIs(each.lost.type, reason)
        self.flushLoggedErrors(ConnectionDone)

    def hung_up(self, kind: type[Descriptor], *, abortive: bool) -> Descriptor:
        """A TCP connection whose peer has gone; the kernel knows of it when this returns."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            peer = socket.create_connection(listener.getsockname())
            accepted, _ = listener.accept()
        if abortive:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            accepted.shutdown(socket.SHUT_WR)
        peer.close()
        poll = select.poll()
        poll.register(accepted, 0)
        self.assertTrue(poll.poll(PATIENCE * 1000), "the kernel reports it")
        return kind(self, (accepted, peer))

    def test_data_that_comes_with_a_hang_up_is_read_first(self) -> None:
        """Both ends were closed: readable, since there is an end to read."""
        ours = self.reading(self.hung_up(HalfCloseable, abortive=False))
        self.turn()
        self.assertEqual(ours.told, ["read"])

    def test_a_hang_up_without_data_is_what_the_stock_reactor_takes_it_for(self) -> None:
        """An end to whom reads, which our transports check by reading; a loss to whom does not."""
        reader, writer = (HalfCloseable(self) for _ in range(2))
        # A pipe whose reader is gone has an error and nothing to read.
        for each, add in ((reader, self.reactor.addReader), (writer, self.reactor.addWriter)):
            read_end, each.number = os.pipe()
            self.at_end.append(lambda end=each.number: os.close(end))  # type: ignore[misc]
            os.close(read_end)
            add(each)
        self.turn()
        self.assertEqual((reader.told, writer.told), (["read lost"], ["lost"]))
        assert reader.lost is not None
        assert writer.lost is not None
        self.assertEqual((reader.lost.type, writer.lost.type), (ConnectionDone, ConnectionLost))

    def test_a_reset_reaches_whom_reads_by_reading(self) -> None:
        """There it is the error that recv(2) gives."""
        ours = self.reading(self.hung_up(HalfCloseable, abortive=True))
        ours.at_read = lambda: ours.socket.recv(1) and None
        self.turn()
        self.assertEqual(ours.told, ["read", "lost"])
        [failure] = self.flushLoggedErrors(ConnectionResetError)
        self.assertEqual(failure.type, ConnectionResetError)


class BatchTests(ReactorTestCase):
    """What one event of a batch does to the others."""

    def test_who_was_removed_is_not_called(self) -> None:
        """Of two that are ready, each removes the other."""
        for kind in (Marked, Descriptor):
            first, second = (self.reading(kind(self).ready()) for _ in range(2))
            first.at_read = lambda second=second: self.reactor.removeReader(second)  # type: ignore[misc]
            second.at_read = lambda first=first: self.reactor.removeReader(first)  # type: ignore[misc]
            self.turn()
            self.assertEqual(sorted([first.told, second.told]), [[], ["read"]])
            self.reactor.removeAll()

    def replaced_in_the_batch(self, old: type[Descriptor], new: type[Descriptor], event: str) -> Descriptor:
        """Of two with an event, one ends the other and gives its number to a newcomer: the newcomer."""
        both = [self.reading(old(self)) for _ in range(2)]
        newcomers: list[Descriptor] = []

        def replace(victim: Descriptor) -> None:
            if newcomers:
                return
            newcomer = new(self)
            self.reactor.removeReader(victim)
            os.dup2(newcomer.number, victim.socket.detach())
            newcomer.socket.close()
            newcomer.socket = socket.socket(fileno=victim.number)
            self.at_end.append(newcomer.socket.close)
            newcomer.number = victim.number
            newcomers.append(newcomer)
            self.reactor.addWriter(newcomer)
            self.reactor.addReader(newcomer)
            self.reactor.removeWriter(newcomer)

        for one, other in (both, reversed(both)):
            if event == "hang-up":
                one.peer.close()
                one.at_loss = lambda other=other: replace(other)  # type: ignore[misc]
                one.at_read = lambda: CONNECTION_LOST
            else:
                one.ready()
                one.at_read = lambda other=other: replace(other)  # type: ignore[misc]
        self.turn()
        self.assertEqual(len([each for each in both if each.told]), 1)
        [newcomer] = newcomers
        return newcomer

    def test_an_event_is_not_for_whom_has_the_number_now(self) -> None:
        """A newcomer of the same batch gets no event of his predecessor, above all no hang-up; then his own."""
        for old in (Marked, Descriptor):
            for new in (Marked, Descriptor):
                for event in ("data", "hang-up"):
                    newcomer = self.replaced_in_the_batch(old, new, event)
                    self.assertEqual(newcomer.told, [], (old, new, event))
                    newcomer.ready()
                    self.turn()
                    self.assertEqual(newcomer.told, ["read"], (old, new, event))
                    self.reactor.removeAll()

    def test_who_gave_his_number_away_while_reading_is_not_written(self) -> None:
        """Nor is his successor, for whom the event was not meant."""
        old, new = Marked(self).ready(), Marked(self)

        def replace() -> None:
            self.reactor.removeReader(old)
            self.reactor.removeWriter(old)
            new.number = old.number
            self.reactor.addWriter(new)

        old.at_read = replace
        self.reading(old)
        self.reactor.addWriter(old)
        self.turn()
        self.assertEqual((old.told, new.told), (["read"], []))
        self.turn()
        self.assertEqual(new.told, ["write"])

    def test_a_paused_and_resumed_descriptor_keeps_its_turn(self) -> None:
        """An earlier event that stops and starts it again does not cost it its own."""
        first, second = (self.reading(Marked(self).ready()) for _ in range(2))

        def pause_and_resume(other: Descriptor) -> None:
            self.reactor.removeReader(other)
            self.reactor.addReader(other)

        first.at_read = lambda: pause_and_resume(second)
        second.at_read = lambda: pause_and_resume(first)
        self.turn()
        self.assertEqual((first.told, second.told), (["read"], ["read"]))

    def test_everyone_has_a_turn_before_anyone_has_two(self) -> None:
        """A batch is bounded, and epoll's list goes round."""
        order: list[int] = []
        crowd = [Marked(self).ready() for _ in range(2 * BATCH + 10)]
        for number, each in enumerate(crowd):
            each.at_read = lambda number=number: order.append(number)  # type: ignore[misc]
            self.reading(each)
        self.turn()
        self.assertEqual(len(order), BATCH)
        for _ in range(5):
            self.turn()
        self.assertEqual(len(order), 6 * BATCH)
        self.assertEqual(order[: len(crowd)], sorted(set(order)))
        self.assertEqual(order[len(crowd) : 2 * len(crowd)], order[: len(crowd)])


class LoopTests(ReactorTestCase):
    """Timers, threads and the end, in the loop that looks for them only where there can be some."""

    def test_timers_run_between_batches(self) -> None:
        """However many descriptors are ready: what is due after the first event runs before the second batch."""
        order: list[str] = []
        for _ in range(3 * BATCH):
            descriptor = self.reading(Marked(self).ready())
            descriptor.at_read = lambda: order.append("read")

        def due() -> None:
            order.append("timer")
            self.reactor.callFromThread(thread_call)

        def thread_call() -> None:
            order.append("thread")
            self.reactor.stop()

        self.reactor.callWhenRunning(self.reactor.callLater, 0, due)
        self.run_reactor()
        self.assertLessEqual(order.index("timer"), BATCH)
        self.assertLessEqual(order.index("thread"), 2 * BATCH + 1)

    def test_timed_calls_run_in_order(self) -> None:
        """By their time, whenever they were made, moved or cancelled."""
        order: list[str] = []

        def start() -> None:
            self.reactor.callLater(0.003, order.append, "c")
            late = self.reactor.callLater(10, order.append, "b")
            self.reactor.callLater(0.001, order.append, "a")
            self.reactor.callLater(0.0005, order.append, "never").cancel()
            late.reset(0.002)
            self.reactor.callLater(0.004, self.reactor.stop)

        self.reactor.callWhenRunning(start)
        self.run_reactor()
        self.assertEqual(order, ["a", "b", "c"])

    def test_takes_its_time_from_seconds(self) -> None:
        """The clock that was put into its place, not the time of day."""
        now = [1000.0]
        self.reactor.seconds = lambda: now[0]
        called: list[float] = []

        def due() -> None:
            called.append(now[0])
            self.reactor.stop()

        def start() -> None:
            self.reactor.callLater(3600, due)
            turner.ready()

        turner = self.reading(Marked(self))
        turner.at_read = lambda: now.__setitem__(0, now[0] + 1800)
        self.reactor.callWhenRunning(start)
        self.run_reactor()
        self.assertEqual(called, [4600.0])

    def test_a_far_timer_does_not_overflow_the_wait(self) -> None:
        """epoll_wait(2) takes 32 bits of milliseconds; a call in a year is more."""
        self.reactor.callLater(366 * 86400, nothing)
        turner = self.reading(Marked(self).ready())

        def stop_the_third_time() -> None:
            if len(turner.told) == 3:
                self.reactor.stop()

        turner.at_read = stop_the_third_time
        self.run_reactor()
        self.assertEqual(turner.told, ["read", "read", "read", "lost"])

    def test_hears_a_thread_while_it_sleeps(self) -> None:
        """Without timers and events, where nothing else would wake it; calls run in their order."""
        order: list[str] = []

        def call() -> None:
            for word in ("first", "second"):
                self.reactor.callFromThread(order.append, word)
            self.reactor.callFromThread(self.reactor.stop)

        thread = threading.Thread(target=call)
        self.reactor.callWhenRunning(thread.start)
        self.run_reactor()
        thread.join(PATIENCE)
        self.assertEqual(order, ["first", "second"])

    def test_runs_blocking_work_in_its_thread_pool(self) -> None:
        """Whose size can be suggested, and which ends with it."""
        threads: list[str] = []

        def work() -> None:
            threads.append(threading.current_thread().name)
            self.reactor.callFromThread(self.reactor.stop)

        self.reactor.suggestThreadPoolSize(1)
        self.reactor.callWhenRunning(self.reactor.callInThread, work)
        self.run_reactor()
        self.assertEqual(len(threads), 1)
        self.assertNotEqual(threads[0], threading.current_thread().name)

    def test_an_error_of_a_call_ends_nothing(self) -> None:
        """It is logged, and the loop goes on."""
        self.reactor.callWhenRunning(self.reactor.callLater, 0, lambda: 1 / 0)
        self.reactor.callWhenRunning(self.reactor.callFromThread, lambda: [].pop())  # type: ignore[misc]
        self.reactor.callWhenRunning(self.reactor.callLater, 0.001, self.reactor.stop)
        self.run_reactor()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(len(self.flushLoggedErrors(IndexError)), 1)

    def test_an_error_of_the_loop_is_logged_and_survived(self) -> None:
        """As in the stock loop: a proxy does not go because of one turn."""

        victim = self.reading(Descriptor(self).ready())

        def interrupted() -> str:
            self.reactor.removeReader(victim)
            self.reactor.callLater(0, self.reactor.stop)
            raise KeyboardInterrupt

        victim.logPrefix = interrupted  # type: ignore[method-assign]
        self.run_reactor()
        self.assertEqual(len(self.flushLoggedErrors(KeyboardInterrupt)), 1)

    def test_forgets_cancelled_timers(self) -> None:
        """A busy proxy cancels a deadline for each connection, long before it is due."""
        calls: list[Any] = []
        turner = self.reading(Marked(self))

        def start() -> None:
            calls.extend(self.reactor.callLater(3600, nothing) for _ in range(200))
            turner.ready()

        def cancel() -> None:
            if calls:
                while len(calls) > 50:
                    calls.pop().cancel()
                left.append(len(self.reactor._pendingTimedCalls))
                if len(left) == 3:
                    self.reactor.stop()

        left: list[int] = []
        turner.at_read = cancel
        self.reactor.callWhenRunning(start)
        self.run_reactor()
        self.assertEqual(left, [200, 50, 50])

    def test_stops_and_tells_whom_is_left(self) -> None:
        """The stop runs its triggers and disconnects every descriptor."""
        order: list[str] = []
        ours = self.reading(Marked(self))
        ours.at_loss = lambda: order.append("lost")
        self.reactor.addSystemEventTrigger("before", "shutdown", order.append, "before")
        self.reactor.callWhenRunning(self.reactor.stop)
        self.run_reactor()
        self.assertEqual(order, ["before", "lost"])
