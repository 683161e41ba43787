"""How what a certificate says is written."""

from __future__ import annotations

from cryptography import x509
from cryptography.x509.oid import NameOID
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.identity.certificates import name_text


def name(*parts: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(kind, value) for kind, value in parts])


class NameTests(SynchronousTestCase):
    """Distinguished names."""

    def test_the_last_part_comes_first(self) -> None:
        """As RFC 4514 has it."""
        self.assertEqual(name_text(name((NameOID.COUNTRY_NAME, "US"), (NameOID.COMMON_NAME, "a"))), "CN=a,C=US")

    def test_serial_numbers_of_names_have_a_word(self) -> None:
        """SPIRE tells its authorities apart by them."""
        spire = name((NameOID.COUNTRY_NAME, "US"), (NameOID.ORGANIZATION_NAME, "SPIFFE"), (NameOID.SERIAL_NUMBER, "71"))
        self.assertEqual(name_text(spire), "serialNumber=71,O=SPIFFE,C=US")

    def test_a_name_without_parts(self) -> None:
        """Is said to be one."""
        self.assertEqual(name_text(name()), "(empty name)")

    def test_what_could_mislead_is_quoted(self) -> None:
        """A line break cannot begin a line of the log."""
        self.assertEqual(name_text(name((NameOID.COMMON_NAME, "a\nb"))), r"'CN=a\nb'")
