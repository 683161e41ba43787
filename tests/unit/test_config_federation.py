"""What ``identity.federation`` may say, and where else it may not be said."""

from __future__ import annotations

from pathlib import Path

from tcpmesh.identity.spiffe import SpiffeId, TrustDomain
from tcpmesh.settings import FederationSettings
from tests.unit.config_samples import SAMPLE, ConfigTestCase, variant

B = TrustDomain("b.test")
WEB = 'url: "https://b.test/", profile: https_web'
SPIFFE = 'url: "https://192.0.2.1/", profile: https_spiffe'
AT = "identity.federation"


def federating(entries: str) -> str:
    """The sample with these relations."""
    return variant("  sources:", f"  federation: {{{entries}}}\n  sources:")


class FederationSettingsTests(ConfigTestCase):
    """One entry for each other trust domain."""

    def refused(self, entry: str, key: str, message: str) -> None:
        """One relation has one problem."""
        self.check_problems(federating(f"b.test: {entry}"), f'{AT}["b.test"]{key}: {message}'.replace('"', "'"))

    def test_reads_each_way(self) -> None:
        """A file, and an endpoint under either profile."""
        read = self.load(
            federating(
                f"b.test: {{bundle: b.pem}}, c.test: {{{WEB}, trust: web.pem, refresh: 10s}}, d.test: {{{SPIFFE}, "
                'endpoint_id: "spiffe://d.test/server", bundle: d.json}, e.test: '
                f'{{{SPIFFE}, endpoint_id: "spiffe://example.org/server"}}'
            )
        ).identity.federation
        self.assertEqual(read[B], FederationSettings(bundle=Path("/etc/mesh/b.pem")))
        web = read[TrustDomain("c.test")]
        self.assertEqual((web.profile, web.trust, web.refresh), ("https_web", Path("/etc/mesh/web.pem"), 10.0))
        self.assertEqual(read[TrustDomain("d.test")].endpoint_id, SpiffeId.parse("spiffe://d.test/server"))
        self.assertEqual(len(read), 4)
        self.assertEqual(self.load(SAMPLE).identity.federation, {})

    def test_the_own_trust_domain_is_no_other(self) -> None:
        """Its bundle comes with its identity."""
        self.check_problems(
            federating("example.org: ‸{bundle: b.pem}"),
            f"{AT}['example.org']: example.org is this proxy's own trust domain; its bundle comes "
            "from identity.sources",
        )

    def test_says_where_the_bundle_comes_from(self) -> None:
        """One way, and nothing that belongs to the other."""
        self.refused("‸{}", "", "write bundle: FILE, or url: and profile: of a SPIFFE bundle endpoint")
        self.refused(
            "{bundle: b.pem, profile: ‸https_web}", ".profile", "this is for a bundle endpoint, and there is no url"
        )
        self.refused(
            '‸{url: "https://b.test/"}',
            "",
            "key 'profile' is missing; write https_web or https_spiffe, as the endpoint's operator says",
        )
        self.refused(
            '{url: ‸"http://b.test/", profile: https_web}',
            ".url",
            "'http://b.test/' is not an https:// URL; a bundle is only fetched over TLS",
        )
        for refresh in ("9s", "2d"):
            self.refused(f"{{{WEB}, refresh: ‸{refresh}}}", ".refresh", "write 10s to 1d")

    def test_https_web_is_about_the_name(self) -> None:
        """An address, an ID or a bundle has nothing to do with it."""
        why = "with profile https_web the server is verified by its DNS name; "
        self.refused(
            '{url: ‸"https://192.0.2.1/", profile: https_web}', ".url", why + "write that instead of an address"
        )
        self.refused(f'{{{WEB}, endpoint_id: ‸"spiffe://b.test/s"}}', ".endpoint_id", why + "remove this")
        self.refused(
            f"{{{WEB}, bundle: ‸b.pem}}", ".bundle", "with profile https_web nothing is verified with it; remove this"
        )

    def test_https_spiffe_is_about_the_id(self) -> None:
        """Which is verified with a bundle: a file's only for a server of the same trust domain."""
        own, other = 'endpoint_id: "spiffe://b.test/s"', 'endpoint_id: "spiffe://c.test/s"'
        self.refused(
            f"‸{{{SPIFFE}}}",
            "",
            "key 'endpoint_id' is missing; write the server's SPIFFE ID, such as spiffe://DOMAIN/spire/server",
        )
        self.refused(
            f'{{{SPIFFE}, endpoint_id: ‸"spiffe://b.test"}}',
            ".endpoint_id",
            "spiffe://b.test names a whole trust domain; a server's ID has a path after it",
        )
        self.refused(
            f"‸{{{SPIFFE}, {own}}}",
            "",
            "key 'bundle' is missing; the server is of this trust domain, and needs a bundle to begin with",
        )
        self.refused(
            f"{{{SPIFFE}, {other}, bundle: ‸b.pem}}",
            ".bundle",
            "the server is verified with the bundle of c.test, so nothing is with this; remove it",
        )
        self.refused(
            f"{{{SPIFFE}, {other}, trust: ‸system}}",
            ".trust",
            "with profile https_spiffe the server is verified by its SPIFFE ID; remove this",
        )

    def test_is_said_in_one_place(self) -> None:
        """Whoever looks elsewhere is told where."""
        self.check_problems(
            f"{SAMPLE}‸federation: {{}}\n", "unknown key 'federation'; did you mean 'identity.federation'?"
        )
        for text, inside in (
            (f"{SAMPLE}‸bundles: {{}}\n", ""),
            (variant("  sources:", "  ‸bundles: {}\n  sources:"), " in identity"),
        ):
            self.check_problems(text, f"unknown key 'bundles'{inside}; this is said in identity.federation")
