"""docs/upstream-integrity.md: its numbers are those of the tests, and its breakages those that are tried."""

from __future__ import annotations

import re

from twisted.trial.unittest import SynchronousTestCase

from tests.documents import ROOT
from tests.integration.test_payload_integrity import CLIENTS, STAGES, cuts
from tests.simulated.mutants import MUTANTS
from tests.simulated.sessions import PREFACES

TEXT = (ROOT / "docs" / "upstream-integrity.md").read_text(encoding="utf-8")
_CERTIFICATES, _NOBODY = 3, 2  # in tests/integration/test_payload_integrity.py


class UpstreamIntegrityDocumentTests(SynchronousTestCase):
    def test_counts_the_simulated_cases(self) -> None:
        """One row for each property, with its number of cases, and their sum."""
        source = (ROOT / "tests" / "simulated" / "test_integrity.py").read_text(encoding="utf-8")
        cases = [int(number) for number in re.findall(r"^    @cases\((\d+)\)$", source, re.MULTILINE)]
        rows = [int(number) for number in re.findall(r"^\| .* \| (\d+) \|$", TEXT, re.MULTILINE)]
        self.assertEqual(rows, cases)
        self.assertIn(f"The {sum(cases)} cases are the same in each run.", " ".join(TEXT.split()))

    def test_counts_the_ways_to_fail_on_real_sockets(self) -> None:
        """And the connections: two for each way, four for each preface with each certificate, and for nobody."""
        ways = sum(len(list(cuts(kind))) for kind in STAGES)
        self.assertIn(f"{ways} ways to fail", TEXT)
        connections = 2 * ways + len(CLIENTS[0]) * (len(PREFACES) * _CERTIFICATES + _NOBODY)
        self.assertIn(f"{connections:,} connections", TEXT)

    def test_names_every_breakage(self) -> None:
        """Each that is tried, once, in the order in which they are."""
        table = TEXT.partition("| breakage |")[2].partition("\n\n")[0]
        self.assertEqual(re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE)[1:], [mutant.name for mutant in MUTANTS])
