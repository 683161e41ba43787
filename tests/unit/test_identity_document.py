"""docs/identity.md: its states and metrics are those that exist."""

from __future__ import annotations

import re

from prometheus_client.metrics_core import Metric
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.control import MeshControl
from tcpmesh.mesh_state import MeshStateCell
from tcpmesh.observe.identity_metrics import IdentityMetrics
from tcpmesh.observe.metrics import Metrics
from tcpmesh.values import IdentityState
from tests.documents import ROOT, section

DOCUMENT = (ROOT / "docs" / "identity.md").read_text(encoding="utf-8")
LIFE = section(DOCUMENT, "The life of an identity")


def column(text: str, first: str) -> list[str]:
    """What stands in backquotes at the beginning of the rows of the table with this heading."""
    table = re.search(rf"^\| {first} \|.*\n\| ---.*\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert table is not None, first
    return [row.split("`")[1] for row in table[1].splitlines()]


class IdentityDocumentTests(SynchronousTestCase):
    """What its tables list."""

    def test_lists_every_state(self) -> None:
        """In the order of a life."""
        self.assertEqual(column(LIFE, "state"), [state.name for state in IdentityState])

    def test_says_the_codes_of_refused_states(self) -> None:
        """As the data path has them."""
        rows = {row.split("`")[1]: row for row in LIFE.splitlines() if re.match(r"\| `[A-Z]+`", row)}
        for state, code in (("INIT", "TM-I101"), ("EXPIRED", "TM-I102"), ("REVOKED", "TM-I104")):
            self.assertIn(f"| refused, {code} |", rows[state])

    def test_lists_every_metric_of_identities(self) -> None:
        """And none that does not exist."""
        cell = MeshStateCell()
        control = MeshControl(cell, Clock(), lambda: 0.0)
        families: list[Metric] = [*IdentityMetrics(control).collect(), *Metrics(cell, lambda: 0.0, {}).collect()]
        names = {family.name + "_total" * (family.type == "counter") for family in families}
        listed = set(column(LIFE, "metric"))
        self.assertEqual(listed - names, set())
        of_identities = {name for name in names if re.match(r"tcpmesh_(identity|svid)_", name)}
        self.assertEqual(listed, of_identities)
