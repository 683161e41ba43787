"""
One scalar to one value: which types a key may have, and how each is read.

Ring 1. Everything is read from the text as written, never from what YAML 1.1 makes of it: unquoted ``22:22``,
``off`` and ``0600`` mean something else to YAML than to whoever wrote them, so where text is expected they are
refused with the quoted form beside them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import attrs

from tcpmesh.addresses import (
    Address,
    DNSName,
    ExpectedIdentity,
    TCPAddress,
    UnixAddress,
    parse_address,
    parse_dns_name,
    parse_expected_identity,
    shown,
)
from tcpmesh.config.nodes import Scalar
from tcpmesh.config.tls_words import parse_cipher_suite, parse_group
from tcpmesh.identity.spiffe import SpiffeId, TrustDomain
from tcpmesh.moments import Moment, parse_moment
from tcpmesh.policy.words import WORDS
from tcpmesh.port_ranges import ListenAddress, parse_listen_address
from tcpmesh.proxy_protocol_settings import ProxySource, parse_proxy_source
from tcpmesh.tls_names import CipherSuite, TLSGroup
from tcpmesh.values import (
    Duration,
    InboundName,
    OutboundName,
    ServiceName,
    Size,
    SourceName,
    WorkloadName,
    parse_duration,
    parse_size,
)

_T = TypeVar("_T")

__all__ = ["REFERENCES", "SCALARS", "ScalarType", "misread", "quoted"]

# What a name of each type must refer to, in words.
REFERENCES: dict[Any, str] = {
    InboundName: "inbound listener",
    OutboundName: "outbound listener",
    ServiceName: "service",
    WorkloadName: "workload",
    SourceName: "identity source",
}

_TYPOGRAPHIC = "\u201c\u201d\u201e\u2018\u2019"  # what word processors make of quotes
_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_FRACTION = re.compile(r"-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,17})?")
_SEXAGESIMAL = re.compile(r"[-+]?[0-9_]+(?::[0-9_]+)+")


@attrs.frozen
class ScalarType:
    """
    How values of one type are written.

    :param description: what is expected, with its article, to follow "expected".
    :param read: takes the scalar and the directory that relative paths are relative to; raises ValueError.
    """

    description: str
    read: Callable[[Scalar, Path], Any]


def quoted(text: str) -> str:
    """A text in double quotes, as it may be written in YAML."""
    return '"' + shown(text)[1:-1].replace("\\'", "'").replace('"', '\\"') + '"'


def misread(scalar: Scalar) -> str:
    """What YAML 1.1 takes an unquoted scalar for, in words."""
    text = scalar.text
    if scalar.tag == "bool":
        return "true" if text.lower() in ("y", "yes", "true", "on") else "false"
    if scalar.tag == "null":
        return "no value"
    if scalar.tag == "timestamp":
        return "a date"
    if scalar.tag == "int":
        number = _yaml_int(text)
        return "a number" if number is None else f"the number {number}"
    return "a number" if scalar.tag == "float" else "something else than text"


def _yaml_int(text: str) -> int | None:
    """The value of a YAML 1.1 integer (https://yaml.org/type/int.html), None if it is too long to be of interest."""
    if len(text) > 20:
        return None
    digits = text.replace("_", "").lstrip("+-")
    if _SEXAGESIMAL.fullmatch(text):
        value = 0
        for part in digits.split(":"):
            value = value * 60 + int(part)
    elif digits[:2] in ("0b", "0x"):
        value = int(digits, 0)
    elif digits.startswith("0"):
        value = int(digits, 8)
    else:
        value = int(digits)
    return -value if text.startswith("-") else value


def _text(description: str, parse: Callable[[str], Any] = str) -> ScalarType:
    return ScalarType(description, lambda scalar, _directory: _parse(scalar, description, parse))


def _parse(scalar: Scalar, description: str, parse: Callable[[str], _T]) -> _T:
    """
    Parse a scalar that YAML takes for text too.

    :raises ValueError: for one that it takes for something else, with the quoted form; or what ``parse`` raises.
    """
    text = scalar.text
    if not scalar.quoted and text and text[0] in _TYPOGRAPHIC:
        raise ValueError(f"YAML takes typographic quotes for letters; write {quoted(text.strip(_TYPOGRAPHIC))}")
    if scalar.tag == "str":
        return parse(text)
    if _DECIMAL.fullmatch(text):
        parse(text)  # a number of the wrong kind is best explained as such: "5" is no duration
        raise ValueError(f"YAML reads {text} as a number; for text, write {quoted(text)}")
    meaning = misread(scalar)
    try:
        parse(text)
    except ValueError:
        if scalar.tag == "null" or meaning == text.lower():
            also = ", which is no value" if scalar.tag == "null" else ""
            raise ValueError(f"expected {description}, got {text}{also}") from None
        raise ValueError(
            f"YAML reads {text[:40]} as {meaning} unless it is written {quoted(text)}; expected {description}"
        ) from None
    raise ValueError(f"YAML reads {text[:40]} as {meaning}; for text, write {quoted(text)}")


def _number(scalar: Scalar, description: str, pattern: re.Pattern[str]) -> str:
    text = scalar.text
    if scalar.tag in ("int", "float") and pattern.fullmatch(text):
        return text
    if scalar.quoted and _FRACTION.fullmatch(text):
        raise ValueError(f"expected {description}, got the text {quoted(text)}; remove the quotes")
    hint = ""
    if scalar.tag == "int":
        value = _yaml_int(text)
        hint = f", which YAML reads as {value}; write plain decimal digits" if value is not None else ""
    elif scalar.tag in ("bool", "null", "timestamp"):
        hint = f", which YAML reads as {misread(scalar)}"
    raise ValueError(f"expected {description}, got {shown(text) if scalar.tag == 'str' else text[:40]}{hint}")


_WHOLE = "a whole number"
_ANY_NUMBER = "a number such as 0.1"


def _read_int(scalar: Scalar, _directory: Path) -> int:
    return int(_number(scalar, _WHOLE, _DECIMAL))


def _read_float(scalar: Scalar, _directory: Path) -> float:
    return float(_number(scalar, _ANY_NUMBER, _FRACTION))


def _read_bool(scalar: Scalar, _directory: Path) -> bool:
    text = scalar.text.lower()
    if text in ("true", "false"):
        if scalar.tag == "bool":
            return text == "true"
        raise ValueError(f"expected true or false, got the text {quoted(scalar.text)}; remove the quotes")
    if scalar.tag == "bool":
        raise ValueError(f"expected true or false, got {scalar.text}; write {misread(scalar)}")
    raise ValueError(f"expected true or false, got {shown(scalar.text) if scalar.text else 'no value'}")


_ADDRESS = 'an address such as "127.0.0.1:5432", "[::1]:5432" or "unix:/run/app.sock"'
_TCP_ADDRESS = 'a TCP address such as "127.0.0.1:5432" or "[::1]:5432"'
_UNIX_ADDRESS = 'a unix socket such as "unix:/run/app.sock"'
_PATH = "the path of a file or directory"
_MOMENT = "a point in time such as 2026-11-22T10:00:00Z"


def _read_address(scalar: Scalar, directory: Path) -> Address:
    address = _parse(scalar, _ADDRESS, parse_address)
    if isinstance(address, UnixAddress):
        return _resolve_unix(address, directory)
    return address


def _read_listen_address(scalar: Scalar, directory: Path) -> ListenAddress:
    address = _parse(scalar, _ADDRESS, parse_listen_address)
    if isinstance(address, UnixAddress):
        return _resolve_unix(address, directory)
    return address


def _read_tcp_address(scalar: Scalar, _directory: Path) -> TCPAddress:
    address = _parse(scalar, _TCP_ADDRESS, parse_address)
    if not isinstance(address, TCPAddress):
        raise ValueError(f"{shown(scalar.text)} is a unix socket; expected {_TCP_ADDRESS}")  # noqa: TRY004 - for the operator
    return address


def _read_unix_address(scalar: Scalar, directory: Path) -> UnixAddress:
    address = _parse(scalar, _UNIX_ADDRESS, parse_address)
    if not isinstance(address, UnixAddress):
        raise ValueError(f"{shown(scalar.text)} is a TCP address; expected {_UNIX_ADDRESS}")  # noqa: TRY004 - for the operator
    return _resolve_unix(address, directory)


def _resolve_unix(address: UnixAddress, directory: Path) -> UnixAddress:
    resolved = parse_address(f"unix:{_resolve(address.path, directory)}")
    assert isinstance(resolved, UnixAddress)
    return resolved


def _read_moment(scalar: Scalar, _directory: Path) -> Moment:
    # YAML has a type of its own for it; what counts is what is written, zone and all.
    return parse_moment(scalar.text) if scalar.tag == "timestamp" else _parse(scalar, _MOMENT, parse_moment)


def _read_path(scalar: Scalar, directory: Path) -> Path:
    return _parse(scalar, _PATH, lambda text: _resolve(text, directory))


def _resolve(text: str, directory: Path) -> Path:
    """
    A path, relative ones from the configuration file's directory.

    Symbolic links stay, since replacing one is how files are rotated; except for the directory itself when the path
    climbs out of it, as ``..`` of a linked directory is not where its name suggests.
    """
    if not text:
        raise ValueError(f"the text is empty; expected {_PATH}")
    if text.startswith("~"):
        raise ValueError(f"'~' is not expanded in {shown(text)}; write the path in full")
    if text.startswith("$") or "${" in text:
        raise ValueError(f"environment variables are not expanded in {shown(text)}; write the path in full")
    if text.startswith(("../", "./../")) or text == "..":
        directory = directory.resolve()
    return Path(os.path.normpath(directory / text))


def _parse_spiffe_id(text: str) -> SpiffeId:
    if "*" in text:
        raise ValueError(f"wildcards are not in this version; write each ID in full instead of {shown(text)}")
    return SpiffeId.parse(text)


def _parse_trust_domain(text: str) -> TrustDomain:
    if text.lower().startswith("spiffe://"):
        name = text[len("spiffe://") :].partition("/")[0]
        raise ValueError(f"expected the bare name of a trust domain, got {shown(text)}; write {shown(name)}")
    return TrustDomain(text)


SCALARS: dict[Any, ScalarType] = {
    str: _text("text"),
    int: ScalarType(_WHOLE, _read_int),
    float: ScalarType(_ANY_NUMBER, _read_float),
    bool: ScalarType("true or false", _read_bool),
    Duration: _text("a duration such as 50ms, 5s, 10m, 1h or 7d", parse_duration),
    Size: _text("a size such as 512B, 64KiB, 1MiB or 2GiB", parse_size),
    Address: ScalarType(_ADDRESS, _read_address),
    ListenAddress: ScalarType(_ADDRESS, _read_listen_address),
    TCPAddress: ScalarType(_TCP_ADDRESS, _read_tcp_address),
    UnixAddress: ScalarType(_UNIX_ADDRESS, _read_unix_address),
    SpiffeId: _text('a SPIFFE ID such as "spiffe://example.org/orders"', _parse_spiffe_id),
    TrustDomain: _text("a trust domain such as example.org", _parse_trust_domain),
    DNSName: _text("a DNS name such as db.example.com", parse_dns_name),
    ExpectedIdentity: _text(
        'an identity such as "spiffe://example.org/orders", "dns:db.example.com" or "spki:sha256:…"',
        parse_expected_identity,
    ),
    Path: ScalarType(_PATH, _read_path),
    Moment: ScalarType(_MOMENT, _read_moment),
    TLSGroup: _text("a key exchange group such as X25519MLKEM768, X25519 or P-256", parse_group),
    **{word: _text(description, parse) for word, (description, parse) in WORDS.items()},
    ProxySource: _text('a network such as "10.0.0.0/8", or unix', parse_proxy_source),
    CipherSuite: _text("a cipher suite such as TLS_AES_256_GCM_SHA384", parse_cipher_suite),
    **{
        name: _text(f"the name of an {word}" if word[0] in "aio" else f"the name of a {word}")
        for name, word in REFERENCES.items()
    },
}
