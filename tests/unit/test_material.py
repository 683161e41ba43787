"""Keys and certificates in PEM."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.identity.certificates import pem_of
from tcpmesh.identity.material import MaterialError, load_certificates, load_private_key, new_key, pem_of_key
from tests.unit.crafted import authority, leaf, rsa_key


class CertificateTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.made = leaf(authority("root"))
        self.pem = pem_of(self.made.chain)

    def refused(self, data: bytes) -> str:
        return str(self.assertRaises(MaterialError, load_certificates, data))

    def test_reads_all_in_their_order(self) -> None:
        """The leaf comes first, as written."""
        self.assertEqual(load_certificates(self.pem), self.made.chain)

    def test_leaves_a_key_alone(self) -> None:
        """Key and certificates may share a file, in both orders."""
        key = pem_of_key(self.made.key)
        self.assertEqual(load_certificates(key + self.pem), self.made.chain)
        self.assertEqual(load_certificates(self.pem + key), self.made.chain)

    def test_says_what_is_wrong(self) -> None:
        """Each defect has its own words."""
        self.assertEqual(self.refused(b" \n"), "is empty")
        self.assertEqual(self.refused(b"hello"), "holds no PEM certificate")
        self.assertEqual(self.refused(pem_of_key(self.made.key)), "holds a private key and no certificate")
        self.assertIn("is not PEM but DER", self.refused(self.made.certificate.public_bytes(Encoding.DER)))
        self.assertIn("truncated or damaged", self.refused(self.pem[:-100]))
        self.assertIn("truncated or damaged", self.refused(self.pem[:200]))

    def test_notices_a_lost_line_end_between_two(self) -> None:
        """``cat`` of files without a final newline must not lose a certificate."""
        glued = self.pem.replace(b"-----END CERTIFICATE-----\n-----BEGIN", b"-----END CERTIFICATE----------BEGIN")
        try:
            found = load_certificates(glued)
        except MaterialError:
            return
        self.assertEqual(found, self.made.chain)

    @given(st.binary(max_size=300))
    def test_raises_nothing_else(self, junk: bytes) -> None:
        """Whatever the file holds, it is read or refused in one line."""
        for data in (junk, b"-----BEGIN CERTIFICATE-----\n" + junk + b"\n-----END CERTIFICATE-----\n"):
            try:
                load_certificates(data)
            except MaterialError as error:
                self.assertNotIn("\n", str(error))


class PrivateKeyTests(SynchronousTestCase):
    def refused(self, data: bytes) -> str:
        return str(self.assertRaises(MaterialError, load_private_key, data))

    def test_reads_what_it_wrote(self) -> None:
        """A new key survives the way to the disk and back."""
        key = new_key()
        self.assertEqual(load_private_key(pem_of_key(key)).private_numbers(), key.private_numbers())  # type: ignore[union-attr]

    def test_reads_what_others_write(self) -> None:
        """PKCS #8 and the traditional forms, with certificates or EC parameters before them."""
        key = new_key()
        traditional = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
        certificates = pem_of(authority("root").chain)
        for data in (
            traditional,
            parameters + traditional,
            certificates + pem_of_key(key),
            pem_of_key(key) + certificates,
        ):
            self.assertEqual(load_private_key(data).public_key(), key.public_key())
        for other in (rsa_key(2048), ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP384R1())):
            self.assertEqual(load_private_key(pem_of_key(other)).public_key(), other.public_key())

    def test_says_what_is_wrong(self) -> None:
        """Each defect has its own words, and none quotes the file."""
        key = new_key()
        pem = pem_of_key(key)
        encrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
        self.assertEqual(self.refused(b""), "is empty")
        self.assertEqual(self.refused(b"hello"), "holds no PEM private key")
        self.assertEqual(self.refused(pem_of(authority("root").chain)), "holds a certificate and no private key")
        self.assertIn("encrypted private key, which is not supported", self.refused(encrypted))
        self.assertIn("holds 2 private keys", self.refused(pem + pem))
        self.assertIn("cannot be read", self.refused(pem[:-60]))
        self.assertIn("unsupported kind", self.refused(pem_of_key(dsa.generate_private_key(1024))))
        der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        self.assertIn("is not PEM but DER", self.refused(der))

    def test_traditional_encryption_is_recognised(self) -> None:
        """``openssl ec -aes256`` marks it in a header."""
        encrypted = new_key().private_bytes(
            Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"secret")
        )
        self.assertIn("encrypted", self.refused(encrypted))

    @given(st.binary(max_size=300))
    def test_raises_nothing_else(self, junk: bytes) -> None:
        """Whatever the file holds, it is read or refused without quoting it."""
        data = b"-----BEGIN PRIVATE KEY-----\n" + junk + b"\n-----END PRIVATE KEY-----\n"
        self.assertTrue(self.refused(data).startswith("holds a private key that cannot be read"))
