"""
At which layer a code belongs, and what is wrong with a certificate by itself.

Ring 3, pure.
"""

from __future__ import annotations

from cryptography import x509

from tcpmesh.codes import EXPIRED, NOT_YET_VALID, Code
from tcpmesh.errors import Refusal
from tcpmesh.identity.certificates import moment, not_after, not_before, presented_name, span
from tcpmesh.identity.profile import check_leaf, check_signature, readable

__all__ = ["defect_of", "layer_of"]

_REACH = 4


def layer_of(code: Code) -> int:
    """Codes of identity have it as their first digit; all others are about the connection."""
    return int(code.id[4]) if code.id.startswith("TM-I") else _REACH


def defect_of(leaf: x509.Certificate, now: float, dns: bool, pinned: bool) -> tuple[Refusal, int] | None:
    """What is wrong with a leaf by itself, as the data path would say if nothing else were."""
    try:
        with readable("the peer's certificate"):
            if not (dns or pinned):
                check_leaf(leaf)
            if not pinned:
                check_signature(leaf)
            if now > not_after(leaf):
                ago = span(now - not_after(leaf))
                raise Refusal(EXPIRED, f"{presented_name(leaf)} expired {ago} ago, at {moment(not_after(leaf))}")
            if now < not_before(leaf):
                raise Refusal(NOT_YET_VALID, f"{presented_name(leaf)} is valid only from {moment(not_before(leaf))}")
    except Refusal as refusal:
        return refusal, layer_of(refusal.code)
    return None
