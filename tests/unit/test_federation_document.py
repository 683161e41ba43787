"""docs/identity.md: its section about other trust domains says what is so."""

from __future__ import annotations

import json
import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import config
from tcpmesh.identity.bundle_document import BundleError, parse_bundle
from tcpmesh.identity.federated import FederatedBundle
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.observe.bundle_metrics import bundle_families
from tcpmesh.plugins import PluginRegistry
from tests.documents import ROOT, blocks, section

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
