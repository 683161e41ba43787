"""
Writes the distribution of a new plugin: working code, a passing contract test, and everything to install it.

Ring 4. The texts are in the folder ``templates``.
"""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from string import Template

import tcpmesh
from tcpmesh.interfaces import PluginKind

__all__ = ["NAME", "distribution_name", "write_distribution"]

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*\Z")

# What each template does, as the plugin's one-line description.
_DESCRIPTIONS = {
    "identity": "certificates and keys from a directory",
    "discovery": "addresses from an environment variable",
    "authorization": "everybody below one path of a trust domain",
    "retry": "the same wait before every attempt",
    "balance": "the first endpoint that works",
}
# What to write into a configuration, for the README.
_USAGE = {
    "identity": "identity:\n  sources: {mine: {plugin: $name, directory: ./certificates}}",
    "discovery": "services:\n  orders:\n    discovery: {plugin: $name, variable: ORDERS_ENDPOINTS}",
    "authorization": 'authorization:\n  - {plugin: $name, below: "spiffe://example.test/shop"}',
    "retry": "services:\n  orders:\n    retry: {plugin: $name, attempts: 3, wait: 200ms}",
    "balance": "services:\n  orders:\n    balance: {plugin: $name}",
}


def distribution_name(name: str) -> str:
    """What ``pip`` knows the plugin of that name by."""
    return f"tcpmesh-{name}"


def write_distribution(kind: PluginKind, name: str, directory: Path) -> list[Path]:
    """
    Write all files into a new or empty directory, and give their paths relative to it.

    :raises ValueError: when the directory has something in it.
    """
    if directory.exists() and any(directory.iterdir()):
        raise ValueError(f"{directory} is not empty; name another directory with --out")
    package = distribution_name(name).replace("-", "_")
    words = {
        "kind": kind.name,
        "name": name,
        "distribution": distribution_name(name),
        "package": package,
        "constant": kind.name.upper(),
        "variable": f"{kind.name}_{name.replace('-', '_')}",
        "description": _DESCRIPTIONS[kind.name],
        "version": tcpmesh.__version__,
    }
    example = Template(_USAGE[kind.name]).substitute(words)
    words["usage"] = "\nIn a configuration:\n\n" + "".join(f"    {line}\n" for line in example.splitlines())
    files = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        ".gitignore": "gitignore",
        f"twisted/plugins/{package}_plugin.py": "drop_in.py",
        f"{package}/__init__.py": "",
        f"{package}/plugin.py": f"{kind.name}.py",
        f"{package}/tests/__init__.py": "",
        f"{package}/tests/test_contract.py": f"{kind.name}_test.py",
    }
    templates = resources.files("tcpmesh.cli") / "templates"
    for path, template in files.items():
        text = (templates / f"{template}.template").read_text("utf-8") if template else ""
        file = directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(Template(text).substitute(words), "utf-8")
    return [Path(path) for path in files]
