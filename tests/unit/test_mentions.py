"""Who speaks of a SPIFFE ID in a configuration: what the commands cannot show with the built-in plugins alone."""

from __future__ import annotations

from pathlib import Path

import attrs

from tcpmesh.config import load_with_marks
from tcpmesh.config.mentions import Mention, destinations, mentions
from tcpmesh.errors import Mark
from tcpmesh.identity.spiffe import SpiffeId
from tcpmesh.settings import NoSettings, PluginChoice
from tests.unit.config_samples import PLUGINS, SAMPLE, ConfigTestCase

WEB = SpiffeId.parse("spiffe://example.org/web")


class MentionTests(ConfigTestCase):
    """mentions and destinations."""

    def test_says_which_policy_plugins_cannot_be_looked_into(self) -> None:
        """Only they know whom they allow."""
        mark = Mark("tcpmesh.yaml", 17, 5)
        settings = self.load(SAMPLE)
        both = attrs.evolve(settings, authorization=[PluginChoice("opa", NoSettings(), mark), *settings.authorization])
        found = mentions(WEB, both, {})
        self.assertEqual(found.opaque, (Mention("opa", mark),))
        self.assertEqual([(one.what, one.action, one.inbound) for one in found.policies], [("some", "allow", ("in",))])

    def test_finds_who_is_meant_by_a_pattern(self) -> None:
        """A prefix, a trust domain or a wildcard speaks of an ID too; it says where, and whether it decides."""
        policies = [
            '{name: pattern, action: audit, from: [{ids: ["spiffe://example.org/*"]}]}',
            "{name: domain, action: deny, mode: dry-run, from: [{trust_domains: [example.org]}], to: {inbound: [in]}}",
            '{name: out, action: deny, from: [{prefixes: ["spiffe://example.org/"]}], to: {services: [orders]}}',
            '{name: other, action: deny, from: [{ids: ["spiffe://example.org/web/**"]}, {any: authenticated}]}',
        ]
        path = Path(self.mktemp())
        path.write_text(SAMPLE[: SAMPLE.index("      - {name: some")] + "".join(f"      - {one}\n" for one in policies))
        settings, marks = load_with_marks(path, PLUGINS)
        self.assertEqual(
            mentions(WEB, settings, marks).policies,
            (
                Mention("pattern", Mark(str(path), 18, 54), "audit"),
                Mention("domain", Mark(str(path), 19, 77), "would-deny", ("in",)),
                Mention("out", Mark(str(path), 20, 54), "deny", (), ("orders",)),
            ),
        )

    def test_policies_in_files_are_not_looked_into(self) -> None:
        """They may speak of it, and may be others by then."""
        path = Path(self.mktemp())
        path.write_text(SAMPLE[: SAMPLE.index("    policies:")] + "    directory: policies.d\n")
        settings, marks = load_with_marks(path, PLUGINS)
        found = mentions(WEB, settings, marks)
        self.assertEqual(([one.what for one in found.opaque], found.policies), (["rules"], ()))

    def test_knows_no_address_that_a_plugin_finds(self) -> None:
        """None is not the same as none."""
        settings = self.load(SAMPLE)
        service = attrs.evolve(settings.services["orders"], discovery=PluginChoice("dns", NoSettings()))
        (found,) = destinations(attrs.evolve(settings, services={"orders": service}), {})
        self.assertEqual((found.discovery, found.addresses, found.mark), ("dns", None, None))

    def test_finds_names_that_need_quotes_in_a_path(self) -> None:
        """A dot in a service's name is no step of the path."""
        path = Path(self.mktemp())
        path.write_text(SAMPLE.replace("orders:\n", "or.ders:\n").replace("service: orders", "service: or.ders"))
        settings, marks = load_with_marks(path, PLUGINS)
        (found,) = destinations(settings, marks)
        self.assertEqual((found.service, found.mark), ("or.ders", Mark(str(path), 9, 14)))
