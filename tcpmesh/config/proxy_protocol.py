"""
The key ``proxy_protocol`` of an inbound listener: sources that cannot be, and times that make no sense.

Ring 1.
"""

from __future__ import annotations

from collections.abc import Iterator

from tcpmesh.config.structure import SettingsReader
from tcpmesh.errors import Problem
from tcpmesh.policy.networks import Networks, parse_network
from tcpmesh.settings import InboundSettings
from tcpmesh.values import UnixAddress, format_duration

__all__ = ["check_proxy_protocol"]

_LEAST, _MOST = 0.1, 60.0  # seconds
_EVERYBODY = tuple(map(parse_network, ("0.0.0.0/0", "::/0")))


def check_proxy_protocol(read: SettingsReader) -> Iterator[Problem]:
    """Everything that is wrong with whom PROXY headers are taken from."""
    for place, inbound in read.of(InboundSettings):
        at, settings = place.key("proxy_protocol"), inbound.proxy_protocol
        over_unix = isinstance(inbound.listen, UnixAddress)
        sources = at.key("accept_from")
        if not settings.accept_from and sources.path in read.marks:
            yield Problem(
                f"{sources}: the list is empty; name who sends a header, or leave the key out so that nobody may",
                read.marks[sources.path],
            )
        for index, source in enumerate(settings.accept_from):
            one = sources.item(index)
            if over_unix and source.network is not None:
                message = f"nobody comes to {inbound.listen} from a network; for whoever connects there, write unix"
            elif not over_unix and source.network is None:
                message = f"nobody comes to {inbound.listen} over a unix socket; write networks such as 10.0.0.0/8"
            elif source.network in _EVERYBODY:
                message = f"{source.network} is everybody; name the load balancers, whose word is taken for it"
            else:
                continue
            yield Problem(f"{one}: {message}", read.marks.get(one.path))
        networks = [source.network for source in settings.accept_from if source.network is not None]
        together = Networks(networks)
        for everybody in _EVERYBODY:
            if everybody not in networks and together.cover(everybody):
                message = f"together they hold {everybody}, which is everybody; name the load balancers"
                yield Problem(f"{sources}: {message}", read.marks.get(sources.path))
        timeout = at.key("timeout")
        if not _LEAST <= settings.timeout <= _MOST:
            yield Problem(
                f"{timeout}: {format_duration(settings.timeout)} is too "
                f"{'short' if settings.timeout < _LEAST else 'long'}; write {format_duration(_LEAST)} to "
                f"{format_duration(_MOST)}",
                read.marks.get(timeout.path),
            )
