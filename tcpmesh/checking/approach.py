"""
How one service's endpoint is approached: whom to dial, and the TLS connection that the data path would make there.

Ring 3, no I/O.
"""

from __future__ import annotations

import attrs
from cryptography import x509
from OpenSSL import SSL, crypto

from tcpmesh.checking.acceptance import Asker
from tcpmesh.checking.findings import Pair
from tcpmesh.checking.knowledge import Knowledge
from tcpmesh.dataplane.contexts import Trust, trust_for
from tcpmesh.dataplane.preface import ALPN
from tcpmesh.dataplane.probe import PROBE_ALPN
from tcpmesh.dataplane.tls_core import TLSCore
from tcpmesh.dataplane.verification import PeerVerification
from tcpmesh.identity.certificates import authority_key_identifier, name_text, not_after
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.net.announcing import header_for_check
from tcpmesh.net.dialled_leg import Announcement
from tcpmesh.settings import Timeouts, TLSSettings
from tcpmesh.values import Address, ExpectedIdentity, Svid

__all__ = ["Approach", "approach"]


class _Verification(PeerVerification):
    """Keeps the leaf, whatever becomes of it."""

    __slots__ = ("leaf",)

    leaf: x509.Certificate | None

    def certificate(self, certificate: crypto.X509, error: int, depth: int, ok: bool) -> bool:
        """Take one step of OpenSSL's verification."""
        accepted = super().certificate(certificate, error, depth, ok)
        if depth == 0:
            self.leaf = self._leaf
        return accepted


@attrs.frozen(eq=False)
class Approach:
    """
    One endpoint.

    :ivar expected: whom to accept there; None for anybody whom the bundles vouch for.
    :ivar trust: whose authorities may vouch for the peer.
    :ivar preface: whether to ask the peer whether it accepts.
    :ivar announcement: the PROXY header that goes before TLS, if any does.
    """

    address: Address
    expected: tuple[ExpectedIdentity, ...] | None
    trust: Trust
    timeouts: Timeouts
    asker: Asker
    preface: bool
    _context: SSL.Context
    _sni: str
    _knowledge: Knowledge
    announcement: Announcement | None = None

    def core(self, *, probe: bool) -> TLSCore:
        """
        A connection that has not begun.

        :param probe: whether to ask how the peer sees us, if it tells anybody.
        """
        voucher = self.trust if isinstance(self.trust, TrustDomain) else None
        knowledge = self._knowledge
        state = knowledge.state
        verification = _Verification(state.bundles, self.expected, knowledge.now, voucher, deny_list=state.deny_list)
        verification.leaf = None
        alpn = ((PROBE_ALPN, ALPN) if probe else (ALPN,)) if self.preface else ()
        return TLSCore(self._context, verification, server=False, sni=self._sni, alpn=alpn)

    @staticmethod
    def leaf(core: TLSCore) -> x509.Certificate | None:
        """The peer's certificate, if it came so far and can be read."""
        verification = core.verification
        return verification.leaf if isinstance(verification, _Verification) else None


def approach(pair: Pair, svid: Svid, knowledge: Knowledge) -> Approach:
    """
    Prepare to go where the pair leads.

    :raises Refusal: when there is no identity to go with.
    """
    assert pair.endpoint is not None, "there is somewhere to go"
    times = knowledge.settings.timeouts
    highest = svid.chain[-1]  # the authority above it is what a bundle has
    issuer = f"{name_text(highest.issuer)}, key {authority_key_identifier(highest) or 'unknown'}"
    asker = Asker(str(svid.id), issuer, not_after(svid.leaf), knowledge.now)
    if pair.service is None:
        context = knowledge.contexts.client(knowledge.state, pair.workload, TLSSettings(), "mesh")
        return Approach(pair.endpoint.address, None, "mesh", times, asker, True, context, "", knowledge)
    upstream = knowledge.upstreams[pair.service]
    settings = upstream.settings
    expected = upstream.expected(pair.endpoint)
    trust = trust_for(settings, expected, svid.id.trust_domain)
    return Approach(
        pair.endpoint.address,
        expected,
        trust,
        times.override(settings.timeouts),
        asker,
        settings.preface == "auto",
        knowledge.contexts.client(knowledge.state, pair.workload, settings.tls, trust),
        upstream.sni(pair.endpoint),
        knowledge,
        header_for_check(settings.proxy_protocol),
    )
