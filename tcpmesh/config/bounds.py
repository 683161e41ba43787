"""
Numbers and times beyond which a setting is a typing error, or more than the kernel takes.

Ring 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs

from tcpmesh.config.places import Place
from tcpmesh.config.structure import SettingsReader
from tcpmesh.errors import Problem
from tcpmesh.listener_settings import ListenerLimits
from tcpmesh.settings import ClientSettings, Limits, TimeoutOverrides, Timeouts
from tcpmesh.values import format_duration

__all__ = ["check_bounds"]

_HOUR = 3600.0
_DAY = 24 * _HOUR
_MILLISECOND = 0.001

# Least and most, in seconds. TCP_KEEPIDLE counts whole seconds up to 32767, TCP_USER_TIMEOUT milliseconds in an int
# (tcp(7)).
_TIMES: Mapping[str, tuple[float, float]] = {
    "resolve": (_MILLISECOND, _HOUR),
    "queue": (_MILLISECOND, _HOUR),
    "connect": (_MILLISECOND, _HOUR),
    "handshake": (_MILLISECOND, _HOUR),
    "preface": (_MILLISECOND, _HOUR),
    "establish": (_MILLISECOND, _HOUR),
    "idle": (_MILLISECOND, 365 * _DAY),
    "half_close": (_MILLISECOND, 365 * _DAY),
    "lifetime": (_MILLISECOND, 365 * _DAY),
    "linger": (_MILLISECOND, 5 * 60.0),
    "keepalive": (1.0, 32767.0),
    "user_timeout": (_MILLISECOND, 24 * _DAY),
    "shutdown": (_MILLISECOND, _DAY),
    "decision": (_MILLISECOND, 60.0),
}
_LARGEST_LIMIT = 1_000_000
_LARGEST_ID = 2**32 - 2  # 2**32-1 stands for "no user" (setresuid(2))


def check_bounds(read: SettingsReader) -> Iterator[Problem]:
    """Every number that is out of its bounds."""
    groups: list[tuple[Place, Timeouts | TimeoutOverrides]] = [*read.of(Timeouts), *read.of(TimeoutOverrides)]
    for place, times in groups:
        for name, value in attrs.asdict(times).items():
            at = place.key(name)
            if value is not None:
                message = _jitter(value) if name == "lifetime_jitter" else _time(name, value)
                if message:
                    yield Problem(f"{at}: {message}", read.marks.get(at.path))
    limited: list[tuple[Place, Limits | ListenerLimits]] = [*read.of(Limits), *read.of(ListenerLimits)]
    for place, limits in limited:
        for name, value in attrs.asdict(limits).items():
            if value is not None and not 1 <= value <= _LARGEST_LIMIT:
                at = place.key(name)
                yield Problem(f"{at}: {value} is not between 1 and {_LARGEST_LIMIT}", read.marks.get(at.path))
    for place, clients in read.of(ClientSettings):
        for name, ids in attrs.asdict(clients).items():
            for index, number in enumerate(ids):
                at = place.key(name).item(index)
                if not 0 <= number <= _LARGEST_ID:
                    yield Problem(f"{at}: {number} is not a user or group number", read.marks.get(at.path))


def _time(name: str, seconds: float) -> str:
    least, most = _TIMES[name]
    if least <= seconds <= most:
        return ""
    return (
        f"{format_duration(seconds)} is too {'short' if seconds < least else 'long'}; "
        f"write {format_duration(least)} to {format_duration(most)}"
    )


def _jitter(share: float) -> str:
    return "" if 0 <= share <= 1 else f"{share:g} is not a share of the lifetime, from 0 to 1"
