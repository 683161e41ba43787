"""``tcpmesh ca``: what it makes, what it refuses, and its exit status."""

from __future__ import annotations

import io
import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.cli import main
from tcpmesh.identity.authority import ISSUING_LIFETIME
from tcpmesh.identity.certificates import dns_names, not_after, pem_of
from tcpmesh.identity.material import load_certificates, load_private_key
from tcpmesh.identity.own import verify_own
from tcpmesh.identity.spiffe import SpiffeId, TrustDomain
from tcpmesh.sources.authority_state import AuthorityState
from tcpmesh.values import Svid, TrustBundle
from tcpmesh.wall_clock import wall_clock

DOMAIN = TrustDomain("a.test")

CONFIGURATION = """\
version: 1
trust_domain: a.test
identity:
  sources:
    local: {{plugin: embedded, state: {state}}}
  workloads:
    web: {{id: "spiffe://a.test/web"}}
inbound:
  - {{name: web-in, listen: "127.0.0.1:0", target: "127.0.0.1:5000", workload: web}}
authorization:
  - plugin: rules
    policies:
      - {{name: all, action: allow, to: {{inbound: [web-in]}}, from: [{{ids: ["spiffe://a.test/web"]}}]}}
"""


@attrs.frozen
class Ended:
    """A finished command."""

    status: Any
    out: str
    err: str


class AuthorityCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.patch(os, "environ", {**os.environ})
        os.environ.pop("TCPMESH_CONFIG", None)
        self.base = Path(self.mktemp()).absolute()
        self.base.mkdir()
        self.state = self.base / "state"
        self.out = self.base / "out"

    def ca(self, *arguments: object) -> Ended:
        out, err = io.StringIO(), io.StringIO()
        self.patch(sys, "stdout", out)
        self.patch(sys, "stderr", err)
        status = self.assertRaises(SystemExit, main, ["ca", *map(str, arguments)]).code
        return Ended(status, out.getvalue(), err.getvalue())

    def init(self) -> None:
        ended = self.ca("init", "--state", self.state, "--trust-domain", "a.test")
        self.assertEqual((ended.status, ended.err), (0, ""))

    def issue(self, *arguments: object, identity: str = "spiffe://a.test/db") -> Ended:
        return self.ca("issue", "--state", self.state, "--id", identity, "--out", self.out, *arguments)

    def failed(self, ended: Ended, status: int, *words: str) -> None:
        self.assertEqual((ended.status, ended.out), (status, ""), ended.err)
        for word in words:
            self.assertIn(word, ended.err)
        self.assertNotIn("Traceback", ended.err)

    def configuration(self) -> Path:
        file = self.base / "tcpmesh.yaml"
        file.write_text(CONFIGURATION.format(state=self.state))
        return file

    def own(self, now: float) -> AuthorityState:
        state = AuthorityState.own(self.state, DOMAIN, now)
        self.addCleanup(state.close)
        return state


class InitTests(AuthorityCase):
    def test_makes_an_authority(self) -> None:
        """And says where its bundle is."""
        ended = self.ca("init", "--state", self.state, "--trust-domain", "a.test")
        self.assertEqual((ended.status, ended.err), (0, ""))
        self.assertIn(f"authority of a.test in {self.state}, valid until 20", ended.out)
        self.assertIn(f"bundle for peers: {self.state / 'bundle.pem'}", ended.out)
        self.assertEqual(stat.S_IMODE(self.state.stat().st_mode), 0o700)

    def test_leaves_an_authority_as_it_is(self) -> None:
        """Twice is once."""
        self.init()
        before = (self.state / "root.pem").read_bytes()
        self.init()
        self.assertEqual((self.state / "root.pem").read_bytes(), before)

    def test_refuses_another_trust_domain_in_the_same_place(self) -> None:
        """One state, one trust domain."""
        self.init()
        ended = self.ca("init", "--state", self.state, "--trust-domain", "b.test")
        self.failed(ended, 1, "TM-C104", "is the authority of a.test, and the trust domain here is b.test")

    def test_wants_a_trust_domain(self) -> None:
        """A wrong or missing one is wrong usage."""
        self.failed(self.ca("init", "--state", self.state), 64, "--trust-domain is missing")
        ended = self.ca("init", "--state", self.state, "--trust-domain", "A.test")
        self.failed(ended, 64, "did you mean 'a.test'")

    def test_says_who_owns_the_state(self) -> None:
        """It could not tell whether anything is to be done."""
        self.own(wall_clock())
        ended = self.ca("init", "--state", self.state, "--trust-domain", "a.test")
        self.failed(ended, 2, "TM-C103", f"in use by process {os.getpid()}")


class IssueTests(AuthorityCase):
    def test_writes_what_a_program_needs(self) -> None:
        """Certificate with intermediate, key that only the owner reads, bundle; all of one piece."""
        self.init()
        ended = self.issue("--dns", "db.a.test", "--dns", "db", "--ttl", "1h")
        self.assertEqual((ended.status, ended.err), (0, ""))
        chain = load_certificates((self.out / "certificate.pem").read_bytes())
        key = load_private_key((self.out / "key.pem").read_bytes())
        (root,) = load_certificates((self.out / "bundle.pem").read_bytes())
        svid = Svid(SpiffeId.parse("spiffe://a.test/db"), chain, key)
        verify_own(svid, {DOMAIN: TrustBundle(DOMAIN, (root,))}, wall_clock())
        self.assertEqual(dns_names(chain[0]), ["db.a.test", "db"])
        self.assertTrue(3590 <= not_after(chain[0]) - wall_clock() <= 3600)
        self.assertEqual(stat.S_IMODE((self.out / "key.pem").stat().st_mode), 0o600)
        self.assertEqual(sorted(os.listdir(self.out)), ["bundle.pem", "certificate.pem", "key.pem"])
        self.assertIn("spiffe://a.test/db valid until 20", ended.out)
        self.assertNotIn("PRIVATE", ended.out)

    def test_replaces_nothing_unasked(self) -> None:
        """Any of the three files stops it before it writes."""
        self.init()
        self.out.mkdir()
        for name in ("key.pem", "certificate.pem", "bundle.pem"):
            (self.out / name).write_bytes(b"precious")
            self.failed(self.issue(), 1, f"{self.out / name} is there already", "--force")
            self.assertEqual(os.listdir(self.out), [name])
            self.assertEqual((self.out / name).read_bytes(), b"precious")
            (self.out / name).unlink()
        (self.out / "key.pem").symlink_to("/nowhere")
        self.failed(self.issue(), 1, "is there already")

    def test_signs_nothing_that_it_cannot_give(self) -> None:
        """The audit log has no certificate that nobody got."""
        self.init()
        self.assertEqual(self.issue().status, 0)
        issued = (self.state / "audit.jsonl").read_bytes()
        self.failed(self.issue(), 1, "is there already")
        self.assertEqual((self.state / "audit.jsonl").read_bytes(), issued)

    def test_replaces_when_asked(self) -> None:
        """The new key's file is private, whatever the old one's was."""
        self.init()
        self.out.mkdir()
        (self.out / "key.pem").write_bytes(b"old")
        (self.out / "key.pem").chmod(0o644)
        self.assertEqual(self.issue("--force").status, 0)
        self.assertEqual(stat.S_IMODE((self.out / "key.pem").stat().st_mode), 0o600)
        load_private_key((self.out / "key.pem").read_bytes())

    def test_works_beside_the_owner(self) -> None:
        """A running proxy's state is only read."""
        state = self.own(wall_clock())
        self.assertEqual(self.issue().status, 0)
        chain = load_certificates((self.out / "certificate.pem").read_bytes())
        self.assertEqual(chain[1], state.issuing.certificate)

    def test_renews_the_issuing_authority_where_it_has_to(self) -> None:
        """Nobody did while no proxy ran."""
        state = self.own(wall_clock() - ISSUING_LIFETIME - 60)
        before = state.issuing.certificate
        state.close()
        self.assertEqual(self.issue().status, 0)
        chain = load_certificates((self.out / "certificate.pem").read_bytes())
        self.assertNotEqual(chain[1], before)

    def test_says_when_somebody_else_would_have_to_renew(self) -> None:
        """Old but long enough will do; expired will not, and the owner is named."""
        state = self.own(wall_clock() - ISSUING_LIFETIME + 7200)
        self.assertEqual(self.issue("--ttl", "1h").status, 0)
        ended = self.issue("--ttl", "24h", "--force")
        self.failed(ended, 2, "the issuing authority has to be renewed first", f"in use by process {os.getpid()}")
        self.assertTrue(state.owned)

    def test_says_when_the_certificate_ends_earlier(self) -> None:
        """Cut where the issuing authority ends."""
        self.own(wall_clock() - ISSUING_LIFETIME / 4)
        ended = self.issue("--ttl", "14d")
        self.assertEqual(ended.status, 0)
        self.assertIn("the issuing authority ends then", ended.err)

    def test_refuses_other_trust_domains(self) -> None:
        """The authority signs for its own."""
        self.init()
        self.failed(self.issue(identity="spiffe://b.test/db"), 1, "is not of a.test")
        self.failed(self.issue(identity="spiffe://a.test"), 1, "TM-I203", "has no path")
        self.assertFalse((self.out / "key.pem").exists())

    def test_refuses_wrong_options(self) -> None:
        """Each with status 64 and the parser's own words."""
        self.init()
        for arguments, words in (
            (["--ttl", "5s"], "a ttl is 10s to 14d"),
            (["--ttl", "15d"], "a ttl is 10s to 14d"),
            (["--ttl", "3600"], "is not a duration"),
            (["--dns", "*.a.test"], "has a wildcard"),
            (["--dns", "192.0.2.1"], "looks like an IP address"),
        ):
            self.failed(self.issue(*arguments), 64, words)
        self.failed(self.issue(identity="spiffe://A.test/db"), 64, "did you mean 'a.test'")
        self.failed(self.ca("issue", "--state", self.state, "--out", self.out), 64, "--id")
        self.failed(self.ca("issue", "--state", self.state, "--id", "spiffe://a.test/db"), 64, "--out")

    def test_says_when_there_is_no_authority(self) -> None:
        """And how to make one."""
        self.failed(self.issue(), 1, f"{self.state} does not exist; make an authority there: tcpmesh ca init")
        self.state.mkdir(0o700)
        self.failed(self.issue(), 1, "holds no authority; make one: tcpmesh ca init")

    def test_says_when_only_the_issuing_authority_is_missing(self) -> None:
        """The root is there; another issuing authority is made by the root's owner, or by hand."""
        self.ca("init", "--state", self.state, "--trust-domain", "a.test")
        (self.state / "issuing.pem").unlink()
        self.failed(
            self.issue(), 1, "issuing.pem is missing; the root signs another one when the proxy starts, or now:"
        )
        self.ca("init", "--state", self.state, "--trust-domain", "a.test")
        self.assertEqual(self.issue().status, 0)

    def test_leaves_no_half_issue_behind(self) -> None:
        """When the second file cannot be written, the first one goes again."""
        self.init()
        self.out.mkdir()
        obstacle = self.out / f".certificate.pem.{os.getpid()}.tmp"
        obstacle.mkdir()
        self.failed(self.issue(), 2, "File exists")
        self.assertEqual(os.listdir(self.out), [obstacle.name])

    def test_says_when_it_cannot_write(self) -> None:
        """It could not tell; nothing is left behind."""
        self.init()
        self.out = self.base / "missing" / "out"
        self.failed(self.issue(), 2, str(self.out), "No such file or directory")


class ShowTests(AuthorityCase):
    def test_shows_both_authorities(self) -> None:
        """With what peers need to compare, and who owns them."""
        self.init()
        ended = self.ca("show", "--state", self.state)
        self.assertEqual((ended.status, ended.err), (0, ""))
        for words in ("owned by nobody", "CN=root of a.test", "CN=issuing authority of a.test", "spiffe://a.test\n"):
            self.assertIn(words, ended.out)
        self.own(wall_clock())
        self.assertIn(f"owned by process {os.getpid()}", self.ca("show", "--state", self.state).out)

    def test_shows_json(self) -> None:
        """For programs."""
        state = self.own(wall_clock())
        ended = self.ca("show", "--json", "--state", self.state)
        shown = json.loads(ended.out)
        self.assertEqual((ended.status, shown["owner"], shown["trust_domain"]), (0, os.getpid(), "a.test"))
        self.assertEqual(shown["state"], str(self.state))
        self.assertEqual(shown["root"]["spiffe_id"], "spiffe://a.test")
        self.assertTrue(shown["root"]["valid"] and shown["issuing"]["valid"])
        self.assertEqual(int(shown["issuing"]["serial"], 16), state.issuing.certificate.serial_number)
        self.assertEqual(len(shown["issuing"]["sha256"]), 64)

    def test_ends_with_1_when_one_is_not_valid(self) -> None:
        """It is shown all the same."""
        self.own(wall_clock() - ISSUING_LIFETIME - 60).close()
        ended = self.ca("show", "--state", self.state)
        self.assertEqual(ended.status, 1)
        self.assertIn("NOT VALID NOW", ended.out)
        self.assertIn("not every certificate shown is valid now", ended.err)

    def test_never_shows_a_key(self) -> None:
        """In no form."""
        self.init()
        for arguments in ([], ["--json"]):
            ended = self.ca("show", "--state", self.state, *arguments)
            self.assertNotIn("PRIVATE", ended.out)

    def test_refuses_a_damaged_state(self) -> None:
        """Status 1, with the file."""
        self.init()
        (self.state / "issuing.pem").write_bytes(b"junk")
        self.failed(self.ca("show", "--state", self.state), 1, "issuing.pem holds no PEM private key")


class ConfigurationTests(AuthorityCase):
    def test_takes_state_and_trust_domain_from_the_configuration(self) -> None:
        """Of its embedded source."""
        file = self.configuration()
        self.assertEqual(self.ca("init", "--config", file).status, 0)
        self.assertEqual(self.ca("show", "--config", file).status, 0)
        ended = self.ca("issue", "--config", file, "--id", "spiffe://a.test/db", "--out", self.out)
        self.assertEqual(ended.status, 0, ended.err)
        root = pem_of([self.own(wall_clock()).root.certificate])
        self.assertEqual((self.out / "bundle.pem").read_bytes(), root)

    def test_takes_the_file_from_the_environment(self) -> None:
        """TCPMESH_CONFIG, as everywhere."""
        os.environ["TCPMESH_CONFIG"] = str(self.configuration())
        self.assertEqual(self.ca("init").status, 0)
        self.assertTrue((self.state / "root.pem").exists())

    def test_refuses_another_trust_domain_than_the_configurations(self) -> None:
        """Both are named."""
        ended = self.ca("init", "--config", self.configuration(), "--trust-domain", "b.test")
        self.failed(ended, 64, "is of trust domain a.test", "--state")

    def test_refuses_a_configuration_without_or_with_several_authorities(self) -> None:
        """It says to name the directory."""
        file = self.configuration()
        text = file.read_text()
        second = f"    other: {{plugin: embedded, state: {self.base / 'other'}}}\n  workloads:"
        file.write_text(text.replace("  workloads:", second).replace("{id:", "{source: local, id:"))
        self.failed(self.ca("show", "--config", file), 64, "has 2 embedded sources", "--state")

    def test_says_what_is_wrong_with_the_configuration(self) -> None:
        """As ``tcpmesh check`` does."""
        file = self.base / "broken.yaml"
        file.write_text("version: 1\n")
        self.failed(self.ca("show", "--config", file), 1, str(file))
        self.failed(self.ca("show", "--config", self.base / "none.yaml"), 1, "there is no such file")
