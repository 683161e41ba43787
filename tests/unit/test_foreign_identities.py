"""Foreign names: what is one, which variables it has, and what is said of what is none."""

from __future__ import annotations

import json
from collections.abc import Sequence

from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.identity.claims import MAX_BYTES, check_reference, find, parse
from tcpmesh.identity.foreign import (
    ATTRIBUTES,
    ForeignName,
    aws_role,
    certificate_subject,
    dns_name,
    oidc_claims,
    service_account,
    service_account_of,
)

ISSUER = "https://kubernetes.default.svc"


def distinguished(*pairs: tuple[str, str]) -> x509.Name:
    """A name of these attributes, in this order."""
    return x509.Name([x509.NameAttribute(ATTRIBUTES[key], text) for key, text in pairs])


def token(**claims: object) -> ForeignName:
    return oidc_claims(json.dumps({"iss": ISSUER, **claims}).encode())


class KubernetesTests(SynchronousTestCase):
    """Service accounts."""

    def test_reads_namespace_and_name(self) -> None:
        """As Kubernetes allows them."""
        name = service_account("shop-1/web.v2")
        self.assertEqual((name.kind, name.text), ("kubernetes", "shop-1/web.v2"))
        self.assertEqual(
            (name.value("namespace"), name.value("service_account"), str(name)),
            ("shop-1", "web.v2", "Kubernetes service account shop-1/web.v2"),
        )

    def test_refuses_what_kubernetes_does_not_give(self) -> None:
        """Case, dots in a namespace, emptiness."""
        for text, message in [
            ("web", "'web' is not a service account; write NAMESPACE/NAME, such as shop/web"),
            ("Shop/web", "'Shop' is not the name of a namespace"),
            ("a.b/web", "'a.b' is not the name of a namespace"),
            ("/web", "'' is not the name of a namespace"),
            (f"{'a' * 64}/web", f"'{'a' * 64}' is not the name of a namespace"),
            ("shop/", "'' is not the name of a service account"),
            ("shop/Web", "'Web' is not the name of a service account"),
            ("shop/a/b", "'a/b' is not the name of a service account"),
            ("shop/a..b", "'a..b' is not the name of a service account"),
            ("shop/web\n", "'web\\n' is not the name of a service account"),
        ]:
            error = str(self.assertRaises(ValueError, service_account, text))
            self.assertTrue(error.startswith(message), error)

    def test_reads_the_claims_of_a_token(self) -> None:
        """The subject, which the cluster's own claim must bear out where it is there."""
        bound = {"namespace": "shop", "serviceaccount": {"name": "web", "uid": "1"}}
        for claims in ({}, {"kubernetes.io": bound}):
            name = service_account_of(token(sub="system:serviceaccount:shop:web", **claims))
            self.assertEqual(name.text, "shop/web")

    def test_refuses_claims_of_anybody_else(self) -> None:
        """A node, a contradiction, a claim that is not text."""
        sub = "system:serviceaccount:shop:web"
        for claims, message in [
            ({}, "claim 'sub' is missing"),
            ({"sub": 7}, "claim 'sub' is a number, not text"),
            (
                {"sub": "system:node:a"},
                "claim 'sub' is 'system:node:a', not system:serviceaccount:NAMESPACE:NAME",
            ),
            ({"sub": f"{sub}:x"}, f"claim 'sub' is '{sub}:x', not system:serviceaccount:NAMESPACE:NAME"),
            ({"sub": sub, "kubernetes.io": {}}, "claim /kubernetes.io/namespace is missing"),
            (
                {"sub": sub, "kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "db"}}},
                "claim /kubernetes.io/serviceaccount/name is 'db', and 'sub' says 'web'",
            ),
        ]:
            name = token(**claims)
            self.assertEqual(str(self.assertRaises(ValueError, service_account_of, name)), message)


class AWSTests(SynchronousTestCase):
    """ARNs of roles."""

    def test_reads_roles(self) -> None:
        """With their path, which is a part of the name."""
        for arn, values in [
            ("arn:aws:iam::123456789012:role/web", ("aws", "123456789012", "web")),
            ("arn:aws-cn:iam::123456789012:role/team/a/web+=,.@-_", ("aws-cn", "123456789012", "team/a/web+=,.@-_")),
        ]:
            name = aws_role(arn)
            self.assertEqual(tuple(name.value(v) for v in ("partition", "account", "role")), values)
            self.assertEqual(name.text, arn)

    def test_drops_the_name_of_a_session(self) -> None:
        """Whoever assumes a role chooses it."""
        name = aws_role("arn:aws:sts::123456789012:assumed-role/web/i-0abc")
        self.assertEqual(name, aws_role("arn:aws:iam::123456789012:role/web"))

    def test_refuses_everything_else(self) -> None:
        """Users, roots, other services, malformed ones."""
        role = "is not a role's: write arn:aws:iam::ACCOUNT:role/NAME"
        for arn, message in [
            ("web", "'web' is not an ARN"),
            ("arn:aws:iam::123456789012", "is not an ARN"),
            ("ARN:aws:iam::123456789012:role/web", "is not an ARN"),
            ("arn:AWS:iam::123456789012:role/web", "'AWS' in"),
            ("arn:aws\n:iam::123456789012:role/web", "'aws\\n' in"),
            ("arn:aws:iam::12345678901:role/web", "'12345678901' in"),
            ("arn:aws:iam::123456789012\n:role/web", "is not an account: 12 digits"),
            ("arn:aws:iam:eu-west-1:123456789012:role/web", role),
            ("arn:aws:iam::123456789012:user/web", role),
            ("arn:aws:iam::123456789012:root", role),
            ("arn:aws:iam::123456789012:role/", role),
            ("arn:aws:iam::123456789012:role//web", role),
            ("arn:aws:iam::123456789012:role/a:b", role),
            ("arn:aws:iam::123456789012:role/web\n", role),
            (f"arn:aws:iam::123456789012:role/{'a' * 65}", role),
            ("arn:aws:iam::123456789012:assumed-role/web/i-0abc", role),
            ("arn:aws:sts::123456789012:assumed-role/web", role),
            ("arn:aws:sts::123456789012:assumed-role/web/a/b", role),
            ("arn:aws:sts::123456789012:federated-user/web", role),
        ]:
            self.assertIn(message, str(self.assertRaises(ValueError, aws_role, arn)), arn)


class DNSTests(SynchronousTestCase):
    """DNS names."""

    def test_takes_lower_case_only(self) -> None:
        """Two spellings of one name must not become two identities, and no case is changed silently."""
        self.assertEqual(dns_name("db.example.org").value("name"), "db.example.org")
        for text, message in [
            ("DB.example.org", "'DB.example.org' is not in lower case; write db.example.org"),
            ("db.example.org.", "'db.example.org.' ends with a dot"),
            ("*.example.org", "'*.example.org' has a wildcard"),
            ("10.0.0.1", "'10.0.0.1' looks like an IP address"),
        ]:
            self.assertIn(message, str(self.assertRaises(ValueError, dns_name, text)))


class ClaimsTests(SynchronousTestCase):
    """Claims as JSON."""

    def test_finds_by_name_and_by_pointer(self) -> None:
        """A name with a slash or a tilde in it is escaped in a pointer (RFC 6901 section 3)."""
        claims = parse(b'{"a": "1", "b.c": {"d/e": {"~": "2"}, "": "3"}, "/x": "4"}')
        for reference, text in [("a", "1"), ("/a", "1"), ("/b.c/d~1e/~0", "2"), ("/b.c/", "3"), ("/~1x", "4")]:
            check_reference(reference)
            self.assertEqual(find(claims, reference), text)

    def test_finds_texts_only(self) -> None:
        """No default, no conversion, nothing in a list."""
        claims = parse(b'{"n": 1, "f": 1.5, "t": true, "z": null, "l": ["x"], "o": {"s": "x"}, "s": "x"}')
        for reference, message in [
            ("q", "is missing"),
            ("/o/q", "is missing"),
            ("/s/0", "is missing"),
            ("/l/0", "is missing"),
            ("n", "is a number, not text"),
            ("f", "is a number, not text"),
            ("t", "is true or false, not text"),
            ("z", "is null, not text"),
            ("l", "is a list, not text"),
            ("o", "is an object, not text"),
        ]:
            self.assertEqual(self.assertRaises(LookupError, find, claims, reference).args, (message,), reference)

    def test_refuses_references_to_nothing(self) -> None:
        """With what to write instead."""
        for reference, message in [
            ("", "a claim has a name of 1 to 512 characters"),
            ("a" * 513, "a claim has a name of 1 to 512 characters"),
            ("/a~2", "'/a~2' is no JSON pointer: '~' is written ~0, and '/' in a name ~1"),
            (
                "a/b",
                "'a/b' is neither a claim nor a JSON pointer: write '/a/b', or for one claim of that name '/a~1b'",
            ),
        ]:
            self.assertEqual(str(self.assertRaises(ValueError, check_reference, reference)), message)

    def test_refuses_what_are_no_claims(self) -> None:
        """Never showing what the file holds, which may be a token, that is, a secret."""
        for data, message in [
            (b"", "is not JSON"),
            (b"{", "is not JSON"),
            (b"\xff{}", "is not JSON"),
            (b'{"a": NaN}', "is not JSON"),
            (b"[" * 50_000, "is not JSON"),
            (b'{"a":' * 12_000, "is not JSON"),
            (b"[]", "is JSON and not an object; claims are names and values in braces"),
            (b'{"iss": "a", "iss": "b"}', "has the key 'iss' twice"),
            (b'{"a": {"b": 1, "b": 2}}', "has the key 'b' twice"),
            (b"e30.e30.c2ln\n", "is a token and not its claims; save the decoded payload, its second part, as JSON"),
            (b" " * (MAX_BYTES + 1), "is larger than 65536 bytes, too large for the claims of a token"),
        ]:
            self.assertEqual(str(self.assertRaises(ValueError, parse, data)), message)

    def test_wants_an_issuer(self) -> None:
        """Without one nobody knows whose words the claims are."""
        for data, message in [
            (b"{}", "has no issuer: claim 'iss' is missing"),
            (b'{"iss": 1}', "has no issuer: claim 'iss' is a number, not text"),
        ]:
            self.assertEqual(str(self.assertRaises(ValueError, oidc_claims, data)), message)
        name = oidc_claims(b'{"iss": "https://i", "sub": "a\\u001b"}')
        self.assertEqual(str(name), "OIDC claims of 'https://i' about 'a\\x1b'")

    @given(st.binary(max_size=60))
    def test_reads_or_refuses_anything(self, data: bytes) -> None:
        """Whatever a file holds, it is claims or a ValueError."""
        try:
            claims = parse(data)
        except ValueError:
            return
        self.assertIsInstance(claims, dict)


class SubjectTests(SynchronousTestCase):
    """Subjects of certificates."""

    def subject(self, *pairs: tuple[str, str]) -> ForeignName:
        return certificate_subject(distinguished(*pairs), distinguished(("O", "Example"), ("CN", "CA")))

    def test_reads_the_whole_and_its_attributes(self) -> None:
        """In the words of RFC 4514, which begin at the end."""
        name = self.subject(("O", "Example"), ("CN", "web, 1"))
        self.assertEqual(name.issuer, "CN=CA,O=Example")
        self.assertEqual(name.value("subject"), "CN=web\\, 1,O=Example")
        self.assertEqual((name.value("O"), name.value("CN"), name.attributes), ("Example", "web, 1", ("O", "CN")))

    def test_has_no_attribute_that_is_there_twice(self) -> None:
        """Or not at all: which one would be meant?"""
        name = self.subject(("OU", "a"), ("OU", "b"), ("CN", "web"))
        for variable in ("OU", "O"):
            error = self.assertRaises(LookupError, name.value, variable)
            self.assertEqual(error.args, ("is not in the subject exactly once",))
        self.assertEqual(name.attributes, ("OU", "OU", "CN"))

    def test_shows_every_attribute_in_its_order(self) -> None:
        """Those in one relative name joined, those without a variable by number."""
        subject = x509.Name(
            [
                x509.RelativeDistinguishedName(
                    [
                        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example"),
                        x509.NameAttribute(NameOID.COMMON_NAME, "web"),
                    ]
                ),
                x509.RelativeDistinguishedName([x509.NameAttribute(NameOID.SERIAL_NUMBER, "7")]),
            ]
        )
        joined, other = certificate_subject(subject, subject).attributes
        self.assertEqual((sorted(joined.split("+")), other), (["CN", "O"], "2.5.4.5"))

    def test_refuses_an_empty_subject(self) -> None:
        """It names nobody."""
        error = self.assertRaises(ValueError, certificate_subject, x509.Name([]), x509.Name([]))
        self.assertEqual(str(error), "has an empty subject, which names nobody")

    @given(
        st.lists(st.tuples(st.sampled_from(sorted(ATTRIBUTES)), st.text(' \\,+=#;<>"ab\0', min_size=1)), max_size=3),
        st.lists(st.tuples(st.sampled_from(sorted(ATTRIBUTES)), st.text(' \\,+=#;<>"ab\0', min_size=1)), max_size=3),
    )
    def test_different_subjects_read_differently(
        self, left: Sequence[tuple[str, str]], right: Sequence[tuple[str, str]]
    ) -> None:
        """The words of RFC 4514 tell any two apart."""
        left, right = ([(key, text[:2] if key == "C" else text) for key, text in side] for side in (left, right))
        texts = []
        for pairs in (left, right):
            if not pairs or any(key == "C" and len(text) != 2 for key, text in pairs):
                return
            texts.append(self.subject(*pairs).value("subject"))
        self.assertEqual(texts[0] == texts[1], left == right)
