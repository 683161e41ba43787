"""The registry of plugins."""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

from twisted.plugin import getPlugins

from tcpmesh.codes import PLUGIN_UNUSABLE
from tcpmesh.errors import ConfigurationError, Mark, StartError
from tcpmesh.interfaces import (
    BALANCE,
    IDENTITY,
    KINDS,
    RETRY,
    IRetryStrategyFactory,
    PluginKind,
)
from tcpmesh.plugin_origins import Origin, origin_of
from tcpmesh.plugins import PluginLookupError, PluginRegistry
from tcpmesh.retry.exponential import ExponentialFactory, ExponentialSettings
from tcpmesh.retry.none import NoRetry
from tcpmesh.settings import NoSettings, PluginChoice
from tcpmesh.testing import plugin_context
from tests.unit.drop_ins import DropInTestCase


class FindTests(DropInTestCase):
    def find(self, name: str, kind: PluginKind = RETRY) -> Any:
        return PluginRegistry(self.package).find(kind, name)

    def refusal(self, name: str, kind: PluginKind = RETRY) -> str:
        return str(self.assertRaises(PluginLookupError, self.find, name, kind))

    def test_finds_a_factory_and_a_descriptor(self) -> None:
        """A drop-in may hold the factory itself, or a descriptor that is resolved."""
        self.drop_in(
            "one",
            """
            direct = Named("direct")
            lazy = PluginDescriptor(RETRY, "exponential", "x", "tcpmesh.retry.exponential:ExponentialFactory")
            """,
        )
        self.assertEqual(self.find("direct").name, "direct")
        self.assertIsInstance(self.find("exponential"), ExponentialFactory)

    def test_gives_the_same_factory_each_time(self) -> None:
        """A plugin is imported, made and verified once."""
        self.drop_in("one", 'lazy = PluginDescriptor(RETRY, "none", "x", "tcpmesh.retry.none:NoRetryFactory")')
        registry = PluginRegistry(self.package)
        self.assertIs(registry.find(RETRY, "none"), registry.find(RETRY, "none"))

    def test_names_are_those_of_one_kind(self) -> None:
        """Each kind has names of its own, in alphabetical order, and nothing is imported for them."""
        self.drop_in(
            "one",
            """
            b = PluginDescriptor(RETRY, "b", "x", "no.such:Module")
            a = PluginDescriptor(RETRY, "a", "x", "no.such:Module")
            c = PluginDescriptor(BALANCE, "c", "x", "no.such:Module")
            """,
        )
        registry = PluginRegistry(self.package)
        self.assertEqual([registry.names(kind) for kind in (RETRY, BALANCE, IDENTITY)], [["a", "b"], ["c"], []])

    def test_one_name_may_serve_two_kinds(self) -> None:
        """A retry plugin and a balance plugin may share a name."""
        self.drop_in(
            "one",
            """
            a = PluginDescriptor(RETRY, "none", "x", "tcpmesh.retry.none:NoRetryFactory")
            b = PluginDescriptor(BALANCE, "none", "x", "no.such:Module")
            """,
        )
        self.assertEqual(self.find("none").name, "none")

    def test_a_missing_plugin_is_explained(self) -> None:
        """The message says what there is, and the nearest name."""
        self.drop_in("one", 'a, b = Named("patient"), Named("hasty")')
        self.assertEqual(
            self.refusal("pacient"),
            "there is no retry plugin 'pacient'; did you mean 'patient'?",
        )
        self.assertEqual(self.refusal("zzz"), "there is no retry plugin 'zzz'; installed retry plugins: hasty, patient")
        self.assertEqual(
            self.refusal("zzz", IDENTITY),
            "there is no identity plugin 'zzz'; there are none at all",
        )

    def test_a_plugin_of_another_kind_is_pointed_out(self) -> None:
        """Who writes a retry plugin where a balancer belongs is told."""
        self.drop_in("one", 'a = Named("patient")')
        self.assertEqual(
            self.refusal("patient", BALANCE),
            "'patient' is a plugin for retry, not for balance",
        )

    def test_two_of_one_name_are_refused_with_both_origins(self) -> None:
        """Which of two plugins is meant is never guessed; the other names still work."""
        one = self.drop_in("one", 'a, other = Named("patient"), Named("other")')
        two = self.drop_in("two", 'b = Named("patient")')
        self.assertEqual(
            self.refusal("patient"),
            f"there are 2 retry plugins named 'patient': {one} and {two}; uninstall all but one, or have one renamed",
        )
        self.assertEqual(self.find("other").name, "other")

    def test_one_object_under_two_names_is_one_plugin(self) -> None:
        """An alias in a drop-in is no duplicate."""
        self.drop_in("one", 'a = b = Named("patient")')
        self.assertEqual(self.find("patient").name, "patient")

    def test_a_target_that_cannot_be_imported_is_refused_with_the_reason(self) -> None:
        """The error names the plugin, its drop-in and what went wrong."""
        file = self.drop_in(
            "one",
            """
            gone = PluginDescriptor(RETRY, "gone", "x", "no_such_package.module:Factory")
            absent = PluginDescriptor(RETRY, "absent", "x", "tcpmesh.retry.none:Absent")
            odd = PluginDescriptor(RETRY, "odd", "x", "tcpmesh.retry.none")
            """,
        )
        self.assertEqual(
            self.refusal("gone"),
            f"the retry plugin 'gone' of {file} cannot be used: ModuleNotFoundError: No module named 'no_such_package'",
        )
        self.assertIn("AttributeError: module 'tcpmesh.retry.none' has no attribute 'Absent'", self.refusal("absent"))
        self.assertIn("target 'tcpmesh.retry.none' is not of the form package.module:FactoryClass", self.refusal("odd"))

    def test_a_factory_that_breaks_its_interface_is_refused(self) -> None:
        """What lacks a method, an attrs class of settings or its own name never gets as far as a connection."""
        self.drop_in(
            "one",
            """
            @implementer(IRetryStrategyFactory)
            class Incomplete:
                name = "incomplete"
                description = "x"
                settings = NoSettings

            class Unsettled(Named):
                settings = dict

            incomplete = Incomplete()
            unsettled = Unsettled("unsettled")
            renamed = PluginDescriptor(RETRY, "renamed", "x", "tcpmesh.retry.none:NoRetryFactory")
            """,
        )
        self.assertIn("create(settings, context) attribute was not provided", self.refusal("incomplete"))
        self.assertIn("its settings, <class 'dict'>, are not an attrs class", self.refusal("unsettled"))
        self.assertIn("its factory calls itself 'none', its descriptor 'renamed'", self.refusal("renamed"))

    def test_a_factory_that_fails_to_say_its_name_hides_no_other(self) -> None:
        """One broken plugin leaves the others usable and is listed."""
        self.drop_in(
            "one",
            """
            class Nameless(NoRetryFactory):
                @property
                def name(self):
                    raise RuntimeError("lost")

            a, b = Nameless(), Named("patient")
            """,
        )
        self.assertEqual(self.find("patient").name, "patient")
        problems = [plugin.problem for plugin in PluginRegistry(self.package).listing().found]
        self.assertEqual([bool(problem) for problem in problems], [True, False])
        self.assertIn("RuntimeError: lost", problems[0])

    def test_a_drop_in_that_cannot_be_imported_is_named_when_a_plugin_is_missing(self) -> None:
        """The reader who misses a plugin learns that its drop-in is there and broken."""
        file = self.drop_in("broken", "import no_such_thing")
        message = self.refusal("patient")
        self.assertEqual(
            message,
            "there is no retry plugin 'patient'; there are none at all; "
            f"{file} was not loaded: ModuleNotFoundError: No module named 'no_such_thing'",
        )
        self.assertTrue(self.flushLoggedErrors(ModuleNotFoundError))


class CreateTests(DropInTestCase):
    def create(self, name: str, settings: object = None, mark: Mark | None = None) -> Any:
        registry = PluginRegistry(self.package)
        return registry.create(RETRY, PluginChoice(name, settings, mark), plugin_context("orders"))

    def setUp(self) -> None:
        super().setUp()
        self.drop_in(
            "one",
            """
            exponential = PluginDescriptor(RETRY, "exponential", "x", "tcpmesh.retry.exponential:ExponentialFactory")

            class Failing(Named):
                def create(self, settings, context):
                    raise OSError("no such device")

            class Picky(Named):
                def create(self, settings, context):
                    raise ValueError("moon and tide contradict each other")

            picky = Picky("picky")

            class Wrong(Named):
                def create(self, settings, context):
                    return object()

            failing, wrong = Failing("failing"), Wrong("wrong")
            none = Named("none")
            """,
        )

    def test_makes_what_was_chosen(self) -> None:
        """Settings of None are the defaults."""
        self.assertIsInstance(self.create("none"), NoRetry)
        self.assertEqual(len(list(self.create("exponential").attempts(None))), 2)
        self.assertEqual(len(list(self.create("exponential", ExponentialSettings(5)).attempts(None))), 4)

    def test_contradictory_settings_are_a_configuration_error_at_their_place(self) -> None:
        """The plugin's own words, with file, line and column."""
        error = self.assertRaises(ConfigurationError, self.create, "picky", NoSettings(), Mark("mesh.yaml", 7, 12))
        self.assertEqual(
            str(error),
            "mesh.yaml:7:12: retry plugin 'picky': moon and tide contradict each other",
        )

    def test_a_failing_create_is_a_start_error(self) -> None:
        """One line with code, plugin and reason."""
        error = self.assertRaises(StartError, self.create, "failing")
        self.assertIs(error.code, PLUGIN_UNUSABLE)
        self.assertEqual(error.reason, "the retry plugin 'failing' cannot be created: OSError: no such device")

    def test_a_product_without_its_interface_is_a_start_error(self) -> None:
        """What create made is verified before anybody calls it."""
        error = self.assertRaises(StartError, self.create, "wrong")
        self.assertIs(error.code, PLUGIN_UNUSABLE)
        self.assertIn("what the retry plugin 'wrong' creates cannot be used", error.reason)
        self.assertIn("tcpmesh.interfaces.IRetryStrategy", error.reason)


class ListingTests(DropInTestCase):
    def test_lists_by_kind_and_name_with_origin(self) -> None:
        """Kinds come in the order of the documentation, names in alphabetical order."""
        file = self.drop_in(
            "one",
            """
            b = PluginDescriptor(BALANCE, "round-robin", "turns", "tcpmesh.balance.round_robin:RoundRobinFactory")
            z, a = Named("zealous"), Named("able")
            """,
        )
        listing = PluginRegistry(self.package).listing()
        self.assertEqual(
            [(plugin.kind.name, plugin.name, plugin.description, plugin.problem) for plugin in listing.found],
            [
                ("retry", "able", "one attempt, no retry", ""),
                ("retry", "zealous", "one attempt, no retry", ""),
                ("balance", "round-robin", "turns", ""),
            ],
        )
        self.assertEqual({plugin.origin for plugin in listing.found}, {Origin(f"{self.name}.one", file)})
        self.assertEqual(listing.failed, ())

    def test_duplicates_are_listed_both_with_the_problem(self) -> None:
        """Both of two plugins of one name are shown, neither as usable."""
        self.drop_in("one", 'a = Named("patient")')
        self.drop_in("two", 'a = Named("patient")')
        found = PluginRegistry(self.package).listing().found
        self.assertEqual([Path(plugin.origin.file).name for plugin in found], ["one.py", "two.py"])
        self.assertTrue(all("there are 2 retry plugins" in plugin.problem for plugin in found))

    def test_a_drop_in_that_fails_is_listed_whatever_it_raises(self) -> None:
        """An exception, a syntax error and an attempt to leave the process are all reported."""
        files = [
            self.drop_in("bad1", "raise ValueError('why')"),
            self.drop_in("bad2", "def"),
            self.drop_in("bad3", "raise SystemExit(3)"),
        ]
        failed = PluginRegistry(self.package).listing().failed
        self.assertEqual([entry.origin.file for entry in failed], files)
        self.assertEqual(
            [entry.error.partition(":")[0] for entry in failed], ["ValueError", "SyntaxError", "SystemExit"]
        )
        self.flushLoggedErrors()

    def test_a_drop_in_that_fails_only_later_is_listed(self) -> None:
        """A drop-in that the cache knows, and whose own imports broke since, is not silently missing."""
        file = self.drop_in("one", 'import needed_by_one\na = Named("patient")')
        needed = self.first.parent / "needed_by_one.py"
        needed.write_text("")
        self._age(Path(file))
        self.assertEqual(len(list(getPlugins(IRetryStrategyFactory, self.package))), 1)
        needed.unlink()
        self._forget_modules("needed_by_one", f"{self.name}.one")
        listing = PluginRegistry(self.package).listing()
        self.assertEqual(listing.found, ())
        self.assertEqual(
            [str(entry) for entry in listing.failed],
            [f"{file} was not loaded: ModuleNotFoundError: No module named 'needed_by_one'"],
        )
        self.flushLoggedErrors()

    def test_a_stale_cache_is_named(self) -> None:
        """After an upgrade with an old time stamp, hidden and vanished names point to the file to delete."""
        file = Path(self.drop_in("one", 'old, kept = Named("old"), Named("kept")'))
        self._age(file)
        self.assertEqual(len(list(getPlugins(IRetryStrategyFactory, self.package))), 2)
        # Of another length than before: Python, too, takes a file of the same time and size for the same.
        self.drop_in("one", 'fresh, kept = Named("fresh"), Named("kept")')
        self._age(file)
        self._forget_modules(f"{self.name}.one")
        listing = PluginRegistry(self.package).listing()
        self.assertEqual([plugin.name for plugin in listing.found], ["kept"])
        cache = file.parent / "dropin.cache"
        self.assertEqual(
            [str(entry) for entry in listing.failed],
            [f"{name} of {file} was not loaded: {cache} is out of date: delete that file" for name in ("fresh", "old")],
        )
        self.flushLoggedErrors()

    def test_a_hidden_drop_in_is_listed(self) -> None:
        """Of two drop-ins with one file name only the first is imported; the other is named."""
        first = self.drop_in("same", 'a = Named("one")')
        hidden = self.drop_in("same", 'a = Named("two")', self.second)
        listing = PluginRegistry(self.package).listing()
        self.assertEqual([plugin.name for plugin in listing.found], ["one"])
        self.assertEqual(
            [str(entry) for entry in listing.failed],
            [f"{hidden} was not loaded: {first} has the same module name and comes first"],
        )

    def _age(self, file: Path) -> None:
        os.utime(file, (0, 0))

    def _forget_modules(self, *names: str) -> None:
        for name in names:
            sys.modules.pop(name, None)
        importlib.invalidate_caches()


class OriginTests(DropInTestCase):
    def metadata(self, name: str, **files: str) -> None:
        folder = self.first.parent / f"{name}-1.5.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
        for file, text in files.items():
            (folder / file.replace("_json", ".json")).write_text(text)

    def test_names_the_distribution_that_recorded_the_file(self) -> None:
        """An installed drop-in is traced to name and version."""
        file = self.drop_in("one", 'a = Named("patient")')
        self.metadata("acme-mesh", RECORD=f"{self.name}/one.py,,\n")
        [found] = PluginRegistry(self.package).listing().found
        self.assertEqual(found.origin, Origin(f"{self.name}.one", file, "acme-mesh", "1.5"))
        self.assertEqual(str(found.origin), f"acme-mesh 1.5 ({file})")

    def test_names_the_distribution_that_is_installed_from_a_folder(self) -> None:
        """A drop-in of an editable install is traced by the project's folder, and a stranger's inside it is not."""
        project = self.first.parent / "project"
        inside = project / "twisted" / "plugins" / "acme.py"
        foreign = project / ".venv" / "site-packages" / "twisted" / "plugins" / "other.py"
        for file in (inside, foreign):
            file.parent.mkdir(parents=True)
            file.touch()
        url = f'{{"url": "{project.as_uri()}", "dir_info": {{"editable": true}}}}'
        self.metadata("acme-mesh", RECORD="", direct_url_json=url)
        self.assertEqual(origin_of("x", str(inside)).distribution, "acme-mesh")
        self.assertEqual(origin_of("x", str(foreign)).distribution, "")


class KindsTests(DropInTestCase):
    def test_every_kind_can_be_found(self) -> None:
        """A descriptor of each kind is found under its kind and no other."""
        self.drop_in(
            "one",
            "".join(
                f'{kind.name} = PluginDescriptor({kind.name.upper()}, "for-{kind.name}", "x", "a:B")\n'
                for kind in KINDS
            ),
        )
        registry = PluginRegistry(self.package)
        self.assertEqual([registry.names(kind) for kind in KINDS], [[f"for-{kind.name}"] for kind in KINDS])
