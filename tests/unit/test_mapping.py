"""Mappings of foreign names: whom they take, that different names get different IDs, and only below their prefix."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.identity.foreign import ForeignName, aws_role, certificate_subject, dns_name, oidc_claims, service_account
from tcpmesh.identity.mapping import NameMapping, UnmappedError, compile_mappings, indistinct, resolve
from tcpmesh.identity.spiffe import SpiffeId, TrustDomain
from tcpmesh.identity.templates import parse_template
from tcpmesh.settings import MappingSettings
from tests.unit.test_foreign_identities import distinguished

DOMAIN = TrustDomain("a.test")
GITHUB = "https://token.actions.githubusercontent.com"


def mapping(from_: Any, prefix: str, template: str, **more: Any) -> NameMapping:
    (made,) = compile_mappings({"one": MappingSettings(from_, prefix, template, **more)})
    return made


def claims(**values: object) -> ForeignName:
    return oidc_claims(json.dumps({"iss": GITHUB, **values}).encode())


class MappingCase(SynchronousTestCase):
    def check_id(self, made: NameMapping, name: ForeignName, path: str) -> None:
        self.assertEqual(str(made.apply(name, DOMAIN)), f"spiffe://a.test{path}")

    def check_miss(self, made: NameMapping, name: ForeignName, step: int, reason: str) -> None:
        error = self.assertRaises(UnmappedError, made.apply, name, DOMAIN)
        self.assertEqual((error.step, error.reason), (step, reason))


class KindTests(MappingCase):
    """One mapping of each kind."""

    def test_service_account(self) -> None:
        """By the convention of Istio, SPIRE and cert-manager."""
        made = mapping("kubernetes", "/k8s/prod", "ns/{namespace}/sa/{service_account}")
        self.check_id(made, service_account("shop/web"), "/k8s/prod/ns/shop/sa/web")

    def test_service_account_of_a_token(self) -> None:
        """Only when the mapping names the cluster's issuer: any issuer can write such a subject."""
        template = "ns/{namespace}/sa/{service_account}"
        name = claims(sub="system:serviceaccount:shop:web")
        self.check_id(mapping("kubernetes", "/k8s", template, issuer=GITHUB), name, "/k8s/ns/shop/sa/web")
        self.check_miss(
            mapping("kubernetes", "/k8s", template, issuer="https://cluster"),
            name,
            1,
            f"it is for names that 'https://cluster' gives, not '{GITHUB}'",
        )
        self.check_miss(
            mapping("kubernetes", "/k8s", template),
            name,
            0,
            "it takes Kubernetes service account names, not OIDC claims, unless it names their issuer",
        )
        self.check_miss(
            mapping("kubernetes", "/k8s", template, issuer=GITHUB),
            claims(sub="repo:a/b"),
            2,
            "claim 'sub' is 'repo:a/b', not system:serviceaccount:NAMESPACE:NAME",
        )

    def test_github_claims(self) -> None:
        """Numbers that stay when a repository is renamed, not names that somebody else may take."""
        made = mapping(
            "claims",
            "/github",
            "{repository_owner_id}/{repository_id}/{environment}",
            issuer=GITHUB,
            subject=("repository_id", "environment"),
            where={"ref": ("refs/heads/main", "refs/heads/release")},
        )
        token = {"repository_owner_id": "9919", "repository_id": "74", "environment": "prod", "ref": "refs/heads/main"}
        self.check_id(made, claims(**token), "/github/9919/74/prod")
        self.check_miss(
            made,
            claims(**{**token, "ref": "refs/pull/1/merge"}),
            2,
            "claim 'ref' is 'refs/pull/1/merge', not 'refs/heads/main' or 'refs/heads/release'",
        )
        self.check_miss(made, claims(ref="refs/heads/main"), 4, "claim 'repository_owner_id' is missing")
        self.check_miss(
            made, claims(**{**token, "repository_id": 74}), 5, "claim 'repository_id' is a number, not text"
        )
        self.check_miss(
            made,
            claims(**{**token, "environment": "pro/d"}),
            6,
            "claim 'environment' is 'pro/d', and a SPIFFE path segment may only hold letters, digits, '.', '_' and '-' "
            "and not be '.' or '..'; to allow it, set characters: escape",
        )

    def test_okta_claims(self) -> None:
        """A client's id is the subject of its token."""
        okta = "https://example.okta.com/oauth2/aus1"
        made = mapping("claims", "/okta", "{sub}", issuer=okta, where={"cid": ("0oa1",), "/ext/team": ("a", "b")})
        good = {"iss": okta, "sub": "0oa1", "cid": "0oa1", "ext": {"team": "b"}}
        self.check_id(made, oidc_claims(json.dumps(good).encode()), "/okta/0oa1")
        other = oidc_claims(json.dumps({**good, "ext": {}}).encode())
        self.check_miss(made, other, 3, "claim '/ext/team' is missing")

    def test_aws_role(self) -> None:
        """A role's path is refused or escaped, never dropped."""
        simple = mapping("aws", "/aws", "{account}/role/{role}", where={"partition": ("aws",)})
        escaping = mapping("aws", "/aws", "{partition}/{account}/{role}", characters="escape")
        plain, deep = (aws_role(f"arn:aws:iam::123456789012:role/{role}") for role in ("web_1", "team/web_1"))
        self.check_id(simple, plain, "/aws/123456789012/role/web_1")
        self.check_id(escaping, plain, "/aws/aws/123456789012/web__1")
        self.check_id(escaping, deep, "/aws/aws/123456789012/team_x2Fweb__1")
        self.assertIn("role is 'team/web_1', and", self.assertRaises(UnmappedError, simple.apply, deep, DOMAIN).reason)
        china = aws_role("arn:aws-cn:iam::123456789012:role/web")
        self.check_miss(simple, china, 2, "partition is 'aws-cn', not 'aws'")

    def test_dns_name(self) -> None:
        """Whole, in one segment."""
        self.check_id(mapping("dns", "/dns", "{name}"), dns_name("db.example.org"), "/dns/db.example.org")

    def test_certificate_subject(self) -> None:
        """Whole, or of exactly the attributes that the mapping has."""
        issuer = distinguished(("CN", "CA"))
        web = certificate_subject(distinguished(("O", "Example"), ("CN", "web")), issuer)
        whole = mapping("certificate", "/old", "{subject}", issuer="CN=CA", characters="escape")
        parts = mapping("certificate", "/old", "{CN}", issuer="CN=CA", where={"O": ("Example",)})
        self.check_id(whole, web, "/old/CN_x3Dweb_x2CO_x3DExample")
        self.check_id(parts, web, "/old/web")
        for pairs in (
            [("O", "Example"), ("OU", "a"), ("CN", "web")],
            [("CN", "web"), ("O", "Example")],
            [("O", "Example"), ("CN", "web"), ("CN", "web")],
            [("CN", "web")],
        ):
            other = certificate_subject(distinguished(*pairs), issuer)
            self.check_miss(
                parts,
                other,
                2,
                f"the subject has {', '.join(key for key, _ in pairs)}; this mapping takes subjects of exactly O, CN, "
                "in this order, and only {subject} takes any",
            )
        elsewhere = certificate_subject(distinguished(("O", "Example"), ("CN", "web")), distinguished(("CN", "Evil")))
        self.check_miss(parts, elsewhere, 1, "it is for names that 'CN=CA' gives, not 'CN=Evil'")

    def test_other_kinds(self) -> None:
        """A DNS name that looks like a service account's is none."""
        self.check_miss(
            mapping("kubernetes", "/k8s", "{namespace}/{service_account}"),
            dns_name("shop"),
            0,
            "it takes Kubernetes service account names, not DNS name",
        )

    def test_too_long_an_id(self) -> None:
        """Others need not accept more than 2048 bytes (SPIFFE-ID.md section 2.3)."""
        made = mapping("claims", "/o", "{sub}", issuer=GITHUB)
        error = self.assertRaises(UnmappedError, made.apply, claims(sub="a" * 2048), DOMAIN)
        self.assertIn("characters, more than 2048", error.reason)


class IndistinctTests(SynchronousTestCase):
    """Which templates tell all names apart."""

    def check(self, from_: Any, template: str, confused: str, who: tuple[str, ...] = (), **where: Any) -> None:
        found = indistinct(from_, parse_template(template), where, who)
        self.assertEqual(" ".join(found), confused, template)

    def test_needs_every_variable(self) -> None:
        """In the template, or settled to one text."""
        self.check("kubernetes", "{namespace}/{service_account}", "")
        self.check("kubernetes", "sa/{service_account}", "namespace")
        self.check("kubernetes", "sa/{service_account}", "", namespace=("shop",))
        self.check("kubernetes", "sa/{service_account}", "namespace", namespace=("shop", "test"))
        self.check("aws", "{role}", "partition account")
        self.check("dns", "db", "name")

    def test_needs_the_subject_of_claims(self) -> None:
        """By default "sub"; other claims may be there too."""
        self.check("claims", "{sub}/{ref}", "")
        self.check("claims", "{repository}", "sub")
        self.check("claims", "{repository}", "repository_id", who=("repository_id", "repository"))

    def test_needs_a_certificates_attributes(self) -> None:
        """All that the mapping speaks of; what it does not speak of, no subject that it takes has."""
        self.check("certificate", "{subject}", "")
        self.check("certificate", "{CN}", "")
        self.check("certificate", "{CN}", "O", O=("a", "b"))
        self.check("certificate", "{subject}", "", O=("a", "b"))
        self.check("certificate", "legacy", "subject")
        self.check("certificate", "legacy", "", subject=("CN=web",))


SEGMENTS = st.text("ab._-", min_size=1, max_size=3).filter(lambda text: text not in (".", ".."))
TEXTS = st.text("ab._/x2F:\u00e9 ", max_size=4)
LITERALS_AND_CLAIMS = st.lists(st.one_of(SEGMENTS, st.sampled_from(["{a}", "{b}", "{c}"])), min_size=1, max_size=5)


class PropertyTests(SynchronousTestCase):
    """What holds for every mapping that the configuration lets through, and every name."""

    @settings(max_examples=300)
    @given(
        segments=LITERALS_AND_CLAIMS,
        where=st.dictionaries(st.sampled_from("abc"), st.lists(TEXTS, min_size=1, max_size=2).map(tuple), max_size=2),
        characters=st.sampled_from(["reject", "escape"]),
        left=st.fixed_dictionaries(dict.fromkeys("abc", TEXTS)),
        right=st.fixed_dictionaries(dict.fromkeys("abc", TEXTS)),
    )
    def test_one_id_is_of_one_name(
        self, segments: list[str], where: Any, characters: Any, left: dict[str, str], right: dict[str, str]
    ) -> None:
        """Two names that get the same ID are the same in every claim that says who it is."""
        template = "/".join(segments)
        subject = ("a", "b")
        if indistinct("claims", parse_template(template), where, subject):
            return
        made = mapping("claims", "/p", template, issuer=GITHUB, subject=subject, where=where, characters=characters)
        try:
            ids = [made.apply(claims(**values), DOMAIN) for values in (left, right)]
        except UnmappedError:
            return
        who = [[values[name] for name in subject] for values in (left, right)]
        if ids[0] == ids[1]:
            self.assertEqual(who[0], who[1])

    @given(
        namespaces=st.tuples(*[st.text("ab-", min_size=1, max_size=3)] * 2),
        accounts=st.tuples(*[st.text("ab-.", min_size=1, max_size=3)] * 2),
        template=st.sampled_from(["{namespace}/{service_account}", "{service_account}/x/{namespace}"]),
    )
    def test_one_id_is_of_one_service_account(
        self, namespaces: tuple[str, str], accounts: tuple[str, str], template: str
    ) -> None:
        """No boundary between two parts can move."""
        made = mapping("kubernetes", "/k8s", template)
        try:
            left, right = map(service_account, map("/".join, zip(namespaces, accounts, strict=True)))
        except ValueError:
            return
        self.assertEqual(made.apply(left, DOMAIN) == made.apply(right, DOMAIN), left == right)

    @given(
        prefix=st.lists(SEGMENTS, min_size=1, max_size=3),
        segments=LITERALS_AND_CLAIMS,
        values=st.fixed_dictionaries(dict.fromkeys("abc", st.one_of(TEXTS, st.text(max_size=5)))),
        characters=st.sampled_from(["reject", "escape"]),
    )
    def test_ids_are_below_the_prefix(
        self, prefix: list[str], segments: list[str], values: dict[str, str], characters: Any
    ) -> None:
        """Of the own trust domain, with as many segments as the template has, whatever the claims say."""
        made = mapping("claims", "/" + "/".join(prefix), "/".join(segments), issuer=GITHUB, characters=characters)
        try:
            found = made.apply(claims(**values), DOMAIN)
        except UnmappedError:
            return
        self.assertEqual(found, SpiffeId.parse(str(found)))
        self.assertEqual(found.trust_domain, DOMAIN)
        self.assertEqual(found.segments[: len(prefix)], tuple(prefix))
        self.assertEqual(len(found.segments), len(prefix) + len(segments))


class ResolveTests(SynchronousTestCase):
    """Several mappings."""

    def test_asks_all_and_puts_the_nearest_miss_first(self) -> None:
        """By how far each came: kind, issuer, conditions, values."""
        made = compile_mappings(
            {
                "dns": MappingSettings("dns", "/dns", "{name}"),
                "okta": MappingSettings("claims", "/okta", "{sub}", issuer="https://okta"),
                "near": MappingSettings("claims", "/near", "{sub}", issuer=GITHUB, where={"a": ("1",), "b": ("1",)}),
                "far": MappingSettings("claims", "/far", "{sub}", issuer=GITHUB, where={"a": ("2",), "b": ("2",)}),
                "all": MappingSettings("claims", "/all", "{sub}", issuer=GITHUB, where={"a": ("1",)}),
            }
        )
        found = resolve(claims(a="1", b="2", sub="x y"), made, DOMAIN)
        self.assertEqual(found.found, ())
        self.assertEqual([miss.mapping.name for miss in found.misses], ["all", "near", "far", "okta", "dns"])
        self.assertEqual(str(found.misses[0].mapping), "identity.mapping.all")

    def test_gives_every_id(self) -> None:
        """It is for the caller to refuse a name that has two."""
        made = compile_mappings(
            {
                "a": MappingSettings("dns", "/a", "{name}"),
                "b": MappingSettings("dns", "/b", "{name}"),
            }
        )
        found = resolve(dns_name("x.test"), made, DOMAIN)
        self.assertEqual(
            [(one.name, str(identity)) for one, identity in found.found],
            [("a", "spiffe://a.test/a/x.test"), ("b", "spiffe://a.test/b/x.test")],
        )
        self.assertEqual(found.misses, ())
