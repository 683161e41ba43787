"""
Remembers the chains that were verified, so that a peer that comes again is not read again.

Ring 1. What is remembered follows from the bytes of the certificates alone: they are read, they keep the profile's
rules, and whom they name. Signatures and validity are OpenSSL's to check at every handshake, before anybody asks here;
which authorities vouch for a chain is asked again whenever the trust bundles are others.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from cryptography import x509

from tcpmesh.codes import VOUCHER_GONE
from tcpmesh.errors import Refusal
from tcpmesh.identity.certificates import name_text, not_after
from tcpmesh.identity.chain import bundle_gap, stands_behind
from tcpmesh.identity.key_pin import key_pin
from tcpmesh.identity.profile import readable
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.identity.verify import check_anchor
from tcpmesh.values import DNSName, PeerIdentity, TrustBundle

__all__ = ["KnownChain", "KnownChains"]

Key = tuple[tuple[bytes, ...], tuple[DNSName, ...]]

_MAX_CHAINS = 1024
_MAX_AUTHORITIES = 64  # certificates above a leaf, which many chains have in common
_MAX_BYTES = 16384  # DER of a chain; an ordinary one has 2 KiB, and longer ones are read each time


@attrs.define(eq=False)
class KnownChain:
    """
    A chain that keeps the rules: the leaf first, the anchor last, and whom it names.

    Shared by all connections of that peer. ``vouched`` is the last round of :class:`KnownChains` in which an authority
    of the peer's own trust domain stood behind it, ``kept`` the last in which one stood behind its live connections.
    """

    certificates: tuple[x509.Certificate, ...]
    peer: PeerIdentity
    vouched: int = 0
    kept: int = 0
    _keys: tuple[bytes, ...] = ()

    def keys(self) -> tuple[bytes, ...]:
        """
        The SHA-256 of each certificate's key, as deny-lists name them.

        :raises Exception: whatever ``cryptography`` makes of a key that it cannot read.
        """
        if not self._keys:
            self._keys = tuple([key_pin(certificate).sha256 for certificate in self.certificates])
        return self._keys


class KnownChains:
    """
    The chains that were vouched for last; a chain that nobody vouches for leaves no trace.

    :param most: how many are kept; beyond it the one that was not asked for the longest time is forgotten.
    """

    def __init__(self, most: int = _MAX_CHAINS) -> None:
        self._most = most
        self._chains: dict[Key, KnownChain] = {}  # in the order of their last use
        self._authorities: dict[bytes, tuple[bytes, x509.Certificate]] = {}
        self._bundles: Mapping[TrustDomain, TrustBundle] | None = None
        self._round = 0  # grows whenever the bundles are others

    def find(self, chain: tuple[bytes, ...], names: tuple[DNSName, ...] = ()) -> KnownChain | None:
        """
        Look a chain up.

        :param chain: each certificate in DER, the leaf first. Only the very same bytes are the same chain.
        :param names: by which the peer was to be known, none for a SPIFFE ID.
        """
        key = (chain, names)
        known = self._chains.pop(key, None)
        if known is not None:
            self._chains[key] = known
        return known

    def read(self, chain: tuple[bytes, ...]) -> tuple[x509.Certificate, ...]:
        """
        Read the certificates of a chain; nothing is remembered of it yet.

        :raises Refusal: MALFORMED_CERTIFICATE.
        """
        with readable("the peer's certificate"):
            return tuple(self._read(certificate) for certificate in chain)

    def _read(self, certificate: bytes) -> x509.Certificate:
        known = self._authorities.get(certificate)
        return known[1] if known is not None else x509.load_der_x509_certificate(certificate)

    def remember(self, chain: tuple[bytes, ...], names: tuple[DNSName, ...], known: KnownChain) -> None:
        """Take in what :meth:`find` shall give from now on, once everything about it was found good."""
        if sum(map(len, chain)) > _MAX_BYTES:
            return
        shared = [self._share(der, each) for der, each in zip(chain[1:], known.certificates[1:], strict=True)]
        self._chains[((chain[0], *shared), names)] = known
        if len(self._chains) > self._most:
            del self._chains[next(iter(self._chains))]

    def _share(self, der: bytes, certificate: x509.Certificate) -> bytes:
        """Give the one copy of an authority's certificate that all chains have in common."""
        known = self._authorities.get(der)
        if known is None:
            known = self._authorities[der] = (der, certificate)
            if len(self._authorities) > _MAX_AUTHORITIES:
                del self._authorities[next(iter(self._authorities))]
        return known[0]

    def vouch(self, known: KnownChain, bundles: Mapping[TrustDomain, TrustBundle]) -> None:
        """
        Make sure that an authority of the peer's own trust domain stands behind a chain that names a SPIFFE ID.

        :param bundles: those of this moment. They are told apart by their identity and must not be changed in place.
        :raises Refusal: NO_BUNDLE, CHAIN_INVALID, WRONG_ANCHOR.
        """
        self._turn_to(bundles)
        if known.vouched != self._round:
            with readable("the peer's certificate"):
                check_anchor(known.peer, known.certificates, bundles)
            known.vouched = self._round

    def keep(
        self, known: KnownChain, voucher: TrustDomain, bundles: Mapping[TrustDomain, TrustBundle], now: float
    ) -> None:
        """
        Make sure that an authority still stands behind a chain whose connections live.

        Less than :meth:`vouch` asks for: the chain that OpenSSL built is that of the handshake, an authority that was
        renewed since with its key vouches for it all the same, and one that leaves the bundle when its time is over
        is not withdrawn but rotated.

        :param voucher: the trust domain whose authority it must be.
        :param bundles: as for :meth:`vouch`.
        :param now: wall-clock seconds.
        :raises Refusal: VOUCHER_GONE.
        """
        self._turn_to(bundles)
        named = known.peer.spiffe_id is not None
        if named and self._round in (known.vouched, known.kept):
            return
        chain = known.certificates
        with readable("the peer's certificate"):
            bundle = bundles.get(voucher)
            authorities = bundle.authorities if bundle is not None else ()
            over = not_after(chain[-1]) < now
            # A server that is known by a DNS name may be listed itself.
            if not authorities or not (over or stands_behind(authorities, chain, listed=not named)):
                gap = bundle_gap(voucher, bundles)
                left = gap or f"{name_text(chain[-1].subject)}, which vouched for it, has left the bundle of {voucher}"
                raise Refusal(VOUCHER_GONE, f"nobody vouches for the peer {known.peer} any longer: {left}")
        if named:
            known.kept = self._round

    def _turn_to(self, bundles: Mapping[TrustDomain, TrustBundle]) -> None:
        if bundles is not self._bundles:
            self._bundles = bundles
            self._round += 1
