"""Every class that claims an interface has its methods, and every plugin is run through its contract."""

import ast
import importlib
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementedBy
from zope.interface.verify import verifyClass

from tcpmesh.interfaces import KINDS

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def providers() -> dict[str, type]:
    """Every class of the package that is decorated with ``implementer``, by its full name."""
    found = {}
    for file in sorted((ROOT / "tcpmesh").rglob("*.py")):
        classes = [
            node.name
            for node in ast.parse(file.read_text()).body
            if isinstance(node, ast.ClassDef)
            and any(
                isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == "implementer"
                for decorator in node.decorator_list
            )
        ]
        if classes:
            parts = file.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            module = importlib.import_module(name)
            found |= {f"{name}.{each}": getattr(module, each) for each in classes}
    return found


def names_in_contracts() -> set[str]:
    """Every name that a contract test uses."""
    return {
        node.id
        for file in HERE.glob("test_*.py")
        if file != Path(__file__)
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Name)
    }


class ProviderTests(SynchronousTestCase):
    def test_every_provider_has_the_methods_that_it_claims(self) -> None:
        """Names and parameters of methods agree with the interfaces, Twisted's among them."""
        classes = providers()
        self.assertGreater(len(classes), 10)
        for cls in classes.values():
            for interface in implementedBy(cls):
                verifyClass(interface, cls)

    def test_every_plugin_is_run_through_its_contract(self) -> None:
        """A class that provides one of the plugin interfaces is named in a contract test."""
        interfaces = [interface for kind in KINDS for interface in (kind.factory, kind.product)]
        plugins = {
            name for name, cls in providers().items() if any(interface.implementedBy(cls) for interface in interfaces)
        }
        self.assertIn("tcpmesh.sources.rules.RulesFactory", plugins)
        tested = names_in_contracts()
        self.assertEqual([name for name in plugins if name.rpartition(".")[2] not in tested], [])
