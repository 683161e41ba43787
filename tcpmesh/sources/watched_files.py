"""
Files, and directories of files, that somebody else replaces: read at the start, and again when they have changed.

Ring 3, without a reactor. What they mean is somebody else's business. They are taken all together or not at all: a set
that cannot be used leaves the last good one where it was, and is told of once.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorFromThreads, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from tcpmesh.errors import ConfigurationError, Problem
from tcpmesh.sources.pem_files import fingerprint
from tcpmesh.sources.polling import in_caller, in_daemon_thread
from tcpmesh.values import Duration, format_duration

__all__ = ["MAX_FILE_BYTES", "FileContent", "WatchedFiles", "check_interval"]

MAX_FILE_BYTES = 1 << 20
_MAX_FILES = 1000
_MIN_INTERVAL, _MAX_INTERVAL = 0.1, 60.0  # seconds
_SETTLE = 1.0  # seconds until the second look at files that have changed
_RESTLESS = 10  # looks at files that change each time, until they are taken for what they are

_T = TypeVar("_T")


def check_interval(_instance: object, _attribute: object, value: Duration) -> None:
    """
    For settings classes: how often to look.

    :raises ValueError: for less than 100 ms or more than a minute.
    """
    if not _MIN_INTERVAL <= value <= _MAX_INTERVAL:
        raise ValueError(
            f"an interval of {format_duration(value)} is outside "
            f"{format_duration(_MIN_INTERVAL)} to {format_duration(_MAX_INTERVAL)}"
        )


@attrs.frozen
class FileContent:
    """One file as it was read."""

    path: Path
    data: bytes = attrs.field(repr=False)


class WatchedFiles(Generic[_T]):
    """
    Reads files, and looks at their status again and again.

    What changed is read at a second look that finds nothing written since: a file that is being written may be good up
    to the middle, and mean something else. Of a directory the files count whose names end in one of ``suffixes`` and do
    not begin with a dot, in the order of their names; directories in it do not.

    :param read: makes of all files together what they mean; raises ConfigurationError if they cannot be used. Where
        the clock is a reactor, what has changed by itself is read in a thread.
    :param interval: seconds between two looks.
    :param suffixes: none, if no directory will do.
    """

    def __init__(
        self,
        places: Sequence[Path],
        read: Callable[[Sequence[FileContent]], _T],
        clock: IReactorTime,
        log: Logger,
        *,
        interval: float = 5.0,
        suffixes: tuple[str, ...] = (".yaml", ".yml"),
    ) -> None:
        self._places = tuple(places)
        self._read = read
        self._clock = clock
        self._log = log
        self._interval = interval
        self._suffixes = suffixes
        self._taken: Callable[[_T], object] | None = None
        self._failed: Callable[[str], object] = lambda reason: None
        self._call: IDelayedCall | None = None
        self._used: object = None  # fingerprint of what was read last, good or bad
        self._seen: object = None  # fingerprint at the last look
        self._restless = 0  # looks in a row that found something else than the one before
        self._reading: object = None  # what tells the reading in a thread from those before
        self._waiting: list[Deferred[None]] = []  # fire when no thread reads any longer

    def load(self) -> _T:
        """
        Read everything now.

        :raises ConfigurationError: with everything that is wrong, each at its file, line and column.
        """
        problems: list[Problem] = []
        contents = []
        for path in self._files(problems):
            try:
                contents.append(FileContent(path, _content(path)))
            except OSError as error:
                problems.append(Problem(f"{path}: {_words(error)}"))
        if problems:
            raise ConfigurationError(problems)
        return self._read(contents)

    def start(self, taken: Callable[[_T], object], failed: Callable[[str], object], *, patient: bool = False) -> None:
        """
        Read everything and call ``taken`` with what it means, now and whenever it has changed.

        :param failed: called once for each changed set of files that cannot be used, with why: one problem a line.
        :param patient: what cannot be used now is told to ``failed``, and waited for.
        :raises ConfigurationError: as :meth:`load`, unless ``patient``; nothing is watched then.
        """
        self._used = self._seen = self._fingerprint()
        try:
            meaning = self.load()
        except ConfigurationError as error:
            if not patient:
                raise
            self._taken, self._failed = taken, failed
            failed(str(error))
        else:
            self._taken, self._failed = taken, failed
            taken(meaning)
        self._wait()

    def reload(self) -> None:
        """Look now, and take or report what is there before returning, without a second look."""
        if self._taken is not None:
            self._reading = None  # what a thread reads meanwhile is older
            self._look(asked=True)

    def reload_in_thread(self) -> Deferred[None]:
        """Look now, read as what has changed by itself is read, and fire when that is taken or reported."""
        done: Deferred[None] = Deferred()
        self._waiting.append(done)
        if self._taken is not None:
            self._reading = None
            self._look(asked=True, aside=True)
        else:
            self._tell_done()
        return done

    def stop(self) -> None:
        """Watch no longer; what a thread still reads is dropped. Safe in every order."""
        self._taken = self._reading = None
        self._tell_done()
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None

    # --- looking

    def _wait(self) -> None:
        if self._call is not None and self._call.active():
            self._call.cancel()
        changing = self._seen != self._used
        self._call = self._clock.callLater(min(self._interval, _SETTLE) if changing else self._interval, self._look)

    def _look(self, *, asked: bool = False, aside: bool = False) -> None:
        try:
            self._compare(asked=asked, aside=aside)
        except Exception as error:  # noqa: BLE001  the next look must come all the same
            self._broken(error)
        if self._reading is None:
            self._looked()

    def _looked(self) -> None:
        if self._taken is not None:
            self._wait()
        self._tell_done()

    def _tell_done(self) -> None:
        waiting, self._waiting = self._waiting, []
        for done in waiting:
            done.callback(None)

    def _broken(self, error: Exception) -> None:
        self._log.failure("looking at the files failed")
        self._failed(f"looking at the files failed: {type(error).__name__}; see the traceback above")

    def _compare(self, *, asked: bool, aside: bool) -> None:
        now = self._fingerprint()
        still, self._seen = now == self._seen, now
        self._restless = 0 if still else self._restless + 1
        steady = still or asked or self._restless >= _RESTLESS
        if not steady or (now == self._used and not asked) or self._taken is None:
            return
        self._restless = 0
        if (asked and not aside) or not IReactorFromThreads.providedBy(self._clock):
            in_caller(self.load, lambda result: self._take(now, result, asked=asked))
            return
        reading = object()
        in_daemon_thread(cast(IReactorFromThreads, self._clock))(
            self.load, lambda result: self._was_read(reading, now, result, asked=asked)
        )
        self._reading = reading  # not before there is a thread: nobody looks while there is one

    def _was_read(self, reading: object, now: tuple[object, ...], result: Any, *, asked: bool) -> None:
        """A thread has read the files: hundreds of them take seconds, in which the reactor has other things to do."""
        if reading is not self._reading:
            return  # stopped, or looked at again, in the meantime
        self._reading = None
        try:
            self._take(now, result, asked=asked)
        except Exception as error:  # noqa: BLE001  the next look must come all the same
            self._broken(error)
        self._looked()

    def _take(self, now: tuple[object, ...], result: Any, *, asked: bool) -> None:
        problem = result.value if isinstance(result, Failure) else None
        if problem is not None and not isinstance(problem, ConfigurationError):
            self._used = now  # told once, until there is something else to read
            result.raiseException()
        if (self._fingerprint() != now and not asked) or self._taken is None:
            return  # written between the look and the reading
        self._used = now
        if problem is not None:
            self._failed(str(problem))
        else:
            self._taken(result)

    def _fingerprint(self) -> tuple[object, ...]:
        return tuple((str(path), fingerprint(path)) for path in (*self._places, *self._files([])))

    def _files(self, problems: list[Problem]) -> Iterator[Path]:
        """Every file, those of a directory in the order of their names."""
        for place in self._places:
            if not _is_directory(place):
                yield place
                continue
            if not self._suffixes:
                problems.append(Problem(f"{place}: this is a directory; name a file in it"))
                continue
            try:
                found = sorted(self._counts(place))
            except OSError as error:
                problems.append(Problem(f"{place}: {_words(error)}"))
                continue
            if not found:
                named = " or ".join(self._suffixes)
                problems.append(Problem(f"{place}: this directory holds no file whose name ends in {named}"))
            if len(found) > _MAX_FILES:
                problems.append(Problem(f"{place}: this directory holds more than {_MAX_FILES} files"))
            yield from found[:_MAX_FILES]

    def _counts(self, directory: Path) -> Iterator[Path]:
        for path in directory.iterdir():
            if path.name.endswith(self._suffixes) and not path.name.startswith(".") and not _is_directory(path):
                yield path


def _is_directory(path: Path) -> bool:
    """False also for what cannot be asked: why not is told when it is read as a file."""
    try:
        return path.is_dir()
    except OSError:
        return False


def _words(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file or directory"
    return f"cannot be read: {error.strerror or error}"


def _content(path: Path) -> bytes:
    """:raises OSError: also for what is no regular file, without waiting for a writer; and for a large one."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "it is not a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(MAX_FILE_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(data) > MAX_FILE_BYTES:
        raise OSError(0, f"it is larger than {MAX_FILE_BYTES} bytes")
    return data
