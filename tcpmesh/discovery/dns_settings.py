"""
The keys of the discovery ``dns``.

Ring 1.
"""

from __future__ import annotations

import re
from typing import Literal

import attrs

from tcpmesh.addresses import shown
from tcpmesh.discovery.endpoint_rules import undialable
from tcpmesh.values import Duration, TCPAddress, format_duration

__all__ = ["DnsSettings", "RefreshSettings", "is_askable"]

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_MAX_NAME = 253
_MAX_RESOLVERS = 8
_LEAST, _MOST = 1.0, 86400.0  # seconds between two looks
_QUICKEST, _SLOWEST = 0.1, 30.0  # seconds for which a server may be silent


def is_askable(name: str) -> bool:
    """Whether this can be asked for: letters, digits, hyphens, and underscores as SRV records have them."""
    return len(name) <= _MAX_NAME and all(_LABEL.fullmatch(label) for label in name.split("."))


def _full_name(text: str) -> str:
    return text.lower().removesuffix(".")


def _check_name(_instance: object, _attribute: object, value: str) -> None:
    if not value.isascii():
        raise ValueError(f"{shown(value)} is not a DNS name in ASCII form; write its labels as xn--…")
    if not is_askable(value):
        raise ValueError(f"{shown(value)} is not a name to ask for; write it in full, such as db.example.test")
    if re.fullmatch(r"[0-9]+|0x[0-9a-f]*", value.rpartition(".")[2]):
        raise ValueError(f"{shown(value)} looks like an IP address; addresses are listed by the plugin 'static'")


def _check_port(instance: DnsSettings, _attribute: object, value: int | None) -> None:
    if instance.type == "srv":
        if value is not None:
            raise ValueError("SRV records name the ports; leave port out")
    elif value is None:
        raise ValueError("key 'port' is missing: only SRV records name ports")
    elif not 1 <= value <= 65535:
        raise ValueError(f"{value} is not a port from 1 to 65535")


def _check_resolvers(_instance: object, _attribute: object, value: list[TCPAddress] | None) -> None:
    if value is None:
        return
    if not value:
        raise ValueError("the list is empty; name a server, or leave the key out for those of /etc/resolv.conf")
    if len(value) > _MAX_RESOLVERS:
        raise ValueError(f"{len(value)} servers are listed; at most {_MAX_RESOLVERS} are asked")
    for server in value:
        if undialable(server):
            raise ValueError(undialable(server))
    if len(set(value)) < len(value):
        raise ValueError("a server is listed twice")


def _check_timeout(_instance: object, _attribute: object, value: Duration) -> None:
    if not _QUICKEST <= value <= _SLOWEST:
        raise ValueError(
            f"a timeout of {format_duration(value)} is outside {format_duration(_QUICKEST)} to "
            f"{format_duration(_SLOWEST)}"
        )


def _check_refresh(_instance: object, _attribute: object, value: Duration) -> None:
    if not _LEAST <= value <= _MOST:
        raise ValueError(f"{format_duration(value)} is outside {format_duration(_LEAST)} to {format_duration(_MOST)}")


@attrs.frozen
class RefreshSettings:
    """Between which times the name servers' own (the TTL) is followed."""

    min: Duration = attrs.field(default=Duration(1.0), validator=_check_refresh)
    max: Duration = attrs.field(default=Duration(300.0), validator=_check_refresh)

    def __attrs_post_init__(self) -> None:
        if self.min > self.max:
            raise ValueError(f"min, {format_duration(self.min)}, is longer than max, {format_duration(self.max)}")


@attrs.frozen
class DnsSettings:
    """What to ask for, whom, and how often."""

    name: str = attrs.field(converter=_full_name, validator=_check_name)
    type: Literal["a", "aaaa", "both", "srv"] = "both"
    port: int | None = attrs.field(default=None, validator=_check_port)
    resolvers: list[TCPAddress] | None = attrs.field(default=None, validator=_check_resolvers)
    timeout: Duration = attrs.field(default=Duration(2.0), validator=_check_timeout)  # of each server, each time
    refresh: RefreshSettings = attrs.field(factory=RefreshSettings)
    stale: Duration | None = None  # how long answers serve that cannot be refreshed; None: for ever
