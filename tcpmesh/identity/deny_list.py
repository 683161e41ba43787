"""
Who is not let in although an authority vouches for it: the entries of the deny-list, and the list as it is asked.

Ring 0: the mesh state carries it. Values only; certificates are read in ``denial``, files in ``tcpmesh.config``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import attrs

from tcpmesh.addresses import KeyPin, parse_key_pin, shown
from tcpmesh.errors import Mark
from tcpmesh.identity.spiffe import SpiffeId, TrustDomain
from tcpmesh.moments import Moment
from tcpmesh.values import PeerIdentity

__all__ = [
    "MAX_ENTRIES",
    "NOBODY",
    "DenyEntry",
    "DenyList",
    "DenyListSettings",
    "duplicates",
    "parse_key_identifier",
    "parse_serial",
]

MAX_ENTRIES = 1000  # of one list; reading that many takes a third of a second
MAX_REASON = 200  # characters

_HEX = re.compile(r"[0-9A-Fa-f]+|[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2})+")
_MAX_SERIAL = 40  # hex digits: RFC 5280 section 4.1.2.2 allows 20 octets
_MAX_KEY_IDENTIFIER = 128  # hex digits


def _hex_digits(text: str, what: str, example: str) -> str:
    if text[:2] in ("0x", "0X"):
        raise ValueError(f"{shown(text)}: write the hex digits of {what} without 0x")
    if text.startswith("-"):
        raise ValueError(f"{shown(text)} is negative, which {what} never is")
    if _HEX.fullmatch(text) is None:
        raise ValueError(f"{shown(text)} is not {what}; write its hex digits, such as {example}")
    return text.replace(":", "").lower()


def parse_serial(text: str) -> str:
    """
    Read a serial number in hex, as ``openssl x509 -serial`` or ``-text`` (with colons) show it.

    :return: lower-case hex with an even number of digits, as records have it.
    :raises ValueError: for anything else, 0 and more than 20 octets among it (RFC 5280 section 4.1.2.2).
    """
    digits = _hex_digits(text, "a serial number", "4f1c09a27be3").lstrip("0")
    if not digits:
        raise ValueError(f"{shown(text)} is the serial number 0, which no certificate may have")
    if len(digits) > _MAX_SERIAL:
        raise ValueError(f"{shown(text)} is longer than the 20 octets that a serial number may have")
    return digits.zfill(len(digits) + len(digits) % 2)


def parse_key_identifier(text: str) -> str:
    """
    Read a key identifier in hex, with or without colons.

    :return: lower-case hex.
    :raises ValueError: for anything else.
    """
    digits = _hex_digits(text, "a key identifier", "9f3a21…")
    if len(digits) % 2 or len(digits) > _MAX_KEY_IDENTIFIER:
        raise ValueError(f"{shown(text)} is not a key identifier; it has pairs of hex digits, at most 64")
    return digits


def _parse_key(text: str) -> KeyPin:
    return parse_key_pin(text if text.startswith("spki:") else f"spki:{text}")


def _readable(parse: Callable[[str], Any]) -> Callable[[object, object, str | None], None]:
    def check(_instance: object, _attribute: object, value: str | None) -> None:
        if value is not None:
            parse(value)

    return check


def _check_id(_instance: object, _attribute: object, value: SpiffeId | None) -> None:
    if value is not None and not value.path:
        raise ValueError(f"{value} names a whole trust domain; to trust nobody of it any longer, take its bundle away")


def _check_reason(_instance: object, _attribute: object, value: str | None) -> None:
    if value is not None and len(value) > MAX_REASON:
        raise ValueError(f"a reason has at most {MAX_REASON} characters, this one has {len(value)}")


@attrs.frozen
class DenyEntry:
    """
    One entry: exactly one of ``id``, ``spki`` and ``serial`` says which certificates it means.

    ``id``: those for this SPIFFE ID; with ``issued_before`` those that begin before it. ``spki``: those for this key,
    and those below an authority with it. ``serial``: those with this number, of every issuer or of that which
    ``trust_domain`` or ``authority_key_id`` names. ``reason`` is for the reader of the log.
    """

    id: SpiffeId | None = attrs.field(default=None, validator=_check_id)
    issued_before: Moment | None = None
    spki: str | None = attrs.field(default=None, validator=_readable(_parse_key))
    serial: str | None = attrs.field(default=None, validator=_readable(parse_serial))
    trust_domain: TrustDomain | None = None
    authority_key_id: str | None = attrs.field(default=None, validator=_readable(parse_key_identifier))
    reason: str | None = attrs.field(default=None, validator=_check_reason)
    mark: Mark | None = attrs.field(default=None, eq=False)

    def __attrs_post_init__(self) -> None:
        """:raises ValueError: when it does not say what it means, or says it twice."""
        said = [name for name in ("id", "spki", "serial") if getattr(self, name) is not None]
        if len(said) != 1:
            got = " and ".join(said) or "none of them"
            raise ValueError(f"an entry has one of the keys id, spki and serial; this one has {got}")
        if self.issued_before is not None and self.id is None:
            raise ValueError(f"issued_before goes with id; certificates with this {said[0]} are denied whenever issued")
        if self.serial is None and (self.trust_domain is not None or self.authority_key_id is not None):
            raise ValueError("trust_domain and authority_key_id go with serial: they say whose serial number it is")

    @property
    def selector(self) -> tuple[object, ...]:
        """Equal for entries that mean the same certificates, whenever they were issued."""
        if self.id is not None:
            return ("id", self.id)
        if self.spki is not None:
            return ("spki", _parse_key(self.spki).sha256)
        assert self.serial is not None
        authority = parse_key_identifier(self.authority_key_id) if self.authority_key_id is not None else None
        return ("serial", parse_serial(self.serial), self.trust_domain, authority)

    def __str__(self) -> str:
        if self.id is not None:
            return f"id {self.id}"
        if self.spki is not None:
            return f"spki {self.spki.removeprefix('spki:')}"
        whose = f" of {self.trust_domain}" if self.trust_domain is not None else ""
        whose += f" of the authority with key {self.authority_key_id}" if self.authority_key_id is not None else ""
        return f"serial {self.serial}{whose}"


@attrs.frozen
class DenyListSettings:
    """``entries`` in the configuration, and a ``file`` that is read again whenever it has changed."""

    entries: list[DenyEntry] = attrs.field(factory=list)
    file: Path | None = None
    mark: Mark | None = attrs.field(default=None, eq=False)


def duplicates(entries: Iterable[DenyEntry]) -> list[tuple[DenyEntry, DenyEntry]]:
    """The entries that mean what an earlier one of the same list means, each with that one."""
    first: dict[tuple[object, ...], DenyEntry] = {}
    return [(entry, earlier) for entry in entries if (earlier := first.setdefault(entry.selector, entry)) is not entry]


class DenyList:
    """
    Entries, compiled: however many there are, a question costs a few look-ups.

    Immutable. Of two entries that mean the same ID the one that denies more counts.
    """

    __slots__ = ("_ids", "_keys", "_serials", "entries")

    def __init__(self, entries: Iterable[DenyEntry] = ()) -> None:
        self.entries = tuple(entries)
        self._ids: dict[SpiffeId, DenyEntry] = {}
        self._keys: dict[bytes, DenyEntry] = {}
        self._serials: dict[str, tuple[DenyEntry, ...]] = {}
        for entry in self.entries:
            if entry.id is not None:
                known = self._ids.get(entry.id)
                if known is None or _before(known) < _before(entry):
                    self._ids[entry.id] = entry
            elif entry.spki is not None:
                self._keys.setdefault(_parse_key(entry.spki).sha256, entry)
            else:
                assert entry.serial is not None
                serial = parse_serial(entry.serial)
                self._serials[serial] = (*self._serials.get(serial, ()), entry)

    def __len__(self) -> int:
        return len(self.entries)

    def find(
        self, peer: PeerIdentity, keys: Callable[[], Iterable[bytes]], authority: Callable[[], str]
    ) -> DenyEntry | None:
        """
        The entry that means this certificate, None if nobody denies it.

        :param keys: gives the SHA-256 of the key of the certificate and of each authority above it; asked for only when
            there are entries for keys.
        :param authority: gives the identifier of the issuer's key in lower-case hex, empty if nothing says it: it is
            taken for that of the entry then. Asked for only by an entry that needs it.
        """
        if peer.spiffe_id is not None:
            entry = self._ids.get(peer.spiffe_id)
            if entry is not None and peer.not_before < _before(entry):
                return entry
        for entry in self._serials.get(peer.serial, ()):
            if _is_issuer(entry, peer, authority):
                return entry
        if self._keys:
            for key in keys():
                entry = self._keys.get(key)
                if entry is not None:
                    return entry
        return None


def _before(entry: DenyEntry) -> float:
    return float("inf") if entry.issued_before is None else entry.issued_before


def _is_issuer(entry: DenyEntry, peer: PeerIdentity, authority: Callable[[], str]) -> bool:
    if entry.trust_domain is not None and (peer.spiffe_id is None or peer.spiffe_id.trust_domain != entry.trust_domain):
        return False
    return entry.authority_key_id is None or authority() in ("", parse_key_identifier(entry.authority_key_id))


NOBODY = DenyList()
