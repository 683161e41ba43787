"""
``twistd tcpmesh``: the options, and the proxy as a service of twistd's application.

Ring 4. Imports nothing heavy before the options are read; then ours becomes the reactor if none is installed.

What twistd does in which order, and what follows (twisted/scripts/_twistd_unix.py): options; pid file checked;
``makeService``; logging begins; chdir and fork; pid file written; ``privilegedStartService``; uid and gid;
``startService``; reactor. So a bad file is reported by ``makeService``, on the terminal, and leaves nothing behind.
A failed start must be an Exception: twistd answers one with removing the pid file and telling the waiting parent.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from twisted.application.service import MultiService
from twisted.logger import ILogObserver, Logger
from twisted.python import usage

import tcpmesh
from tcpmesh.defaults import CONFIGURATION_FILE, CONFIGURATION_VARIABLE
from tcpmesh.errors import ConfigurationError, Problem, StartError
from tcpmesh.reactor_choice import install_default

if TYPE_CHECKING:
    from types import TracebackType

    from tcpmesh.lifecycle import OrderlyStop
    from tcpmesh.service import MeshService
    from tcpmesh.settings import Settings

__all__ = ["NotStarted", "Options", "makeService"]


class Options(usage.Options):
    """The options of ``twistd tcpmesh``."""

    synopsis = "[options]"
    longdesc = (
        "Run the proxy that a configuration file describes. With -n (before tcpmesh) it stays in the foreground: "
        "log lines go to standard error, connection records where log.access says. Without it twistd makes a daemon: "
        "log lines go to --logfile (twistd.log), and log.access must name a file or be none. SIGTERM lets connections "
        "finish for up to timeouts.shutdown; a second one ends at once. Exit status: 0 when all connections finished, "
        "1 when some were cut or the start failed. The reactor is tcpmesh where there is epoll, unless --reactor "
        "(before tcpmesh) names another. Check a file without starting: tcpmesh check FILE."
    )
    optParameters: ClassVar[list[list[Any]]] = [
        [
            "config",
            "c",
            None,
            f"The configuration; when not given, that of the environment variable {CONFIGURATION_VARIABLE}, "
            f"else ./{CONFIGURATION_FILE}.",
        ]
    ]

    def opt_version(self) -> None:
        """Show the version of tcpmesh and end."""
        print(f"tcpmesh {tcpmesh.__version__}")  # noqa: T201
        sys.exit(0)

    def postOptions(self) -> None:
        """Find the file now: the daemon's directory will be another one. And install our reactor where none is."""
        chosen = self["config"] or os.environ.get(CONFIGURATION_VARIABLE) or CONFIGURATION_FILE
        self["config"] = str(Path(chosen).absolute())
        # twistd has installed the one that its own options name by now; makeService, the next step, imports it.
        install_default()


class NotStarted(Exception):
    """
    Ends a start that failed after its reason has been written.

    twistd's parent process prints no more than 100 bytes of it, so it only points to the line above.
    """


class _Proxy(MultiService):
    """The service that twistd starts: the mesh, the signals, and one line where the start fails."""

    _log = Logger(namespace="tcpmesh")

    def __init__(
        self, mesh: MeshService, stop: OrderlyStop, reactor: Any, *, observer: Any, log_is_terminal: bool
    ) -> None:
        super().__init__()
        self._stop = stop
        self._reactor = reactor
        self._observer = observer
        self._log_is_terminal = log_is_terminal
        self._terminal = os.dup(2)  # the daemon's own is closed when it has something to say
        mesh.setServiceParent(self)

    def setServiceParent(self, parent: Any) -> None:
        """Offer our log observer, which the application carries to twistd's logger."""
        if self._observer is not None:
            parent.setComponent(ILogObserver, self._observer)
        super().setServiceParent(parent)

    def privilegedStartService(self) -> None:
        """Bind, while we may still be root."""
        self._stop.install()
        self._or_one_line(super().privilegedStartService)

    def startService(self) -> None:
        """Start as the target user."""
        from tcpmesh.lifecycle import settle

        self._or_one_line(super().startService)
        self._reactor.callWhenRunning(self._stop.install)
        self._reactor.callWhenRunning(settle)
        # The daemon's last hold on the terminal: whoever waits for its end of file must not wait for ours.
        os.close(self._terminal)

    def _or_one_line(self, start: Any) -> None:
        try:
            start()
        except (StartError, ConfigurationError) as error:
            if not self._log_is_terminal:
                self._log.critical("{error}", error=str(error))
            os.write(self._terminal, f"tcpmesh: {error}\n".encode())
            raise NotStarted("see the line above") from None


def makeService(options: Options) -> MultiService:
    """
    Read the configuration and put the proxy together; nothing is started, bound or created.

    :raises SystemExit: with every problem of a configuration that cannot be used.
    """
    from twisted.internet import reactor as installed  # noqa: TID251  # by twistd

    from tcpmesh import config
    from tcpmesh.lifecycle import OrderlyStop, end_interpreter_with, use_monotonic_time
    from tcpmesh.plugins import PluginRegistry
    from tcpmesh.service import MeshService

    reactor: Any = installed
    use_monotonic_time(reactor)
    twistd: Any = options.parent
    daemon = not twistd["nodaemon"]
    try:
        plugins = PluginRegistry()
        settings = config.load(Path(options["config"]), plugins)
        if daemon:
            _refuse_standard_output(settings)
        mesh = MeshService(settings, plugins, reactor)
    except ConfigurationError as error:
        raise SystemExit(str(error)) from None
    stop = OrderlyStop(mesh, reactor, last_words=lambda: _remove(twistd["pidfile"]))
    end_interpreter_with(lambda: stop.status)
    _report_no_traceback_of_not_started()
    log_is_terminal = not daemon and not (twistd["logger"] or twistd["syslog"] or twistd["logfile"])
    return _Proxy(mesh, stop, reactor, observer=_observer(twistd, settings, reactor), log_is_terminal=log_is_terminal)


def _refuse_standard_output(settings: Settings) -> None:
    """:raises ConfigurationError: when records are to go where a daemon has nothing."""
    if settings.log.access == "-":
        raise ConfigurationError(
            [
                Problem(
                    f'{settings.file}: log.access is "-", standard output, which a daemon does not have: write '
                    'log: {access: "/var/log/tcpmesh/access.log"}, or access: "none"; or stay in the foreground: '
                    "twistd -n tcpmesh"
                )
            ]
        )


def _observer(twistd: Any, settings: Settings, reactor: Any) -> Any:
    """
    Make the observer of the log lines that the configuration asks for, where twistd's options put them.

    None leaves it to twistd: the user named a --logger or --syslog, or something that twistd refuses.
    """
    from twisted.python.logfile import LogFile

    from tcpmesh.observe.log import observer_for

    name, foreground = twistd["logfile"], twistd["nodaemon"]
    if twistd["logger"] or twistd["syslog"] or (name == "-" and not foreground):
        return None
    if name == "-":
        return observer_for(settings.log, sys.stdout)
    if foreground and not name:
        return observer_for(settings.log, sys.stderr)
    file = LogFile.fromFullPath(name or "twistd.log")
    _rotate_on_request(file, reactor)
    return observer_for(settings.log, file)


def _rotate_on_request(file: Any, reactor: Any) -> None:
    """Rotate at SIGUSR1, as twistd does for the log files that it opens itself."""
    if not signal.getsignal(signal.SIGUSR1):
        signal.signal(signal.SIGUSR1, lambda number, frame: reactor.callFromThread(file.rotate))


def _report_no_traceback_of_not_started() -> None:
    """Let NotStarted, whose reason has been written, end the interpreter with status 1 and no further word."""
    report = sys.excepthook

    def report_others(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if not isinstance(error, NotStarted):
            report(kind, error, traceback)

    sys.excepthook = report_others


def _remove(pidfile: str) -> None:
    """Remove the pid file of a process that is forced to end, if it may."""
    if pidfile:
        with suppress(OSError):
            Path(pidfile).unlink()
