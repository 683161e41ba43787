"""Crafted certificates in real TLS handshakes: each is refused by the server with the right code."""

from __future__ import annotations

from typing import Any

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import codes
from tcpmesh.codes import Code
from tcpmesh.identity.spiffe import SpiffeId
from tcpmesh.wall_clock import wall_clock
from tests.unit.crafted import (
    SHA1_HASH,
    Extension,
    Issuer,
    Leaf,
    authority,
    bundles,
    dns,
    extension,
    key_usage,
    leaf,
    rsa_key,
    uri,
)
from tests.unit.crafted_handshakes import handshake

SAN_OID = "2.5.29.17"
HOUR = 3600.0


class CraftedHandshakeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = wall_clock()  # OpenSSL has no other
        self.times = {"not_before": self.now - HOUR, "not_after": self.now + HOUR}
        self.root = authority("root of a.test", **self.times)
        self.other = authority("root of b.test", **self.times)
        self.held = bundles(a=self.root, b=self.other)
        self.server = leaf(self.root, uri("spiffe://a.test/server"), **self.times)

    def leaf(self, *names: bytes, issuer: Issuer | None = None, **fields: Any) -> Leaf:
        return leaf(issuer or self.root, *names, **{**self.times, **fields})

    def refused(self, made: Leaf, code: Code, *words: str) -> None:
        """The server refuses what the client presents without its root."""
        presented = made.chain[:-1] if len(made.chain) > 1 else made.chain
        verification = handshake(presented, made.key, self.held, self.server)
        self.assertIsNone(verification.peer)
        refusal = verification.refusal
        assert refusal is not None, "the handshake ended without a verdict"
        self.assertEqual(refusal.code, code, refusal.reason)
        for word in words:
            self.assertIn(word, refusal.reason)

    def test_takes_a_good_one(self) -> None:
        """The apparatus lets a good certificate pass, with and without an intermediate."""
        for issuer in (self.root, authority("issuing", self.root, **self.times)):
            made = self.leaf(issuer=issuer)
            verification = handshake(made.chain[:-1], made.key, self.held, self.server)
            self.assertIsNone(verification.refusal)
            assert verification.peer is not None
            self.assertEqual(verification.peer.spiffe_id, SpiffeId.parse("spiffe://a.test/web"))

    def test_refuses_wrong_names(self) -> None:
        """NUL, two URIs, none, a root path, 10,000 names, unreadable and doubled names."""
        self.refused(self.leaf(uri("spiffe://a.test/web\0.b.test")), codes.INVALID_ID)
        self.refused(self.leaf(uri("spiffe://a.test/web"), dns("x\0.test")), codes.MALFORMED_CERTIFICATE)
        self.refused(self.leaf(uri("spiffe://a.test/web"), uri("spiffe://a.test/b")), codes.SEVERAL_IDS)
        self.refused(self.leaf(changes={"names": None}), codes.NO_SPIFFE_ID)
        self.refused(self.leaf(uri("spiffe://a.test")), codes.PROFILE, "no path")
        names = [uri("spiffe://a.test/web"), *(dns("a") for _ in range(9_999))]
        self.refused(self.leaf(*names), codes.CERTIFICATE_TOO_LARGE)
        large = [uri("spiffe://a.test/web"), *(dns(f"name-{number:06}.test") for number in range(4_000))]
        self.refused(self.leaf(*large), codes.CERTIFICATE_TOO_LARGE, "bytes, more than 65536")
        broken = Extension(SAN_OID, False, b"\x30\x05junk!")
        self.refused(self.leaf(changes={"names": broken}), codes.MALFORMED_CERTIFICATE)
        second = Extension(SAN_OID, False, b"\x30\x02\x82\x00")
        self.refused(self.leaf(more=[second]), codes.MALFORMED_CERTIFICATE)

    def test_refuses_wrong_authorities(self) -> None:
        """Other trust domains, B's authority for A's ID, strangers, impostors, authorities as leaves."""
        self.refused(self.leaf(issuer=self.other), codes.WRONG_ANCHOR, "would verify under trust domain b.test")
        self.refused(self.leaf(uri("spiffe://c.test/web"), issuer=self.other), codes.NO_BUNDLE)
        stranger = authority("stranger", **self.times)
        self.refused(self.leaf(issuer=stranger), codes.UNKNOWN_AUTHORITY, "CN=stranger")
        impostor = authority("root of a.test", **self.times)
        self.refused(self.leaf(issuer=impostor), codes.UNKNOWN_AUTHORITY, "imitates")
        doubled = authority("issuing", impostor, **self.times)
        self.refused(self.leaf(issuer=doubled), codes.UNKNOWN_AUTHORITY, "two states of one trust domain")
        own = Leaf(stranger.certificate, stranger.key, stranger.chain)
        self.refused(own, codes.UNKNOWN_AUTHORITY)
        ca = {"constraints": extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)}
        self.refused(self.leaf(changes=ca), codes.PROFILE)

    def test_refuses_wrong_times(self) -> None:
        """Expired by a second or two, of the future, and an expired intermediate."""
        self.refused(self.leaf(not_after=self.now - 1), codes.EXPIRED, "expired", "s ago")
        self.refused(self.leaf(not_before=self.now + 100), codes.NOT_YET_VALID, "from now")
        late = authority("late", self.root, not_before=self.now - 2 * HOUR, not_after=self.now - HOUR)
        self.refused(self.leaf(issuer=late), codes.CHAIN_INVALID, "intermediate CN=late", "spiffe://a.test/web")

    def test_refuses_wrong_usage(self) -> None:
        """Key usage and extended key usage of something else."""
        for usage in (None, extension(key_usage("key_cert_sign"), critical=True)):
            self.refused(self.leaf(changes={"usage": usage}), codes.PROFILE)
        for purpose in (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH):
            extended = extension(x509.ExtendedKeyUsage([purpose]))
            self.refused(self.leaf(changes={"extended": extended}), codes.PROFILE)
        self.refused(self.leaf(subject=""), codes.PROFILE)

    def test_refuses_weak_cryptography(self) -> None:
        """RSA of 1024 bits, SHA-1, version 1."""
        self.refused(self.leaf(key=rsa_key(1024)), codes.PROFILE)
        self.refused(self.leaf(hash_algorithm=SHA1_HASH), codes.PROFILE)
        self.refused(self.leaf(version=1), codes.PROFILE, "version 1")

    def test_refuses_fifty_levels(self) -> None:
        """A chain of fifty is too long, whoever notices first."""
        above = self.root
        for number in range(49):
            above = authority(f"level {number}", above, **self.times)
        self.refused(self.leaf(issuer=above), codes.CERTIFICATE_TOO_LARGE)
