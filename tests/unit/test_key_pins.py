"""Servers that are known by their key alone."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import codes
from tcpmesh.codes import Code
from tcpmesh.dataplane.verification import PeerVerification
from tcpmesh.errors import Refusal
from tcpmesh.identity.key_pin import key_pin, verify_key_pin
from tcpmesh.identity.spiffe import SpiffeId
from tcpmesh.identity.verify import match_expected
from tcpmesh.values import (
    DNSName,
    ExpectedIdentity,
    KeyPin,
    PeerIdentity,
    parse_expected_identity,
    parse_key_pin,
)
from tests.unit.crafted import NOW, SHA1_HASH, Issuer, Leaf, authority, dns, extension, leaf, rsa_key, uri
from tests.unit.crafted_handshakes import handshake
from tests.unit.svid_vectors import UNKNOWN, World

HOUR = 3600.0
PIN = "spki:sha256:" + base64.b64encode(bytes(range(32))).decode()


class SpellingTests(SynchronousTestCase):
    """How a pin is written."""

    def test_reads_what_it_writes(self) -> None:
        """The form of RFC 7469, behind what says that it is a pin."""
        self.assertEqual(parse_expected_identity(PIN), KeyPin(bytes(range(32))))
        self.assertEqual(str(parse_key_pin(PIN)), PIN)

    @given(st.binary(min_size=32, max_size=32))
    def test_has_one_spelling_for_each_key(self, digest: bytes) -> None:
        """Which is read again as the same."""
        self.assertEqual(parse_key_pin(str(KeyPin(digest))), KeyPin(digest))

    @given(st.text(max_size=60))
    def test_reads_or_refuses_anything(self, rest: str) -> None:
        """Whatever follows the prefix, it is a pin that is written the same way, or a ValueError."""
        for text in (f"spki:{rest}", f"spki:sha256:{rest}"):
            try:
                pin = parse_key_pin(text)
            except ValueError as error:
                self.assertTrue(str(error).isprintable())
            else:
                self.assertEqual(str(pin), text)

    def test_refuses_everything_else(self) -> None:
        """Other hashes, other lengths, other forms of base64, and bits that would be dropped."""
        digest = PIN.removeprefix("spki:sha256:")
        for text, words in (
            ("spki:", "is not a pin; write spki:sha256:"),
            ("spki:sha256", "is not a pin; write spki:sha256:"),
            (f"spki:sha1:{digest}", "is not a pin; write spki:sha256:"),
            (f"spki:SHA256:{digest}", "is not a pin; write spki:sha256:"),
            (f"spki:{digest}", "is not a pin; write spki:sha256:"),
            ("spki:sha256:", "43 characters"),
            ("spki:sha256:" + digest.rstrip("="), "43 characters"),
            ("spki:sha256:" + base64.b64encode(bytes(31)).decode(), "43 characters"),
            ("spki:sha256:" + base64.b64encode(bytes(33)).decode(), "43 characters"),
            ("spki:sha256:" + base64.urlsafe_b64encode(b"\xff" * 32).decode(), "43 characters"),
            ("spki:sha256:" + digest[:-2] + "9=", "43 characters"),  # the same 32 bytes and two bits more
            ("spki:sha256:" + bytes(32).hex(), "43 characters"),
            (PIN + "\n", "43 characters"),
            (PIN + " ", "43 characters"),
            ("spki:sha256:\u00e9", "43 characters"),
            (PIN.upper(), "nor a pinned key, as spki:sha256:"),
            (f"sha256:{digest}", "nor a pinned key, as spki:sha256:"),
        ):
            error = str(self.assertRaises(ValueError, parse_expected_identity, text))
            self.assertIn(words, error, text)
            self.assertNotIn("\n", error)


def self_signed(**fields: Any) -> Issuer:
    """As ``openssl req -x509`` makes it: an authority, to begin with."""
    fields.setdefault("not_before", NOW - HOUR)
    fields.setdefault("not_after", NOW + HOUR)
    return authority("appliance", **fields)


class KeyTests(SynchronousTestCase):
    """One certificate."""

    def refused(
        self, code: Code, *words: str, leaf: x509.Certificate, pins: Sequence[KeyPin], now: float = NOW
    ) -> None:
        refusal = self.assertRaises(Refusal, verify_key_pin, leaf, pins, now)
        self.assertIs(refusal.code, code, refusal.reason)
        for word in words:
            self.assertIn(word, refusal.reason)
        self.assertTrue(refusal.reason.isascii() and refusal.reason.isprintable() and len(refusal.reason) < 700)

    def test_hashes_the_public_key_as_it_is_in_the_certificate(self) -> None:
        """SubjectPublicKeyInfo in DER, for each kind of key."""
        for key in (ec.generate_private_key(ec.SECP256R1()), rsa_key(2048)):
            der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            made = self_signed(key=key).certificate
            self.assertIn(der, made.public_bytes(Encoding.DER))
            self.assertEqual(key_pin(made), KeyPin(hashlib.sha256(der).digest()))

    def test_gives_the_pin_for_an_identity(self) -> None:
        """With the serial and the validity of the certificate that was shown."""
        made = self_signed(serial=0x77).certificate
        peer = verify_key_pin(made, [KeyPin(bytes(32)), key_pin(made)], NOW)
        self.assertEqual(peer, PeerIdentity(None, "77", NOW - HOUR, NOW + HOUR, key_pin=key_pin(made)))
        self.assertEqual(str(peer), str(key_pin(made)))

    def test_takes_another_certificate_for_the_same_key(self) -> None:
        """A renewed one needs no new pin."""
        key = ec.generate_private_key(ec.SECP256R1())
        pins = [key_pin(self_signed(key=key).certificate)]
        verify_key_pin(self_signed(key=key, serial=9, not_after=NOW + 99 * HOUR).certificate, pins, NOW)

    def test_refuses_another_key(self) -> None:
        """The same name, the same serial: both pins are shown, and a few of many."""
        wanted = key_pin(self_signed().certificate)
        other = self_signed().certificate
        words = [f"expected {wanted}; the key of subject CN=appliance is {key_pin(other)}"]
        self.refused(codes.KEY_DIFFERS, *words, leaf=other, pins=[wanted])
        self.refused(codes.KEY_DIFFERS, "and 95 more", leaf=other, pins=[wanted] * 100)
        self.refused(codes.KEY_DIFFERS, "expected nobody", leaf=other, pins=[])

    def test_a_certificate_is_not_its_key(self) -> None:
        """The fingerprint of the certificate pins nothing."""
        made = self_signed().certificate
        fingerprint = KeyPin(hashlib.sha256(made.public_bytes(Encoding.DER)).digest())
        self.refused(codes.KEY_DIFFERS, leaf=made, pins=[fingerprint])

    def test_keeps_to_the_validity(self) -> None:
        """To the second, with clocks two hours back and two days forward."""
        made = self_signed().certificate
        pins = [key_pin(made)]
        verify_key_pin(made, pins, NOW - HOUR)
        verify_key_pin(made, pins, NOW + HOUR)
        for now, code, words in (
            (NOW + HOUR + 1, codes.EXPIRED, "expired 1 s ago, at 2027-01-15T09:00:00Z; it is 2027-01-15T09:00:01Z by"),
            (NOW + 48 * HOUR, codes.EXPIRED, "expired 47 h ago"),
            (NOW - HOUR - 1, codes.NOT_YET_VALID, "1 s from now"),
            (NOW - 2 * HOUR, codes.NOT_YET_VALID, "60 min from now; it is 2027-01-15T06:00:00Z by this clock: one of"),
        ):
            self.refused(code, f"the certificate of the pinned key {pins[0]}", words, leaf=made, pins=pins, now=now)

    def test_refuses_a_key_that_others_can_find(self) -> None:
        """Pinned or not, RSA of 1024 bits proves nothing."""
        made = self_signed(key=rsa_key(1024)).certificate
        self.refused(codes.PROFILE, "RSA key of 1024 bits", leaf=made, pins=[key_pin(made)])


class HandshakeTests(SynchronousTestCase):
    """OpenSSL finds much to complain of, none of which a pin relies on."""

    def setUp(self) -> None:
        self.world = World()

    def meet(
        self, made: Leaf | Issuer, *expected: ExpectedIdentity, root: bool = False, now: float = NOW
    ) -> PeerVerification:
        """What a client says to a server with this certificate, presented with what is above it."""
        chain = made.chain if root or len(made.chain) == 1 else made.chain[:-1]
        held, own = self.world.held(), self.world.server
        return handshake(chain, made.key, held, own, now=now, peer_is="server", expected=expected)

    def test_takes_any_certificate_for_the_key(self) -> None:
        """Self-signed, of strangers, with and without their root, of the mesh; no names, no usage, old signatures."""
        stranger = authority("stranger")
        client_only = extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]))
        made: list[Leaf | Issuer] = [
            self_signed(),
            self_signed(ca=False),
            self_signed(hash_algorithm=SHA1_HASH),
            leaf(stranger, changes={"names": None}),
            leaf(authority("issuing", stranger), dns("db.test")),
            leaf(stranger, version=1),
            leaf(stranger, changes={"extended": client_only, "usage": None}),
            leaf(stranger, more=[UNKNOWN]),
            leaf(self.world.a),
            self.world.levels(12),
        ]
        for number, each in enumerate(made):
            for root in (False, True):
                pin = key_pin(each.certificate)
                verification = self.meet(each, KeyPin(bytes(32)), pin, root=root)
                self.assertIsNone(verification.refusal, f"{number}: {verification.refusal}")
                assert verification.peer is not None, number
                self.assertEqual(verification.peer.key_pin, pin)
                self.assertEqual(verification.wanted, f"{KeyPin(bytes(32))}, {pin}")

    def test_refuses_others(self) -> None:
        """Another key, whoever vouches for it; times; a weak key. An authority above that is pinned is nobody."""
        good = leaf(self.world.a)
        above = authority("issuing", self.world.a)
        late = self_signed(not_after=NOW - 1)
        weak = self_signed(key=rsa_key(1024))
        for made, pinned, code in (
            (self_signed(), good.certificate, codes.KEY_DIFFERS),
            (good, self_signed().certificate, codes.KEY_DIFFERS),
            (leaf(above), above.certificate, codes.KEY_DIFFERS),
            (leaf(above), self.world.a.certificate, codes.KEY_DIFFERS),
            (late, late.certificate, codes.EXPIRED),
            (weak, weak.certificate, codes.PROFILE),
        ):
            for root in (False, True):
                verification = self.meet(made, key_pin(pinned), root=root)
                self.assertIsNone(verification.peer)
                assert verification.refusal is not None
                self.assertIs(verification.refusal.code, code, verification.refusal.reason)
                self.assertNotEqual(verification.presented, "")

    def test_beside_other_names_a_pin_opens_no_second_way_in(self) -> None:
        """The configuration refuses the mixture; a discovery plugin that gives it gets the strict kind."""
        made = self_signed()
        pin = key_pin(made.certificate)
        for other in (SpiffeId.parse("spiffe://a.test/db"), DNSName("db.test")):
            verification = self.meet(made, pin, other)
            self.assertIsNone(verification.peer)
            self.assertIsNotNone(verification.refusal)
        peer = self.meet(leaf(self.world.a, uri("spiffe://a.test/web"))).peer
        self.assertIsNone(peer, "an empty list is nobody")

    def test_matches_nothing_but_a_key(self) -> None:
        """A pin is neither an ID nor a name, and a pinned peer is neither."""
        pinned = PeerIdentity(None, "01", 0.0, 1.0, key_pin=parse_key_pin(PIN))
        named = PeerIdentity(SpiffeId.parse("spiffe://a.test/web"), "01", 0.0, 1.0)
        for peer, expected in (
            (pinned, DNSName(PIN)),
            (pinned, SpiffeId.parse("spiffe://a.test/web")),
            (named, parse_key_pin(PIN)),
        ):
            refusal = self.assertRaises(Refusal, match_expected, peer, [expected])
            self.assertIs(refusal.code, codes.ID_DIFFERS)

    def test_no_bundle_has_a_say_in_it(self) -> None:
        """What changes during the handshake changes nothing; a refusal stays one."""
        made = self_signed()
        verification = self.meet(made, key_pin(made.certificate))
        for _time in range(2):
            self.assertEqual(verification.rejudge({}).key_pin, key_pin(made.certificate))
        refused = self.meet(made, KeyPin(bytes(32)))
        for _time in range(2):
            self.assertIs(self.assertRaises(Refusal, refused.rejudge, {}).code, codes.KEY_DIFFERS)
