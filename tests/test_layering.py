"""The rings of docs/architecture.md, and the rules on files and names, read from the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tcpmesh"

# The longest prefix counts. A module that is not here fails the test: decide its ring before writing it.
RINGS = {
    "tcpmesh.addresses": 0,
    "tcpmesh.balance_interfaces": 0,
    "tcpmesh.codes": 0,
    "tcpmesh.defaults": 0,
    "tcpmesh.descriptors": 0,
    "tcpmesh.dns_patterns": 0,
    "tcpmesh.errors": 0,
    "tcpmesh.identity.deny_list": 0,
    "tcpmesh.identity.spiffe": 0,
    "tcpmesh.interfaces": 0,
    "tcpmesh.limit_interfaces": 0,
    "tcpmesh.listener_settings": 0,
    "tcpmesh.mesh_state": 0,
    "tcpmesh.moments": 0,
    "tcpmesh.observe.records": 0,
    "tcpmesh.open_files": 0,
    "tcpmesh.peers": 0,
    "tcpmesh.policy.networks": 0,
    "tcpmesh.policy_interfaces": 0,
    "tcpmesh.port_ranges": 0,
    "tcpmesh.probe_settings": 0,
    "tcpmesh.proxy_protocol_settings": 0,
    "tcpmesh.route_settings": 0,
    "tcpmesh.route_table": 0,
    "tcpmesh.settings": 0,
    "tcpmesh.timeouts": 0,
    "tcpmesh.tls_names": 0,
    "tcpmesh.upstream_settings": 0,
    "tcpmesh.versions": 0,
    "tcpmesh.values": 0,
    "tcpmesh.wall_clock": 0,
    "tcpmesh.balance": 1,
    "tcpmesh.config": 1,
    "tcpmesh.discovery": 1,
    "tcpmesh.health": 1,
    "tcpmesh.identity": 1,
    "tcpmesh.policy": 1,
    "tcpmesh.retry": 1,
    "tcpmesh.dataplane": 2,
    "tcpmesh.checking": 3,
    "tcpmesh.net": 3,
    "tcpmesh.observe": 3,
    "tcpmesh.sources": 3,
    "tcpmesh.__main__": 4,
    "tcpmesh.authority_steps": 4,
    "tcpmesh.cli": 4,
    "tcpmesh.composition": 4,
    "tcpmesh.control": 4,
    "tcpmesh.deny_control": 4,
    "tcpmesh.endpoint_control": 4,
    "tcpmesh.endpoint_lines": 4,
    "tcpmesh.endpoint_report": 4,
    "tcpmesh.health_control": 4,
    "tcpmesh.identity_checks": 4,
    "tcpmesh.identity_report": 4,
    "tcpmesh.lifecycle": 4,
    "tcpmesh.plugin_origins": 4,
    "tcpmesh.plugins": 4,
    "tcpmesh.policy_control": 4,
    "tcpmesh.policy_replay": 4,
    "tcpmesh.reactor_choice": 4,
    "tcpmesh.reporting": 4,
    "tcpmesh.service": 4,
    "tcpmesh.start_facts": 4,
    "tcpmesh.tap": 4,
    "tcpmesh.testing": 5,  # for tests; nothing may import it
}
RINGLESS = {"tcpmesh"}  # holds the version and nothing else

# What rings 0 to 2 may use of Twisted: words and values, nothing that moves bytes or knows the time.
PURE_TWISTED = (
    "twisted.internet.defer",
    "twisted.internet.error",
    "twisted.internet.interfaces",
    "twisted.logger",
    "twisted.plugin",
    "twisted.python.failure",
)
IO_MODULES = ("asyncio", "select", "selectors", "socket", "socketserver", "ssl", "threading")
MAX_LINES = 300
VAGUE = {"manager", "handler", "processor", "engine", "helper", "util"}


def modules() -> dict[str, Path]:
    """Every module of the package by its full name."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(), str(file))


def ring(name: str) -> int | None:
    while name:
        if name in RINGS:
            return RINGS[name]
        name = name.rpartition(".")[0]
    return None


def imports(name: str, file: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that a module imports, wherever in it: also in functions and for types only."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    known = modules()
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                full = f"{base}.{alias.name}"
                # "from twisted.internet import tcp" imports a module, "from tcpmesh.values import Svid" a name
                yield node.lineno, full if full in known or not base.startswith("tcpmesh") else base


def within(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


class RingTests(SynchronousTestCase):
    def check(self, violations: list[str]) -> None:
        self.assertEqual(violations, [], "\n" + "\n".join(violations))

    def test_every_module_has_a_ring(self) -> None:
        """A new module is put into a ring on purpose."""
        self.check([name for name in modules() if ring(name) is None and name not in RINGLESS])

    def test_every_ring_names_a_module(self) -> None:
        """The map holds no module that is gone."""
        self.check([name for name in RINGS if name not in modules()])

    def test_imports_go_inwards(self) -> None:
        """A module imports only its own ring or a lower one."""
        violations = []
        for name, file in modules().items():
            own = ring(name)
            for line, imported in imports(name, file):
                other = ring(imported) if imported.startswith("tcpmesh.") else None
                if own is not None and other is not None and other > own:
                    violations.append(f"{file}:{line}: ring {own} imports {imported} of ring {other}")
        self.check(violations)

    def test_docstrings_say_the_ring(self) -> None:
        """Each module opens with its ring, the one that the map says."""
        violations = []
        for name, file in modules().items():
            own = ring(name)
            said = re.search(r"\bRing (\d)", ast.get_docstring(tree(file)) or "")
            if own is not None and own < 5 and file.name != "__init__.py" and (not said or int(said[1]) != own):
                violations.append(f"{file}:1: the docstring says {said[0] if said else 'no ring'}, the map ring {own}")
        self.check(violations)

    def test_the_inner_rings_do_not_know_openssl(self) -> None:
        """Rings 0 and 1 work on cryptography's objects only."""
        self.check(
            [
                f"{file}:{line}: ring {ring(name)} imports {imported}"
                for name, file in modules().items()
                if (ring(name) or 0) <= 1
                for line, imported in imports(name, file)
                if within(imported, ("OpenSSL", "service_identity.pyopenssl"))
            ]
        )

    def test_rings_without_io_import_none(self) -> None:
        """Rings 0 to 2 import no reactor, transport, endpoint, socket or thread."""
        self.check(
            [
                f"{file}:{line}: ring {ring(name)} imports {imported}"
                for name, file in modules().items()
                if (ring(name) or 0) <= 2
                for line, imported in imports(name, file)
                if within(imported, IO_MODULES)
                or (within(imported, ("twisted",)) and not within(imported, PURE_TWISTED))
            ]
        )

    def test_packages_of_mixed_rings_import_nothing_themselves(self) -> None:
        """identity.spiffe, observe.records, policy.networks are ring 0: the packages around must not import more."""
        for package in ("identity", "observe", "policy"):
            file = PACKAGE / package / "__init__.py"
            self.assertEqual(list(imports(f"tcpmesh.{package}", file)), [], file)

    def test_nothing_imports_the_test_support(self) -> None:
        """tcpmesh.testing, tests and examples are for tests; only testing itself uses testing."""
        self.check(
            [
                f"{file}:{line}: imports {imported}"
                for name, file in modules().items()
                for line, imported in imports(name, file)
                if within(imported, ("tests", "examples", "benchmarks"))
                or (within(imported, ("tcpmesh.testing",)) and not within(name, ("tcpmesh.testing",)))
            ]
        )


class SourceTests(SynchronousTestCase):
    def test_modules_stay_small(self) -> None:
        """A file that nears the limit is split by reason to change."""
        long = {
            str(file): count for file in modules().values() if (count := len(file.read_text().splitlines())) > MAX_LINES
        }
        self.assertEqual(long, {})

    def test_twisted_is_not_a_package_of_ours(self) -> None:
        """An __init__.py under twisted/ would hide Twisted's own plugins, and the drop-in from twistd."""
        self.assertEqual([str(file) for file in (ROOT / "twisted").rglob("__init__.py*")], [])
        self.assertEqual([file.name for file in (ROOT / "twisted").rglob("*.py")], ["tcpmesh_plugin.py"])

    def test_names_say_what_things_do(self) -> None:
        """No class, function, variable or module is called by one of the words that fit anything."""
        files = [*modules().values(), *(ROOT / "twisted").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]
        vague = []
        for file in files:
            for line, name in [(1, file.stem), *defined_names(tree(file))]:
                words = {word.lower().rstrip("s") for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}
                if words & VAGUE:
                    vague.append(f"{file}:{line}: {name}")
        self.assertEqual(vague, [], "\n" + "\n".join(vague))


def defined_names(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Every name that a module coins: definitions, parameters, variables, attributes, aliases."""
    for node in ast.walk(module):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                if alias.asname:
                    yield node.lineno, alias.asname


class ReadingTests(SynchronousTestCase):
    """The tests above see what they look for."""

    def sample(self, text: str) -> Path:
        file = Path(self.mktemp())
        file.write_text(text)
        return file

    def test_imports_are_seen_wherever_they_stand(self) -> None:
        """At the top, in a function, for types only, relative, of a module and of a name."""
        file = self.sample(
            "import OpenSSL.SSL as s\n"
            "from twisted.internet import tcp\n"
            "from tcpmesh.values import Svid\n"
            "from tcpmesh import values\n"
            "from ..values import Svid\n"
            "from . import retry\n"
            "def f():\n"
            "    import socket\n"
        )
        self.assertEqual(
            sorted(imports("tcpmesh.retry.sample", file)),
            [
                (1, "OpenSSL.SSL"),
                (2, "twisted.internet.tcp"),
                (3, "tcpmesh.values"),
                (4, "tcpmesh.values"),
                (5, "tcpmesh.values"),
                (6, "tcpmesh.retry"),
                (8, "socket"),
            ],
        )

    def test_names_are_seen_wherever_they_are_coined(self) -> None:
        """Classes, functions, parameters, variables, attributes and aliases."""
        file = self.sample(
            "import a as b\nclass C:\n    d: int\n    def e(self, f):\n        self.g = 1\n        h = 2\n"
        )
        self.assertEqual({name for _, name in defined_names(tree(file))}, set("bCdefgh") | {"self"})

    def test_a_prefix_ends_at_a_dot(self) -> None:
        """tcpmesh.observe.records is ring 0, its neighbour is not, and a longer word is another module."""
        self.assertEqual(
            [ring("tcpmesh.observe.records"), ring("tcpmesh.observe.log"), ring("tcpmesh.nets")], [0, 3, None]
        )
        self.assertFalse(within("OpenSSLish", ("OpenSSL",)))
