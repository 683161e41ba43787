"""A package of drop-ins in a temporary folder, found like twisted.plugins and gone after the test."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from textwrap import dedent
from types import ModuleType

from twisted.trial.unittest import SynchronousTestCase

HEADER = """
from zope.interface import implementer
from tcpmesh.descriptors import PluginDescriptor
from tcpmesh.interfaces import *
from tcpmesh.settings import NoSettings
from tcpmesh.retry.none import NoRetry, NoRetryFactory

class Named(NoRetryFactory):
    def __init__(self, name):
        self.name = name
"""


class DropInTestCase(SynchronousTestCase):
    """Gives a test its own package of drop-ins, made of two folders of which the first wins."""

    def setUp(self) -> None:
        root = Path(self.mktemp()).absolute()
        self.name = f"drop_ins_{id(self):x}"
        self.first = root / self.name
        self.second = root / "second"
        self.first.mkdir(parents=True)
        self.second.mkdir()
        (self.first / "__init__.py").write_text(f"__path__.append({str(self.second)!r})\n")
        sys.path.insert(0, str(root))
        self.addCleanup(self._forget, str(root))
        importlib.invalidate_caches()
        self.package: ModuleType = importlib.import_module(self.name)

    def _forget(self, root: str) -> None:
        sys.path.remove(root)
        for name in [name for name in sys.modules if name == self.name or name.startswith(self.name + ".")]:
            del sys.modules[name]

    def drop_in(self, name: str, text: str, folder: Path | None = None) -> str:
        """Write a drop-in, after the header that imports what drop-ins use, and give its file."""
        file = (folder or self.first) / f"{name}.py"
        file.write_text(HEADER + dedent(text))
        importlib.invalidate_caches()
        return str(file)
