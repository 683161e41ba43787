"""What a proxy says of its identities and bundles, and how tcpmesh identity show presents it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tcpmesh.config import load
from tcpmesh.control import MeshControl
from tcpmesh.identity.certificates import fingerprint, moment, not_after, not_before, serial_text
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.identity_report import identity_report
from tcpmesh.mesh_state import MeshStateCell
from tcpmesh.plugins import PluginRegistry
from tcpmesh.sources.federation import Federation
from tcpmesh.testing import TestAuthority
from tcpmesh.values import IdentitySnapshot, TrustBundle, Workload
from tests.unit.admin_sockets import AdminSocketCase
from tests.unit.bundles import document
from tests.unit.record_samples import HOSTILE
from tests.unit.test_control import OneDelivery

CONFIGURATION = """\
version: 1
trust_domain: example.test
identity:
  sources:
    agent: {plugin: embedded, state: state}
  workloads:
    web: {id: "spiffe://example.test/web"}
    spare: {id: "spiffe://example.test/spare"}
  federation:
    other.test: {bundle: other.json}
    far.test: {url: "https://bundles.far.test/b?token=hush", profile: https_web}
services:
  orders:
    expect: ["spiffe://example.test/orders"]
    discovery: {plugin: static, endpoints: ["127.0.0.1:4143"]}
outbound:
  - {name: to-orders, listen: "127.0.0.1:0", service: orders, workload: web}
inbound:
  - {name: web-in, listen: "127.0.0.1:0", target: "127.0.0.1:5000", workload: web}
authorization:
  - {plugin: rules, policies: [{name: all, action: allow, from: [{ids: ["spiffe://example.test/orders"]}]}]}
"""


def no_answer(*_: Any) -> Any:
    """An endpoint that is asked and says nothing yet."""
    return Deferred()


class ReportCase(AdminSocketCase):
    """One source with two workloads, of which it delivers one, a partner's bundle in a file, and one behind a URL."""

    def setUp(self) -> None:
        super().setUp()
        self.authority, self.other = TestAuthority(), TestAuthority("other.test")
        (self.directory / "other.json").write_bytes(document(self.other.root.certificate, spiffe_sequence=7))
        self.config = self.directory / "tcpmesh.yaml"
        self.config.write_text(CONFIGURATION)
        self.settings = load(self.config, PluginRegistry())
        self.wall = self.authority.now()
        self.timers, self.cell = Clock(), MeshStateCell()
        own = self.authority.trust_domain
        relations = self.settings.identity.federation
        federation = Federation(relations, own, self.timers, lambda: self.wall, fetch=no_answer)
        self.control = MeshControl(self.cell, self.timers, lambda: self.wall, federation)
        self.svid = self.authority.svid("/web")
        self.source = OneDelivery(IdentitySnapshot((self.svid,), {own: self.authority.bundle}))
        workloads = {name: Workload(name, each.id) for name, each in self.settings.identity.workloads.items()}
        self.control.add_source("agent", self.source, workloads)
        self.addCleanup(self.control.stop)

    def report(self) -> Any:
        """As it comes out of the admin socket."""
        return json.loads(json.dumps(identity_report(self.settings, self.cell.current, self.control, self.wall)))

    def workload(self, name: str = "web") -> Any:
        return next(one for one in self.report()["workloads"] if one["name"] == name)

    def domain(self, name: str) -> Any:
        return next(one for one in self.report()["trust_domains"] if one["trust_domain"] == name)

    def let_pass(self, seconds: float) -> None:
        self.wall += seconds
        self.timers.advance(seconds)

    def show(self, answer: object, *arguments: str) -> tuple[Any, str, str]:
        """What the command makes of an answer."""
        body = json.dumps(answer).encode()
        self.requests: list[bytes] = []

        def respond(request: bytes) -> bytes:
            self.requests.append(request)
            return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body

        self.answer(respond)
        return self.command("identity", "show", *self.admin(), *arguments)


class ReportTests(ReportCase):
    """The proxy's side."""

    def test_describes_an_identity_and_its_use(self) -> None:
        """Certificate, state and since when, and the listeners that present it."""
        self.control.start()
        self.let_pass(5)
        leaf = self.svid.leaf
        self.assertEqual(
            self.workload(),
            {
                "name": "web",
                "id": "spiffe://example.test/web",
                "source": "agent",
                "state": "ready",
                "state_s": 5.0,
                "state_generation": self.control.entered["web"][0],
                "reason": "",
                "failing_s": None,
                "certificate": {
                    "serial": serial_text(leaf),
                    "issuer": f"'{leaf.issuer.rfc4514_string()}'",
                    "not_before": moment(not_before(leaf)),
                    "not_after": moment(not_after(leaf)),
                    "sha256": fingerprint(leaf),
                    "in_use_s": 5.0,
                },
                "listeners": [
                    {"direction": "inbound", "name": "web-in"},
                    {"direction": "outbound", "name": "to-orders", "service": "orders"},
                ],
            },
        )
        spare = self.workload("spare")
        self.assertEqual((spare["state"], spare["certificate"], spare["listeners"]), ("revoked", None, []))

    def test_says_since_when_a_state_lasts(self) -> None:
        """A failure begins a new one; failing again does not."""
        self.assertEqual((self.workload()["state_s"], self.workload()["state_generation"]), (None, None))
        self.control.start()
        ready = self.workload()["state_generation"]
        self.let_pass(5)
        self.source.observer.identity_failed("the agent is gone")
        stale = self.workload()["state_generation"]
        self.assertGreater(stale, ready)
        self.let_pass(7)
        self.source.observer.identity_failed("the agent is gone")
        web = self.workload()
        self.assertEqual(
            [web[key] for key in ("state", "state_s", "state_generation", "failing_s", "reason")],
            ["stale", 7.0, stale, 7.0, "the agent is gone"],
        )
        own = self.domain("example.test")["from"]
        self.assertEqual(
            own,
            [
                {
                    "origin": "identity source agent",
                    "age_s": 12.0,
                    "sequence": None,
                    "failing_s": 7.0,
                    "reason": "the agent is gone",
                }
            ],
        )

    def test_says_why_an_identity_is_not_usable(self) -> None:
        """Also when the source has said nothing, or is itself well."""
        self.assertEqual(self.workload()["reason"], "its source has delivered nothing yet; its connections are refused")
        self.control.start()
        self.wall += 7200
        self.timers.advance(10)
        web = self.workload()
        self.assertEqual(
            (web["state"], web["reason"]), ("expired", "its certificate has expired; its connections are refused")
        )
        self.source.observer.identity_revoked("the agent withdrew it")
        self.assertEqual(self.workload()["reason"], "the agent withdrew it")

    def test_describes_each_trust_domain(self) -> None:
        """The own one first; where each bundle is from, how old, and which authorities it has."""
        self.control.start()
        self.wall += 3
        report = self.report()
        names = [one["trust_domain"] for one in report["trust_domains"]]
        self.assertEqual(names, ["example.test", "other.test", "far.test"])
        self.assertEqual([one["own"] for one in report["trust_domains"]], [True, False, False])
        other = self.domain("other.test")
        self.assertEqual([one["sha256"] for one in other["authorities"]], [fingerprint(self.other.root.certificate)])
        (origin,) = other["from"]
        file = self.directory / "other.json"
        self.assertEqual(
            origin, {"origin": f"file {file}", "age_s": 3.0, "sequence": 7, "failing_s": None, "reason": ""}
        )
        self.assertEqual(self.domain("far.test")["authorities"], None)

    def test_says_since_when_a_bundle_cannot_be_refreshed(self) -> None:
        """Its authorities stay, and so does its age."""
        self.control.start()
        (self.directory / "other.json").unlink()
        self.control.reload()
        self.wall += 90
        other = self.domain("other.test")
        (origin,) = other["from"]
        self.assertEqual((origin["failing_s"], origin["age_s"], len(other["authorities"])), (90.0, 90.0, 1))
        self.assertIn("does not exist", origin["reason"])

    def test_shows_a_bundle_that_is_delivered_and_not_used(self) -> None:
        """With an authority of ours in it, another trust domain's is left out: it is there, without authorities."""
        third = TrustDomain("third.test")
        stolen = TrustBundle(third, self.authority.bundle.authorities)
        self.control.start()
        self.source.observer.identity_changed(
            IdentitySnapshot((self.svid,), {self.authority.trust_domain: self.authority.bundle, third: stolen})
        )
        left_out = self.domain("third.test")
        self.assertEqual((left_out["authorities"], left_out["from"][0]["origin"]), (None, "identity source agent"))

    def test_shows_no_secret(self) -> None:
        """Neither what a URL's query holds nor a key."""
        self.control.start()
        text = json.dumps(self.report())
        self.assertIn("https://bundles.far.test/b?...", text)
        self.assertNotIn("hush", text)
        self.assertNotIn("PRIVATE KEY", text)


class ShowTests(ReportCase):
    """The command's side."""

    def test_shows_everything(self) -> None:
        """A block for each identity and each trust domain; status 1, for one identity and one bundle are missing."""
        self.control.start()
        self.let_pass(1)
        status, out, err = self.show(self.report())
        self.assertEqual((status, err), (1, ""))
        self.assertTrue(self.requests[0].startswith(b"GET /identity HTTP/1.1\r\n"))
        leaf, root = self.svid.leaf, self.authority.root.certificate
        spare = self.control.entered["spare"][0]
        block = f"""\
spiffe://example.test/web
  workload  web from identity source agent
  state     ready for 1 s, since generation {self.control.entered["web"][0]}
  serial    {serial_text(leaf)}
  issuer    '{leaf.issuer.rfc4514_string()}'
  valid     {moment(not_before(leaf))} to {moment(not_after(leaf))}, in use for 1 s
  sha256    {fingerprint(leaf)}
  used by   inbound web-in
  used by   outbound to-orders to service orders
spiffe://example.test/spare
  workload  spare from identity source agent
  PROBLEM   revoked for 1 s, since generation {spare}: its source delivers identities, and none with this ID
  serial    none: there is no certificate
  used by   no listener
trust domain example.test (our own)
  from      identity source agent, received 1 s ago
"""
        self.assertIn(block, out)
        self.assertIn(f"            sha256  {fingerprint(root)}\n", out)
        self.assertIn(f"  from      file {self.directory / 'other.json'}, received 1 s ago, sequence 7\n", out)
        self.assertTrue(
            out.endswith(
                "trust domain far.test\n  from      endpoint https://bundles.far.test/b?..., nothing received yet\n"
                "  NOT USED  no authority of it is in use: its peers are refused\n"
            ),
            out,
        )

    def healthy(self) -> Any:
        """An answer in which all is well."""
        report = self.report()
        report["workloads"] = [one for one in report["workloads"] if one["name"] == "web"]
        report["trust_domains"] = [one for one in report["trust_domains"] if one["trust_domain"] != "far.test"]
        return report

    def test_marks_what_sources_contradict_each_other_about(self) -> None:
        """With the way out; the bundle that is left counts, and the status is 1."""
        own = self.authority.trust_domain
        more = TrustBundle(own, (self.authority.root.certificate, self.other.root.certificate))
        self.control.add_source("second", OneDelivery(IdentitySnapshot((), {own: more})), {})
        self.control.start()
        (domain, *_) = [one for one in self.report()["trust_domains"] if one["own"]]
        self.assertEqual(len(domain["authorities"]), 1)
        status, out, _ = self.show({**self.report(), "workloads": [], "trust_domains": [domain]})
        self.assertEqual((status, domain["from"][0]["failing_s"]), (1, None))
        (line,) = [line for line in out.splitlines() if "PROBLEM" in line]
        self.assertIn("PROBLEM   identity sources 'agent', 'second' deliver different bundles; not used are", line)
        self.assertIn("say in identity.bundles_from which source counts", line)

    def test_names_the_source_whose_bundle_is_waited_for(self) -> None:
        """When another one has delivered a bundle, and does not count."""
        self.control.start()
        (domain, *_) = [one for one in self.report()["trust_domains"] if one["own"]]
        domain.update({"from": [], "authorities": None, "only": ["agent", "disk"]})
        status, out, _ = self.show({**self.report(), "workloads": [], "trust_domains": [domain]})
        self.assertEqual(status, 1)
        self.assertIn("delivered a bundle for it that counts: identity.bundles_from wants agent, disk", out)

    def test_the_status_says_whether_all_is_well(self) -> None:
        """0 then; 1 for an identity that is not ready, a bundle that is not used, empty, or not refreshed."""
        self.control.start()
        healthy = self.healthy()
        self.assertEqual(self.show(healthy)[0], 0)
        for change in ("stale", "absent", "empty", "failing"):
            self.setUp()
            self.control.start()
            answer = self.healthy()
            if change == "stale":
                answer["workloads"][0]["state"] = "stale"
            elif change == "failing":
                answer["trust_domains"][1]["from"][0].update(failing_s=5.0, reason="gone")
            else:
                answer["trust_domains"][1]["authorities"] = None if change == "absent" else []
            status, out, _ = self.show(answer)
            self.assertEqual(status, 1, change)
            self.assertRegex(out, "PROBLEM|NOT USED")

    def test_tells_programs(self) -> None:
        """What the proxy said, with the same status."""
        self.control.start()
        report = self.report()
        self.assertEqual(self.show(report, "--json"), (1, json.dumps(report) + "\n", ""))

    def test_shows_hostile_text_as_it_is_written(self) -> None:
        """No terminal sequence, no additional line."""
        self.control.start()
        plain = self.show(self.healthy())[1]
        for text in HOSTILE:
            self.setUp()
            self.control.start()
            answer = self.healthy()
            answer["workloads"][0].update(reason=text, id=text, source=text)
            answer["workloads"][0]["certificate"]["issuer"] = text
            answer["trust_domains"][1]["authorities"][0]["subject"] = text
            out = self.show(answer)[1]
            self.assertEqual(len(out.splitlines()), len(plain.splitlines()))
            self.assertTrue(out.isascii() and out.replace("\n", "").isprintable(), out)

    def test_something_else_answers(self) -> None:
        """Status 2: it could not tell."""
        for answer in ([], {}, 1, {"workloads": []}, {"generation": 1, "time": "", "workloads": [1]}):
            self.setUp()
            status, out, err = self.show(answer)
            self.assertEqual((status, out), (2, ""), answer)
            self.assertIn("does not describe its identities as tcpmesh does", err)

    def test_no_proxy_is_running(self) -> None:
        """Nothing was asked."""
        status, _, err = self.command("identity", "show", "--config", str(Path(self.config)))
        self.assertEqual(status, 2)
        self.assertIn("has no admin socket", err)
        status, _, err = self.command("identity", "show", *self.admin())
        self.assertEqual(status, 2)
        self.assertIn("no proxy is running", err)
