"""docs/identity.md: its section about other trust domains says what is so."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import succeed
from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import config
from tcpmesh.identity.bundle_document import BundleError, parse_bundle
from tcpmesh.identity.federated import FederatedBundle
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.observe.bundle_metrics import bundle_families
from tcpmesh.observe.start_block import StartFacts, federation_lines, start_block
from tcpmesh.plugins import PluginRegistry
from tcpmesh.sources.federation import Federation
from tcpmesh.testing import TestAuthority
from tcpmesh.values import TrustBundle
from tests.documents import ROOT, blocks, section
from tests.unit.bundles import document

FEDERATION = section((ROOT / "docs" / "identity.md").read_text(encoding="utf-8"), "Other trust domains")


class FederationDocumentTests(SynchronousTestCase):
    def block(self, language: str) -> str:
        """The only block of a language without a name."""
        (found,) = [block.text for block in blocks(FEDERATION) if block.language == language and not block.words]
        return found

    def test_its_configuration_loads(self) -> None:
        """With one relation of each kind, and nothing to be warned of."""
        settings = config.loads(self.block("yaml").encode(), Path("/etc/mesh/tcpmesh.yaml"), PluginRegistry())
        self.assertEqual(config.warnings(settings), [])
        profiles = [relation.profile for relation in settings.identity.federation.values()]
        self.assertEqual(profiles, [None, "https_web", "https_spiffe"])

    def test_shows_the_start_block_of_its_configuration(self) -> None:
        """With bundles in the files, and before the endpoints have answered."""
        settings = config.loads(self.block("yaml").encode(), Path("/etc/mesh/tcpmesh.yaml"), PluginRegistry())
        relations = settings.identity.federation
        held = []
        for domain, sequence, count in zip(relations, (42, None, None), (1, 0, 2), strict=True):
            roots = tuple(TestAuthority(str(domain)).root.certificate for _ in range(count))
            received = 0.0 if roots else None
            held.append(
                FederatedBundle(domain, TrustBundle(domain, roots) if roots else None, sequence, None, received)
            )
        facts = StartFacts("1", "r", "l", "f", "d", "t", federated=list(federation_lines(relations, held, 0.0)))
        lines = [line for line in start_block(facts, 0.0) if line.startswith("federated")]
        (shown,) = [block.text for block in blocks(FEDERATION) if "start block" in block.comment]
        self.assertEqual(shown.splitlines(), lines)

    def test_shows_what_is_told_of_a_bundle_that_was_kept(self) -> None:
        """At a start three hours after it was received; wherever the lines are broken."""
        settings = config.loads(self.block("yaml").encode(), Path("/etc/mesh/tcpmesh.yaml"), PluginRegistry())
        domain = TrustDomain("carrier.example")
        relation = attrs.evolve(settings.identity.federation[domain], bundle=None)
        roots = [TestAuthority(str(domain)).root.certificate for _ in range(2)]
        directory = Path(self.mktemp())
        clock = Clock()
        events: list[dict[str, Any]] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        served = document(*roots, spiffe_sequence=42, spiffe_refresh_hint=300)
        for wait in (3 * 3600, 0):
            federation = Federation(
                {domain: relation}, None, clock, clock.seconds, fetch=lambda *_: succeed(served), cache=directory
            )
            events.clear()
            federation.start(dict, lambda: None)
            federation.stop()
            clock.advance(wait)
        told = [f"{event['log_level'].name.upper()[:4]:5} {formatEvent(event)}" for event in events]
        (shown,) = [block.text for block in blocks(FEDERATION) if "kept in /var/lib" in block.text]
        self.assertEqual(shown.replace("/var/lib/tcpmesh/bundles", str(directory)).splitlines(), told)

    def test_its_document_is_one(self) -> None:
        """But for the certificate, which nobody would read there."""
        text = self.block("json")
        error = self.assertRaises(BundleError, parse_bundle, text.encode(), TrustDomain("a.test"))
        self.assertIn("a certificate at keys[0] that is not base64", str(error))
        members = json.loads(text)
        members["keys"] = []
        found = parse_bundle(json.dumps(members).encode(), TrustDomain("a.test"))
        self.assertEqual((found.sequence, found.refresh_hint), (42, 300))

    def test_lists_every_metric_of_bundles(self) -> None:
        """And none that does not exist."""
        families = bundle_families([FederatedBundle(TrustDomain("a.test"))], 0.0)
        names = {family.name + "_total" * (family.type == "counter") for family in families}
        self.assertEqual(set(re.findall(r"^\| `(tcpmesh_\w+)`", FEDERATION, re.MULTILINE)), names)
