"""The drop-in that every twistd on the machine imports."""

import json
import subprocess
import sys
from pathlib import Path

from twisted.application.reactors import IReactorInstaller, getReactorTypes
from twisted.application.service import IServiceMaker
from twisted.plugins import tcpmesh_plugin
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tcpmesh.descriptors import PluginDescriptor
from tcpmesh.interfaces import IPluginFactory, PluginKind
from tcpmesh.plugins import PluginRegistry

ROOT = Path(__file__).parents[2]
HEAVY = ("cryptography", "OpenSSL", "click", "yaml", "twisted.internet.reactor", "prometheus_client", "rich")
DESCRIPTORS = [value for value in vars(tcpmesh_plugin).values() if isinstance(value, PluginDescriptor)]


def imported_by(module: str) -> set[str]:
    """Every module in a fresh interpreter after this import."""
    program = f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    return set(json.loads(result.stdout))


class DropInTests(SynchronousTestCase):
    def test_module_level_names_are_frozen(self) -> None:
        """
        Twisted's dropin.cache may outlive an upgrade, and then a renamed plugin is missing.

        Adding a name here is fine, renaming or removing one is a breaking change.
        """
        names = {name for name, value in vars(tcpmesh_plugin).items() if IPluginFactory.providedBy(value)}
        self.assertEqual(
            names,
            {
                "identity_embedded",
                "identity_files",
                "identity_workload_api",
                "discovery_dns",
                "discovery_file",
                "discovery_static",
                "authorization_linkerd",
                "authorization_opa",
                "authorization_rules",
                "balance_least_connections",
                "balance_p2c_ewma",
                "balance_random",
                "balance_round_robin",
                "balance_source_hash",
                "retry_none",
                "retry_exponential",
                "retry_fixed",
            },
        )
        verifyObject(IServiceMaker, tcpmesh_plugin.service)
        self.assertEqual(tcpmesh_plugin.service.tapname, "tcpmesh")

    def test_offers_the_reactor(self) -> None:
        """``--reactor=tcpmesh`` works with every program of Twisted's that takes it; the name is frozen as well."""
        verifyObject(IReactorInstaller, tcpmesh_plugin.reactor)
        self.assertEqual(tcpmesh_plugin.reactor.shortName, "tcpmesh")
        self.assertIn(tcpmesh_plugin.reactor, getReactorTypes())

    def test_imports_nothing_heavy(self) -> None:
        """Neither the drop-in nor the interfaces import a reactor, OpenSSL or anything else that takes time."""
        for module in ("twisted.plugins.tcpmesh_plugin", "tcpmesh.interfaces", "tcpmesh.descriptors"):
            self.assertEqual(imported_by(module) & set(HEAVY), set(), module)

    def test_imports_no_plugin(self) -> None:
        """Of tcpmesh itself only the vocabulary is imported."""
        ours = {name for name in imported_by("twisted.plugins.tcpmesh_plugin") if name.partition(".")[0] == "tcpmesh"}
        self.assertEqual(
            ours,
            {
                "tcpmesh",
                "tcpmesh.addresses",
                "tcpmesh.codes",
                "tcpmesh.descriptors",
                "tcpmesh.identity",
                "tcpmesh.identity.spiffe",
                "tcpmesh.interfaces",
                "tcpmesh.peers",
                "tcpmesh.values",
                "tcpmesh.wall_clock",
            },
        )

    def test_descriptors_say_what_their_factories_say(self) -> None:
        """Name and description are those of the factory, so that listing and selection agree."""
        self.assertTrue(DESCRIPTORS)
        for descriptor in DESCRIPTORS:
            factory = descriptor.load()
            self.assertEqual(
                (descriptor.name, descriptor.description), (factory.name, factory.description), descriptor.target
            )

    def test_a_descriptor_can_stand_in_for_its_factory(self) -> None:
        """Whoever finds a descriptor with getPlugins alone may use it as the factory."""
        for descriptor in DESCRIPTORS:
            verifyObject(descriptor.kind.factory, descriptor)
            self.assertIs(descriptor.settings, descriptor.load().settings)

    def test_every_built_in_is_usable(self) -> None:
        """The registry finds, imports and verifies each of them where twistd looks."""
        registry = PluginRegistry()
        for descriptor in DESCRIPTORS:
            kind: PluginKind = descriptor.kind
            self.assertIn(descriptor.name, registry.names(kind))
            self.assertEqual(registry.find(kind, descriptor.name).name, descriptor.name)
