"""What a wheel holds, and that both kinds of installation are found by twistd."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.environments import Environment, source_copy, succeed


class WheelTests(SynchronousTestCase):
    def names(self) -> list[str]:
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        succeed(
            sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(directory),
            directory=source_copy(),
        )  # fmt: skip
        [wheel] = directory.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            return archive.namelist()

    def test_holds_the_package_and_the_drop_in_and_nothing_else(self) -> None:
        """One file under twisted/, no cache of plugins, no tests; the marker of types and the templates are there."""
        names = self.names()
        self.assertEqual([name for name in names if name.startswith("twisted/")], ["twisted/plugins/tcpmesh_plugin.py"])
        self.assertEqual([name for name in names if "dropin.cache" in name or "__pycache__" in name], [])
        tops = {name.partition("/")[0] for name in names}
        self.assertEqual({top for top in tops if not top.endswith(".dist-info")}, {"tcpmesh", "twisted"})
        for needed in ("tcpmesh/py.typed", "tcpmesh/testing/__init__.py", "tcpmesh/cli/templates/identity.py.template"):
            self.assertIn(needed, names)


class InstallationTests(SynchronousTestCase):
    def check(self, *, editable: bool) -> None:
        environment = Environment(Path(self.mktemp()))
        environment.install(source_copy(), editable=editable)
        where = environment.module("tcpmesh", "version")
        self.assertIn("tcpmesh ", where)
        self.assertIn(
            "tcpmesh", [line.split()[0] for line in environment.twistd("--help").splitlines() if line.strip()]
        )
        self.assertIn("--config", environment.twistd("tcpmesh", "--help"))
        listing = json.loads(environment.module("tcpmesh", "plugins", "--json"))
        self.assertEqual(listing["failed"], [])
        self.assertEqual({plugin["distribution"] for plugin in listing["plugins"]}, {"tcpmesh"})
        [folder] = {str(Path(plugin["file"]).parents[2]) for plugin in listing["plugins"]}
        expected = source_copy() if editable else environment.directory
        self.assertTrue(Path(folder).is_relative_to(expected), f"{folder} is not in {expected}")
        self.assertEqual([plugin["problem"] for plugin in listing["plugins"] if plugin["problem"]], [])

    def test_a_regular_installation_is_found(self) -> None:
        """After ``pip install .`` twistd lists tcpmesh and shows its options, and all plugins can be used."""
        self.check(editable=False)

    def test_an_editable_installation_is_found(self) -> None:
        """After ``pip install -e .`` the same, from the checkout."""
        self.check(editable=True)
