"""TLS handshakes in which one end presents crafted certificates, and what the other end makes of them, at any time."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cryptography import x509
from OpenSSL import SSL, crypto

from tcpmesh.dataplane.verification import PeerVerification, verify_callback
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.identity.verify import MAX_CHAIN_LENGTH
from tcpmesh.values import ExpectedIdentity, TrustBundle
from tcpmesh.wall_clock import wall_clock
from tests.unit.crafted import Leaf

Held = Mapping[TrustDomain, TrustBundle]


def _judge(held: Held, own: Leaf, now: float | None) -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.use_certificate(own.certificate)
    context.use_privatekey(own.key)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, verify_callback)
    context.set_verify_depth(MAX_CHAIN_LENGTH)
    store = context.get_cert_store()
    assert store is not None
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    if now is not None:
        store.set_time(datetime.datetime.fromtimestamp(now, datetime.UTC).replace(tzinfo=None))
    for bundle in held.values():
        for anchor in bundle.authorities:
            store.add_cert(crypto.X509.from_cryptography(anchor))
    return context


def _presenting(presented: Sequence[x509.Certificate], key: Any) -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_cipher_list(b"DEFAULT:@SECLEVEL=0")  # the attacker's library does not mind
    if presented:
        context.use_certificate(presented[0])
        for certificate in presented[1:]:
            context.add_extra_chain_cert(certificate)
        context.use_privatekey(key)
    return context


def handshake(
    presented: Sequence[x509.Certificate],
    key: Any,
    held: Held,
    own: Leaf,
    *,
    now: float | None = None,
    peer_is: str = "client",
    expected: Sequence[ExpectedIdentity] | None = None,
) -> PeerVerification:
    """
    Let a peer present the chain, and give what the other end made of it.

    :param own: what the judging end presents itself.
    :param now: the time by which OpenSSL and the explanations judge; None is the wall clock.
    :param peer_is: ``client`` or ``server``.
    """
    clock: Callable[[], float] = wall_clock if now is None else lambda: now
    verification = PeerVerification(held, expected, clock)
    judging = SSL.Connection(_judge(held, own, now), None)
    judging.set_app_data(verification)
    presenting = SSL.Connection(_presenting(presented, key), None)
    client, server = (presenting, judging) if peer_is == "client" else (judging, presenting)
    client.set_connect_state()
    server.set_accept_state()
    ends = [client, server]
    for _ in range(20):
        for end, other in (ends, ends[::-1]):
            try:
                end.do_handshake()
            except SSL.WantReadError:
                pass
            except SSL.Error:
                return verification
            while True:
                try:
                    other.bio_write(end.bio_read(65536))
                except SSL.WantReadError:
                    break
    return verification
