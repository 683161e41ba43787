"""Certificates that are not made for what they are used for, over a real wire; see test_refusals.py."""

from __future__ import annotations

from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from tcpmesh import codes
from tests.integration.refusals import RefusalTestCase
from tests.unit.crafted import SHA1_HASH, extension, key_usage, rsa_key, uri


class ProfileTests(RefusalTestCase):
    """What it is made for."""

    async def refused_changed(
        self, words: str, *, alert: str = "internal error", client_alert: str = "", **changes: Any
    ) -> None:
        """A certificate with these extensions in place of good ones."""
        await self.refused_everywhere(
            lambda name: self.leaf(uri(name), changes=changes),
            codes.PROFILE,
            words,
            alert=alert,
            client_alert=client_alert,
        )

    async def test_an_authority(self) -> None:
        """cA is true."""
        ca = extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        await self.refused_changed("is an authority's (cA is true)", constraints=ca)

    async def test_no_key_usage(self) -> None:
        """It must say what its key is for."""
        await self.refused_changed("has no key usage", usage=None)

    async def test_key_usage_of_an_authority(self) -> None:
        """keyCertSign makes it one."""
        usage = extension(key_usage("digital_signature", "key_cert_sign"), critical=True)
        await self.refused_changed("has keyCertSign", usage=usage)

    async def test_key_usage_without_signatures(self) -> None:
        """Without digitalSignature it cannot authenticate in TLS 1.3."""
        usage = extension(key_usage("key_agreement"), critical=True)
        await self.refused_changed("lacks digitalSignature", usage=usage)

    async def test_half_an_extended_key_usage(self) -> None:
        """Only for servers or only for clients: refused in both roles, by OpenSSL where it is the wrong one."""
        servers = extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]))
        await self.refused_changed("clientAuth", client_alert="unsupported certificate", extended=servers)
        clients = extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]))
        await self.refused_changed(
            "serverAuth", client_alert="internal error", alert="unsupported certificate", extended=clients
        )

    async def test_an_empty_subject_without_critical_names(self) -> None:
        """X509-SVID.md section 3.1."""
        await self.refused_everywhere(
            lambda name: self.leaf(uri(name), subject=""), codes.PROFILE, "neither a subject nor critical"
        )

    async def test_rsa_of_1024_bits(self) -> None:
        """OpenSSL's security level refuses it, in our own proxy as well."""
        await self.refused_everywhere(
            lambda name: self.leaf(uri(name), key=rsa_key(1024)),
            codes.PROFILE,
            "a key that is too short",
            alert="bad certificate",
            by_proxies=False,
        )

    async def test_a_curve_that_is_not_for_this(self) -> None:
        """P-521 is slow, and nobody needs it."""
        await self.refused_everywhere(
            lambda name: self.leaf(uri(name), key=ec.generate_private_key(ec.SECP521R1())),
            codes.PROFILE,
            "secp521r1",
        )

    async def test_a_signature_over_sha_1(self) -> None:
        """OpenSSL's security level refuses it, in our own proxy as well."""
        await self.refused_everywhere(
            lambda name: self.leaf(uri(name), hash_algorithm=SHA1_HASH),
            codes.PROFILE,
            "too weak a hash",
            alert="bad certificate",
            by_proxies=False,
        )

    async def test_version_1(self) -> None:
        """Without extensions there is no profile to keep."""
        self.presented = "subject CN=leaf"
        await self.refused_everywhere(lambda _name: self.leaf(version=1), codes.PROFILE, "of version 1, not 3")
