"""The discovery ``acme-list``: one address per line of a text file, read again every ``interval``."""

from __future__ import annotations

from pathlib import Path

import attrs
from twisted.internet.interfaces import IDelayedCall
from zope.interface import implementer

from tcpmesh.interfaces import IDiscoveryObserver, IServiceDiscovery, IServiceDiscoveryFactory, PluginContext
from tcpmesh.values import Duration, Endpoint, parse_address

MAX_BYTES = 1 << 16  # a larger file is not a list of addresses


@attrs.frozen
class ListSettings:
    """``path``: the file; empty lines and lines that begin with ``#`` are skipped."""

    path: Path
    interval: Duration = Duration(5.0)


@implementer(IServiceDiscovery)
class ListDiscovery:
    """Delivers what the file holds whenever that has changed; a bad file keeps the last good list."""

    def __init__(self, settings: ListSettings, context: PluginContext) -> None:
        self._settings = settings
        self._clock = context.clock
        self._call: IDelayedCall | None = None
        self._delivered: tuple[Endpoint, ...] | None = None
        self._failure = ""

    def start(self, observer: IDiscoveryObserver) -> None:
        """Read the file now, and go on."""
        try:
            endpoints = read_list(self._settings.path)
        except (OSError, ValueError) as error:
            if str(error) != self._failure:
                self._failure = str(error)
                observer.endpoints_failed(f"{self._settings.path}: {error}")
        else:
            self._failure = ""
            if endpoints != self._delivered:
                self._delivered = endpoints
                observer.endpoints_changed(endpoints)
        self._call = self._clock.callLater(self._settings.interval, self.start, observer)

    def stop(self) -> None:
        """Look no more."""
        if self._call is not None:
            self._call.cancel()
            self._call = None


def read_list(path: Path) -> tuple[Endpoint, ...]:
    """
    Read a file of addresses.

    :raises ValueError: naming the first line that is no address, or a list without any.
    """
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"is larger than {MAX_BYTES} bytes")
    endpoints: dict[Endpoint, None] = {}
    for number, line in enumerate(data.decode().splitlines(), 1):
        text = line.strip()
        if text and not text.startswith("#"):
            try:
                endpoints[Endpoint(parse_address(text))] = None
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
    if not endpoints:
        raise ValueError("holds no address")
    return tuple(endpoints)


@implementer(IServiceDiscoveryFactory)
class ListFactory:
    """Makes discoveries that read a list."""

    name = "acme-list"
    description = "addresses in a text file, looked at again and again"
    settings = ListSettings

    def create(self, settings: ListSettings, context: PluginContext) -> ListDiscovery:
        """Make the discovery of one service."""
        return ListDiscovery(settings, context)
