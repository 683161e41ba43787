"""
The limits and times that hold for the whole proxy, for the start-up block and the status.

Ring 3, pure.
"""

from __future__ import annotations

from collections.abc import Mapping

from tcpmesh.settings import Settings
from tcpmesh.values import format_duration

__all__ = ["limit_facts"]


def limit_facts(settings: Settings, connections: int) -> Mapping[str, str]:
    """
    By name, in the words of the configuration.

    :param connections: how many the machine allows.
    """
    times = settings.timeouts
    return {
        "connections": str(connections),
        "handshakes": str(settings.limits.handshakes),
        "connect": format_duration(times.connect),
        "handshake": format_duration(times.handshake),
        "preface": format_duration(times.preface),
        "idle": format_duration(times.idle) if times.idle is not None else "off",
        "half_close": format_duration(times.half_close),
        "lifetime": format_duration(times.lifetime) if times.lifetime is not None else "off",
        "shutdown": format_duration(times.shutdown),
    }
