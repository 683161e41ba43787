"""
The discovery ``file``: endpoints in a file that somebody else writes, taken anew when it has changed.

Ring 3, without a reactor. A file that cannot be used leaves the last good endpoints where they were. One that cannot be
used at the start does not keep the proxy from starting: one service's file is no reason to keep the others from theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs
from twisted.internet.defer import Deferred
from zope.interface import implementer

from tcpmesh.discovery.endpoint_document import read_endpoints
from tcpmesh.interfaces import (
    ICheckable,
    IDiscoveryObserver,
    IReloadable,
    IServiceDiscovery,
    IServiceDiscoveryFactory,
    PluginContext,
)
from tcpmesh.sources.watched_files import FileContent, WatchedFiles, check_interval
from tcpmesh.values import Duration, Endpoint

__all__ = ["EndpointFile", "EndpointFileFactory", "EndpointFileSettings"]


@attrs.frozen
class EndpointFileSettings:
    """Which file, and how often to look whether it has changed."""

    path: Path
    interval: Duration = attrs.field(default=Duration(5.0), validator=check_interval)


@implementer(IServiceDiscovery, ICheckable, IReloadable)
class EndpointFile:
    """Says what the file says, at the start and whenever that is something else."""

    def __init__(self, settings: EndpointFileSettings, context: PluginContext) -> None:
        self._path = settings.path
        self._files: WatchedFiles[tuple[Endpoint, ...]] = WatchedFiles(
            [settings.path], _read, context.clock, context.log, interval=settings.interval, suffixes=()
        )

    def check(self) -> None:
        """
        Read the file, deliver nothing. (ICheckable)

        :raises ConfigurationError: with everything that is wrong.
        """
        self._files.load()

    def start(self, observer: IDiscoveryObserver) -> None:
        """Read the file, and say what it says or what is wrong with it. (IServiceDiscovery)"""

        def taken(endpoints: tuple[Endpoint, ...]) -> None:
            observer.endpoints_changed(endpoints, "" if endpoints else f"{self._path} lists none")

        self._files.start(taken, observer.endpoints_failed, patient=True)

    def reload(self) -> Deferred[None]:
        """Look now; what is returned fires when it was delivered, or told of. (IReloadable)"""
        return self._files.reload_in_thread()

    def stop(self) -> None:
        """Watch no longer. (IServiceDiscovery)"""
        self._files.stop()


def _read(contents: Sequence[FileContent]) -> tuple[Endpoint, ...]:
    [content] = contents
    return read_endpoints(content.path, content.data)


@implementer(IServiceDiscoveryFactory)
class EndpointFileFactory:
    """Makes discoveries that read files."""

    name = "file"
    description = "the endpoints in a file, taken anew when it has changed"
    settings = EndpointFileSettings

    def create(self, settings: EndpointFileSettings, context: PluginContext) -> EndpointFile:
        """Make the discovery of one service."""
        return EndpointFile(settings, context)
