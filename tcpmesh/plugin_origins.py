"""
Says where a drop-in comes from, and which drop-ins are installed but not usable.

Ring 4. ``getPlugins`` only logs what fails to import, so that a broken plugin would be missing without a word.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import sys
from collections import defaultdict
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import attrs
from twisted.plugin import CachedDropin, getCache

from tcpmesh.interfaces import IPluginFactory

__all__ = ["FailedPlugin", "Origin", "failed_plugins", "origin_of"]


@attrs.frozen
class Origin:
    """The drop-in that offers a plugin, and the distribution that brought it (empty when run from a checkout)."""

    module: str
    file: str
    distribution: str = ""
    version: str = ""

    def __str__(self) -> str:
        return f"{self.distribution} {self.version} ({self.file})" if self.distribution else self.file


@attrs.frozen
class FailedPlugin:
    """A drop-in, or one object of it, that is installed and cannot be used."""

    origin: Origin
    error: str
    name: str = ""  # the module-level name; empty: the whole drop-in

    def __str__(self) -> str:
        return f"{self.name + ' of ' if self.name else ''}{self.origin} was not loaded: {self.error}"


def origin_of(module: str, file: str = "") -> Origin:
    """Where the drop-in of that full name was found."""
    if not file:
        file = getattr(sys.modules.get(module), "__file__", None) or ""
    distribution = _distribution_of(Path(file)) if file else None
    if distribution is None:
        return Origin(module, file)
    return Origin(module, file, distribution.metadata["Name"], distribution.version)


def failed_plugins(package: ModuleType) -> tuple[FailedPlugin, ...]:
    """Whatever is in the package's directories and cannot be imported, or is hidden, with the reason."""
    cache = getCache(package)
    failed: list[FailedPlugin] = []
    for name, files in sorted(_drop_ins(package).items()):
        dropin = cache.get(name.rpartition(".")[2])
        if dropin is None or _offers_plugins(dropin):
            try:
                module = importlib.import_module(name)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's module may raise anything; reported
                failed.append(FailedPlugin(origin_of(name, files[0]), f"{type(error).__name__}: {error}"))
            else:
                failed += _differences(module, dropin)
        failed += [
            FailedPlugin(origin_of(name, hidden), f"{files[0]} has the same module name and comes first")
            for hidden in files[1:]
        ]
    return tuple(failed)


def _drop_ins(package: ModuleType) -> dict[str, list[str]]:
    """Full module name to its files: the one that is imported, then those that it hides."""
    files: dict[str, list[str]] = defaultdict(list)
    for directory in dict.fromkeys(Path(entry).resolve() for entry in package.__path__):
        for file in sorted(directory.glob("*.py")):
            if file.name != "__init__.py":
                files[f"{package.__name__}.{file.stem}"].append(str(file))
    return files


def _offers_plugins(dropin: CachedDropin) -> bool:
    return any(interface.isOrExtends(IPluginFactory) for plugin in dropin.plugins for interface in plugin.provided)


def _differences(module: ModuleType, dropin: CachedDropin | None) -> list[FailedPlugin]:
    """What the cache promises and the drop-in does not keep, and what the drop-in has and the cache does not know."""
    origin = origin_of(module.__name__)
    known = {plugin.name for plugin in dropin.plugins} if dropin else set()
    gone = {name for name in known if not hasattr(module, name)}
    unknown = {name for name, value in vars(module).items() if IPluginFactory.providedBy(value)} - known
    stale = f"{Path(origin.file).parent / 'dropin.cache'} is out of date: delete that file"
    return [FailedPlugin(origin, stale, name) for name in sorted(gone | unknown)]


def _distribution_of(file: Path) -> importlib.metadata.Distribution | None:
    resolved = file.resolve()
    distributions = list(importlib.metadata.distributions())
    for distribution in distributions:
        for entry in distribution.files or ():
            if entry.name == file.name and Path(str(distribution.locate_file(entry))).resolve() == resolved:
                return distribution
    for distribution in distributions:
        project = _editable_project(distribution)
        if project is not None and resolved.parents[2] in (project, project / "src"):  # <root>/twisted/plugins/<file>
            return distribution
    return None


def _editable_project(distribution: importlib.metadata.Distribution) -> Path | None:
    """The folder of a project that is installed with ``pip install -e`` (PEP 610)."""
    text = distribution.read_text("direct_url.json")
    if text is None:
        return None
    described = json.loads(text)
    if not described.get("dir_info", {}).get("editable"):
        return None
    return Path(unquote(urlsplit(described["url"]).path)).resolve()
