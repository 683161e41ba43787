"""
Names the modules whose proxies run in the test process: ``make test-reactors`` runs them on each reactor.

All others start their proxies in processes of their own, with the reactor that users get.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

PACKAGE = "tests.integration"
HARNESS = "mesh"
DIRECTORY = Path(__file__).parent


@cache
def imports(module: str) -> frozenset[str]:
    """The modules of this package that a module of it imports."""
    return frozenset(
        node.module.removeprefix(PACKAGE + ".")
        for node in ast.walk(ast.parse((DIRECTORY / f"{module}.py").read_text()))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(PACKAGE + ".")
    )


@cache
def uses_harness(module: str) -> bool:
    """Whether it imports the harness, or something that does."""
    return HARNESS in imports(module) or any(uses_harness(each) for each in imports(module))


def names() -> list[str]:
    """Every such module, as trial wants them."""
    return [f"{PACKAGE}.{file.stem}" for file in sorted(DIRECTORY.glob("test_*.py")) if uses_harness(file.stem)]


if __name__ == "__main__":
    print(*names())
