"""docs/identity.md, what ends a connection: its codes, its metrics and its example are those that exist."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.metrics_core import Metric
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import codes
from tcpmesh.config import loads
from tcpmesh.config.deny_list import MAX_FILE_BYTES
from tcpmesh.deny_control import LOOK
from tcpmesh.identity.deny_list import MAX_ENTRIES
from tcpmesh.mesh_state import MeshStateCell
from tcpmesh.net import expiry
from tcpmesh.net.review import CUTS_IN_A_TURN, GRACE, LOOKED_AT_IN_A_TURN
from tcpmesh.observe.review_metrics import ReviewMetrics
from tcpmesh.plugins import PluginRegistry
from tests.documents import ROOT, section
from tests.unit.test_identity_document import column

TEXT = section((ROOT / "docs" / "identity.md").read_text(encoding="utf-8"), "What ends a connection")


class Idle:
    """A review and a deny-list that have seen nothing but one end."""

    waiting = looked_at = failures = 0
    failure = ""
    ended = {codes.PEER_DENIED: 1}


class LifeDocumentTests(SynchronousTestCase):
    """The section."""

    def test_lists_every_code_that_a_review_ends_with(self) -> None:
        """As the table of ends in docs/codes.md has them, for the same reasons."""
        listed = set(re.findall(r"^\| .* \| (TM-[A-Z][0-9]+) \|", TEXT, re.MULTILINE))
        wanted = {codes.VOUCHER_GONE, codes.PEER_DENIED, codes.OWN_DENIED, codes.OWN_REVOKED, codes.EXPIRED_SINCE}
        self.assertEqual(listed, {code.id for code in wanted})

    def test_lists_every_metric(self) -> None:
        """And none that does not exist."""
        families: list[Metric] = [*ReviewMetrics(Idle(), Idle(), MeshStateCell()).collect()]
        names = {sample.name for family in families for sample in family.samples}
        self.assertEqual(set(column(TEXT, "metric")), names)

    def test_says_how_long_and_how_many(self) -> None:
        """The numbers are those of the code."""
        self.assertEqual((LOOKED_AT_IN_A_TURN, CUTS_IN_A_TURN, GRACE, expiry.LOOK, LOOK), (100, 20, 5.0, 5.0, 2.0))
        for words in ("a hundred connections in each turn of the reactor, twenty of them ended", "| 5 s later, unless",
                      "at the next look, every 5 s", "looked at every two seconds"):  # fmt: skip
            self.assertIn(words, TEXT)
        self.assertIn(f"up to {MAX_ENTRIES:,} entries, the file {MAX_FILE_BYTES // 1024} KiB", TEXT)

    def test_the_example_loads(self) -> None:
        """In a configuration around it."""
        (example,) = re.findall(r"```yaml deny-list\n(.*?)```", TEXT, re.DOTALL)
        around = (
            "version: 1\ntrust_domain: example.org\n"
            'outbound: [{name: a, listen: "127.0.0.1:1", service: a, workload: a}]\n'
            'services: {a: {expect: ["spiffe://example.org/a"], '
            'discovery: {plugin: static, endpoints: ["127.0.0.1:2"]}}}\n'
        )
        more = '  sources: {a: {plugin: embedded, state: a}}\n  workloads: {a: {id: "spiffe://example.org/a"}}\n'
        settings = loads((around + example + more).encode(), Path("mesh.yaml"), PluginRegistry())
        found = settings.identity.deny_list
        self.assertEqual(len(found.entries), 2)
        self.assertEqual(found.file, Path("denied.yaml").absolute())
