"""From SPIFFE IDs back to the names that identity.mapping gives them to, and IDs that it gives to nobody."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import config
from tcpmesh.identity.foreign import aws_role, dns_name, service_account
from tcpmesh.identity.mapping import NameMapping
from tcpmesh.identity.origin import origin_of
from tcpmesh.identity.spiffe import SpiffeId
from tcpmesh.identity.templates import decode_segment, encode_segment
from tests.unit.config_samples import ConfigTestCase, variant
from tests.unit.test_mapping import DOMAIN, GITHUB, claims, mapping

K8S = mapping("kubernetes", "/k8s/prod", "ns/{namespace}/sa/{service_account}", where={"namespace": ("shop", "till")})
ROLES = mapping("aws", "/aws", "{account}/{role}", where={"partition": ("aws",)}, characters="escape")
HOSTS = mapping("dns", "/dns", "{name}")
BUILDS = mapping("claims", "/gh", "{repository_id}/{environment}", issuer=GITHUB, subject=("repository_id",))
ALL = (K8S, ROLES, HOSTS, BUILDS)


class OriginTests(SynchronousTestCase):
    """IDs below four prefixes."""

    def found(self, path: str, *mappings: NameMapping) -> Any:
        return origin_of(SpiffeId.parse(f"spiffe://a.test{path}"), mappings or ALL, DOMAIN)

    def test_finds_the_name_that_has_it(self) -> None:
        """The same that the mapping would give the ID to."""
        for made, name in (
            (K8S, service_account("shop/web")),
            (ROLES, aws_role("arn:aws:iam::123456789012:role/team/web+1_x")),
            (HOSTS, dns_name("db-1.a.test")),
        ):
            origin = origin_of(made.apply(name, DOMAIN), ALL, DOMAIN)
            assert origin is not None
            self.assertEqual((origin.mapping, origin.name, origin.problem), (made, str(name), ""))
        identity = BUILDS.apply(claims(repository_id="74", environment="prod"), DOMAIN)
        origin = origin_of(identity, ALL, DOMAIN)
        assert origin is not None
        self.assertEqual(origin.name, f"OIDC claims of '{GITHUB}' with repository_id '74', environment 'prod'")

    def test_says_nothing_of_other_ids(self) -> None:
        """Beside every prefix, on half of one, and in another trust domain."""
        for path in ("/web", "/k8s", "/k8s/production/ns/shop/sa/web", "/K8S/prod/ns/shop/sa/web"):
            self.assertIsNone(self.found(path), path)
        other = SpiffeId.parse("spiffe://b.test/k8s/prod/ns/shop/sa/web")
        self.assertIsNone(origin_of(other, ALL, DOMAIN))
        self.assertIsNone(origin_of(other, (), DOMAIN))

    def test_says_why_nobody_can_have_it(self) -> None:
        """The first thing that differs from what the mapping gives."""
        for path, problem in (
            ("/k8s/prod", "it has 0 segments below '/k8s/prod', and 'ns/{namespace}/sa/{service_account}' gives 4"),
            ("/k8s/prod/ns/shop/sa/web/x", "it has 5 segments below '/k8s/prod', and"),
            ("/k8s/prod/ns/shop/s/web", "segment 5 is 's', not 'sa'"),
            ("/k8s/prod/ns/other/sa/web", "segment 4, namespace, is 'other', not 'shop' or 'till'"),
            ("/k8s/prod/ns/shop/sa/Web", "'Web' is not the name of a service account"),
            ("/aws/12/web", "is not an account: 12 digits"),
            ("/aws/123456789012/web_1", "segment 3, 'web_1', is not an escaped text"),
            ("/aws/123456789012/web_x41", "segment 3, 'web_x41', is not how 'webA' is escaped"),
            ("/aws/123456789012/web_xFF", "segment 3, 'web_xFF', is not an escaped text: its bytes are no UTF-8"),
            ("/dns/DB.a.test", "is not in lower case; write db.a.test"),
        ):
            origin = self.found(path)
            self.assertIn(problem, origin.problem)
            self.assertEqual(origin.name, "")

    def test_a_variable_that_is_given_twice_has_one_value(self) -> None:
        """In the template, or there and as the only text of a condition."""
        twice = mapping("dns", "/dns", "{name}/{name}")
        self.assertEqual(self.found("/dns/a.test/a.test", twice).name, "DNS name a.test")
        self.assertIn("segment 3, name, is 'b.test', not 'a.test'", self.found("/dns/a.test/b.test", twice).problem)
        one = mapping("dns", "/dns", "{name}", where={"name": ("a.test",)})
        self.assertIn("segment 2, name, is 'b.test', not 'a.test'", self.found("/dns/b.test", one).problem)

    @given(st.text(min_size=1))
    def test_every_escaped_text_is_read_back(self, text: str) -> None:
        """And nothing else gives the same segment."""
        try:
            segment = encode_segment(text, escape=True)
        except ValueError:  # half of a surrogate pair
            return
        self.assertEqual(decode_segment(segment, escape=True), text)

    @given(st.text(alphabet="ab_x0123456789ABCDEF.-", min_size=1, max_size=12))
    def test_a_segment_is_read_only_if_it_is_written_so(self, segment: str) -> None:
        """Whatever it decodes to is escaped to the same again."""
        try:
            text = decode_segment(segment, escape=True)
        except ValueError:
            return
        self.assertEqual(encode_segment(text, escape=True), segment)


class WarningTests(ConfigTestCase):
    """What an operator is told at a start and by ``tcpmesh check``."""

    MAPPING = '  mapping:\n    m: {from: dns, prefix: /dns, template: "host/{name}"}\n  workloads:\n'

    def warnings(self, workload: str, expected: str, allowed: str) -> list[str]:
        text = variant("  workloads:\n", self.MAPPING)
        for old, new in (
            ('web: {id: "spiffe://example.org/web"}', f'web: {{id: "spiffe://example.org{workload}"}}'),
            ('expect: ["spiffe://example.org/orders"]', f'expect: ["spiffe://example.org{expected}"]'),
            ('ids: ["spiffe://example.org/web"]', f'ids: ["spiffe://example.org{allowed}"]'),
        ):
            self.assertEqual(text.count(old), 1)
            text = text.replace(old, new)
        return [str(problem) for problem in config.warnings(self.load(text))]

    def test_names_each_place_with_such_an_id(self) -> None:
        """With the mapping, which is where the way to write it is."""
        found = self.warnings("/dns/a.test", "/dns/hosts/a.test", "/dns/host/A.test")
        places = (
            "services.orders.expect[0]",
            "identity.workloads.web.id",
            "authorization[0].policies[0].from[0].ids[0]",
        )
        self.assertEqual(len(found), 3)
        for line, place in zip(found, places, strict=True):
            self.assertIn("/etc/mesh/tcpmesh.yaml:6:8: identity.mapping.m gives no name the ID spiffe://", line)
            self.assertIn(f" of {place}: ", line)
        self.assertIn("segment 2 is 'hosts', not 'host'; is it misspelt?", found[0])

    def test_says_nothing_of_ids_that_somebody_can_have(self) -> None:
        """Nor of those beside the prefix, nor of patterns."""
        self.assertEqual(self.warnings("/web", "/dns/host/a.test", "/dns/host/b.test"), [])
        self.assertEqual(self.warnings("/web", "/dnsx/a", "/dns/**"), [])
