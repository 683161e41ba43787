"""``tcpmesh identity``: what it answers from a configuration alone, and its exit status."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.cli import main
from tcpmesh.identity.certificates import pem_of
from tests.unit.crafted import craft_der, leaf, uri
from tests.unit.test_foreign_identities import distinguished
from tests.unit.tls_pairs import now_authority

CONFIGURATION = """\
version: 1
trust_domain: a.test
identity:
  sources:
    local: {plugin: embedded, state: state}
  workloads:
    web: {id: "spiffe://a.test/k8s/ns/shop/sa/web"}
  mapping:
    prod:
      {from: kubernetes, issuer: "https://k8s", prefix: /k8s, template: "ns/{namespace}/sa/{service_account}",
       where: {namespace: [shop, till]}}
    github:
      {from: claims, issuer: "https://github", prefix: /gh, template: "{repository_id}", subject: [repository_id]}
    aws: {from: aws, prefix: /aws, template: "{partition}/{account}/{role}"}
    hosts: {from: dns, prefix: /dns, template: "{name}"}
    others: {from: dns, prefix: /other, template: "{name}", where: {name: [b.test]}}
    old: {from: certificate, issuer: "CN=CA", prefix: /old, template: "{CN}"}
services:
  orders:
    expect: ["spiffe://a.test/gh/74", "spiffe://a.test/k8s/ns/shop/sa/web"]
    discovery: {plugin: static, endpoints: ["127.0.0.1:4143", {address: "127.0.0.1:4144", weight: 2}]}
  archive:
    expect: ["dns:archive.test"]
    discovery: {plugin: static, endpoints: ["127.0.0.1:4145"]}
inbound:
  - {name: web-in, listen: "127.0.0.1:0", target: "127.0.0.1:5000", workload: web}
authorization:
  - plugin: rules
    policies:
      - name: shop
        action: allow
        to: {inbound: [web-in]}
        from: [{ids: ["spiffe://a.test/gh/74", "spiffe://a.test/k8s/ns/shop/sa/web"]}]
      - {name: no-builds, action: deny, from: [{ids: ["spiffe://a.test/gh/74"]}]}
"""


@attrs.frozen
class Ended:
    """A finished command."""

    status: Any
    out: str
    err: str


class IdentityCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.patch(os, "environ", {**os.environ})
        os.environ.pop("TCPMESH_CONFIG", None)
        self.base = Path(self.mktemp()).absolute()
        self.base.mkdir()
        self.config = self.base / "tcpmesh.yaml"
        self.config.write_text(CONFIGURATION)

    def run_command(self, *arguments: object) -> Ended:
        out, err = io.StringIO(), io.StringIO()
        self.patch(sys, "stdout", out)
        self.patch(sys, "stderr", err)
        status = self.assertRaises(SystemExit, main, ["identity", *map(str, arguments)]).code
        return Ended(status, out.getvalue(), err.getvalue())

    def resolve(self, *arguments: object) -> Ended:
        return self.run_command("resolve", "--config", self.config, *arguments)

    def check_lines(self, ended: Ended, status: int, *lines: str) -> None:
        self.assertEqual((ended.status, ended.err), (status, ""))
        self.assertEqual(ended.out.splitlines(), list(lines))

    def check_failed(self, ended: Ended, status: int, message: str) -> None:
        self.assertEqual((ended.status, ended.out), (status, ""))
        self.assertEqual(ended.err.splitlines()[-1], f"tcpmesh: {message}")

    def place(self, line: int, column: int) -> dict[str, object]:
        return {"file": str(self.config), "line": line, "column": column}

    def file(self, name: str, data: bytes) -> Path:
        path = self.base / name
        path.write_bytes(data)
        return path


class ResolveTests(IdentityCase):
    """Names that have an ID."""

    def test_says_rule_and_mentions(self) -> None:
        """Each with the place in the file."""
        self.check_lines(
            self.resolve("--service-account", "shop/web"),
            0,
            "spiffe://a.test/k8s/ns/shop/sa/web",
            "  name      Kubernetes service account shop/web",
            f"  rule      identity.mapping.prod at {self.config}:10:7",
            f"  workload  web at {self.config}:7:15",
            f"  expected  by service orders at {self.config}:20:39",
            f"  policy    shop allows it at web-in at {self.config}:33:48",
        )

    def test_says_that_nobody_speaks_of_it(self) -> None:
        """An ID that no policy mentions comes in nowhere."""
        self.check_lines(
            self.resolve("--aws-arn", "arn:aws:sts::123456789012:assumed-role/web/i-0abc"),
            0,
            "spiffe://a.test/aws/aws/123456789012/web",
            "  name      AWS role arn:aws:iam::123456789012:role/web",
            f"  rule      identity.mapping.aws at {self.config}:14:10",
            "  expected  by no service",
            "  policy    none mentions it",
        )

    def test_tells_programs(self) -> None:
        """The same as JSON."""
        ended = self.resolve("--json", "--claims", self.file("c", b'{"iss": "https://github", "repository_id": "74"}'))
        self.assertEqual((ended.status, ended.err), (0, ""))
        self.assertEqual(
            json.loads(ended.out),
            {
                "name": "OIDC claims of 'https://github'",
                "id": "spiffe://a.test/gh/74",
                "rule": "identity.mapping.github",
                **self.place(13, 7),
                "expected_by": [{"service": "orders", **self.place(20, 14)}],
                "workloads": [],
                "policies": [
                    {"policy": "shop", "action": "allow", "inbound": ["web-in"], **self.place(33, 23)},
                    {"policy": "no-builds", "action": "deny", "inbound": None, **self.place(34, 55)},
                ],
                "not_examined": [],
            },
        )

    def test_reads_the_claims_of_a_service_account(self) -> None:
        """By the cluster's issuer."""
        claims = b'{"iss": "https://k8s", "sub": "system:serviceaccount:till:one"}'
        ended = self.resolve("--claims", self.file("c", claims))
        self.assertEqual((ended.status, ended.out.splitlines()[0]), (0, "spiffe://a.test/k8s/ns/till/sa/one"))

    def test_takes_the_subject_of_a_certificate(self) -> None:
        """When it has no URI name."""
        key = ec.generate_private_key(ec.SECP256R1())
        der = craft_der(
            public_key=key.public_key(),
            signing_key=key,
            subject=distinguished(("CN", "web-1")),
            issuer=distinguished(("CN", "CA")),
            extensions=[],
        )
        file = self.file("c.pem", pem_of([x509.load_der_x509_certificate(der)]))
        ended = self.resolve("--certificate", file)
        self.assertEqual((ended.status, ended.out.splitlines()[0]), (0, "spiffe://a.test/old/web-1"))
        self.assertIn("  name      certificate subject 'CN=web-1'\n", ended.out)

    def test_takes_the_spiffe_id_of_a_certificate(self) -> None:
        """Which needs no mapping, whatever its trust domain."""
        ca = now_authority("CA")
        for identity, more in [
            ("spiffe://a.test/gh/74", []),
            ("spiffe://b.test/x", ["  note      this is another trust domain than a.test, the configuration's own"]),
        ]:
            file = self.file("c.pem", pem_of([leaf(ca, uri(identity)).certificate]))
            ended = self.resolve("--certificate", file)
            self.assertEqual(ended.status, 0, ended.err)
            head = [identity, f"  name      certificate of {identity}", "  rule      the certificate's own URI name"]
            self.assertEqual(ended.out.splitlines()[: 3 + len(more)], head + more)


class MissTests(IdentityCase):
    """Names that have none."""

    def test_says_the_nearest_miss(self) -> None:
        """And what the others of its kind have against it; what takes other kinds has no line."""
        self.check_lines(
            self.resolve("--service-account", "test/web"),
            1,
            "TM-I301 Kubernetes service account test/web has no SPIFFE ID: no mapping takes it",
            f"  nearest  identity.mapping.prod at {self.config}:10:7: namespace is 'test', not 'shop' or 'till'",
            "  next     correct the name, or the entry of identity.mapping that is nearest; then: tcpmesh identity "
            "resolve",
        )
        claims = b'{"iss": "https://github", "sub": "system:serviceaccount:shop:web", "repository_id": 7}'
        self.check_lines(
            self.resolve("--claims", self.file("c", claims)),
            1,
            "TM-I301 OIDC claims of 'https://github' about 'system:serviceaccount:shop:web' has no SPIFFE ID: no "
            "mapping takes it",
            f"  nearest  identity.mapping.github at {self.config}:13:7: claim 'repository_id' is a number, not text",
            f"  also     identity.mapping.prod at {self.config}:10:7: it is for names that 'https://k8s' gives, not "
            "'https://github'",
            "  next     correct the name, or the entry of identity.mapping that is nearest; then: tcpmesh identity "
            "resolve",
        )

    def test_tells_programs_every_miss(self) -> None:
        """Nearest first."""
        ended = self.resolve("--json", "--service-account", "test/web")
        answer = json.loads(ended.out)
        self.assertEqual((ended.status, answer["id"], answer["code"]), (1, None, "TM-I301"))
        self.assertEqual(
            answer["misses"][0],
            {
                "rule": "identity.mapping.prod",
                "reason": "namespace is 'test', not 'shop' or 'till'",
                **self.place(10, 7),
            },
        )
        self.assertEqual(len(answer["misses"]), 6)

    def test_refuses_to_choose(self) -> None:
        """Unless it is told which mapping is meant."""
        self.check_lines(
            self.resolve("--dns", "b.test"),
            1,
            "TM-I302 DNS name b.test has 2 SPIFFE IDs, by identity.mapping.hosts, identity.mapping.others; which of "
            "them is meant, --mapping says",
            f"  either   spiffe://a.test/dns/b.test by identity.mapping.hosts at {self.config}:15:12",
            f"  either   spiffe://a.test/other/b.test by identity.mapping.others at {self.config}:16:13",
            "  next     let one entry of identity.mapping take the name: its issuer or where; or tcpmesh identity "
            "resolve --mapping NAME",
        )
        ended = self.resolve("--dns", "b.test", "--mapping", "others")
        self.assertEqual((ended.status, ended.out.splitlines()[0]), (0, "spiffe://a.test/other/b.test"))

    def test_says_that_there_is_no_mapping(self) -> None:
        """Then no name has an ID."""
        text = CONFIGURATION.partition("  mapping:\n")[0] + "services:" + CONFIGURATION.partition("services:")[2]
        self.config.write_text(text)
        ended = self.resolve("--dns", "b.test")
        self.assertEqual(ended.status, 1)
        self.assertEqual(
            ended.out.splitlines()[0],
            f"TM-I301 DNS name b.test has no SPIFFE ID: there is no identity.mapping in {self.config}",
        )


class UsageTests(IdentityCase):
    """What is no name, no file or no configuration."""

    def test_wants_one_name(self) -> None:
        """Which of two would be answered?"""
        options = "name one of --service-account, --claims, --aws-arn, --dns and --certificate"
        self.check_failed(self.resolve(), 64, options)
        self.check_failed(self.resolve("--dns", "a.test", "--service-account", "a/b"), 64, f"{options}, not several")

    def test_refuses_names_that_cannot_be(self) -> None:
        """Before the configuration is read."""
        ended = self.run_command("resolve", "-c", "/no/such", "--dns", "A.test")
        self.check_failed(ended, 64, "Invalid value for '--dns': 'A.test' is not in lower case; write a.test")

    def test_refuses_unknown_mappings(self) -> None:
        """With those that are there."""
        ended = self.resolve("--dns", "a.test", "--mapping", "x")
        self.check_failed(ended, 64, f"{self.config} has no mapping 'x'; it has: prod, github, aws, hosts, others, old")

    def test_says_what_is_wrong_with_a_file(self) -> None:
        """Status 2 when it cannot be read, 1 when it is not what it should be; its content is not shown."""
        missing = self.base / "missing"
        self.check_failed(self.resolve("--claims", missing), 2, f"{missing}: cannot be read: No such file or directory")
        large = self.file("large", b" " * 65537)
        self.check_failed(
            self.resolve("--claims", large),
            2,
            f"{large}: is larger than 65536 bytes, too large for what it should hold",
        )
        token = self.file("token", b"e30.e30.c2ln")
        self.check_failed(
            self.resolve("--claims", token),
            1,
            f"{token}: is a token and not its claims; save the decoded payload, its second part, as JSON",
        )
        self.check_failed(self.resolve("--certificate", token), 1, f"{token}: holds no PEM certificate")
        ca = now_authority("CA")
        two = self.file("two", pem_of([leaf(ca, uri("spiffe://a.test/a"), uri("spiffe://a.test/b")).certificate]))
        ended = self.resolve("--certificate", two)
        self.assertEqual((ended.status, ended.out), (1, ""))
        self.assertIn("TM-I502 the certificate has 2 URI names, not one", ended.err)

    def test_says_what_is_wrong_with_the_configuration(self) -> None:
        """As every command."""
        self.config.write_text(CONFIGURATION.replace("prefix: /other", "prefix: /dns/x"))
        ended = self.resolve("--dns", "a.test")
        self.assertEqual((ended.status, ended.out), (1, ""))
        self.assertEqual(
            ended.err,
            f"{self.config}:16:33: identity.mapping.others.prefix: /dns/x lies in identity.mapping.hosts.prefix (/dns, "
            "line 15), so that names of both could get one SPIFFE ID; give each a prefix of its own\n",
        )


class MapTests(IdentityCase):
    """identity map."""

    def run_map(self, *arguments: object) -> Ended:
        return self.run_command("map", "--config", self.config, *arguments)

    def test_shows_whom_is_expected_where(self) -> None:
        """Every identity of every service, with its place."""
        ended = self.run_map()
        self.assertEqual((ended.status, ended.err), (0, ""))
        head, *rows = [re.split(r" {2,}", line.strip()) for line in ended.out.splitlines()]
        self.assertEqual(head, ["SERVICE", "ENDPOINTS", "EXPECTED", "NAME", "FROM"])
        claims = "OIDC claims of 'https://github' with repository_id '74'"
        account = "Kubernetes service account shop/web"
        self.assertEqual(
            rows,
            [
                ["orders", "127.0.0.1:4143 127.0.0.1:4144", "spiffe://a.test/gh/74", claims, f"{self.config}:20:14"],
                ["spiffe://a.test/k8s/ns/shop/sa/web", account, f"{self.config}:20:39"],
                ["archive", "127.0.0.1:4145", "dns:archive.test", "-", f"{self.config}:23:14"],
            ],
        )

    def test_shows_what_the_mapping_gives_to_nobody(self) -> None:
        """In the table and for programs; without a mapping there is nothing to say of names."""
        text = self.config.read_text()
        self.config.write_text(text.replace('expect: ["spiffe://a.test/gh/74"', 'expect: ["spiffe://a.test/gh/7/4"'))
        problem = "it has 2 segments below '/gh', and '{repository_id}' gives 1"
        self.assertIn(f"PROBLEM: identity.mapping.github gives it to nobody: {problem}", self.run_map().out)
        (first, second, third) = json.loads(self.run_map("--json").out)["destinations"]
        self.assertEqual(first["name"], {"mapping": "github", "text": None, "problem": problem})
        self.assertEqual(
            second["name"], {"mapping": "prod", "text": "Kubernetes service account shop/web", "problem": None}
        )
        self.assertIsNone(third["name"])
        start, rest = text.split("  mapping:\n")
        self.config.write_text(start + rest[rest.index("services:") :])
        self.assertEqual(self.run_map().out.split()[:4], ["SERVICE", "ENDPOINTS", "EXPECTED", "FROM"])

    def test_tells_programs_about_single_services(self) -> None:
        """Those that are named."""
        ended = self.run_map("--service", "archive", "--json")
        self.assertEqual((ended.status, ended.err), (0, ""))
        self.assertEqual(
            json.loads(ended.out),
            {
                "file": str(self.config),
                "destinations": [
                    {
                        "service": "archive",
                        "discovery": "static",
                        "endpoints": ["127.0.0.1:4145"],
                        "expected": "dns:archive.test",
                        "name": None,
                        "from": self.place(23, 14),
                    }
                ],
            },
        )

    def test_refuses_unknown_services(self) -> None:
        """With the one that was meant, or those that are there."""
        for name, hint in (("order", "did you mean 'orders'?"), ("x", "it has: orders, archive")):
            self.check_failed(self.run_map("--service", name), 64, f"{self.config} has no service '{name}'; {hint}")

    def test_says_that_there_is_nothing_to_show(self) -> None:
        """A proxy may have inbound listeners only."""
        text = CONFIGURATION.partition("services:")[0] + "inbound:" + CONFIGURATION.partition("inbound:")[2]
        self.config.write_text(text)
        self.check_lines(self.run_map(), 0, f"{self.config} has no services")

    def test_says_who_expects_nobody(self) -> None:
        """A service that only applications' own TLS goes to."""
        before, _, rest = CONFIGURATION.partition("services:")
        services = 'services: {legacy: {discovery: {plugin: static, endpoints: ["127.0.0.1:4145"]}}}\n'
        routes = "routes: [{service: legacy, passthrough: true}]"
        outbound = f'outbound: [{{name: out, listen: "127.0.0.1:0", workload: web, {routes}}}]\n'
        self.config.write_text(f"{before}{services}{outbound}inbound:{rest.partition('inbound:')[2]}")
        self.check_lines(self.run_map(), 0, "legacy expects nobody: TLS of applications is passed through to it")


class OtherWordTests(IdentityCase):
    """Other words after ``identity``."""

    def test_says_what_is_no_command(self) -> None:
        """With the status of wrong usage."""
        ended = self.run_command("nonsense")
        self.assertEqual(ended.status, 64)
        self.assertIn("No such command 'nonsense'", ended.err)
