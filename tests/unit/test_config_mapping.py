"""identity.mapping in a configuration: what is refused, where, and in which words."""

from __future__ import annotations

from tests.unit.config_samples import FILE, HERE, ConfigTestCase, variant

GOOD = "from: kubernetes, prefix: /k8s, template: '{namespace}/{service_account}'"


def with_mapping(*entries: str) -> str:
    """The sample with these mappings, called a, b, c…, each on a line of its own that begins with the sixth."""
    lines = "".join(f"    {name}: {{{entry}}}\n" for name, entry in zip("abcdef", entries, strict=False))
    return variant("  workloads:\n", f"  mapping:\n{lines}  workloads:\n")


class MappingTests(ConfigTestCase):
    """One mapping by itself."""

    def check(self, entry: str, *messages: str) -> None:
        self.check_problems(with_mapping(entry), *(f"identity.mapping.a.{message}" for message in messages))

    def test_good_ones_load(self) -> None:
        """With their place, which tells nobody apart."""
        mapping = self.load(with_mapping(GOOD)).identity.mapping["a"]
        self.assertEqual((mapping.from_, mapping.characters, mapping.where), ("kubernetes", "reject", {}))
        self.assertEqual(str(mapping.mark), f"{FILE}:6:8")
        self.assertEqual(self.load(variant("  workloads:", "  mapping: {}\n  workloads:")).identity.mapping, {})

    def test_templates_must_tell_names_apart(self) -> None:
        """The variable that is missing is named, and both ways out."""
        self.check(
            "from: kubernetes, prefix: /k8s, template: ‸'sa/{service_account}'",
            "template: two Kubernetes service account names could get one SPIFFE ID: {namespace} is not in "
            "'sa/{service_account}'; add it, or allow one text for it in where",
        )
        self.check(
            "from: aws, prefix: /aws, where: {account: ['1', '2']}, template: ‸'{role}'",
            "template: two AWS role names could get one SPIFFE ID: {partition}, {account} are not in '{role}'; add "
            "them, or allow one text for each in where",
        )
        self.check(
            "from: claims, issuer: i, prefix: /gh, template: ‸'{repository}'",
            "template: two OIDC claims names could get one SPIFFE ID: {sub} is not in '{repository}'; add it, or allow "
            "one text for it in where",
        )
        self.load(
            with_mapping("from: aws, prefix: /aws, where: {partition: [aws], account: ['1']}, template: '{role}'")
        )

    def test_templates_and_prefixes_are_paths(self) -> None:
        """At load, not at the first name."""
        self.check(
            "from: dns, prefix: ‸dns, template: ‸'x-{name}'",
            "prefix: 'dns' is not a path; write '/dns'",
            "template: 'x-{name}' in 'x-{name}' is neither a literal nor one variable; a variable fills a whole "
            "segment, else two values could run together",
        )

    def test_variables_are_those_of_the_kind(self) -> None:
        """In the template, in where and in subject."""
        self.check(
            "from: kubernetes, prefix: /k8s, template: ‸'{namespace}/{serviceaccount}', where: {pod: ‸[a]}",
            "template: a Kubernetes service account has no 'serviceaccount'; did you mean 'service_account'?",
            "where.pod: a Kubernetes service account has no 'pod'; it has namespace, service_account",
        )
        self.check(
            "from: claims, issuer: i, prefix: /gh, subject: [‸a/b], template: ‸'{/a~}'",
            "subject[0]: 'a/b' is neither a claim nor a JSON pointer: write '/a/b', or for one claim of that name "
            "'/a~1b'",
            "template: '/a~' is no JSON pointer: '~' is written ~0, and '/' in a name ~1",
        )

    def test_issuers(self) -> None:
        """Where names have one it must be said, for each issuer counts from the beginning."""
        for kind, words in [
            ("claims", 'the "iss" of the claims'),
            ("certificate", 'the issuer\'s name, such as "CN=CA,O=Example"'),
        ]:
            template = "{sub}" if kind == "claims" else "{CN}"
            self.check_problems(
                with_mapping(f"{HERE}from: {kind}, prefix: /p, template: '{template}'").replace("{‸from", "‸{from"),
                f"key 'issuer' is missing in identity.mapping.a: {words}; each issuer's names need a mapping of their "
                "own",
            )
            self.check(
                f"from: {kind}, issuer: ‸'', prefix: /p, template: '{template}'",
                f"issuer: the text is empty; expected {words}",
            )
        self.check(
            "from: dns, issuer: ‸i, prefix: /p, template: '{name}'",
            "issuer: DNS name names have no issuer; remove the key",
        )
        self.check(f"issuer: ‸'', {GOOD}", 'issuer: the text is empty; expected the "iss" of the cluster\'s tokens')

    def test_lists_that_say_nothing(self) -> None:
        """An empty condition takes nobody; a subject is chosen from claims only."""
        self.check(
            f"{GOOD}, where: {{namespace: ‸[]}}", "where.namespace: the list is empty, so no name would be mapped"
        )
        self.check(
            "from: claims, issuer: i, prefix: /p, template: '{sub}', subject: ‸[]",
            "subject: the list is empty; name the claims that together say who it is",
        )
        self.check(
            f"{GOOD}, subject: ‸[namespace]",
            "subject: only claims are chosen from; a Kubernetes service account is namespace and service_account",
        )


class PrefixTests(ConfigTestCase):
    """Mappings among each other."""

    def dns(self, *prefixes: str) -> str:
        return with_mapping(*(f"from: dns, prefix: {prefix}, template: '{{name}}'" for prefix in prefixes))

    def test_none_lies_in_another(self) -> None:
        """Whichever comes first; both lines are named."""
        more = ", so that names of both could get one SPIFFE ID; give each a prefix of its own"
        for first, second, message in [
            ("/k8s", "‸/k8s", "/k8s is the prefix of identity.mapping.a.prefix (/k8s, line 6) too"),
            ("/k8s", "‸/k8s/prod", "/k8s/prod lies in identity.mapping.a.prefix (/k8s, line 6)"),
            ("/k8s/prod", "‸/k8s", "/k8s holds identity.mapping.a.prefix (/k8s/prod, line 6)"),
            (
                "/k8s",
                "‸/K8s/prod",
                "/K8s/prod and identity.mapping.a.prefix (/k8s, line 6) overlap but for upper and lower case",
            ),
        ]:
            self.check_problems(self.dns(first, second), f"identity.mapping.b.prefix: {message}{more}")

    def test_each_of_several_is_found(self) -> None:
        """Also when others stand between them."""
        more = ", so that names of both could get one SPIFFE ID; give each a prefix of its own"
        self.check_problems(
            self.dns("/a", "/b/c", "‸/a/b/c", "/a-b", "‸/b", "‸/a/d"),
            f"identity.mapping.c.prefix: /a/b/c lies in identity.mapping.a.prefix (/a, line 6){more}",
            f"identity.mapping.e.prefix: /b holds identity.mapping.b.prefix (/b/c, line 7){more}",
            f"identity.mapping.f.prefix: /a/d lies in identity.mapping.a.prefix (/a, line 6){more}",
        )

    def test_segments_count_not_letters(self) -> None:
        """/k8s does not hold /k8s-prod."""
        self.assertEqual(len(self.load(self.dns("/k8s", "/k8s-prod", "/k8.s", "/a/k8s")).identity.mapping), 4)
