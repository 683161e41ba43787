"""
The control side of the deny-list: watches its file, and swaps in what the configuration and the file together say.

Ring 4. A file that cannot be used changes nothing: whoever was denied stays denied. The own certificates are held
against the list as well, whenever they or it have changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from tcpmesh.codes import BAD_CONFIGURATION, OWN_DENIED
from tcpmesh.config.deny_list import read_deny_list
from tcpmesh.errors import ConfigurationError, Problem, TcpmeshError
from tcpmesh.identity.certificates import moment
from tcpmesh.identity.denial import own_denial
from tcpmesh.identity.deny_list import DenyEntry, DenyList, DenyListSettings
from tcpmesh.mesh_state import MeshState, MeshStateCell
from tcpmesh.sources.watched_files import FileContent, WatchedFiles
from tcpmesh.values import Svid
from tcpmesh.wall_clock import WallClock

__all__ = ["LOOK", "DenyControl"]

LOOK = 2.0  # seconds between two looks at the file; what changed is read at the look after, a second later

_log = Logger(namespace="tcpmesh")


class DenyControl:
    """
    Keeps the deny-list of the mesh state current.

    :param settings: ``identity.deny_list``.
    :param clock: the reactor's, for the looks at the file.
    """

    def __init__(
        self, settings: DenyListSettings, cell: MeshStateCell, clock: IReactorTime, wall_clock: WallClock
    ) -> None:
        self._settings = settings
        self._cell = cell
        self._clock = clock
        self._wall_clock = wall_clock
        self._files = (
            WatchedFiles([settings.file], self._read, clock, _log, interval=LOOK) if settings.file is not None else None
        )
        self._loaded: float | None = None  # when the file was last found good, seconds since the epoch
        self._seen: tuple[DenyList, Mapping[str, Any]] | None = None  # what the own certificates were judged by
        #: By workload whose own certificate is denied: since which generation, and since when by the clock.
        self.entered: dict[str, tuple[int, float]] = {}
        #: Why the newest content of the file is not in use; empty while it is.
        self.failure = ""
        #: How often the file could not be used.
        self.failures = 0

    def check(self) -> list[TcpmeshError]:
        """What :meth:`start` would complain of; nothing is started."""
        try:
            if self._files is not None:
                self._files.load()
        except ConfigurationError as error:
            return [_named(error)]
        return []

    def start(self) -> None:
        """
        Read the file, if there is one, and watch it from now on.

        :raises ConfigurationError: with everything that is wrong with it: nobody may come in whom it would deny.
        """
        self._cell.observe(self._changed)
        if self._files is not None:
            try:
                self._files.start(self._take, self._fail)
            except ConfigurationError as error:
                raise _named(error) from None
        else:
            self._use(())

    def reload(self) -> None:
        """Read the file now, without a second look; what comes of it is told as always."""
        if self._files is not None:
            self._files.reload()

    def stop(self) -> None:
        """Watch no longer. Safe in every order."""
        if self._files is not None:
            self._files.stop()

    def report(self) -> dict[str, Any]:
        """What is denied, and how the file stands: plain JSON values."""
        return {
            "file": str(self._settings.file) if self._settings.file is not None else None,
            "loaded": moment(self._loaded) if self._loaded is not None else None,
            "failure": self.failure,
            "failures": self.failures,
            "entries": [_entry(entry) for entry in self._cell.current.deny_list.entries],
        }

    # --- the list

    def _read(self, contents: Sequence[FileContent]) -> tuple[DenyEntry, ...]:
        file = self._settings.file
        assert file is not None
        if [content.path for content in contents] != [file]:
            raise ConfigurationError([Problem(f"{file}: this is a directory; name the file in it")])
        return read_deny_list(contents[0].data, file)

    def _take(self, entries: tuple[DenyEntry, ...]) -> None:
        self.failure = ""
        self._loaded = self._wall_clock()
        before = len(self._cell.current.deny_list)
        self._use(entries)
        state = self._cell.current
        _log.info(
            "deny-list {file}: in use now; entries with those of the configuration: {count}, before: {before}; "
            "generation {generation}",
            file=str(self._settings.file),
            count=len(state.deny_list),
            before=before,
            generation=state.generation,
        )

    def _use(self, entries: tuple[DenyEntry, ...]) -> None:
        together = (*self._settings.entries, *entries)
        if together or self._cell.current.deny_list:
            self._cell.swap(deny_list=DenyList(together))

    def _fail(self, reason: str) -> None:
        if reason == self.failure:
            return  # asked to look again, it found the same
        self.failure = reason
        self.failures += 1
        _log.error(
            "{code} the deny-list's file cannot be used, what it said before goes on, entries: {count}: {reason}",
            code=BAD_CONFIGURATION.id,
            count=len(self._cell.current.deny_list),
            reason=reason,
        )

    # --- ourselves

    def _changed(self, state: MeshState) -> None:
        if self._seen is not None and self._seen[0] is state.deny_list and self._seen[1] is state.svids:
            return
        self._seen = (state.deny_list, state.svids)
        denied = {name: reason for name, svid in state.svids.items() if (reason := _denial(state.deny_list, svid))}
        before = state.denied_workloads
        if denied == before:
            return
        at = state.generation + 1, float(self._clock.seconds())  # of the swap that follows
        self.entered = {name: self.entered.get(name, at) for name in denied}
        self._cell.swap(denied_workloads=denied)
        for name, reason in denied.items():
            if before.get(name) != reason:
                _log.error(
                    "{code} workload {name!r}: its own certificate may not be used, its connections are "
                    "refused: {reason}",
                    code=OWN_DENIED.id,
                    name=name,
                    reason=reason,
                )
        for name in before:
            if name not in denied:
                _log.info("workload {name!r}: its own certificate is no longer denied", name=name)


def _named(error: ConfigurationError) -> ConfigurationError:
    """Say which key of the configuration wants the file, where the problem is not within the file."""
    return ConfigurationError(
        [
            problem if problem.mark is not None else Problem(f"identity.deny_list.file: {problem.message}")
            for problem in error.problems
        ]
    )


def _denial(deny_list: DenyList, svid: Svid) -> str:
    try:
        return own_denial(deny_list, svid.id, svid.chain)
    except Exception:  # noqa: BLE001  what cannot be compared may be denied, and the swap must go on
        _log.failure("holding the certificate of {id} against the deny-list failed", id=str(svid.id))
        return "it cannot be held against the deny-list, see the traceback"


def _entry(entry: DenyEntry) -> dict[str, Any]:
    return {
        "what": str(entry),
        "issued_before": moment(entry.issued_before) if entry.issued_before is not None else None,
        "reason": entry.reason or "",
        "place": str(entry.mark) if entry.mark is not None else "",
    }
