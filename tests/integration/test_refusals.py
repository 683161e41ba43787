"""
Crafted certificates over a real wire: each refused as a client's and as a server's, of a stranger and of a proxy.

For every one: the alert and the FIN on the wire, the application's reset, both proxies' records and their one line of
log each, and no call of the target.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec

from tcpmesh import codes
from tcpmesh.identity.certificates import authority_key_identifier
from tcpmesh.wall_clock import wall_clock
from tests.integration.pki import Pki
from tests.integration.refusals import WEB, RefusalTestCase
from tests.unit.crafted import Extension, Issuer, dns, san, uri
from tests.unit.tls_pairs import now_authority

SAN_OID = "2.5.29.17"


class TrustTests(RefusalTestCase):
    """Who signed it."""

    async def test_an_unknown_authority(self) -> None:
        """Nobody in any bundle signed it; the reason names the missing issuer and its key."""
        issuing = now_authority("issuing of stranger", now_authority("stranger"))
        await self.refused_everywhere(
            lambda name: self.leaf(uri(name), issuer=issuing),
            codes.UNKNOWN_AUTHORITY,
            "nobody in any trust bundle signed the chain of spiffe://mesh.test/",
            "its issuer is CN=stranger, key " + authority_key_identifier(issuing.certificate),
        )

    async def test_an_unknown_authority_without_intermediate(self) -> None:
        """When the leaf itself is what OpenSSL stumbles over, the alert says so."""
        stranger = now_authority("stranger")
        await self.refused_everywhere(
            lambda name: self.leaf(uri(name), issuer=stranger), codes.UNKNOWN_AUTHORITY, alert="unknown ca"
        )

    async def test_another_state_of_the_same_trust_domain(self) -> None:
        """Two embedded states make two roots of one name: the usual mistake, and what an impostor would do."""
        other = Pki(self.directory / "other")
        issuer = Issuer(other.issuing.certificate, other.issuing.private_key, (other.root.certificate,))
        await self.refused_everywhere(
            lambda name: self.leaf(uri(name), issuer=issuer),
            codes.UNKNOWN_AUTHORITY,
            "the bundle of mesh.test has an authority of that name with another key",
        )

    async def test_its_own_authority(self) -> None:
        """A self-signed certificate with all the right names."""
        own = ec.generate_private_key(ec.SECP256R1())
        signer = Issuer(now_authority("itself", key=own).certificate, own)
        await self.refused_everywhere(
            lambda name: self.leaf(uri(name), issuer=signer, key=own, subject="itself"),
            codes.UNKNOWN_AUTHORITY,
            "it is signed by itself",
            alert="unknown ca",
        )

    async def test_the_authority_of_another_trust_domain(self) -> None:
        """A partner's authority, trusted for its own domain, vouches for one of ours."""
        partner = Pki(self.directory / "partner", "partner.test")
        self.partners = (partner,)
        issuer = Issuer(partner.issuing.certificate, partner.issuing.private_key, (partner.root.certificate,))
        await self.refused_everywhere(
            lambda name: self.leaf(uri(name), issuer=issuer),
            codes.WRONG_ANCHOR,
            "is not one of mesh.test: it would verify under trust domain partner.test",
        )

    async def test_a_trust_domain_without_bundle(self) -> None:
        """Even when our own authority signed it; the reason says which bundles there are."""
        self.presented = "spiffe://far.test/web"
        await self.refused_everywhere(
            lambda _name: self.leaf(uri("spiffe://far.test/web")),
            codes.NO_BUNDLE,
            "no trust bundle for far.test (bundles held: mesh.test)",
        )

    async def test_a_chain_of_fifty(self) -> None:
        """OpenSSL stops at our limit, and the reason still names whose chain it is."""
        above = self.issuer
        for number in range(49):
            above = now_authority(f"level {number}", above)
        await self.refused_everywhere(
            lambda name: self.leaf(uri(name), issuer=above), codes.CERTIFICATE_TOO_LARGE, "is too long"
        )

    async def test_a_leaf_that_signs(self) -> None:
        """A workload's certificate used as an authority."""
        workload = self.leaf(uri(WEB))
        signer = Issuer(workload.certificate, workload.key, self.issuer.chain)
        await self.refused_everywhere(
            lambda name: self.leaf(uri(name), issuer=signer),
            codes.PROFILE,
            "the intermediate CN=leaf",
            "is not an authority's certificate",
        )


class TimeTests(RefusalTestCase):
    """When it is valid."""

    async def test_expired_by_a_second(self) -> None:
        """No grace; the reason has both times."""
        await self.refused_everywhere(
            lambda name: self.leaf(uri(name), not_after=int(wall_clock()) - 1),
            codes.EXPIRED,
            " expired ",
            " s ago, at ",
            "by this clock",
            alert="certificate expired",
        )

    async def test_not_yet_valid(self) -> None:
        """The reason has the skew, for the reader to see which clock is wrong."""
        await self.refused_everywhere(
            lambda name: self.leaf(uri(name), not_before=wall_clock() + 900),
            codes.NOT_YET_VALID,
            "is valid only from ",
            ", 15 min from now; ",
            "one of the two clocks is wrong",
            alert="bad certificate",
        )

    async def test_an_expired_intermediate(self) -> None:
        """The leaf is good and the authority above it is not."""
        now = wall_clock()
        late = now_authority("late", Issuer(self.pki.root.certificate, self.pki.root.private_key),
                             not_before=now - 7200, not_after=now - 3600)  # fmt: skip
        await self.refused_everywhere(
            lambda name: self.leaf(uri(name), issuer=late), codes.CHAIN_INVALID, "the intermediate CN=late", "60 min"
        )


class NameTests(RefusalTestCase):
    """Whom it names."""

    async def test_no_spiffe_id(self) -> None:
        """A DNS name is none."""
        self.presented = "dns:web.mesh.test"
        await self.refused_everywhere(
            lambda _name: self.leaf(dns("web.mesh.test")), codes.NO_SPIFFE_ID, "only dns:web.mesh.test"
        )

    async def test_no_names_at_all(self) -> None:
        """Nor is a common name, whatever it spells."""
        self.presented = "subject CN=spiffe://mesh.test/web"
        await self.refused_everywhere(
            lambda _name: self.leaf(subject=WEB, changes={"names": None}), codes.NO_SPIFFE_ID, "no URI name"
        )

    async def test_several_spiffe_ids(self) -> None:
        """Nobody chooses among them."""
        self.presented = f"{WEB} spiffe://mesh.test/admin"
        await self.refused_everywhere(
            lambda _name: self.leaf(uri(WEB), uri("spiffe://mesh.test/admin")), codes.SEVERAL_IDS, "2 URI names"
        )

    async def test_a_malformed_id(self) -> None:
        """Not canonical is not equal: it is refused with the rule that it breaks."""
        self.presented = "spiffe://MESH.test/web"
        await self.refused_everywhere(
            lambda _name: self.leaf(uri("spiffe://MESH.test/web")), codes.INVALID_ID, "is not lower case"
        )

    async def test_a_nul_in_the_id(self) -> None:
        """What a C library would read as an ID of ours, up to the NUL."""
        self.presented = r"'spiffe://mesh.test/web\x00.evil'"
        await self.refused_everywhere(
            lambda _name: self.leaf(uri("spiffe://mesh.test/web\0.evil")), codes.INVALID_ID, r"'web\x00.evil'"
        )

    async def test_a_nul_in_another_name(self) -> None:
        """The ID is good, a DNS name beside it is meant to deceive."""
        await self.refused_everywhere(
            lambda name: self.leaf(uri(name), dns("good.test\0.evil.test")),
            codes.MALFORMED_CERTIFICATE,
            r"'good.test\x00.evil.test' has a NUL in it",
        )

    async def test_the_id_of_the_trust_domain(self) -> None:
        """A leaf is a workload's."""
        self.presented = "spiffe://mesh.test"
        await self.refused_everywhere(lambda _name: self.leaf(uri("spiffe://mesh.test")), codes.PROFILE, "has no path")

    async def test_ten_thousand_names(self) -> None:
        """Below 64 KiB they are counted."""
        many = [dns("a")] * 9_999
        await self.refused_everywhere(
            lambda name: self.leaf(uri(name), *many), codes.CERTIFICATE_TOO_LARGE, "10000 subject alternative names"
        )

    async def test_four_thousand_long_names(self) -> None:
        """Above 64 KiB and below what OpenSSL takes, the bytes are counted first."""
        many = [dns(f"name-{number:05}.test") for number in range(4_000)]
        await self.refused_everywhere(
            lambda name: self.leaf(uri(name), *many), codes.CERTIFICATE_TOO_LARGE, "bytes, more than 65536"
        )

    async def test_ten_thousand_long_names(self) -> None:
        """Above what OpenSSL takes it refuses by itself; nobody gets to see a name."""
        self.presented = ""
        many = [dns(f"name-{number:05}.test") for number in range(9_999)]
        await self.refused_everywhere(
            lambda name: self.leaf(uri(name), *many),
            codes.CERTIFICATE_TOO_LARGE,
            "100 KiB",
            alert="illegal parameter",
        )

    async def test_names_that_are_there_twice(self) -> None:
        """Two readers could take different ones."""
        self.presented = "(unreadable names) subject CN=leaf"
        second = Extension(SAN_OID, False, san(uri("spiffe://mesh.test/admin")))
        await self.refused_everywhere(
            lambda name: self.leaf(uri(name), more=[second]),
            codes.MALFORMED_CERTIFICATE,
            "Duplicate",
            alert="unknown ca",
        )
