"""Tests that hold the sample configurations in etc/ against the settings classes and the built-in plugins."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.config import load, warnings
from tcpmesh.config.hints import LISTS, MAPPINGS, alternatives, plain, plugin_kind, schema
from tcpmesh.config.nodes import compose
from tcpmesh.config.places import ROOT
from tcpmesh.config.problems import Problems
from tcpmesh.config.structure import SettingsReader
from tcpmesh.interfaces import IDENTITY, KINDS
from tcpmesh.plugins import PluginRegistry
from tcpmesh.policy.language import RulesSettings
from tcpmesh.settings import Settings, TimeoutOverrides, keys
from tcpmesh.sources.embedded import EmbeddedWorkload
from tcpmesh.values import Duration, parse_duration

ETC = Path(__file__).parents[2] / "etc"
_BOOLEANS = {"false": False, "true": True}
BUILT_IN = "tcpmesh."


def classes_of(hint: Any) -> Iterator[type]:
    """Every settings class that a value of this type may be read into, below it too."""
    found = alternatives(hint)
    for member in (*found.lists, *found.mappings):
        if get_origin(member) in (*LISTS, *MAPPINGS):
            for argument in get_args(member):
                if argument is not Ellipsis:
                    yield from classes_of(argument)
        elif plugin_kind(member) is None:
            yield member
            declared = schema(member)
            for field in declared.fields.values():
                yield from classes_of(declared.hints[field.name])


def all_classes(plugins: PluginRegistry) -> set[type]:
    """Every settings class of the product: its own and those of its plugins."""
    found = set(classes_of(Settings))
    for kind in KINDS:
        for name in plugins.names(kind):
            factory: Any = plugins.find(kind, name)
            if not type(factory).__module__.startswith(BUILT_IN):
                continue  # somebody else's, installed beside the product
            found |= set(classes_of(factory.settings))
            if kind is IDENTITY and factory.workload_settings is not None:
                found |= set(classes_of(factory.workload_settings))
    return found


class ReferenceTests(SynchronousTestCase):
    """etc/reference.yaml."""

    def setUp(self) -> None:
        self.plugins = PluginRegistry()
        self.path = ETC / "reference.yaml"
        self.lines = self.path.read_text().splitlines()

    def read(self) -> SettingsReader:
        """What the file says, with its places; the keys of workloads are read into their own class beside."""
        problems = Problems(str(self.path))
        root = compose(self.path.read_text(), problems)
        assert root is not None
        reader = SettingsReader(ETC, self.plugins, problems)
        settings = reader.read(root, Settings, ROOT)
        for left in reader.leftovers:
            source = settings.identity.workloads[left.place.path.rpartition(".")[2]].source
            factory: Any = self.plugins.find(IDENTITY, settings.identity.sources[source].plugin)
            reader.read_class(left.keys, factory.workload_settings, left.place)
        problems.raise_if_any()
        return reader

    def test_loads(self) -> None:
        """Without a problem, and without anything to be warned of."""
        self.assertEqual(warnings(load(self.path, self.plugins)), [])

    def test_holds_every_key_of_every_class(self) -> None:
        """Whoever adds a field to a settings class describes it there; a key that is none does not load."""
        reader = self.read()
        classes = all_classes(self.plugins)
        self.assertTrue({Settings, TimeoutOverrides, RulesSettings, EmbeddedWorkload} <= classes, classes)
        for settings in classes:
            written = {
                key for place, _ in reader.of(settings) for key in keys(settings) if place.key(key).path in reader.marks
            }
            self.assertEqual(written, set(keys(settings)), settings.__name__)

    def test_names_every_word_that_a_key_may_have(self) -> None:
        """On the line of the key, or of the same key of another entry."""
        reader = self.read()
        for settings in all_classes(self.plugins):
            declared = schema(settings)
            for key, field in declared.fields.items():
                words = alternatives(declared.hints[field.name]).words
                marks = [reader.marks.get(place.key(key).path) for place, _ in reader.of(settings)]
                texts = " ".join(self.lines[mark.line - 1] for mark in marks if mark is not None)
                for word in words:
                    self.assertIn(str(word), texts, f"{settings.__name__}.{key}")

    def test_says_every_default(self) -> None:
        """A key that has a number or word when it is absent says which: "default 3s", "auto (the default)"."""
        reader = self.read()
        for settings in all_classes(self.plugins):
            declared = schema(settings)
            for key, field in declared.fields.items():
                if not isinstance(field.default, (str, int, float)):
                    continue
                marks = [reader.marks.get(place.key(key).path) for place, _ in reader.of(settings)]
                texts = " ".join(f"{self.lines[mark.line - 1]};" for mark in marks if mark is not None)
                said = re.findall(r'default (\S+);|(?<= )"?([^ "]+)"? \(the default\)', texts)
                values: set[Any] = {number or word for number, word in said}
                if plain(declared.hints[field.name]) is Duration:
                    values = {parse_duration(value) for value in values}
                else:
                    read: Any = _BOOLEANS.get if isinstance(field.default, bool) else type(field.default)
                    values = {read(value) for value in values}
                self.assertEqual(values, {field.default}, f"{settings.__name__}.{key}: {texts}")


class QuickstartTests(SynchronousTestCase):
    """etc/quickstart.yaml."""

    def test_loads(self) -> None:
        """With the plugins that are there, and nothing to be warned of."""
        settings = load(ETC / "quickstart.yaml", PluginRegistry())
        self.assertEqual(warnings(settings), [])
        self.assertEqual(str(settings.inbound[0].target), "127.0.0.1:5000")
        self.assertEqual(
            [str(outbound.listen) for outbound in settings.outbound], ["127.0.0.1:15000", "127.0.0.1:15001"]
        )

    def test_keeps_its_state_beside_etc(self) -> None:
        """Relative to the file, so that it may be started from anywhere."""
        settings = load(ETC / "quickstart.yaml", PluginRegistry())
        self.assertEqual(settings.identity.sources["local"].settings.state, ETC.parent / "var" / "quickstart")
        self.assertEqual(str(settings.admin.listen), f"unix:{ETC.parent / 'var' / 'quickstart' / 'admin.sock'}")
