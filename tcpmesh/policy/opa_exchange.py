"""
What Open Policy Agent is asked, and what its answers mean.

Ring 1. The data API of https://www.openpolicyagent.org/docs/rest-api, "Get a Document (with Input)": ``{"input": …}``
there, ``{"result": …}`` back, without "result" where the policy leaves the document undefined.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from tcpmesh.addresses import shown
from tcpmesh.codes import POLICY_FAILED
from tcpmesh.errors import Refusal
from tcpmesh.values import AuthorizationRequest, Decision, Effect, TCPAddress

__all__ = ["MAX_ANSWER_BYTES", "MAX_VALID_FOR", "read_answer", "write_question"]

MAX_ANSWER_BYTES = 65536
MAX_VALID_FOR = 86400.0  # seconds
_MAX_REASON = 500  # characters
_INPUT_VERSION = 1


def write_question(request: AuthorizationRequest) -> bytes:
    """
    Write the request as the policy's input.

    The port that the peer comes from is left out: answers are remembered without it.
    """
    peer, source = request.peer, request.source
    identity = peer.spiffe_id
    document = {
        "version": _INPUT_VERSION,
        "source": {
            "address": source.host.partition("%")[0] if isinstance(source, TCPAddress) else "",
            "authenticated": peer.is_authenticated,
            "identity": str(peer),
            "spiffe_id": "" if identity is None else str(identity),
            "trust_domain": "" if identity is None else identity.trust_domain.name,
            "path": [] if identity is None else list(identity.segments),
            "dns_name": peer.dns_name,
            "serial": peer.serial,
            "not_before": peer.not_before,
            "not_after": peer.not_after,
        },
        "inbound": request.inbound,
        "workload": request.workload,
        "sni": request.sni,
        "alpn": request.alpn,
    }
    return json.dumps({"input": document}).encode("ascii")


def read_answer(
    data: bytes, document: str, valid_for: float, undefined: Effect, *, authenticated: bool = True
) -> Decision:
    """
    Read an answer: ``true``, ``false``, or an object with ``allow`` and perhaps ``reason`` and ``valid_for``.

    :param document: which document was asked for, for the record.
    :param valid_for: seconds for which an answer stands that does not say so itself.
    :param undefined: what it means when the policy says nothing.
    :param authenticated: whether the peer has an identity; for one that has none, ``allow`` counts only in an object
        that has ``unauthenticated: true`` too, since policies of before know no such peers.
    :raises Refusal: with TM-P103 for anything else; nothing is guessed.
    """
    try:
        body = json.loads(data, object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        _refuse(f"answered with something that is not JSON ({shown(str(error))})")
    if not isinstance(body, dict):
        _refuse(f"answered with {_kind(body)}, not with an object that has 'result'")
    result = body.get("result")
    if isinstance(result, dict):
        allow, said = result.get("allow"), result
    else:
        allow, said = result, {}
    if allow is None:
        what = "leaves it undefined" if "result" not in body else "says nothing of allow"
        reason = f"the policy {document} {what}"
        return Decision(undefined, "opa", document, reason, valid_for)
    if not isinstance(allow, bool):
        _refuse(f"answered with {_kind(allow)} where true or false was expected")
    if allow and not authenticated and said.get("unauthenticated") is not True:
        reason = f"the policy {document} allows it, but does not say that peers without an identity are meant, too"
        return Decision(Effect.ABSTAIN, "opa", document, reason, _seconds(said.get("valid_for"), valid_for))
    return Decision(
        Effect.ALLOW if allow else Effect.DENY,
        "opa",
        document,
        _reason(said.get("reason"), document, allow),
        _seconds(said.get("valid_for"), valid_for),
    )


def _reason(reason: Any, document: str, allow: bool) -> str:
    if reason is None:
        return f"the policy {document} {'allows' if allow else 'denies'} it"
    if not isinstance(reason, str):
        _refuse(f"answered with {_kind(reason)} as a reason, not with text")
    text = reason[:_MAX_REASON]
    return text if text.isascii() and text.isprintable() else ascii(text)[1:-1]


def _seconds(value: Any, otherwise: float) -> float:
    if value is None:
        return otherwise
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        _refuse(f"answered with {shown(repr(value))} as valid_for, not with a number of seconds")
    return float(min(value, MAX_VALID_FOR))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has a key twice")
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _kind(value: Any) -> str:
    kinds: dict[type, str] = {dict: "an object", list: "a list", str: "text", bool: "a truth value"}
    return "null" if value is None else kinds.get(type(value), "a number")


def _refuse(what: str) -> NoReturn:
    raise Refusal(POLICY_FAILED, f"Open Policy Agent {what}")
