"""Bundles of one trust domain from several sources: whose word counts."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from twisted.internet.task import Clock
from twisted.logger import LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.checking.knowledge import Knowledge
from tcpmesh.cli.check_material import read_material
from tcpmesh.control import MeshControl
from tcpmesh.identity.certificates import pem_of
from tcpmesh.identity.life import SourceLife
from tcpmesh.identity.pooled import Choice, counts, pooled_bundles
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.identity_report import identity_report
from tcpmesh.mesh_state import MeshStateCell
from tcpmesh.settings import FederationSettings
from tcpmesh.sources.federation import Federation
from tcpmesh.testing import TestAuthority
from tcpmesh.values import IdentitySnapshot, TrustBundle, Workload
from tcpmesh.wall_clock import wall_clock
from tests.documents import ROOT, blocks
from tests.unit import crafted
from tests.unit.bundles import document
from tests.unit.config_samples import ConfigTestCase, variant
from tests.unit.test_control import OneDelivery

DOCUMENT = (ROOT / "docs" / "identity.md").read_text(encoding="utf-8")
A, B = TrustDomain("example.test"), TrustDomain("other.test")
ONE, TWO, THREE = (TestAuthority().root.certificate for _ in range(3))


def delivered(name: str, *authorities: x509.Certificate, domain: TrustDomain = A) -> SourceLife:
    """A source that delivered a bundle of one trust domain, and no identity."""
    snapshot = IdentitySnapshot((), {domain: TrustBundle(domain, authorities)})
    return SourceLife(name=name, workloads={}, snapshot=snapshot)


class PooledBundlesTests(SynchronousTestCase):
    """Several sources, as they stand."""

    def pooled(self, *sources: SourceLife, choice: Choice | None = None) -> dict[TrustDomain, set[x509.Certificate]]:
        """The authorities of each trust domain."""
        found = pooled_bundles(sources, choice or {})
        self.assertTrue(all(bundle.trust_domain == domain for domain, bundle in found.bundles.items()))
        self.disputes = found.disputes
        return {domain: set(bundle.authorities) for domain, bundle in found.bundles.items()}

    def test_one_source_is_right(self) -> None:
        """Also one of several, when it is the only one that knows the trust domain."""
        self.assertEqual(self.pooled(delivered("a", ONE, TWO)), {A: {ONE, TWO}})
        idle = SourceLife(name="idle", workloads={})
        self.assertEqual(self.pooled(delivered("a", ONE), idle, delivered("b", TWO, domain=B)), {A: {ONE}, B: {TWO}})
        self.assertEqual(self.disputes, {})

    def test_sources_that_agree(self) -> None:
        """In whatever order they list them."""
        self.assertEqual(self.pooled(delivered("a", ONE, TWO), delivered("b", TWO, ONE)), {A: {ONE, TWO}})
        self.assertEqual(self.disputes, {})

    def test_what_one_source_withdraws_is_withdrawn(self) -> None:
        """Although another one lists it still; the dispute names both, the authority, and the way out."""
        self.assertEqual(self.pooled(delivered("a", ONE, TWO), delivered("b", TWO)), {A: {TWO}})
        self.assertIn("identity sources 'a', 'b' deliver different bundles; not used", self.disputes[A])
        self.assertIn("say in identity.bundles_from", self.disputes[A])
        self.assertNotIn("leaves none", self.disputes[A])

    def test_an_empty_bundle_revokes(self) -> None:
        """And so do two that have nothing in common: nobody says who is right."""
        for other in (delivered("b"), delivered("b", TWO)):
            self.assertEqual(self.pooled(delivered("a", ONE), other), {A: set()})
            self.assertIn("which leaves none, so that all its peers are refused", self.disputes[A])

    def test_who_gives_up_a_bundle_brings_nothing_back(self) -> None:
        """By delivering none, or by being revoked: what it had withdrawn before stays withdrawn."""
        first = delivered("a", ONE, TWO)
        for end in (lambda source: source.delivered(IdentitySnapshot((), {}), 2.0), lambda source: source.revoked("")):
            second = delivered("b")
            second.delivered(IdentitySnapshot((), {A: TrustBundle(A, (TWO,))}), 1.0)
            end(second)
            self.assertEqual(self.pooled(first, second), {A: {TWO}})
            self.assertEqual(self.pooled(second), {})
            self.assertEqual(self.pooled(first, second, choice={A: ["a"]}), {A: {ONE, TWO}})

    def test_a_renewed_authority_is_the_same_one(self) -> None:
        """With its name and its key; with another name it is not."""
        key = crafted.authority("root").key
        old, new = (crafted.authority("root", key=key, serial=number).certificate for number in (1, 2))
        other = crafted.authority("another", key=key).certificate
        self.assertEqual(self.pooled(delivered("a", old), delivered("b", old, new)), {A: {old, new}})
        self.assertEqual(self.disputes, {})
        self.assertEqual(self.pooled(delivered("a", old), delivered("b", other)), {A: set()})

    def test_only_who_is_named_counts(self) -> None:
        """Also while it has delivered nothing; of other trust domains nothing is said by that."""
        both = (delivered("a", ONE), delivered("b", TWO))
        self.assertEqual(self.pooled(*both, choice={A: ["b"]}), {A: {TWO}})
        self.assertEqual(self.pooled(*both, choice={A: ["c"]}), {})
        self.assertEqual(self.pooled(*both, choice={B: ["a"]}), {A: set()})
        self.assertEqual([counts(name, A, {A: ["b"]}) for name in ("a", "b")], [False, True])

    def test_several_that_are_named_are_put_together(self) -> None:
        """For the time of a move from one to the other."""
        sources = (delivered("a", ONE), delivered("b", TWO), delivered("c", THREE))
        self.assertEqual(self.pooled(*sources, choice={A: ["a", "b"]}), {A: {ONE, TWO}})
        self.assertEqual(self.disputes, {})


class ControlTests(SynchronousTestCase):
    """Two sources of one trust domain that is the proxy's own."""

    def setUp(self) -> None:
        self.authority = TestAuthority()
        self.cell, self.lines = MeshStateCell(), list[str]()
        globalLogPublisher.addObserver(self.hear)
        self.addCleanup(globalLogPublisher.removeObserver, self.hear)

    def hear(self, event: dict[str, object]) -> None:
        if event["log_level"] is LogLevel.warn and "dispute" in event:
            self.lines.append(str(event["dispute"]))

    def start(self, choice: Choice) -> MeshControl:
        control = MeshControl(self.cell, Clock(), self.authority.now, bundles_from=choice)
        good = self.authority.snapshot("spiffe://example.test/web")
        more = IdentitySnapshot((), {A: TrustBundle(A, (self.authority.root.certificate, TWO))})
        self.second = OneDelivery(more)
        control.add_source("first", OneDelivery(good), {"web": Workload("web", good.svids[0].id)})
        control.add_source("second", self.second, {})
        self.addCleanup(control.stop)
        control.start()
        return control

    def authorities(self) -> set[x509.Certificate]:
        return set(self.cell.current.bundles[A].authorities)

    def test_a_dispute_is_told_once(self) -> None:
        """Until it is another one, or over and there again."""
        self.start({})
        self.assertEqual(self.authorities(), {self.authority.root.certificate})
        self.assertEqual(len(self.lines), 1)
        self.second.observer.identity_failed("gone")
        self.assertEqual(len(self.lines), 1)
        self.second.observer.identity_changed(IdentitySnapshot((), {}))
        self.second.observer.identity_changed(IdentitySnapshot((), {A: TrustBundle(A, (THREE,))}))
        self.assertEqual((len(self.lines), self.authorities()), (2, set()))

    def test_federation_decides_where_it_names_the_trust_domain(self) -> None:
        """Then what sources say of it is no dispute."""
        other = TestAuthority("other.test").root.certificate
        file = Path(self.mktemp())
        file.write_bytes(document(other))
        federation = Federation({B: FederationSettings(bundle=file)}, A, Clock(), self.authority.now)
        control = MeshControl(self.cell, Clock(), self.authority.now, federation)
        for name, authority in (("first", ONE), ("second", TWO)):
            control.add_source(name, OneDelivery(IdentitySnapshot((), {B: TrustBundle(B, (authority,))})), {})
        self.addCleanup(control.stop)
        control.start()
        self.assertEqual((control.disputes, self.lines), ({}, []))
        self.assertEqual(self.cell.current.bundles[B].authorities, (other,))

    def test_a_choice_holds_for_the_state_and_the_report(self) -> None:
        """The report lists only the source whose bundle is in use."""
        control = self.start({A: ["second"]})
        self.assertEqual((self.authorities(), self.lines), ({self.authority.root.certificate, TWO}, []))
        settings = ConfigTestCase().load(
            variant("  sources:", "  bundles_from: {example.test: [second]}\n  sources:")
            .replace("trust_domain: example.org", "trust_domain: example.test")
            .replace("sources: {local:", "sources: {second: {plugin: own, state: s}, local:")
            .replace('example.org/web"}\n', 'example.org/web", source: local}\n')
        )
        report = identity_report(settings, self.cell.current, control, self.authority.now())
        (own,) = report["trust_domains"]
        self.assertEqual([origin["origin"] for origin in own["from"]], ["identity source second"])
        self.assertEqual(own["dispute"], "")
        self.second.observer.identity_revoked("gone")
        report = identity_report(settings, self.cell.current, control, self.authority.now())
        (own,) = report["trust_domains"]
        self.assertEqual((own["from"], own["only"], own["authorities"]), ([], ["second"], None))


INBOUND = '  - {name: in, listen: "127.0.0.1:0", target: "127.0.0.1:5432", workload: a}\n'


class CheckTests(SynchronousTestCase):
    """``tcpmesh identity check`` without the proxy, of two sources that are files."""

    def bundles(self, first: tuple[TestAuthority, ...], second: tuple[TestAuthority, ...], more: str = "") -> Knowledge:
        directory = Path(self.mktemp())
        directory.mkdir()
        lines = [
            "version: 1",
            "trust_domain: example.test",
            "identity:",
            *([f"  {more}"] if more else []),
            "  sources:",
        ]
        workloads = []
        for name, authorities in (("a", first), ("b", second)):
            authority = authorities[0]
            authority.write_svid(authority.svid(f"spiffe://example.test/{name}"), directory, name)
            bundle = directory / f"{name}-bundle.pem"
            bundle.write_bytes(pem_of([each.root.certificate for each in authorities]))
            lines.append(f"    {name}: {{plugin: files, bundles: {{example.test: {bundle.name}}}}}")
            id_and_source = f'id: "spiffe://example.test/{name}", source: {name}'
            workloads.append(f"    {name}: {{{id_and_source}, certificate: {name}.pem, key: {name}.key}}")
        config = directory / "mesh.yaml"
        config.write_text("\n".join([*lines, "  workloads:", *workloads, "inbound:", INBOUND]))
        return read_material(config)[0]

    def test_sees_what_the_proxy_would(self) -> None:
        """What both list; what only one lists is not there, whichever comes last."""
        one, two = TestAuthority(now=wall_clock()), TestAuthority(now=wall_clock())
        for first, second in (((one,), (one, two)), ((one, two), (one,))):
            self.assertEqual(self.bundles(first, second).state.bundles[A].authorities, (one.root.certificate,))
        chosen = self.bundles((one,), (two,), "bundles_from: {example.test: [a]}")
        self.assertEqual(chosen.state.bundles[A].authorities, (one.root.certificate,))

    def test_says_that_nothing_is_left(self) -> None:
        """And who contradicts whom."""
        found = self.bundles((TestAuthority(now=wall_clock()),), (TestAuthority(now=wall_clock()),))
        self.assertNotIn(A, found.state.bundles)
        self.assertIn("identity sources 'a', 'b' deliver different bundles", found.bundle_defects[A])


class BundlesFromTests(ConfigTestCase):
    """The key in the configuration."""

    AT = "identity.bundles_from['example.org']"

    def refused(self, value: str, *messages: str, more: str = "") -> None:
        self.check_problems(variant("  sources:", f"  bundles_from: {value}\n{more}  sources:"), *messages)

    def test_names_sources(self) -> None:
        """Read as they are written; none by default."""
        read = self.load(variant("  sources:", "  bundles_from: {b.test: [local]}\n  sources:"))
        self.assertEqual(read.identity.bundles_from, {TrustDomain("b.test"): ["local"]})

    def test_the_example_in_the_documentation(self) -> None:
        """Is one, with a source of that name."""
        (example,) = [block.text for block in blocks(DOCUMENT) if "bundles-from" in block.words]
        sources = variant("  sources: {local:", f"{example}  sources: {{agent: {{plugin: own, state: s}}, local:")
        read = self.load(sources.replace('example.org/web"}\n', 'example.org/web", source: local}\n', 1))
        self.assertEqual(read.identity.bundles_from, {TrustDomain("example.org"): ["agent"]})

    def test_contradictions(self) -> None:
        """Nobody, somebody twice, somebody unknown, and a trust domain whose bundle comes from elsewhere."""
        message = "the list is empty; name the identity source whose bundle counts"
        self.refused("{example.org: ‸[]}", f"{self.AT}: {message}")
        self.refused("{example.org: [local, ‸local]}", f"{self.AT}: 'local' is named twice")
        self.refused(
            "{b.test: ‸[local]}",
            "identity.bundles_from['b.test']: its bundle comes from identity.federation, whatever a source delivers; "
            "remove one of the two",
            more="  federation: {b.test: {bundle: b.pem}}\n",
        )
