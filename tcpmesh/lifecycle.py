"""
How the process lives and ends: its clock, its memory, what signals do, and the exit status, the same under twistd and
``tcpmesh run``.

Ring 4. Knows the proxy only as something that drains; the reactor is passed in.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, Protocol

from twisted.internet.error import ReactorNotRunning
from twisted.logger import Logger

__all__ = ["Drains", "OrderlyStop", "ReactorOfProcess", "end_interpreter_with", "settle", "use_monotonic_time"]

# After a second signal, how many seconds until the process is ended whatever may still hang, a plugin's thread say.
FORCE_AFTER = 1.0


class Drains(Protocol):
    """The part of the service that this module uses."""

    @property
    def cut(self) -> int:
        """How many connections the stop has cut."""

    def stop_now(self) -> None:
        """Reset and record what is still open; the stop that was under way is over then."""

    def reopen_logs(self) -> None:
        """Close and open the access log: its file was moved away."""

    def reload_identities(self) -> object:
        """Let identity sources look for something new now."""


class ReactorOfProcess(Protocol):
    """The part of the reactor that this module uses (IReactorCore and IReactorFromThreads)."""

    def callFromThread(self, callable: Callable[..., Any], *args: object, **kwargs: object) -> None:  # noqa: A002
        """Run it in the next turn; safe inside a signal's callback."""

    def stop(self) -> None:
        """Run the shutdown triggers, the service's stop among them, and end."""


class OrderlyStop:
    """
    Makes SIGTERM and SIGINT drain the proxy, and makes the process end with a status instead of a signal.

    The first signal stops the reactor, which waits for the service to drain. The second one resets what is left
    and, if something hangs, forces the end. SIGHUP lets identity sources look for something new; the configuration
    stays as it was read. SIGUSR1 reopens the access log, after whatever it did before (twistd rotates its own log).

    :param last_words: called before a forced end, to remove what a normal end removes.
    """

    _log = Logger(namespace="tcpmesh")

    def __init__(
        self,
        service: Drains,
        reactor: ReactorOfProcess,
        *,
        last_words: Callable[[], object] = lambda: None,
        leave: Callable[[int], object] = os._exit,
    ) -> None:
        self._service = service
        self._reactor = reactor
        self._last_words = last_words
        self._leave = leave
        self._asked = 0
        self._at_usr1: Any = None

    @property
    def status(self) -> int:
        """The exit status: 0 when every connection finished, 1 when some were cut."""
        return 1 if self._service.cut else 0

    def install(self) -> None:
        """Take over the signals; to be repeated once the reactor runs, since its start puts its own in place."""
        signal.signal(signal.SIGTERM, self.signalled)
        signal.signal(signal.SIGINT, self.signalled)
        signal.signal(signal.SIGHUP, self.hung_up)
        before = signal.getsignal(signal.SIGUSR1)
        if before != self.logs_moved:
            self._at_usr1 = before
            signal.signal(signal.SIGUSR1, self.logs_moved)

    def signalled(self, number: int, frame: FrameType | None = None) -> None:
        """Answer a SIGTERM or SIGINT. Runs between two bytecodes of anything, so the work is left to the reactor."""
        self._asked += 1
        name = signal.Signals(number).name
        if self._asked == 1:
            self._reactor.callFromThread(self._stop, name)
        elif self._asked == 2:
            signal.signal(signal.SIGALRM, self._force)
            signal.setitimer(signal.ITIMER_REAL, FORCE_AFTER)
            self._reactor.callFromThread(self._stop_now, name)

    def hung_up(self, number: int, frame: FrameType | None = None) -> None:
        """Answer a SIGHUP, which init scripts send to reload."""
        self._reactor.callFromThread(self._reload)

    def logs_moved(self, number: int, frame: FrameType | None = None) -> None:
        """Answer a SIGUSR1, which log rotation sends."""
        if callable(self._at_usr1):
            self._at_usr1(number, frame)
        self._reactor.callFromThread(self._service.reopen_logs)

    def _reload(self) -> None:
        self._log.info(
            "SIGHUP: identity sources, the deny-list, policies and discoveries look for something new; the "
            "configuration itself stays as it was read: restart to use a changed one"
        )
        self._service.reload_identities()

    def _stop(self, name: str) -> None:
        self._log.info("{name}: stopping; a second signal ends at once", name=name)
        try:
            self._reactor.stop()
        except ReactorNotRunning:
            self._log.debug("the reactor had stopped already")

    def _stop_now(self, name: str) -> None:
        self._log.warn("{name} again: ending at once", name=name)
        self._service.stop_now()

    def _force(self, number: int, frame: FrameType | None = None) -> None:
        self._last_words()
        self._leave(1)


def use_monotonic_time(reactor: Any) -> None:
    """
    Let the reactor's timers run by the monotonic clock; to be called before the first timer.

    Twisted's reactors take the time of day, so that a clock that is set back stops every deadline for as long.
    """
    reactor.seconds = time.monotonic


def settle() -> None:
    """
    Tell the garbage collector that the start is over: what there is now stays, and is not looked at again.

    It then runs at ten thousand new objects instead of seven hundred, some fifty connections: at every fifth it took
    four percent of what a connection costs.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


def end_interpreter_with(status: Callable[[], int]) -> None:
    """
    Make the interpreter end with this status where somebody else's main function always returns 0, as twistd's does.

    The status is asked for when everything else is over: callbacks of :mod:`atexit` run last in, first out.
    """

    def leave() -> None:
        if code := status():
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError):  # whoever read it is gone, or it is closed
                    stream.flush()
            os._exit(code)

    atexit.register(leave)
