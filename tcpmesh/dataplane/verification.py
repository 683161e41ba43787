"""
The judgement of a peer's certificate while OpenSSL verifies its chain.

Ring 2, no I/O. OpenSSL builds the path and checks signatures, validity and purpose against the pooled authorities of
all trust domains; :mod:`tcpmesh.identity.verify` then applies what OpenSSL does not know: the SPIFFE profile, and that
the anchor belongs to the leaf's own trust domain. One object per handshake, kept as the connection's app data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cryptography import x509
from OpenSSL import SSL, crypto
from twisted.logger import Logger

from tcpmesh.codes import INTERNAL, NO_BUNDLE
from tcpmesh.errors import Refusal
from tcpmesh.identity.profile import readable
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.identity.verify import (
    check_voucher,
    explain_chain_failure,
    match_expected,
    presented_name,
    verify_dns_name,
    verify_svid_chain,
)
from tcpmesh.values import DNSName, ExpectedIdentity, PeerIdentity, TrustBundle

_log = Logger()
_LISTED = 5  # names in a line


class PeerVerification:
    """
    Verifies one peer. After the handshake either ``peer`` or ``refusal`` is set; while both are None nobody gets in.

    :param expected: whom we want to talk to; None accepts any identity that verifies (an inbound listener: who may come
        in is the policies' business).
    :param voucher: the trust domain whose authorities must stand behind a server that is known by a DNS name; None when
        it is verified with a store of its own.
    :param now: wall-clock seconds, asked for when a refusal is explained.
    """

    __slots__ = ("_bundles", "_expected", "_failure", "_now", "_seen", "_voucher", "peer", "refusal")

    def __init__(
        self,
        bundles: Mapping[TrustDomain, TrustBundle],
        expected: Sequence[ExpectedIdentity] | None,
        now: Callable[[], float],
        voucher: TrustDomain | None = None,
    ) -> None:
        self._bundles = bundles
        self._voucher = voucher
        self._expected = expected
        self._now = now
        self._seen: dict[int, x509.Certificate] = {}
        self._failure: tuple[int, int] | None = None
        self.peer: PeerIdentity | None = None
        self.refusal: Refusal | None = None

    @property
    def presented(self) -> str:
        """The name in the peer's leaf certificate, verified or not, escaped for a log line."""
        leaf = self._seen.get(0)
        return presented_name(leaf) if leaf is not None else ""

    @property
    def wanted(self) -> str:
        """Who would have been accepted, for a log line."""
        if self._expected is None:
            domains = sorted(str(trust_domain) for trust_domain in self._bundles)
            return f"any identity of {_listed(domains)}" if domains else "nobody: there is no trust bundle"
        return _listed([str(expected) for expected in self._expected]) or "nobody"

    def certificate(self, certificate: crypto.X509, error: int, depth: int, ok: bool) -> bool:
        """
        Take one step of OpenSSL's verification; false ends the handshake with an alert.

        A defect above the leaf is remembered and the walk goes on, so that the refusal can name the leaf; at the leaf
        itself any defect refuses. Whatever is raised in here refuses.
        """
        try:
            return self._step(certificate, error, depth, ok)
        except Refusal as refusal:
            self.refusal = refusal
        except Exception as unexpected:  # noqa: BLE001  an exception must never let anybody in
            _log.failure("verifying a peer's certificate failed")
            self.refusal = Refusal(INTERNAL, f"verifying the certificate failed: {type(unexpected).__name__}")
        self.peer = None
        return False

    def _step(self, certificate: crypto.X509, error: int, depth: int, ok: bool) -> bool:
        # OpenSSL builds and shows no more than the context's verify depth allows.
        with readable("the peer's certificate"):
            self._seen[depth] = certificate.to_cryptography()
        if not ok and self._failure is None:
            self._failure = (error, depth)
        # Name constraints are checked last, after the leaf was judged: no call for the leaf follows any more.
        if depth > 0 and (ok or self.peer is None):
            return True
        if self._failure is not None:
            number, at = self._failure
            raise explain_chain_failure(number, f"X509_V_ERR {number}", at, self._seen, self._bundles, self._now())
        self.peer = self._judge()
        return True

    def rejudge(self, bundles: Mapping[TrustDomain, TrustBundle]) -> PeerIdentity:
        """
        Judge the verified chain again, if these are other bundles than it was judged by.

        A bundle may have been withdrawn while the handshake was under way.

        :raises Refusal: when they do not vouch for the peer.
        """
        if bundles is not self._bundles:
            self._bundles = bundles
            self.peer = None  # until they have said otherwise
            self.peer = self._judge()
        if self.peer is None:
            raise Refusal(NO_BUNDLE, "the trust bundles no longer vouch for the peer")
        return self.peer

    def _judge(self) -> PeerIdentity:
        chain = [self._seen[position] for position in sorted(self._seen)]
        if self._expected is not None and expects_dns(self._expected):
            if self._voucher is not None:
                check_voucher(chain, self._voucher, self._bundles)
            return verify_dns_name(chain, [name for name in self._expected if isinstance(name, DNSName)])
        peer = verify_svid_chain(chain, self._bundles)
        if self._expected is not None:
            match_expected(peer, self._expected)
        return peer


def expects_dns(expected: Sequence[ExpectedIdentity]) -> bool:
    """Whether a server is known by DNS names only: then no SPIFFE profile is asked of it, and another store trusted."""
    return bool(expected) and all(isinstance(name, DNSName) for name in expected)


def _listed(names: Sequence[str]) -> str:
    text = ", ".join(names[:_LISTED])
    return text if len(names) <= _LISTED else f"{text} and {len(names) - _LISTED} more"


def verify_callback(connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int) -> bool:
    """For ``SSL.Context.set_verify``: hand the step to the connection's own verification."""
    verification: Any = connection.get_app_data()
    if not isinstance(verification, PeerVerification):
        return False
    return verification.certificate(certificate, error, depth, bool(ok))
