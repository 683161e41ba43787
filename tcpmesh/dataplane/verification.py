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
from tcpmesh.identity.denial import check_denied
from tcpmesh.identity.deny_list import NOBODY, DenyList
from tcpmesh.identity.key_pin import key_pin, verify_key_pin
from tcpmesh.identity.known_chains import KnownChain, KnownChains
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.identity.verify import (
    check_profiles,
    check_sizes,
    check_voucher,
    explain_chain_failure,
    match_expected,
    presented_name,
    verify_dns_name,
)
from tcpmesh.values import DNSName, ExpectedIdentity, KeyPin, PeerIdentity, TrustBundle

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
    :param known: the chains that were accepted before, to be shared by all connections.
    :param deny_list: whom nobody lets in, whoever vouches.
    """

    __slots__ = (
        "_bundles",
        "_chain",
        "_deny_list",
        "_expected",
        "_failure",
        "_known",
        "_leaf",
        "_now",
        "_seen",
        "_voucher",
        "peer",
        "refusal",
    )

    def __init__(
        self,
        bundles: Mapping[TrustDomain, TrustBundle],
        expected: Sequence[ExpectedIdentity] | None,
        now: Callable[[], float],
        voucher: TrustDomain | None = None,
        known: KnownChains | None = None,
        deny_list: DenyList = NOBODY,
    ) -> None:
        self._bundles = bundles
        self._deny_list = deny_list
        self._voucher = voucher
        self._expected = expected
        self._now = now
        self._known = known if known is not None else KnownChains()
        self._seen: dict[int, crypto.X509] = {}  # by depth, while OpenSSL walks
        self._chain: KnownChain | None = None
        self._leaf: x509.Certificate | None = None
        self._failure: tuple[int, int] | None = None
        self.peer: PeerIdentity | None = None
        self.refusal: Refusal | None = None

    @property
    def presented(self) -> str:
        """The name in the peer's leaf certificate, verified or not, escaped for a log line."""
        return presented_name(self._leaf) if self._leaf is not None else ""

    @property
    def presented_leaf(self) -> x509.Certificate | None:
        """The peer's own certificate, verified or not; None before it came."""
        return self._leaf

    @property
    def anchor(self) -> x509.Certificate | None:
        """The authority that the accepted chain ends at; None before, and for a pinned key."""
        return self._chain.certificates[-1] if self._chain is not None else None

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
        self._seen[depth] = certificate
        if self._expected is not None and expects_keys(self._expected):
            # Whatever OpenSSL finds in the chain of a pinned key: nobody relies on it. The handshake proves the key.
            if depth == 0 and self.peer is None:
                self.peer = self._judge()
            return True
        if not ok and self._failure is None:
            self._failure = (error, depth)
        # Name constraints are checked last, after the leaf was judged: no call for the leaf follows any more.
        if depth > 0 and (ok or self.peer is None):
            return True
        if self._failure is not None:
            number, at = self._failure
            read = dict(zip(sorted(self._seen), self._read(self._chain_seen()), strict=True))
            raise explain_chain_failure(number, f"X509_V_ERR {number}", at, read, self._bundles, self._now())
        self.peer = self._judge()
        return True

    def _chain_seen(self) -> tuple[bytes, ...]:
        """What OpenSSL has shown, in DER, the leaf first."""
        seen = self._seen
        return tuple([crypto.dump_certificate(crypto.FILETYPE_ASN1, seen[depth]) for depth in sorted(seen)])

    def _read(self, chain: tuple[bytes, ...]) -> tuple[x509.Certificate, ...]:
        (self._leaf,) = self._known.read(chain[:1])
        return (self._leaf, *self._known.read(chain[1:]))

    def rejudge(self, bundles: Mapping[TrustDomain, TrustBundle], deny_list: DenyList = NOBODY) -> PeerIdentity:
        """
        Judge the verified chain again, if this is another deny-list or other bundles than it was judged by.

        A bundle may have been withdrawn, or the peer denied, while the handshake was under way.

        :raises Refusal: when they do not vouch for the peer, or it is denied.
        """
        self._seen.clear()  # OpenSSL is through with them
        if bundles is not self._bundles or deny_list is not self._deny_list:
            self._bundles, self._deny_list = bundles, deny_list
            self.peer = None  # until they have said otherwise
            self.peer = self._judge()
        if self.peer is None:
            raise Refusal(NO_BUNDLE, "the trust bundles no longer vouch for the peer")
        return self.peer

    def recheck(self, bundles: Mapping[TrustDomain, TrustBundle], deny_list: DenyList) -> None:
        """
        Judge the peer of a live connection, whose handshake is long over; nothing to do before it was verified.

        :raises Refusal: PEER_DENIED, VOUCHER_GONE.
        """
        peer, leaf, chain = self.peer, self._leaf, self._chain
        if peer is None or leaf is None:
            return
        check_denied(deny_list, peer, chain.certificates if chain is not None else (leaf,), self._keys)
        voucher = peer.spiffe_id.trust_domain if peer.spiffe_id is not None else self._voucher
        if chain is not None and voucher is not None:
            self._known.keep(chain, voucher, bundles, self._now())

    def _keys(self) -> Sequence[bytes]:
        """The SHA-256 of the keys of everything that the peer is judged by."""
        assert self._leaf is not None
        return self._chain.keys() if self._chain is not None else (key_pin(self._leaf).sha256,)

    def _judge(self) -> PeerIdentity:
        peer = self._identify()
        assert self._leaf is not None
        chain = self._chain.certificates if self._chain is not None else (self._leaf,)
        check_denied(self._deny_list, peer, chain, self._keys)
        return peer

    def _identify(self) -> PeerIdentity:
        if self._expected is not None and expects_keys(self._expected):
            return self._judge_key(self._expected)
        names: tuple[DNSName, ...] = ()
        if self._expected is not None and expects_dns(self._expected):
            names = tuple([name for name in self._expected if isinstance(name, DNSName)])
        if self._chain is not None:
            self._vouch(self._chain)
        else:
            seen = self._chain_seen()
            chain = self._known.find(seen, names)
            if chain is None:
                self._chain = self._examine(seen, names)
                self._vouch(self._chain)
                self._known.remember(seen, names, self._chain)
            else:
                self._chain, self._leaf = chain, chain.certificates[0]
                self._vouch(chain)
        if self._expected is not None and not names:
            match_expected(self._chain.peer, self._expected)
        return self._chain.peer

    def _judge_key(self, expected: Sequence[ExpectedIdentity]) -> PeerIdentity:
        """No bundle has a say in it."""
        if self._leaf is None:
            leaf = crypto.dump_certificate(crypto.FILETYPE_ASN1, self._seen[0])
            (self._leaf,) = self._known.read((leaf,))  # to be named, whatever is refused
        pins = [pin for pin in expected if isinstance(pin, KeyPin)]
        return verify_key_pin(self._leaf, pins, self._now())

    def _examine(self, seen: tuple[bytes, ...], names: tuple[DNSName, ...]) -> KnownChain:
        """A chain that nobody has shown lately."""
        (self._leaf,) = self._known.read(seen[:1])  # to be named, whatever is refused
        check_sizes([len(certificate) for certificate in seen])
        certificates = self._read(seen)
        peer = verify_dns_name(certificates, names) if names else check_profiles(certificates)
        return KnownChain(certificates, peer)

    def _vouch(self, chain: KnownChain) -> None:
        if chain.peer.spiffe_id is not None:
            self._known.vouch(chain, self._bundles)
        elif self._voucher is not None:
            check_voucher(chain.certificates, self._voucher, self._bundles)


def expects_dns(expected: Sequence[ExpectedIdentity]) -> bool:
    """Whether a server is known by DNS names only: then no SPIFFE profile is asked of it, and another store trusted."""
    return bool(expected) and all(isinstance(name, DNSName) for name in expected)


def expects_keys(expected: Sequence[ExpectedIdentity]) -> bool:
    """Whether a server is known by its key only: then neither a profile nor an authority is asked of it."""
    return bool(expected) and all(isinstance(pin, KeyPin) for pin in expected)


def _listed(names: Sequence[str]) -> str:
    text = ", ".join(names[:_LISTED])
    return text if len(names) <= _LISTED else f"{text} and {len(names) - _LISTED} more"


def verify_callback(connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int) -> bool:
    """For ``SSL.Context.set_verify``: hand the step to the connection's own verification."""
    verification: Any = connection.get_app_data()
    if not isinstance(verification, PeerVerification):
        return False
    return verification.certificate(certificate, error, depth, bool(ok))
