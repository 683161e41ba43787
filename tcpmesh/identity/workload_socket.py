"""
Where a SPIFFE Workload API answers, as ``SPIFFE_ENDPOINT_SOCKET`` says it.

Ring 1, no I/O.
"""

from __future__ import annotations

from tcpmesh.addresses import Address, TCPAddress, parse_address, shown

__all__ = ["ENVIRONMENT_VARIABLE", "parse_workload_socket"]

ENVIRONMENT_VARIABLE = "SPIFFE_ENDPOINT_SOCKET"

_EXAMPLES = "write unix:///run/spire/agent.sock or tcp://127.0.0.1:8081"


def parse_workload_socket(text: str) -> Address:
    """
    Read ``unix:///abs/path``, ``unix:/abs/path`` or ``tcp://IP:port`` (SPIFFE_Workload_Endpoint.md section 4).

    :raises ValueError: saying what is wrong; host names, relative paths and everything that a URI may have beside
        these parts are refused.
    """
    scheme, colon, rest = text.partition(":")
    if any(ord(character) <= 0x20 or character == "\x7f" for character in text):
        raise ValueError(f"{shown(text)} has a space or a control character in it; {_EXAMPLES}")
    if not colon or scheme not in ("unix", "tcp"):
        raise ValueError(f"{shown(text)} begins neither with unix: nor with tcp:; {_EXAMPLES}")
    if "?" in rest or "#" in rest:
        raise ValueError(f"{shown(text)} has a query or a fragment, which a Workload API's address never has")
    return _unix(text, rest) if scheme == "unix" else _tcp(text, rest)


def _unix(text: str, rest: str) -> Address:
    if rest.startswith("//"):
        authority, _, path = rest[2:].partition("/")
        if authority:
            raise ValueError(f"{shown(text)} names {shown(authority)} before the path; a third slash is missing")
        rest = "/" + path
    if not rest.startswith("/") or rest == "/":
        raise ValueError(f"{shown(text)} has no absolute path; {_EXAMPLES}")
    return parse_address(f"unix:{rest}")


def _tcp(text: str, rest: str) -> Address:
    if not rest.startswith("//"):
        raise ValueError(f"{shown(text)} has no address after tcp:; {_EXAMPLES}")
    authority = rest[2:]
    if "@" in authority:
        raise ValueError(f"{shown(text)} has user information, which a Workload API's address never has")
    if "/" in authority:
        raise ValueError(f"{shown(text)} has a path after its address; {_EXAMPLES}")
    address = parse_address(authority)
    if not isinstance(address, TCPAddress) or address.port == 0:
        raise ValueError(f"{shown(text)} has no port to connect to; {_EXAMPLES}")
    return address
