"""
TLS contexts: one per (generation, workload, role, settings), made when first needed and dropped with its generation.

Ring 2: pyOpenSSL, no I/O. A rotation makes a new context; connections keep the one they were made with.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL, crypto

from tcpmesh.codes import NO_IDENTITY, OWN_DENIED, OWN_EXPIRED, OWN_PROFILE, OWN_REVOKED, Code
from tcpmesh.dataplane.negotiation import negotiate
from tcpmesh.dataplane.openssl_private import GROUP_SETTER, GroupSetter
from tcpmesh.dataplane.preface import ALPN, CHECK_ALPN
from tcpmesh.dataplane.probe import PROBE_ALPN
from tcpmesh.dataplane.verification import expects_dns, verify_callback
from tcpmesh.errors import Refusal
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.identity.verify import MAX_CHAIN_LENGTH
from tcpmesh.mesh_state import MeshState
from tcpmesh.settings import ServiceSettings, TLSSettings
from tcpmesh.values import ExpectedIdentity, IdentityState, Svid

# Whose authorities a peer's chain may end at: all bundles (a SPIFFE peer, whose own domain is checked afterwards), one
# trust domain's, the system's, or those of a PEM file.
Trust = Literal["mesh", "system"] | TrustDomain | Path

# Else OpenSSL looks in each handshake for what is above a certificate that came alone, as SPIRE's do, and sends it.
_NO_AUTO_CHAIN = 0x8  # SSL_MODE_NO_AUTO_CHAIN, ssl.h
_OPTIONS = SSL.OP_NO_COMPRESSION | SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION
_NO_IDENTITY_CODES: dict[IdentityState, Code] = {IdentityState.EXPIRED: OWN_EXPIRED, IdentityState.REVOKED: OWN_REVOKED}


def own_svid(state: MeshState, workload: str) -> Svid:
    """
    The workload's own identity.

    :raises Refusal: NO_IDENTITY, OWN_EXPIRED, OWN_REVOKED or OWN_DENIED, so that nothing is ever sent without one.
    """
    denied = state.denied_workloads.get(workload)
    if denied is not None:
        raise Refusal(OWN_DENIED, f"the own certificate of workload {workload!r} may not be used: {denied}")
    svid = state.svids.get(workload)
    if svid is None:
        status = state.identity_states.get(workload, IdentityState.INIT)
        code = _NO_IDENTITY_CODES.get(status, NO_IDENTITY)
        raise Refusal(code, f"workload {workload!r} has no usable identity (it is in state {status.name})")
    return svid


def trust_for(settings: ServiceSettings, expected: Sequence[ExpectedIdentity], own: TrustDomain) -> Trust:
    """Whose authorities may vouch for a service's peer: for a DNS name no foreign trust domain that we know."""
    return own if settings.trust == "mesh" and expects_dns(expected) else settings.trust


class TLSContexts:
    """
    Makes and remembers contexts.

    :param foreign_authorities: the certificates of each PEM file that some service names in ``trust``.
    :param group_setter: how the groups of the key exchange are set; None for pyOpenSSL's public interface.
    """

    def __init__(
        self,
        foreign_authorities: dict[Path, Sequence[x509.Certificate]] | None = None,
        group_setter: GroupSetter | None = GROUP_SETTER,
    ) -> None:
        self._foreign_authorities = foreign_authorities or {}
        self._group_setter = group_setter
        self._generation = -1
        self._contexts: dict[tuple[Any, ...], SSL.Context] = {}

    def server(self, state: MeshState, workload: str, tls: TLSSettings, *, probe: bool = False) -> SSL.Context:
        """
        For an inbound listener: a client certificate is required.

        :param probe: whether a client may ask how it is seen.
        :raises Refusal: when the workload has no identity, or one that OpenSSL does not take.
        """
        return self._context(state, ("server", workload, tls, probe), workload, tls, "mesh")

    def client(self, state: MeshState, workload: str, tls: TLSSettings, trust: Trust) -> SSL.Context:
        """
        For a service, reached as ``workload``.

        :raises Refusal: when the workload has no identity, or one that OpenSSL does not take.
        """
        return self._context(state, ("client", workload, tls, trust), workload, tls, trust)

    def _context(
        self, state: MeshState, key: tuple[Any, ...], workload: str, tls: TLSSettings, trust: Trust
    ) -> SSL.Context:
        if state.generation != self._generation:
            self._contexts.clear()
            self._generation = state.generation
        context = self._contexts.get(key)
        if context is None:
            svid = own_svid(state, workload)
            try:
                context = _new_context(svid, tls, server=key[0] == "server", setter=self._group_setter)
                if key[0] == "server":
                    context.set_alpn_select_callback(_select_with_probe if key[-1] else _select_alpn)
            except SSL.Error as error:
                # Whatever else OpenSSL minds about a certificate that verified.
                raise Refusal(OWN_PROFILE, f"OpenSSL does not take the identity of {workload!r}: {error}") from None
            if trust == "system":
                context.set_default_verify_paths()
            else:
                _trust(context, self._authorities(state, trust))
            self._contexts[key] = context
        return context

    def _authorities(self, state: MeshState, trust: Trust) -> Iterable[x509.Certificate]:
        if isinstance(trust, Path):
            return self._foreign_authorities[trust]
        if isinstance(trust, TrustDomain):
            bundle = state.bundles.get(trust)
            return bundle.authorities if bundle is not None else ()
        return (authority for bundle in state.bundles.values() for authority in bundle.authorities)


def _new_context(svid: Svid, tls: TLSSettings, *, server: bool, setter: GroupSetter | None) -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    negotiate(context, tls, server=server, setter=setter)
    context.set_options(_OPTIONS)
    # A resumed session would skip the verification of the peer: without a cache and tickets none can be resumed.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS | _NO_AUTO_CHAIN)
    context.use_certificate(svid.leaf)
    for intermediate in svid.chain[1:]:
        context.add_extra_chain_cert(intermediate)
    context.use_privatekey(svid.private_key)  # type: ignore[arg-type]  # kinds are checked where keys are read
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, verify_callback)
    context.set_verify_depth(MAX_CHAIN_LENGTH)
    return context


def _trust(context: SSL.Context, authorities: Iterable[x509.Certificate]) -> None:
    store = context.get_cert_store()
    if store is None:
        raise TypeError("an SSL.Context without a certificate store")
    # Any certificate of a bundle is an anchor, self-signed or not (SPIRE's nested authorities are not).
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    for authority in {a.public_bytes(Encoding.DER): a for a in authorities}.values():
        store.add_cert(crypto.X509.from_cryptography(authority))


def _select_alpn(_connection: SSL.Connection, offered: list[bytes]) -> Any:
    if ALPN in offered:
        return ALPN
    return CHECK_ALPN if CHECK_ALPN in offered else SSL.NO_OVERLAPPING_PROTOCOLS


def _select_with_probe(connection: SSL.Connection, offered: list[bytes]) -> Any:
    """Who asks how it is seen says so first; nobody who has payload does."""
    return PROBE_ALPN if PROBE_ALPN in offered else _select_alpn(connection, offered)
