"""The keys beside ``plugin: vault``."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import attrs

from tcpmesh.values import Duration

_SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_NAME = re.compile(rf"{_SEGMENT}\Z")
_PATH = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*\Z")
_NAMESPACE = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*/?\Z")


def _check_address(_instance: object, _attribute: object, value: str) -> None:
    try:
        url = urlsplit(value)
        _port = url.port
    except ValueError as error:
        raise ValueError(f"is no URL: {error}") from None
    if url.scheme not in ("https", "http") or not url.hostname or not re.fullmatch(r"[!-~]+", value):
        raise ValueError("write the server's URL: https://vault.example.com:8200")
    if url.username is not None or url.password is not None:
        raise ValueError("write no user and no password into the URL; name a file with 'token' or 'secret_id'")
    if url.path not in ("", "/") or url.query or url.fragment:
        raise ValueError("write the URL without a path; 'mount' and 'namespace' say the rest")
    if url.scheme == "http" and not _is_loopback(url):
        raise ValueError(
            "without TLS the token can be read on the way; write https:// (http:// for an agent on 127.0.0.1)"
        )


def _is_loopback(url: SplitResult) -> bool:
    try:
        return ipaddress.ip_address(url.hostname or "").is_loopback
    except ValueError:
        return False  # a name, whatever it resolves to


def _check_name(_instance: object, attribute: attrs.Attribute[str], value: str) -> None:
    if not _NAME.match(value):
        raise ValueError(f"{attribute.name} is a name of letters, digits, '.', '_' and '-', not {value!r}")


def _check_path(_instance: object, attribute: attrs.Attribute[str], value: str) -> None:
    if not _PATH.match(value):
        raise ValueError(f"{attribute.name} is a path such as pki or team/pki, without /v1, not {value!r}")


def _check_namespace(_instance: object, _attribute: object, value: str) -> None:
    if value and not _NAMESPACE.match(value):
        raise ValueError(f"namespace is a path such as team or org/team, not {value!r}")


def _check_issuers(_instance: object, _attribute: object, value: list[str]) -> None:
    if not value:
        raise ValueError("the list is empty; name an issuer of the mount, or 'default'")
    for each in value:
        if not _NAME.match(each):
            raise ValueError(f"{each!r} is neither the name nor the ID of an issuer")


def _check_times(_instance: object, attribute: attrs.Attribute[Duration], value: Duration) -> None:
    if value < 1:
        raise ValueError(f"{attribute.name} must be 1s or more")


def _check_role_id(_instance: object, _attribute: object, value: str) -> None:
    if not re.fullmatch(r"[!-~]*", value):
        raise ValueError("role_id is one word, without spaces")


@attrs.frozen
class VaultSettings:
    """
    Where Vault is, what to ask it for, and how to log in: ``token``, or ``role_id`` with ``secret_id``.

    No secret is written here: ``token`` and ``secret_id`` name files.
    """

    address: str = attrs.field(validator=_check_address)
    role: str = attrs.field(validator=_check_name)  # of the PKI secrets engine
    token: Path | None = None
    role_id: str = attrs.field(default="", validator=_check_role_id)
    secret_id: Path | None = None
    approle: str = attrs.field(default="approle", validator=_check_path)  # where AppRole is mounted
    mount: str = attrs.field(default="pki", validator=_check_path)  # where the PKI secrets engine is
    issuers: list[str] = attrs.field(factory=lambda: ["default"], validator=_check_issuers)  # whose roots are trusted
    namespace: str = attrs.field(default="", validator=_check_namespace)
    ca: Path | None = None  # verifies the server; the system's authorities without it
    ttl: Duration = attrs.field(default=Duration(3600.0), validator=_check_times)
    interval: Duration = attrs.field(default=Duration(60.0), validator=_check_times)  # between two looks at the issuers
    timeout: Duration = attrs.field(default=Duration(10.0), validator=_check_times)  # for all requests of one look
