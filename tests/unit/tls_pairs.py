"""Two TLS ends without a socket between them, and identities that are valid at the time of the test."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from OpenSSL import SSL

from tcpmesh.dataplane.contexts import TLSContexts
from tcpmesh.dataplane.openssl_private import record_layer
from tcpmesh.dataplane.record_layer import READ_BYTES, RecordLayer
from tcpmesh.dataplane.tls_core import TLSCore
from tcpmesh.dataplane.verification import PeerVerification
from tcpmesh.identity.spiffe import SpiffeId, TrustDomain
from tcpmesh.mesh_state import MeshState
from tcpmesh.settings import TLSSettings
from tcpmesh.values import ExpectedIdentity, TrustBundle
from tcpmesh.wall_clock import wall_clock
from tests.unit.crafted import DAY, Issuer, Leaf, authority, bundles, leaf, svid, uri

WHOLE = 1 << 30  # a piece that holds everything
PIECES = (WHOLE, 1)  # every stream test runs with all at once and with one byte at a time

WEB, ORDERS = "spiffe://a.test/web", "spiffe://a.test/orders"
TLS12 = TLSSettings("1.2", "1.2")


def now_authority(name: str, parent: Issuer | None = None, **fields: Any) -> Issuer:
    """An authority that is valid now: OpenSSL knows no other time."""
    now = wall_clock()
    return authority(name, parent, **{"not_before": now - DAY, "not_after": now + DAY, **fields})


def now_leaf(issuer: Issuer, *names: bytes, **fields: Any) -> Leaf:
    """A leaf that is valid now."""
    now = wall_clock()
    return leaf(issuer, *names, **{"not_before": now - 60, "not_after": now + 3600, **fields})


def pieces(data: bytes | memoryview, size: int) -> Iterator[bytes | memoryview]:
    """The data in pieces of at most ``size`` bytes."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


def take(connection: SSL.Connection) -> bytes:
    """Everything that a foreign end wants to send."""
    output = b""
    while True:
        try:
            output += connection.bio_read(65536)
        except SSL.WantReadError:
            return output


def names_of(error: SSL.Error) -> str:
    """What OpenSSL says, the part after "alert" for an alert."""
    text = "; ".join(entry[-1] for entry in error.args[0]) if error.args else ""
    return text.partition("alert ")[2] or text


def foreign_context(made: Leaf | None = None, *, chain: Sequence[Any] | None = None) -> SSL.Context:
    """A context of somebody who does not care: no security level, no verification, any version."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_cipher_list(b"DEFAULT:@SECLEVEL=0")
    if made is not None:
        context.use_certificate(made.certificate)
        for certificate in made.chain[1:-1] if chain is None else chain:
            context.add_extra_chain_cert(certificate)
        context.use_privatekey(made.key)
    return context


def foreign_client(source: SSL.Context | Leaf | None) -> SSL.Connection:
    """A client with nothing sent yet, from its certificate or its context."""
    context = source if isinstance(source, SSL.Context) else foreign_context(source)
    client = SSL.Connection(context, None)
    client.set_connect_state()
    return client


def client_hello() -> bytes:
    """The first flight of a client, by itself."""
    client = foreign_client(None)
    try:
        client.do_handshake()
    except SSL.WantReadError:
        return take(client)
    raise AssertionError("a handshake without a peer")


class OwningCore(TLSCore):
    """Gives copies, of any length: what the product takes as views of shared buffers, tests like to keep."""

    def encrypt(self, plaintext: bytes | memoryview) -> bytes:
        return b"".join([bytes(super(OwningCore, self).encrypt(piece)) for piece in pieces(plaintext, READ_BYTES)])

    def decrypt(self, ciphertext: bytes | memoryview) -> bytes:  # type: ignore[override]
        if not ciphertext:
            return bytes(super().decrypt(b""))
        return b"".join([bytes(super(OwningCore, self).decrypt(piece)) for piece in pieces(ciphertext, READ_BYTES)])


class World:
    """
    Trust domain a.test with an issuing authority below its root, b.test, and two workloads of a.test.

    :param records: the record layer of the cores that are made here.
    """

    def __init__(self, records: Callable[[SSL.Connection], RecordLayer] = record_layer) -> None:
        self.records = records
        self.root = now_authority("root of a.test")
        self.issuing = now_authority("issuing of a.test", self.root, path_length=0)
        self.other = now_authority("root of b.test")
        self.bundles = bundles(a=self.root, b=self.other)
        self.web = now_leaf(self.issuing, uri(WEB))
        self.orders = now_leaf(self.issuing, uri(ORDERS))
        self.contexts = TLSContexts()

    def state(
        self, generation: int = 1, bundles: dict[TrustDomain, TrustBundle] | None = None, **leaves: Leaf
    ) -> MeshState:
        """What the control side would publish; workloads are called like their leaves, all with their own names."""
        made = {"web": self.web, "orders": self.orders, **leaves}
        return MeshState(
            generation=generation,
            svids={name: svid(each, f"spiffe://a.test/{name}") for name, each in made.items()},
            bundles=self.bundles if bundles is None else bundles,
        )

    def verification(self, *expected: ExpectedIdentity | str) -> PeerVerification:
        """One for a peer; without names, whoever verifies is welcome."""
        ids = [SpiffeId.parse(name) if isinstance(name, str) else name for name in expected]
        return PeerVerification(self.bundles, ids or None, wall_clock)

    def server(self, tls: TLSSettings | None = None, state: MeshState | None = None) -> TLSCore:
        """The core of an inbound listener of ``orders``."""
        context = self.contexts.server(state or self.state(), "orders", tls or TLSSettings())
        return OwningCore(context, self.verification(), server=True, records=self.records)

    def client(
        self, tls: TLSSettings | None = None, state: MeshState | None = None, expect: str = ORDERS, **more: Any
    ) -> TLSCore:
        """The core of ``web``, dialling somebody who must be ``expect``."""
        context = self.contexts.client(state or self.state(), "web", tls or TLSSettings(), "mesh")
        return OwningCore(context, self.verification(expect), server=False, records=self.records, **more)


class Pair:
    """A client's and a server's core, and the wire between them, which delivers in pieces of one size."""

    def __init__(self, client: TLSCore, server: TLSCore, piece: int = WHOLE) -> None:
        self.client = client
        self.server = server
        self.piece = piece

    def handshake(self) -> Pair:
        """
        Complete it on both sides.

        :raises Refusal: from whichever end refuses.
        """
        ready = {id(self.client): self.client.handshake(b""), id(self.server): False}
        source, sink = self.client, self.server
        for _ in range(20):
            for piece in pieces(source.take_output(), self.piece):
                if not ready[id(sink)]:
                    ready[id(sink)] = sink.handshake(piece)
                elif sink.decrypt(piece):
                    raise AssertionError("payload during the handshake")
            source, sink = sink, source
            if all(ready.values()):
                # The server's tickets are still under way.
                self.carry(self.server.take_output(), self.client)
                return self
        raise AssertionError("the handshake does not come to an end")

    def carry(self, ciphertext: bytes, to: TLSCore) -> bytes:
        """Deliver ciphertext; what came out of it as plaintext."""
        return b"".join([to.decrypt(piece) for piece in pieces(ciphertext, self.piece)])

    def both_ways(self) -> tuple[tuple[TLSCore, TLSCore], ...]:
        """Sender and receiver, in both directions."""
        return ((self.client, self.server), (self.server, self.client))


def joined(world: World, piece: int = WHOLE, tls: TLSSettings | None = None, **client: Any) -> Pair:
    """A pair with its handshake done."""
    return Pair(world.client(tls, **client), world.server(tls), piece).handshake()


def meet(client: SSL.Connection, server: TLSCore, piece: int = WHOLE) -> bool:
    """
    Let a foreign client do its handshake with a server's core; true once both are done.

    :raises Refusal: when the server refuses; its alert is left in its output.
    :raises SSL.Error: when the client does.
    """
    complete = False
    for _ in range(10):
        with contextlib.suppress(SSL.WantReadError):
            client.do_handshake()
        for part in pieces(take(client), piece):
            complete = server.handshake(part)
        output = server.take_output()
        if output:
            client.bio_write(output)
        elif complete:
            return True
    return False
