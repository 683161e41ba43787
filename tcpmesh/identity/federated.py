"""
What is held of one other trust domain: its bundle, where that stands, and how it changed.

Ring 1, pure: time is a parameter, and nothing is logged here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tcpmesh.identity.bundle_document import BundleDocument, BundleError, check_origin
from tcpmesh.identity.certificates import name_text, subject_key_identifier
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.values import TrustBundle

__all__ = ["Change", "FederatedBundle", "merged_bundles", "refresh_after", "shared_authority"]

DEFAULT_REFRESH = 300.0  # seconds (SPIFFE_Trust_Domain_and_Bundle.md section 4.1.3)
LEAST_REFRESH = 60.0
MOST_REFRESH = 3600.0
_SPREAD = 0.1  # share of every wait that chance adds or takes
_LISTED = 5
_SPAN = re.compile(r"\b[0-9]+ (?:s|min|h|d)\b")  # "expired 3 min ago" is no news after 2 min


@attrs.frozen
class Change:
    """
    What a new document changed.

    :param text: for the log, empty when nothing did.
    :param alarming: whether somebody should look: authorities are gone, or the sequence went back.
    """

    text: str = ""
    alarming: bool = False


@attrs.define(eq=False)
class FederatedBundle:
    """
    The bundle of one trust domain, as it was last received.

    :ivar received: when, in wall-clock seconds; None before the first.
    :ivar failure: why it cannot be refreshed now; empty when it can.
    :ivar failures: how often that failed so far.
    :ivar failing_since: in wall-clock seconds; None while it can be refreshed.
    """

    trust_domain: TrustDomain
    bundle: TrustBundle | None = None
    sequence: int | None = None
    refresh_hint: int | None = None
    received: float | None = None
    failure: str = ""
    failures: int = 0
    failing_since: float | None = None

    def accept(self, document: BundleDocument, own: TrustBundle | None, now: float) -> Change:
        """
        Replace what is held by a new document, also by one without any authority: that revokes.

        :param own: the bundle of the proxy's own trust domain, if there is one yet.
        :raises BundleError: when the document lists an authority of ours; nothing changes then.
        """
        bundle = TrustBundle(self.trust_domain, document.authorities)
        shared = shared_authority(bundle, own)
        if shared:
            raise BundleError(shared)
        change = self._change_to(document)
        unchanged = self.bundle is not None and set(self.bundle.authorities) == set(bundle.authorities)
        if not unchanged:
            self.bundle = bundle
        self.sequence, self.refresh_hint, self.received = document.sequence, document.refresh_hint, now
        self.failure, self.failing_since = "", None
        return change

    def failed(self, reason: str, now: float) -> bool:
        """
        Remember that it could not be refreshed.

        :param now: wall-clock seconds.
        :return: whether that is news: told once, not at every attempt.
        """
        self.failures += 1
        if self.failing_since is None:
            self.failing_since = now
        news = _SPAN.sub("", reason) != _SPAN.sub("", self.failure)
        self.failure = reason
        return news

    def _change_to(self, document: BundleDocument) -> Change:
        held = self.bundle.authorities if self.bundle is not None else ()
        gone = [authority for authority in held if authority not in document.authorities]
        added = [authority for authority in document.authorities if authority not in held]
        back = self.sequence is not None and document.sequence is not None and document.sequence < self.sequence
        first = self.bundle is None
        if not (first or gone or added or back):
            return Change()
        parts = [f"authorities: {len(document.authorities)}"]
        if document.sequence is not None:
            parts.append(f"sequence {document.sequence}")
        if back:
            parts.append(f"which went back from {self.sequence}")
        if added and not first:
            parts.append(f"added: {_names(added)}")
        if gone:
            parts.append(f"gone: {_names(gone)}")
        if not document.authorities:
            parts.append("everything of that trust domain is revoked")
        return Change(", ".join(parts), back or bool(gone) or not document.authorities)


def shared_authority(bundle: TrustBundle, own: TrustBundle | None) -> str:
    """
    Say which authority of another trust domain's bundle is our own too, if there is one: by its key.

    Only our own bundle counts: else one partner could make us refuse another by listing that one's authority.
    """
    if own is None or own.trust_domain == bundle.trust_domain:
        return ""
    keys = {_key(authority) for authority in own.authorities}
    for authority in bundle.authorities:
        if _key(authority) in keys:
            return (
                f"has an authority of another trust domain: the key of {name_text(authority.subject)} is in the bundle "
                f"of {own.trust_domain} too"
            )
    return ""


def merged_bundles(
    pooled: Mapping[TrustDomain, TrustBundle], federated: Iterable[FederatedBundle], own: TrustDomain | None
) -> tuple[dict[TrustDomain, TrustBundle], dict[TrustDomain, str]]:
    """
    Put the bundles of identity sources and of federated trust domains together.

    For a federated trust domain only its own document counts, whatever a source delivers: else nothing that it
    withdraws would be withdrawn. Another trust domain's bundle is left out when an authority in it is not its.

    :param own: the proxy's trust domain, whose bundle is the sources' business.
    :return: the bundles, and why some were left out.
    """
    held = {entry.trust_domain: entry.bundle for entry in federated}
    candidates = {**{domain: bundle for domain, bundle in pooled.items() if domain not in held}, **held}
    ours = pooled.get(own) if own is not None else None
    merged, refused = {}, {}
    for domain, bundle in candidates.items():
        if bundle is None:
            continue
        reason = "" if domain == own else _misfiled(bundle, ours)
        if reason:
            refused[domain] = reason
        else:
            merged[domain] = bundle
    return merged, refused


def _misfiled(bundle: TrustBundle, own: TrustBundle | None) -> str:
    try:
        for authority in bundle.authorities:
            check_origin(authority, bundle.trust_domain)
    except BundleError as error:
        return str(error)
    return shared_authority(bundle, own)


def refresh_after(hint: int | None, configured: float | None, chance: float) -> float:
    """
    How long to wait before asking again, in seconds.

    :param configured: wins over the hint, and is not bounded.
    :param chance: from 0 to 1, so that not all proxies ask at once.
    """
    share = 1 + _SPREAD * (2 * chance - 1)
    if configured is not None:
        return configured * share
    return min(max((hint or DEFAULT_REFRESH) * share, LEAST_REFRESH), MOST_REFRESH)


def _key(authority: x509.Certificate) -> bytes:
    return authority.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _names(authorities: list[x509.Certificate]) -> str:
    names = [f"{name_text(a.subject)} (key {subject_key_identifier(a) or 'not named'})" for a in authorities[:_LISTED]]
    more = len(authorities) - _LISTED
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")
