"""Tests for what refers to something else: names, plugins, and the keys of workloads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from tcpmesh.config.places import ROOT
from tcpmesh.interfaces import RETRY
from tcpmesh.values import (
    DNSName,
)
from tests.unit.config_samples import FILE, PLUGINS, ConfigTestCase, FakeFactory, located, variant
from tests.unit.config_types import PluginTestCase, References

if TYPE_CHECKING:
    from nowhere import Nothing


class ReferenceTests(PluginTestCase):
    """Names that refer to something, in a class that we did not write."""

    settings = References

    def test_takes_names_that_exist(self) -> None:
        """Each kind of name is looked for where it is given."""
        settings = self.settings_of("inbound: in\noutbound: [out]\nservice: orders\nworkloads: {web: 1}\nsource: local")
        self.assertEqual(
            attrs.astuple(settings),
            ("in", ["out"], "orders", {"web": 1}, "local"),
        )

    def test_refuses_names_that_do_not(self) -> None:
        """All at once, with what was probably meant or what there is."""
        where = "services.orders.discovery"
        self.check(
            "inbound: ‸inn\noutbound: [out, ‸nowhere]\nservice: ‸order\nworkloads: {‸wep: 1}\nsource: ‸lokal",
            f"{where}.inbound: there is no inbound listener 'inn'; did you mean 'in'?",
            f"{where}.outbound[1]: there is no outbound listener 'nowhere'; outbound listeners: out",
            f"{where}.service: there is no service 'order'; did you mean 'orders'?",
            f"{where}.workloads.wep: there is no workload 'wep'; did you mean 'web'?",
            f"{where}.source: there is no identity source 'lokal'; did you mean 'local'?",
        )

    def test_a_mistake_inside_does_not_hide_the_name(self) -> None:
        """A service that cannot be read still exists."""
        self.check_problems(
            variant('expect: ["spiffe://example.org/orders"]', "expect: [‸orders]"),
            "services.orders.expect[0]: 'orders' is neither a SPIFFE ID, as spiffe://example.org/orders, "
            "nor a DNS name, as dns:db.example.com, nor a pinned key, as spki:sha256:…",
        )

    def test_a_misspelt_section_is_said_once(self) -> None:
        """Not again at every reference to what is in it."""
        for old, new, message in [
            ("services:", "‸service:", "unknown key 'service'; did you mean 'services'?"),
            ("inbound:\n", "‸inbund:\n", "unknown key 'inbund'; did you mean 'inbound'?"),
            (
                "workloads:\n    web:",
                "‸workload:\n    web:",
                "unknown key 'workload' in identity; did you mean 'workloads'?",
            ),
            (
                "services:\n  orders:",
                "services:\n  ‸- orders:",
                "services: expected a mapping, got a list",
            ),
        ]:
            text = variant(old, new)
            if "- orders" in new:
                text = text.replace("\n    expect", "\n      expect").replace("\n    discovery", "\n      discovery")
            self.check_problems(text, message)

    def test_an_absent_section_is_not_misspelt(self) -> None:
        """Then each reference is a problem of its own."""
        text = variant(
            'inbound:\n  - {name: in, listen: "127.0.0.1:4143", target: "127.0.0.1:5000", workload: web}\n', ""
        )
        self.check_problems(
            text.replace("inbound: [in]", "inbound: [‸in]"),
            "authorization[0].policies[0].to.inbound[0]: there is no inbound listener 'in'; there are none at all",
        )


class PluginChoiceTests(ConfigTestCase):
    """Which plugin, and whether it can be used."""

    def check_retry(self, text: str, *messages: str) -> None:
        self.check_problems(variant("    discovery:", f"    retry: {text}\n    discovery:"), *messages)

    def test_says_what_is_wrong_with_the_choice(self) -> None:
        """A missing, misspelt, unknown or later plugin."""
        where = "services.orders.retry"
        self.check_retry("‸{}", f"key 'plugin' is missing in {where}; retry plugins: exponential, none")
        self.check_retry("{‸plugn: none}", f"unknown key 'plugn' in {where}; did you mean 'plugin'?")
        self.check_retry("{plugin: ‸nun}", f"{where}: no retry plugin is called 'nun'")
        self.check_retry("{plugin: ‸[none]}", f"{where}.plugin: expected text, got a list")
        self.check_retry("{plugin: ‸off}", f'{where}.plugin: YAML reads off as false; for text, write "off"')
        self.check_retry("{plugin: none, ‸wait: 1s}", f"unknown key 'wait' in {where}; nothing can be set here")
        for key, elsewhere in (("budget", "the service's retry_budget"), ("deadline", "timeouts.establish")):
            message = f"unknown key '{key}' in {where}; this is said in {elsewhere}"
            self.check_retry(f"{{plugin: exponential, ‸{key}: 1}}", message)
        self.check_retry(
            "{plugin: exponential, attempts: ‸0}",
            f"{where}.attempts: 0 attempts are too few; the first counts, so 1 is the least",
        )
        self.check_retry("‸{plugin: exponential, base: 2s}", f"{where}: a max of 1s is shorter than base, 2s")

    def test_a_plugin_that_cannot_be_used_says_why(self) -> None:
        """The words of whoever looked for it, at the name; also when it was chosen by default."""
        self.plugins = PLUGINS.with_plugin(RETRY, "none", LookupError("'none' fails to import: no module 'x'"))
        self.check_retry("{plugin: ‸none}", "services.orders.retry: 'none' fails to import: no module 'x'")
        self.check_problems(
            variant("    expect:", "    ‸expect:"), "services.orders.retry: 'none' fails to import: no module 'x'"
        )

    def test_a_settings_class_that_cannot_be_read(self) -> None:
        """It is its author's to correct; nothing falls over."""

        @attrs.frozen
        class Unresolved:
            value: Nothing

        @attrs.frozen
        class Unreadable:
            value: bytes = b""

        @attrs.frozen
        class Ambiguous:
            value: list[int] | tuple[str, ...] = ()

        @attrs.frozen
        class Unhashable:
            value: frozenset[list[str]] = frozenset()

        class Plain:
            pass

        blame = "services.orders.retry: the retry plugin 'odd' cannot be configured, its author must correct this:"
        for settings, message in [
            (Unresolved, f"the types of {Unresolved.__qualname__} cannot be resolved: name 'Nothing' is not defined"),
            (Unreadable, "<class 'bytes'> is not a type that a key can have"),
            (Ambiguous, "in list[int] | tuple[str, ...], what is written cannot tell which is meant"),
            (Unhashable, "frozenset[list[str]] is not a type that a key can have"),
            (Plain, f"{Plain!r} is not an attrs class"),
        ]:
            self.plugins = PLUGINS.with_plugin(RETRY, "odd", FakeFactory(settings))
            self.check_retry("{plugin: ‸odd, value: [1]}", f"{blame} {message}")

    def test_a_class_that_breaks_is_a_problem_too(self) -> None:
        """Whatever a converter raises is shown at its key, with its type."""

        def broken(value: str) -> str:
            return {"a": "b"}[value]

        @attrs.frozen
        class Broken:
            value: str = attrs.field(converter=broken)

        self.plugins = PLUGINS.with_plugin(RETRY, "odd", FakeFactory(Broken))
        self.check_retry("{plugin: odd, value: ‸c}", "services.orders.retry.value: KeyError: c")


class WorkloadKeysTests(ConfigTestCase):
    """Keys of a workload that belong to its source."""

    def workload(self, text: str) -> str:
        return variant('web: {id: "spiffe://example.org/web"}', f"web: {text}")

    def test_are_read_into_the_source_s_class(self) -> None:
        """Each workload has an instance of it, also without any such key."""
        settings = self.load(self.workload('{id: "spiffe://example.org/web", dns: [a.example], certificate: c.pem}'))
        extra = settings.identity.workloads["web"].extra
        self.assertEqual((extra.dns, extra.certificate), ([DNSName("a.example")], FILE.parent / "c.pem"))
        self.assertEqual(
            self.load(self.workload('{id: "spiffe://example.org/web"}')).identity.workloads["web"].extra.dns, []
        )

    def test_are_checked_like_all_others(self) -> None:
        """Also when the workload itself is wrong."""
        self.check_problems(
            self.workload("{id: ‸web, dns: [‸a_b], ‸dsn: [], ‸surce: local}"),
            "identity.workloads.web.id: 'web' does not start with 'spiffe://'",
            "identity.workloads.web.dns[0]: label 'a_b' in 'a_b' may only hold letters, digits and, inside, hyphens",
            "unknown key 'dsn' in identity.workloads.web; did you mean 'dns'?",
            "unknown key 'surce' in identity.workloads.web; did you mean 'source'?",
        )

    def test_a_source_may_take_none(self) -> None:
        """Then each of them is unknown."""
        text = self.workload('{id: "spiffe://example.org/web", ‸dns: []}')
        self.check_problems(
            text.replace("plugin: own, state: state", "plugin: bare"),
            "unknown key 'dns' in identity.workloads.web; known keys: id, source",
        )

    def test_the_source_must_be_named_when_there_are_several(self) -> None:
        """With one, it is that one."""
        text = self.workload('‸{id: "spiffe://example.org/web"}').replace(
            "sources: {local:", "sources: {other: {plugin: bare}, local:"
        )
        self.check_problems(text, "key 'source' is missing in identity.workloads.web; it may be other or local")
        chosen, _ = located(text.replace('web"}', 'web", source: other}'))
        self.assertEqual(self.load(chosen).identity.workloads["web"].source, "other")

    def test_an_unknown_source_is_the_only_problem(self) -> None:
        """What its keys would have meant cannot be known."""
        self.check_problems(
            self.workload('{id: "spiffe://example.org/web", source: ‸locl, dns: 5}'),
            "identity.workloads.web.source: there is no identity source 'locl'; did you mean 'local'?",
        )


class PlaceTests(ConfigTestCase):
    """How a place is written."""

    def test_paths_and_patterns(self) -> None:
        """Names that an operator chose are stars in the pattern, and quoted in the path where they must be."""
        place = ROOT.key("services").entry("a.b").key("retry").settings_of("none").key("x").item(3)
        self.assertEqual((place.path, place.pattern), ("services['a.b'].retry.x[3]", "services.*.retry:none.x.*"))
        self.assertEqual((str(ROOT), ROOT.inside, place.inside), ("the configuration", "", f" in {place.path}"))
