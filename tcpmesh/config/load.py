"""
One file to settings: decode, compose, structure, check.

Ring 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from tcpmesh.config.checks import check
from tcpmesh.config.lookup import IPluginLookup
from tcpmesh.config.names import Names, check_names, check_references, names_given
from tcpmesh.config.nodes import MapNode, Scalar, compose
from tcpmesh.config.places import ROOT
from tcpmesh.config.problems import Problems, enumerate_words
from tcpmesh.config.structure import Leftover, SettingsReader
from tcpmesh.config.syntax import decode
from tcpmesh.defaults import CONFIGURATION_FILE, CONFIGURATION_VARIABLE
from tcpmesh.errors import Mark
from tcpmesh.settings import IdentitySettings, Settings, WorkloadSettings, keys
from tcpmesh.values import SourceName

__all__ = ["MAX_FILE_BYTES", "load", "load_with_marks", "loads"]

MAX_FILE_BYTES = 2**20
_SOURCES = ROOT.key("identity").key("sources")
_WORKLOADS = ROOT.key("identity").key("workloads")


def load(path: Path, plugins: IPluginLookup) -> Settings:
    """
    Read a configuration file.

    :raises tcpmesh.errors.ConfigurationError: with everything that is wrong, or why the file cannot be read.
    """
    return load_with_marks(path, plugins)[0]


def load_with_marks(path: Path, plugins: IPluginLookup) -> tuple[Settings, Mapping[str, Mark]]:
    """
    Read a configuration file, and say where each of its values stands, by path (``services.orders.expect[0]``).

    :raises tcpmesh.errors.ConfigurationError: as :func:`load`.
    """
    problems = Problems(str(path))
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        # The name that is looked for when nobody says which: then this is what to say.
        hint = f"; name one with --config FILE or {CONFIGURATION_VARIABLE}" if path.name == CONFIGURATION_FILE else ""
        problems.fail(f"{path}: there is no such file{hint}")
    except IsADirectoryError:
        problems.fail(f"{path}: this is a directory; name the file in it")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        problems.fail(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}")
    return _loads(data, path, plugins)


def loads(data: bytes, file: Path, plugins: IPluginLookup) -> Settings:
    """
    Read a configuration from bytes.

    :param file: what to call it in messages; relative paths in it are relative to its directory.
    :raises tcpmesh.errors.ConfigurationError: with everything that is wrong, each at its line and column.
    """
    return _loads(data, file, plugins)[0]


def _loads(data: bytes, file: Path, plugins: IPluginLookup) -> tuple[Settings, Mapping[str, Mark]]:
    problems = Problems(str(file))
    if len(data) > MAX_FILE_BYTES:
        problems.fail(f"{file}: the file is larger than 1 MiB; is it a configuration?")
    root = compose(decode(data, problems), problems)
    top = Mark(problems.file, 1, 1)
    if root is None or (isinstance(root, Scalar) and root.tag == "null"):
        problems.fail("the file is empty; a configuration begins with 'version: 1'", top)
    if not isinstance(root, MapNode):
        problems.fail("this is no configuration: expected keys and values, beginning with 'version: 1'", root.mark)
    if root.entries and not root.entries.keys() & keys(Settings).keys():
        # Most likely another program's file, perhaps with secrets in it: none of its lines is shown.
        problems.fail("this is no configuration: none of its keys is one; it begins with 'version: 1'", root.mark)
    _check_version(root, problems)
    absolute = file.absolute()
    reader = SettingsReader(absolute.parent, plugins, problems)
    settings = reader.read(root, Settings, ROOT)
    names = names_given(root)
    check_names(names, problems)
    check_references(reader.references, names, problems)
    extras = _read_extras(reader, names, problems)
    for problem in check(reader):
        problems.add(problem.message, problem.mark)
    problems.raise_if_any()
    assert isinstance(settings, Settings), "a failed read leaves a problem"
    settings = attrs.evolve(
        settings,
        identity=_with_extras(settings.identity, extras),
        file=absolute,
        digest=hashlib.sha256(data).hexdigest(),
    )
    return settings, reader.marks


def _check_version(root: MapNode, problems: Problems) -> None:
    """Another version means other keys: complaining about them would only mislead."""
    entry = root.entries.get("version")
    version = entry.value if entry is not None else None
    if isinstance(version, Scalar) and version.tag == "int" and version.text != "1":
        problems.fail(
            f"version {version.text[:20]} is not in this version of tcpmesh, which reads version 1", version.mark
        )


def _read_extras(reader: SettingsReader, names: Names, problems: Problems) -> dict[str, Any]:
    """Read each workload's further keys as its source's plugin declares them; by path of the workload."""
    sources = names.of(SourceName)
    extras = {}
    for left in reader.leftovers:
        source = left.source
        if source is None and len(sources) > 1:
            listed = enumerate_words(sources[:20])
            problems.add(f"key 'source' is missing{left.place.inside}; it may be {listed}", left.keys.mark)
        elif source is None and sources:
            source = sources[0]
        chosen = reader.chosen.get(_SOURCES.entry(source).path) if isinstance(source, str) else None
        if chosen is not None:  # else its own place says what is wrong with the source
            extras[left.place.path] = _read_extra(left, *chosen, reader)
    return extras


def _read_extra(left: Leftover, plugin: str, factory: Any, reader: SettingsReader) -> Any:
    declared = factory.workload_settings
    if declared is None:
        for entry in left.keys.entries.values():
            reader.unknown_key(entry.key, WorkloadSettings, left.place)
        return None
    whose = f"workloads of identity plugin {plugin!r}"
    place = left.place.settings_of(plugin)
    return reader.read_plugin(left.keys, declared, whose, place, left.keys.mark, keys(WorkloadSettings))


def _with_extras(identity: IdentitySettings, extras: dict[str, Any]) -> IdentitySettings:
    workloads = {
        name: attrs.evolve(workload, extra=extras.get(_WORKLOADS.entry(name).path))
        for name, workload in identity.workloads.items()
    }
    return attrs.evolve(identity, workloads=workloads)
