"""What signals do, and which status the process ends with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

from twisted.internet.error import ReactorNotRunning
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import lifecycle
from tcpmesh.lifecycle import FORCE_AFTER, OrderlyStop


class RecordingReactor:
    """Keeps what is asked of it until :meth:`turn`, as a reactor does for what comes from a signal's callback."""

    def __init__(self) -> None:
        self.queue: list[Any] = []
        self.stopped = 0

    def callFromThread(self, call: Any, *args: Any, **kwargs: Any) -> None:
        self.queue.append((call, args, kwargs))

    def stop(self) -> None:
        if self.stopped:
            raise ReactorNotRunning
        self.stopped += 1

    def turn(self) -> None:
        queue, self.queue = self.queue, []
        for call, args, kwargs in queue:
            call(*args, **kwargs)


class Draining:
    """A service with open connections."""

    def __init__(self) -> None:
        self.open = 3
        self.cut = 0
        self.reopened = 0
        self.reloaded = 0

    def stop_now(self) -> None:
        self.cut += self.open
        self.open = 0

    def reopen_logs(self) -> None:
        self.reopened += 1

    def reload_identities(self) -> None:
        self.reloaded += 1


class OrderlyStopTests(SynchronousTestCase):
    """Signals, one after the other."""

    def setUp(self) -> None:
        self.reactor = RecordingReactor()
        self.service = Draining()
        self.left: list[str] = []
        self.stop = OrderlyStop(
            self.service,
            self.reactor,
            last_words=lambda: self.left.append("last words"),
            leave=lambda status: self.left.append(f"status {status}"),
        )
        self.logged: list[str] = []

        def observe(event: Any) -> None:
            if event.get("log_namespace", "").startswith("tcpmesh"):
                self.logged.append(f"{event['log_level'].name}: {event['log_format'].format(**event)}")

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        self.addCleanup(signal.setitimer, signal.ITIMER_REAL, 0)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM, signal.SIGUSR1):
            self.addCleanup(signal.signal, number, signal.getsignal(number))

    def test_stops_the_reactor_at_the_first_signal(self) -> None:
        """The reactor's shutdown drains the service; nothing is done inside the signal's callback itself."""
        self.stop.signalled(signal.SIGTERM)
        self.assertEqual(self.reactor.stopped, 0)
        self.reactor.turn()
        self.assertEqual((self.reactor.stopped, self.service.cut), (1, 0))
        self.assertEqual(self.logged, ["info: SIGTERM: stopping; a second signal ends at once"])
        self.assertEqual(signal.getitimer(signal.ITIMER_REAL)[0], 0)

    def test_reopens_the_logs_at_sigusr1_after_what_was_there_before(self) -> None:
        """twistd's own rotation keeps its place; installing twice, as a reactor's start needs, asks for it once."""
        rotated: list[int] = []
        signal.signal(signal.SIGUSR1, lambda number, frame: rotated.append(number))
        self.stop.install()
        self.stop.install()
        signal.raise_signal(signal.SIGUSR1)
        self.assertEqual((rotated, self.service.reopened), ([signal.SIGUSR1], 0))
        self.reactor.turn()
        self.assertEqual(self.service.reopened, 1)

    def test_cuts_at_the_second_signal(self) -> None:
        """A second signal, of either sort, resets what is open and sets a time for the end of all hanging."""
        self.stop.signalled(signal.SIGTERM)
        self.reactor.turn()
        self.stop.signalled(signal.SIGINT)
        self.reactor.turn()
        self.assertEqual((self.reactor.stopped, self.service.cut), (1, 3))
        self.assertEqual(self.logged[1:], ["warn: SIGINT again: ending at once"])
        armed = signal.getitimer(signal.ITIMER_REAL)[0]
        self.assertTrue(0 < armed <= FORCE_AFTER or self.left, "no timer was set")
        self.assertIs(signal.getsignal(signal.SIGALRM).__func__, OrderlyStop._force)  # type: ignore[union-attr]

    def test_ignores_further_signals(self) -> None:
        """A third signal has nothing to add."""
        for _ in range(3):
            self.stop.signalled(signal.SIGTERM)
        self.assertEqual(len(self.reactor.queue), 2)

    def test_forces_the_end_of_what_hangs(self) -> None:
        """When the time is up the pid file goes and the process leaves with status 1."""
        self.stop._force(signal.SIGALRM)
        self.assertEqual(self.left, ["last words", "status 1"])

    def test_survives_a_reactor_that_has_stopped(self) -> None:
        """Somebody else may have stopped the reactor before the signal's turn came."""
        self.reactor.stopped = 1
        self.stop.signalled(signal.SIGTERM)
        self.reactor.turn()
        self.assertIn("debug: the reactor had stopped already", self.logged)

    def test_lets_identities_be_looked_for_at_sighup(self) -> None:
        """In the reactor's turn; and it must not look as if the configuration had been reloaded."""
        self.stop.hung_up(signal.SIGHUP)
        self.assertEqual(self.service.reloaded, 0)
        self.reactor.turn()
        self.assertEqual(self.service.reloaded, 1)
        (line,) = self.logged
        self.assertIn("info: SIGHUP: identity sources, the deny-list, policies and discoveries look for ", line)
        self.assertIn("the configuration itself stays as it was read: restart to use a changed one", line)
        self.assertEqual(self.reactor.stopped, 0)

    def test_takes_the_three_signals(self) -> None:
        """A real signal reaches the right answer."""
        self.stop.install()
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        self.assertEqual(
            [call.__name__ for call, _, _ in self.reactor.queue],
            ["_reload", "_stop", "_stop_now"],
        )

    def test_status_tells_whether_connections_were_cut(self) -> None:
        """0 when every connection finished, 1 when one was cut."""
        self.assertEqual(self.stop.status, 0)
        self.service.stop_now()
        self.assertEqual(self.stop.status, 1)


REAL_REACTOR = """\
import os, signal, sys, threading, time
from twisted.internet import reactor
from tcpmesh.lifecycle import OrderlyStop


class Service:
    cut = 0

    def stop_now(self):
        self.cut += 1

    def reopen_logs(self):
        pass


stop = OrderlyStop(Service(), reactor, last_words=lambda: print("last words", flush=True))
stop.install()
reactor.callWhenRunning(stop.install)
{body}
reactor.run()
print("status", stop.status)
"""


class RealReactorTests(SynchronousTestCase):
    """The same in a process of its own, with real signals."""

    def run_python(self, body: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", REAL_REACTOR.format(body=body)],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=os.path.dirname(os.path.dirname(lifecycle.__file__)),
        )

    def test_keeps_a_signal_that_comes_before_the_reactor_runs(self) -> None:
        """A SIGTERM during the start ends the process orderly as soon as it has started."""
        ended = self.run_python("os.kill(os.getpid(), signal.SIGTERM)")
        self.assertEqual((ended.returncode, ended.stdout, ended.stderr), (0, "status 0\n", ""))

    def test_ends_although_a_thread_hangs(self) -> None:
        """Two signals end the process also when a plugin's thread would keep it for an hour."""
        ended = self.run_python(
            "os.kill(os.getpid(), signal.SIGTERM)\n"
            "os.kill(os.getpid(), signal.SIGINT)\n"
            "reactor.callInThread(time.sleep, 3600)\n"
        )
        self.assertEqual((ended.returncode, ended.stdout, ended.stderr), (1, "last words\n", ""))


class EndInterpreterWithTests(SynchronousTestCase):
    """The exit status of a main function that is not ours."""

    def run_python(self, status: int) -> subprocess.CompletedProcess[str]:
        program = (
            "import atexit\n"
            "from tcpmesh.lifecycle import end_interpreter_with\n"
            f"end_interpreter_with(lambda: {status})\n"
            "atexit.register(print, 'others first')\n"
        )
        return subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=os.path.dirname(os.path.dirname(lifecycle.__file__)),
        )

    def test_ends_with_the_status(self) -> None:
        """A status that is not 0 is the interpreter's, after what others registered and with output flushed."""
        ended = self.run_python(1)
        self.assertEqual((ended.returncode, ended.stdout, ended.stderr), (1, "others first\n", ""))

    def test_keeps_the_status_when_nobody_reads(self) -> None:
        """Output that cannot be flushed any longer does not turn a bad end into a good one."""
        program = (
            "import sys\n"
            "from tcpmesh.lifecycle import end_interpreter_with\n"
            "end_interpreter_with(lambda: 1)\n"
            "sys.stdout.write('kept in a buffer')\n"
        )
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        with open("/dev/full", "wb") as full:
            ended = subprocess.run(
                [sys.executable, "-c", program],
                env=environment,
                stdout=full,
                stderr=subprocess.PIPE,
                timeout=60,
                cwd=os.path.dirname(os.path.dirname(lifecycle.__file__)),
            )
        self.assertEqual((ended.returncode, ended.stderr), (1, b""))

    def test_leaves_a_good_end_alone(self) -> None:
        """Status 0 takes the interpreter's ordinary way out."""
        ended = self.run_python(0)
        self.assertEqual((ended.returncode, ended.stdout, ended.stderr), (0, "others first\n", ""))


CLOCK = """
import sys, time
from twisted.application.reactors import installReactor
reactor = installReactor(sys.argv[1])
from tcpmesh.lifecycle import use_monotonic_time
use_monotonic_time(reactor)
call = reactor.callLater(3600, lambda: None)
print(round(call.getTime() - time.monotonic()))
reactor.callLater(0.01, reactor.stop)
reactor.run()
"""


class MonotonicTimeTests(SynchronousTestCase):
    """In a process of its own for each reactor, since there is one reactor a process."""

    def test_timers_do_not_follow_the_time_of_day(self) -> None:
        """A timer is set, and fires, by the clock that nobody can set back."""
        for reactor in ("select", "poll", "epoll", "asyncio"):
            done = subprocess.run(
                [sys.executable, "-c", CLOCK, reactor], capture_output=True, text=True, timeout=60, check=False
            )
            self.assertEqual((done.stdout, done.stderr, done.returncode), ("3600\n", "", 0), reactor)
