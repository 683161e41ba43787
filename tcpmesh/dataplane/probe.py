"""
The probe: how an inbound tcpmesh tells a peer how it sees it, when it asks and may.

Ring 2, no I/O. A client that offers ALPN ``tcpmesh-probe/1`` to a listener with ``probe`` sends nothing after the
handshake and is sent one JSON object (RFC 8259, ASCII), at most MAX_PROBE_BYTES, then close_notify. Its ``v`` is 1;
members that a reader does not know are skipped, so that later versions can say more, and another ``v`` is refused.

Nothing in it is secret, and nothing of it is believed: who reads it takes it for what the far side says.
"""

from __future__ import annotations

import json
import math
from typing import Any, Literal, get_args

import attrs

__all__ = [
    "MAX_PROBE_BYTES",
    "PROBE_ALPN",
    "InvalidProbe",
    "ProbeAnswer",
    "ProbeReader",
    "ProbeRefusal",
    "TargetState",
]

PROBE_ALPN = b"tcpmesh-probe/1"
MAX_PROBE_BYTES = 8192  # two of the longest SPIFFE IDs, and the texts

TargetState = Literal["reachable", "unreachable", "not tried"]

_VERSION = 1
_MAX_TEXT = 400  # characters; IDs are longer
_MAX_ID = 2048  # SPIFFE-ID.md section 2.3
_MAX_SECONDS = 1e11  # since the epoch: the year 5138


class InvalidProbe(ValueError):
    """What the far side sent is no answer to a probe that this version understands."""


@attrs.frozen
class ProbeRefusal:
    """The peer may not ask here; nothing else is said."""

    code: str
    text: str

    def encode(self) -> bytes:
        """Write the message."""
        return _written({"refused": {"code": self.code, "text": _cut(self.text)}})


@attrs.frozen
class ProbeAnswer:
    """
    How an inbound listener sees the peer that asks. Times are seconds since the epoch by the answering side's clock.

    :ivar clock: when it was written.
    :ivar peer: the SPIFFE ID that the asking peer's certificate has, with its serial number and its end.
    :ivar peer_source: the address that it comes from, which policies judge too; without a port.
    :ivar authority: the subject of the authority that vouches for that certificate, and its key identifier.
    :ivar authorities: how many the bundle of the peer's trust domain has.
    :ivar code: why the policies would refuse; empty when they allow.
    :ivar target: whether the application took a connection, if one was tried.
    """

    clock: float
    version: str
    listener: str
    peer: str
    peer_serial: str
    peer_not_after: float
    peer_source: str
    authority: str
    authority_key: str
    authorities: int
    own: str
    own_not_after: float
    generation: int
    allowed: bool
    code: str = ""
    policy: str = ""
    rule: str = ""
    reason: str = ""
    target: TargetState = "not tried"
    target_text: str = ""

    def encode(self) -> bytes:
        """Write the message; long texts are cut."""
        return _written(
            {
                "clock": round(self.clock, 3),
                "version": _cut(self.version),
                "listener": _cut(self.listener),
                "peer": {
                    "id": self.peer,
                    "serial": _cut(self.peer_serial),
                    "not_after": self.peer_not_after,
                    "source": _cut(self.peer_source),
                },
                "bundle": {
                    "authority": _cut(self.authority),
                    "key": _cut(self.authority_key),
                    "authorities": self.authorities,
                },
                "own": {"id": self.own, "not_after": self.own_not_after, "generation": self.generation},
                "decision": {
                    "allowed": self.allowed,
                    "code": self.code,
                    "policy": _cut(self.policy),
                    "rule": _cut(self.rule),
                    "reason": _cut(self.reason),
                },
                "target": {"state": self.target, "text": _cut(self.target_text)},
            }
        )


class ProbeReader:
    """Collects an answer from however many pieces it arrives in."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes | memoryview) -> None:
        """
        Take the next bytes.

        :raises InvalidProbe: as soon as they are too many.
        """
        if len(self._buffer) + len(data) > MAX_PROBE_BYTES:
            self._buffer.clear()
            raise InvalidProbe(f"the answer is longer than {MAX_PROBE_BYTES} bytes")
        self._buffer += data

    def finish(self) -> ProbeAnswer | ProbeRefusal:
        """
        The far side has ended its stream: read what came.

        :raises InvalidProbe: naming what is wrong with it.
        """
        return _read(bytes(self._buffer))


# --- writing


def _written(members: dict[str, Any]) -> bytes:
    return json.dumps({"v": _VERSION, **members}, separators=(",", ":")).encode("ascii")


def _cut(text: str) -> str:
    """Printable ASCII of limited length: what a plugin says may be anything."""
    if not (text.isascii() and text.isprintable()):
        text = ascii(text[:_MAX_TEXT])[1:-1]
    text = text[:_MAX_TEXT]
    while (over := len(json.dumps(text)) - 2 - _MAX_TEXT) > 0:  # quotation marks and backslashes become two characters
        text = text[: -(over + 1) // 2]
    return text


# --- reading


def _read(data: bytes) -> ProbeAnswer | ProbeRefusal:
    if not data:
        raise InvalidProbe("the answer is empty")
    try:
        document = json.loads(data.decode("ascii"), object_pairs_hook=_members, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise InvalidProbe(f"the answer is not ASCII (at byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise InvalidProbe(f"the answer is not JSON: {error.msg} (at byte {error.pos})") from None
    except RecursionError:
        raise InvalidProbe("the answer is nested too deeply") from None
    except InvalidProbe:
        raise
    except ValueError:  # a number of thousands of digits
        raise InvalidProbe("the answer has a number that is too long") from None
    if not isinstance(document, dict):
        raise InvalidProbe("the answer is not a JSON object")
    version = document.get("v")
    if isinstance(version, bool) or not isinstance(version, int):
        raise InvalidProbe("the answer does not say its version")
    if version != _VERSION:
        raise InvalidProbe(f"the answer has version {version}, this tcpmesh understands {_VERSION}")
    if "refused" in document:
        refused = _Members(document, "refused")
        return ProbeRefusal(refused.text("code"), refused.text("text"))
    return _answer(document)


def _answer(document: dict[str, Any]) -> ProbeAnswer:
    top, peer, bundle = (
        _Members({"answer": document}, "answer"),
        _Members(document, "peer"),
        _Members(document, "bundle"),
    )
    own, decision, target = _Members(document, "own"), _Members(document, "decision"), _Members(document, "target")
    allowed = decision.flag("allowed")
    code = decision.text("code")
    if allowed == bool(code):
        raise InvalidProbe("the answer's decision has a code and allows" if allowed else "it denies without a code")
    state = target.text("state")
    if state not in get_args(TargetState):
        raise InvalidProbe("the answer has an unknown state of the target")
    return ProbeAnswer(
        clock=top.seconds("clock"),
        version=top.text("version"),
        listener=top.text("listener"),
        peer=peer.text("id", _MAX_ID),
        peer_serial=peer.text("serial"),
        peer_not_after=peer.seconds("not_after"),
        peer_source=peer.text("source"),
        authority=bundle.text("authority"),
        authority_key=bundle.text("key"),
        authorities=bundle.count("authorities"),
        own=own.text("id", _MAX_ID),
        own_not_after=own.seconds("not_after"),
        generation=own.count("generation"),
        allowed=allowed,
        code=code,
        policy=decision.text("policy"),
        rule=decision.text("rule"),
        reason=decision.text("reason"),
        target=state,  # type: ignore[arg-type]  # it is one of them
        target_text=target.text("text"),
    )


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two readers could take different ones of two equal members (RFC 8259 section 4)."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise InvalidProbe("the answer has a member twice in one object")
    return members


def _no_constant(_text: str) -> Any:
    raise InvalidProbe("the answer is not JSON: it has a number that is none (NaN or infinite)")


class _Members:
    """One object of the answer, each member asked for with its kind."""

    def __init__(self, document: dict[str, Any], name: str) -> None:
        members = document.get(name)
        if not isinstance(members, dict):
            raise InvalidProbe(f"the answer has no object {name!r}")
        self._members = members
        self._name = name

    def _get(self, name: str, kinds: tuple[type, ...], what: str) -> Any:
        value = self._members.get(name)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise InvalidProbe(f"the answer has no {what} as {name!r} in {self._name!r}")
        return value

    def text(self, name: str, most: int = _MAX_TEXT) -> str:
        """Printable ASCII, so that nobody who shows it has to think of it."""
        value = self._get(name, (str,), "text")
        if len(value) > most or not (value.isascii() and value.isprintable()):
            raise InvalidProbe(f"the answer's {name!r} in {self._name!r} is too long, or cannot be printed")
        return str(value)

    def flag(self, name: str) -> bool:
        return bool(self._get(name, (bool,), "true or false"))

    def count(self, name: str) -> int:
        value = self._get(name, (int,), "whole number")
        if not 0 <= value < 1 << 53:
            raise InvalidProbe(f"the answer's {name!r} in {self._name!r} is no number of things")
        return int(value)

    def seconds(self, name: str) -> float:
        value = self._get(name, (int, float), "number")
        if not abs(value) < _MAX_SECONDS or not math.isfinite(value):
            raise InvalidProbe(f"the answer's {name!r} in {self._name!r} is no time")
        return float(value)
