"""
Asks the deny-list about a certificate, and explains what it says.

Ring 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from cryptography import x509

from tcpmesh.codes import PEER_DENIED
from tcpmesh.errors import Refusal
from tcpmesh.identity.certificates import (
    authority_key_identifier,
    moment,
    not_after,
    not_before,
    serial_text,
    shown,
    subject_key_identifier,
)
from tcpmesh.identity.deny_list import DenyEntry, DenyList
from tcpmesh.identity.key_pin import key_pin
from tcpmesh.identity.profile import readable
from tcpmesh.identity.spiffe import SpiffeId
from tcpmesh.values import PeerIdentity

__all__ = ["check_denied", "explain_entry", "own_denial"]


def check_denied(
    deny_list: DenyList, peer: PeerIdentity, chain: Sequence[x509.Certificate], keys: Callable[[], Iterable[bytes]]
) -> None:
    """
    Make sure that nobody denies a verified peer.

    :param chain: the leaf first; alone, when nothing above it counts.
    :param keys: as for :meth:`~tcpmesh.identity.deny_list.DenyList.find`.
    :raises Refusal: PEER_DENIED; MALFORMED_CERTIFICATE when what an entry asks for cannot be read.
    """
    if not deny_list:
        return
    with readable("the peer's certificate"):
        entry = deny_list.find(peer, keys, lambda: _issuer(chain))
    if entry is not None:
        raise Refusal(PEER_DENIED, f"the peer {explain_entry(entry, peer)}")


def own_denial(deny_list: DenyList, identity: SpiffeId, chain: Sequence[x509.Certificate]) -> str:
    """Say why one of our own certificates is denied; empty if it is not."""
    if not deny_list:
        return ""
    leaf = chain[0]
    own = PeerIdentity(identity, serial_text(leaf), not_before(leaf), not_after(leaf))
    entry = deny_list.find(own, lambda: [key_pin(certificate).sha256 for certificate in chain], lambda: _issuer(chain))
    return explain_entry(entry, own) if entry is not None else ""


def _issuer(chain: Sequence[x509.Certificate]) -> str:
    """The identifier of the issuer's key, as the leaf or else the issuer has it; empty if neither does."""
    above = chain[1:2]
    return authority_key_identifier(chain[0]) or (subject_key_identifier(above[0]) if above else "")


def explain_entry(entry: DenyEntry, peer: PeerIdentity) -> str:
    """
    Who is denied and by which entry, to follow "the peer". For our own log: a peer is told no more than the code.
    """
    text = f"{peer}, serial {peer.serial}, is on the deny-list: {entry}"
    if entry.issued_before is not None:
        text += f" issued before {moment(entry.issued_before)}, and it was at {moment(peer.not_before)}"
    if entry.reason:
        text += f", because: {shown(entry.reason)}"
    return text + (f" ({entry.mark})" if entry.mark is not None else "")
