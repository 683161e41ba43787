"""
The address of a SPIFFE bundle endpoint.

Ring 1. Read strictly and once: what is connected to, what is verified and what is asked for come from one reading.
"""

from __future__ import annotations

import ipaddress
import re

import attrs

from tcpmesh.addresses import is_host_name, parse_dns_name, shown

__all__ = ["EndpointURL", "parse_endpoint_url"]

_MAX_URL = 2048
_URL = re.compile(r"https://(\[[^\]/?#@]*\]|[^\[\]/?#@:]*)(?::([0-9]*))?((?:/[!-~]*)?)\Z")
_NUMERIC = re.compile(r"(?:.*\.)?(?:[0-9]+|0[xX][0-9a-fA-F]*)\.?\Z")


@attrs.frozen
class EndpointURL:
    """
    An https URL in parts.

    :param host: a DNS name in lower case, or an IP address without brackets.
    :param path: with its query, at least ``/``.
    """

    host: str
    port: int
    path: str

    @property
    def is_dns_name(self) -> bool:
        """Whether the host is a name and not an address."""
        return is_host_name(self.host)

    @property
    def text(self) -> str:
        """What to ask for."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}{'' if self.port == 443 else f':{self.port}'}{self.path}"

    def __str__(self) -> str:
        """For the log: a query may hold a secret and is left out."""
        shown_path, question, _ = self.text.partition("?")
        return shown_path + ("?..." if question else "")


def parse_endpoint_url(text: str) -> EndpointURL:
    """
    Read the URL of a bundle endpoint (SPIFFE_Federation.md section 5.1): https, without user information.

    :raises ValueError: saying what is wrong.
    """
    written = shown(text.partition("?")[0])  # a query may hold a secret
    if len(text) > _MAX_URL:
        raise ValueError(f"the URL has {len(text)} characters, more than {_MAX_URL}")
    if "@" in re.split(r"[/?#]", text.partition("://")[2], maxsplit=1)[0]:
        raise ValueError("the URL of a bundle endpoint has no user information (what stands before '@')")
    if not text.startswith("https://"):
        raise ValueError(f"{written} is not an https:// URL; a bundle is only fetched over TLS")
    if "#" in text:
        raise ValueError(f"{written} has a fragment, which is never sent")
    match = _URL.match(text)
    if match is None:
        raise ValueError(f"{written} is not a URL such as https://bundles.example.org/bundle.json")
    host, port, path = match.groups()
    if port is not None and not (port and 1 <= int(port[:6]) <= 65535):
        raise ValueError(f"{shown(port)} in {written} is not a port from 1 to 65535")
    return EndpointURL(_host(host, written), int(port or 443), path or "/")


def _host(host: str, written: str) -> str:
    if host.startswith("["):
        try:
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            raise ValueError(f"{shown(host)} in {written} is not an IPv6 address") from None
    if _NUMERIC.match(host):
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise ValueError(f"{shown(host)} in {written} is neither an IPv4 address nor a DNS name") from None
    try:
        return parse_dns_name(host.lower()).name
    except ValueError as error:
        raise ValueError(f"the host in {written} cannot be used: {error}") from None
