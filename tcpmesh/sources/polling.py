"""
The base of identity sources that ask somebody from time to time: implement :meth:`PollingIdentitySource.fetch`.

Ring 3, public, for plugin authors. ``fetch`` may block: it runs in a thread of its own.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorFromThreads
from twisted.python.failure import Failure
from zope.interface import implementer

from tcpmesh.identity.certificates import shown
from tcpmesh.interfaces import IIdentityObserver, IIdentitySource, IReloadable, PluginContext
from tcpmesh.values import IdentitySnapshot

__all__ = ["InThread", "PollingIdentitySource", "in_caller", "in_daemon_thread"]

_FIRST_RETRY = 1.0  # seconds
_LAST_RETRY = 60.0
_SPREAD = 0.1  # share of every wait that chance adds or takes
_random = secrets.SystemRandom().random

#: Runs the first argument somewhere else and calls the second with what came of it, in the reactor's thread.
InThread = Callable[[Callable[[], Any], Callable[[Any], None]], None]


@implementer(IIdentitySource, IReloadable)
class PollingIdentitySource:
    """
    Asks at once and then every ``interval`` seconds; what ``fetch`` gives is delivered as the complete state.

    A ``fetch`` that raises, gives something else than an :class:`~tcpmesh.values.IdentitySnapshot`, or takes longer
    than ``deadline`` seconds has failed: it is reported, the last good snapshot goes on to serve, and it is tried
    again after 1 s, doubling to 60 s or ``interval``, whichever is shorter. A result that comes after its deadline is
    dropped. There are never two at once: one that hangs is waited for.

    Everything else that it keeps has names of its own (two underscores): a subclass may use any other.

    Class attributes, to be set by the subclass or in its ``__init__``:

    :cvar interval: seconds between the end of one ``fetch`` and the next.
    :cvar deadline: seconds that one ``fetch`` may take.
    """

    interval: float = 60.0
    deadline: float = 10.0

    def __init__(
        self,
        context: PluginContext,
        in_thread: InThread | None = None,
        random: Callable[[], float] = _random,
    ) -> None:
        """
        :param in_thread: how to run ``fetch``. By default a daemon thread, so that one that hangs cannot keep the
            process from ending; in the caller's thread when the context's clock is no reactor (a test's ``Clock``).
        :param random: between 0 and 1.
        """
        self.context = context
        self.__clock = context.clock
        self.__in_thread = in_thread
        self.__random = random
        self.__observer: IIdentityObserver | None = None
        self.__call: IDelayedCall | None = None
        self.__fetch: _Fetch | None = None
        self.__retry = _FIRST_RETRY

    def fetch(self) -> IdentitySnapshot:
        """
        Get the identities and bundles, all of them: what is absent is withdrawn.

        Called outside the reactor's thread; may block and may raise anything.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement fetch()")

    def start(self, observer: IIdentityObserver) -> None:
        """Ask for the first time, now."""
        if self.interval <= 0 or self.deadline <= 0:
            raise ValueError(f"{type(self).__name__}: interval and deadline must be more than 0 seconds")
        self.__observer = observer
        self.__begin()

    def stop(self) -> None:
        """Ask no more. A ``fetch`` that is under way goes on in its thread and its result is dropped."""
        self.__observer = None
        self.__fetch = None
        if self.__call is not None:
            self.__call.cancel()
            self.__call = None

    def reload(self) -> None:
        """Ask now; a ``fetch`` that is under way is waited for instead. (IReloadable)"""
        if self.__observer is not None and self.__fetch is None:
            if self.__call is not None:
                self.__call.cancel()
            self.__begin()

    def __begin(self) -> None:
        self.__call = None
        fetch = self.__fetch = _Fetch(self.__clock.seconds())
        self.__call = self.__clock.callLater(self.deadline, self.__too_late, fetch)
        run = self.__in_thread
        if run is None:
            run = in_daemon_thread(self.__clock) if IReactorFromThreads.providedBy(self.__clock) else in_caller
        try:
            run(self.fetch, lambda result: self.__ended(fetch, result))
        except Exception:  # noqa: BLE001  no thread to be had: an attempt that failed, not the end of all attempts
            self.__ended(fetch, Failure())

    def __too_late(self, fetch: _Fetch) -> None:
        """Report a fetch that hangs, again each time that it has taken twice as long."""
        fetch.late = True
        taken = self.__clock.seconds() - fetch.started
        self.__call = self.__clock.callLater(taken, self.__too_late, fetch)
        self.__failed(f"fetching has taken longer than {taken:g} s and goes on")

    def __ended(self, fetch: _Fetch, result: Any) -> None:
        if fetch is not self.__fetch:
            return  # stopped in the meantime
        self.__fetch = None
        if self.__call is not None:
            self.__call.cancel()
            self.__call = None
        if fetch.late:
            self.__again()
        elif isinstance(result, IdentitySnapshot):
            self.__succeeded(result)
        else:
            self.__again()
            if isinstance(result, Failure):
                self.context.log.debug("fetching failed: {traceback}", traceback=result.getTraceback())
                self.__failed(f"fetching failed: {_reason(result)}")
            else:
                self.__failed(f"fetch() gave {shown(repr(result), 80)} instead of an IdentitySnapshot")

    def __succeeded(self, snapshot: IdentitySnapshot) -> None:
        self.__retry = _FIRST_RETRY
        self.__wait(self.interval)
        if self.__observer is not None:
            self.__observer.identity_changed(snapshot)

    def __again(self) -> None:
        limit = min(_LAST_RETRY, self.interval)
        self.__wait(min(self.__retry, limit))
        self.__retry = min(self.__retry * 2, limit)

    def __wait(self, seconds: float) -> None:
        self.__call = self.__clock.callLater(seconds * (1 + _SPREAD * (2 * self.__random() - 1)), self.__begin)

    def __failed(self, reason: str) -> None:
        if self.__observer is not None:
            self.__observer.identity_failed(reason)


class _Fetch:
    """One call of ``fetch``, while it lasts."""

    def __init__(self, started: float) -> None:
        self.started = started  # on the reactor's clock
        self.late = False


def in_daemon_thread(reactor: IReactorFromThreads) -> InThread:
    """
    Run each call in a thread of its own that does not keep the process alive.

    Not the reactor's pool: that is joined at the end, and shared with the resolver.
    """

    def run(function: Callable[[], Any], done: Callable[[Any], None]) -> None:
        def work() -> None:
            reactor.callFromThread(done, _result_of(function))

        threading.Thread(target=work, name="tcpmesh-fetch", daemon=True).start()

    return run


def in_caller(function: Callable[[], Any], done: Callable[[Any], None]) -> None:
    """Run it here and now: for tests, where nothing blocks."""
    done(_result_of(function))


def _result_of(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except BaseException:  # noqa: BLE001  SystemExit in a thread would end nothing but the thread, silently
        return Failure()


def _reason(failure: Failure) -> str:
    """One line: the kind of error and the first line of its text."""
    text = failure.getErrorMessage().strip().partition("\n")[0]
    name = getattr(failure.type, "__name__", "error")
    return f"{name}: {shown(text)}" if text else name
