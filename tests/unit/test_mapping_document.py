"""docs/identity.md: what it shows of names that others give is what the commands say."""

from __future__ import annotations

import io
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.cli import main
from tcpmesh.identity.foreign import VARIABLES
from tests.documents import ROOT, blocks, section

NAMES = section((ROOT / "docs" / "identity.md").read_text(encoding="utf-8"), "Names that others give")
SHOWN_IN = "/etc/mesh"


class MappingDocumentTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        (configuration,) = [block.text for block in blocks(NAMES) if block.language == "yaml"]
        (self.directory / "names.yaml").write_text(configuration)

    def test_shows_what_the_commands_say(self) -> None:
        """Of its own configuration, word for word, but for the spaces that end a line of a table."""
        shown = [block.text for block in blocks(NAMES) if block.language == "console"]
        self.assertEqual(len(shown), 3)
        for text in shown:
            command, _, expected = text.partition("\n")
            self.assertTrue(command.startswith("$ tcpmesh "), command)
            out = io.StringIO()
            self.patch(sys, "stdout", out)
            status = self.assertRaises(SystemExit, main, self.here(command).split()[2:]).code
            lines = [line.rstrip() for line in out.getvalue().splitlines()]
            # A table's columns are as wide as the paths in them.
            said = "\n".join(lines).replace(str(self.directory), SHOWN_IN) + "\n"
            self.assertEqual((said, status), (expected, 1 if expected.startswith("TM-") else 0))

    def here(self, text: str) -> str:
        return text.replace(SHOWN_IN, str(self.directory))

    def test_has_every_variable(self) -> None:
        """Of every kind, in its row of the table."""
        for kind, variables in VARIABLES.items():
            (row,) = [line for line in NAMES.splitlines() if line.startswith(f"| `{kind}` |")]
            for variable in variables:
                self.assertIn(f"`{variable}`", row.split(" | ")[2])
