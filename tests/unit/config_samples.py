"""A small configuration, plugins for it, and a way to say where in a broken variant of it a problem must be shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.balance.round_robin import RoundRobinFactory
from tcpmesh.config import loads
from tcpmesh.discovery.static import StaticFactory
from tcpmesh.errors import ConfigurationError, Mark
from tcpmesh.interfaces import AUTHORIZATION, BALANCE, DISCOVERY, IDENTITY, RETRY, IPluginFactory, PluginKind
from tcpmesh.retry.exponential import ExponentialFactory
from tcpmesh.retry.none import NoRetryFactory
from tcpmesh.settings import NoSettings, Settings
from tcpmesh.sources.rules import RulesFactory
from tcpmesh.values import DNSName, Duration

FILE = Path("/etc/mesh/tcpmesh.yaml")
HERE = "‸"  # in a sample: a problem must be shown at this place

SAMPLE = """\
version: 1
trust_domain: example.org
identity:
  sources: {local: {plugin: own, state: state}}
  workloads:
    web: {id: "spiffe://example.org/web"}
services:
  orders:
    expect: ["spiffe://example.org/orders"]
    discovery: {plugin: static, endpoints: ["127.0.0.1:4143"]}
outbound:
  - {name: out, listen: "127.0.0.1:15000", service: orders, workload: web}
inbound:
  - {name: in, listen: "127.0.0.1:4143", target: "127.0.0.1:5000", workload: web}
authorization:
  - plugin: rules
    policies:
      - {name: some, action: allow, from: [{ids: ["spiffe://example.org/web"]}], to: {inbound: [in]}}
"""

# What stands around the rest of a service in documents.
AROUND_A_SERVICE = """\
version: 1
trust_domain: example.org
identity:
  sources: {local: {plugin: embedded, state: state}}
  workloads: {web: {id: "spiffe://example.org/web"}}
outbound:
  - {name: out, listen: "127.0.0.1:15000", service: orders, workload: web}
"""
SERVICE = """\
services:
  orders:
    expect: ["spiffe://example.org/orders"]
"""


@attrs.frozen
class OwnSettings:
    """Settings of an identity source."""

    state: Path
    ttl: Duration = Duration(3600.0)


@attrs.frozen
class OwnWorkload:
    """What a workload of that source may say."""

    dns: list[DNSName] = attrs.field(factory=list)
    certificate: Path | None = None


@attrs.frozen
class FakeFactory:
    """As much of a plugin factory as the configuration looks at."""

    settings: Any
    workload_settings: Any = None


class FakePlugins:
    """Plugins by kind and name."""

    def __init__(self, plugins: Mapping[PluginKind, Mapping[str, Any]]) -> None:
        self._plugins = plugins

    def find(self, kind: PluginKind, name: str) -> IPluginFactory:
        found = self._plugins.get(kind, {}).get(name)
        if found is None:
            raise LookupError(f"no {kind.name} plugin is called {name!r}")
        if isinstance(found, Exception):
            raise found
        factory: IPluginFactory = found
        return factory

    def names(self, kind: PluginKind) -> Sequence[str]:
        return sorted(self._plugins.get(kind, {}))

    def with_plugin(self, kind: PluginKind, name: str, factory: Any) -> FakePlugins:
        return FakePlugins({**self._plugins, kind: {**self._plugins.get(kind, {}), name: factory}})


PLUGINS = FakePlugins(
    {
        IDENTITY: {"own": FakeFactory(OwnSettings, OwnWorkload), "bare": FakeFactory(NoSettings)},
        DISCOVERY: {"static": StaticFactory()},
        AUTHORIZATION: {"rules": RulesFactory()},
        BALANCE: {"round-robin": RoundRobinFactory()},
        RETRY: {"none": NoRetryFactory(), "exponential": ExponentialFactory()},
    }
)


def variant(old: str, new: str) -> str:
    """The sample with one text replaced, which must be there exactly once."""
    if SAMPLE.count(old) != 1:
        raise ValueError(f"{old!r} is in the sample {SAMPLE.count(old)} times")
    return SAMPLE.replace(old, new)


def located(text: str, file: Path = FILE) -> tuple[str, list[Mark]]:
    """Take the place marks out of a sample, and say where they were."""
    marks = []
    while HERE in text:
        before, _, after = text.partition(HERE)
        line = before.rpartition("\n")[2]
        marks.append(Mark(str(file), before.count("\n") + 1, len(line) + 1))
        text = before + after
    return text, marks


class ConfigTestCase(SynchronousTestCase):
    """Loads samples."""

    plugins = PLUGINS

    def load(self, text: str) -> Settings:
        return loads(text.encode(), FILE, self.plugins)

    def problems(self, text: str) -> list[tuple[str, Mark | None]]:
        error = self.assertRaises(ConfigurationError, self.load, text)
        return [(problem.message, problem.mark) for problem in error.problems]

    def check_problems(self, text: str, *messages: str) -> None:
        """Loading must complain with exactly these messages, at the marked places in their order."""
        clean, marks = located(text)
        self.assertEqual(len(marks), len(messages), f"mark one place per message: {text}")
        self.assertEqual(self.problems(clean), list(zip(messages, marks, strict=True)), clean)
