"""
What changes when one trust bundle takes another's place: which authorities come, go and stay, and whom that cuts.

Ring 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from cryptography import x509

from tcpmesh.errors import Refusal
from tcpmesh.identity.certificates import moment, name_text, not_after, not_before, span
from tcpmesh.identity.chain import issued_by
from tcpmesh.identity.profile import check_authority, readable

__all__ = ["BundleDiff", "Change", "compare_bundles"]


@attrs.frozen(eq=False)
class Change:
    """One authority, and what its coming, going or staying means."""

    authority: x509.Certificate
    meaning: str


@attrs.frozen(eq=False)
class BundleDiff:
    """The authorities of two bundles; ``notes`` are about the whole."""

    added: tuple[Change, ...]
    removed: tuple[Change, ...]
    kept: tuple[Change, ...]
    notes: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether both hold the same authorities."""
        return not self.added and not self.removed


def compare_bundles(old: Sequence[x509.Certificate], new: Sequence[x509.Certificate], now: float) -> BundleDiff:
    """
    Compare by the whole certificate: the same name and key in another one are called a renewal.

    :param now: wall-clock seconds.
    """
    old, new = tuple(dict.fromkeys(old)), tuple(dict.fromkeys(new))
    added = [authority for authority in new if authority not in old]
    removed = [authority for authority in old if authority not in new]
    kept = [authority for authority in new if authority in old]
    return BundleDiff(
        tuple(Change(authority, _coming(authority, old, now)) for authority in added),
        tuple(Change(authority, _going(authority, new, now)) for authority in removed),
        tuple(Change(authority, _defect(authority, now)) for authority in kept),
        tuple(_notes(old, new)),
    )


def _coming(authority: x509.Certificate, old: Sequence[x509.Certificate], now: float) -> str:
    defect = _defect(authority, now)
    if defect:
        return defect
    if any(_same_signer(authority, other) and not _defect(other, now) for other in old):
        return "renewed: its name and key were there before, so nobody is trusted anew"
    return "whoever it signed is trusted from then on"


def _going(authority: x509.Certificate, new: Sequence[x509.Certificate], now: float) -> str:
    if now > not_after(authority):
        return f"it expired at {moment(not_after(authority))}, so nobody is cut"
    new = [other for other in new if not _defect(other, now)]
    if any(_same_signer(authority, other) for other in new):
        return "replaced: its name and key stay, so nobody is cut"
    above = next((other for other in new if issued_by(authority, other)), None)
    if above is not None:
        return (
            f"{name_text(above.subject)}, which signed it, is there: whoever presents it in its chain is still "
            "trusted, everybody else that it signed is cut (TM-I604)"
        )
    return "cuts whoever it signed: refused from then on (TM-I604)"


def _same_signer(one: x509.Certificate, other: x509.Certificate) -> bool:
    """Whether what one has signed verifies under the other, too."""
    try:
        with readable("an authority"):
            return one.subject == other.subject and one.public_key() == other.public_key()
    except Refusal:
        return False


def _defect(authority: x509.Certificate, now: float) -> str:
    """Why an authority vouches for nobody, empty if it does."""
    try:
        with readable("the authority"):
            check_authority(authority, anchor=True)
    except Refusal as refusal:
        return f"vouches for nobody: {refusal}"
    if now > not_after(authority):
        return f"vouches for nobody: it expired {span(now - not_after(authority))} ago"
    if now < not_before(authority):
        return f"vouches for nobody yet: it is valid in {span(not_before(authority) - now)}"
    return ""


def _notes(old: Sequence[x509.Certificate], new: Sequence[x509.Certificate]) -> list[str]:
    if not new and old:
        return ["the new bundle is empty: everything of this trust domain is revoked"]
    if old and not any(one == other or _same_signer(one, other) for one in old for other in new):
        return [
            "no authority is in both: while some proxies have the old bundle and some the new one, certificates of "
            "either are refused by the others; publish a bundle with both first"
        ]
    return []
