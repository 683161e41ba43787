"""The table of docs/identity.md that says which source does what: every cell is backed by a test that exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests import documents
from tests.documents import ROOT

SECTION = documents.section((ROOT / "docs" / "identity.md").read_text(), "Which source does what")
PLACES = {"tests": ROOT, "tcpmesh_vault": ROOT / "examples" / "vault_source"}


def cells() -> list[list[str]]:
    """The rows of the table below its head, without the property's name."""
    lines = [line for line in SECTION.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row[1:] for row in rows[2:]]


def tests() -> dict[int, str]:
    """The numbered tests."""
    found = re.findall(r"^(\d+)\. `([\w.]+)`$", SECTION, re.MULTILINE)
    return {int(number): name for number, name in found}


@cache
def methods(file: Path) -> frozenset[str]:
    """``Class.method`` of every method that a file defines."""
    classes = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)]
    return frozenset(
        f"{each.name}.{node.name}"
        for each in classes
        for node in each.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


class SourcesTableTests(SynchronousTestCase):
    def test_every_cell_names_a_test(self) -> None:
        """Or is a dash; and no test is listed that no cell names."""
        rows = cells()
        self.assertGreater(len(rows), 8)
        named = set()
        for row in rows:
            self.assertEqual(len(row), 5, row)
            for cell in row:
                if cell != "-":
                    self.assertRegex(cell, r"\A\S.* \[\d+\]\Z")
                    named.add(int(cell.rpartition("[")[2].rstrip("]")))
        self.assertEqual(named, set(tests()))

    def test_every_named_test_exists(self) -> None:
        """As a method of that class in that module."""
        self.assertGreater(len(tests()), 30)
        for name in tests().values():
            module, case, method = name.rsplit(".", 2)
            file = PLACES[module.partition(".")[0]].joinpath(*module.split(".")).with_suffix(".py")
            self.assertTrue(method.startswith("test_"), name)
            self.assertTrue(file.is_file(), f"{name}: there is no {file}")
            self.assertIn(f"{case}.{method}", methods(file), name)

    def test_every_source_has_a_column(self) -> None:
        """Those that are built in, and the example."""
        head = next(line for line in SECTION.splitlines() if line.startswith("| property"))
        self.assertEqual(re.findall(r"`([\w-]+)`", head), ["files", "embedded", "workload-api", "vault"])
