"""
``python -m tcpmesh.testing KIND NAME``: runs an installed plugin through the contract of its kind.

What ``tcpmesh plugins test`` starts, in a process of its own: a plugin that breaks the interpreter breaks only this.
Exit status: 0 every point is kept; 1 one is not; 2 the contract could not be run, or not all of it.
"""

from __future__ import annotations

import argparse
import json
import sys
import unittest
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import SkipTest

import attrs
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import config
from tcpmesh.cli.complaints import complain, complain_of_configuration
from tcpmesh.errors import ConfigurationError
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.interfaces import AUTHORIZATION, BALANCE, DISCOVERY, IDENTITY, KINDS, RETRY, IPluginFactory, PluginKind
from tcpmesh.plugins import PluginLookupError, PluginRegistry
from tcpmesh.settings import PluginChoice, Settings, keys
from tcpmesh.testing import (
    AuthorizationPolicyContract,
    FakeDiscoveryObserver,
    FakeIdentityObserver,
    IdentitySourceContract,
    LoadBalancerContract,
    PluginContract,
    RetryStrategyContract,
    ServiceDiscoveryContract,
    plugin_context,
)
from tcpmesh.testing.making import TRUST_DOMAIN
from tcpmesh.values import Workload

_CONTRACTS: Mapping[str, type[PluginContract]] = {
    IDENTITY.name: IdentitySourceContract,
    DISCOVERY.name: ServiceDiscoveryContract,
    AUTHORIZATION.name: AuthorizationPolicyContract,
    RETRY.name: RetryStrategyContract,
    BALANCE.name: LoadBalancerContract,
}
_UNTRIED = "it asks the reactor for "
_PATIENCE = 300  # seconds of the test's clock that a plugin has for its first delivery


class LentClock(Clock):
    """
    The contract's clock, which a plugin may take for the reactor that it is in a proxy.

    :ivar missed: the reactor's methods that it was asked for in vain.
    """

    def __init__(self) -> None:
        super().__init__()
        self.missed: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_"):
            self.missed.append(name)
        raise AttributeError(f"the contract lends a clock and no reactor, and so nothing with {name!r}")


class CannotTellError(Exception):
    """The contract cannot be run; the message says what is missing."""


@attrs.frozen
class Subject:
    """A plugin and what it is tried with."""

    factory: IPluginFactory
    settings: Any
    trust_domain: TrustDomain = TRUST_DOMAIN
    directory: Path = attrs.field(factory=Path.cwd)
    workloads: Mapping[str, Workload] | None = None


@attrs.frozen
class Point:
    """What came of one point of the contract; ``outcome`` is ok, FAIL or skip."""

    name: str
    description: str
    outcome: str
    reason: str = ""


def subject(kind: PluginKind, name: str, file: Path | None) -> Subject:
    """
    Find the plugin, with its settings from a configuration or, without one, its defaults.

    :raises CannotTellError: when there is no such plugin, or its settings are not known.
    :raises ConfigurationError: when the configuration cannot be used.
    """
    registry = PluginRegistry()
    try:
        factory = registry.find(kind, name)
        if file is not None:
            return _configured(kind, name, factory, config.load(file, registry))
    except PluginLookupError as error:
        raise CannotTellError(str(error)) from None
    classes = [factory.settings, getattr(factory, "workload_settings", None)]
    if needed := [key for cls in classes if cls is not None for key in _needed(cls)]:
        raise CannotTellError(
            f"{kind.name} plugin {name!r} needs {' and '.join(needed)}, without default: "
            "write a configuration that uses it and name it with --config"
        )
    return Subject(factory, factory.settings())


def _needed(settings: type) -> list[str]:
    return [key for key, field in keys(settings).items() if field.default is attrs.NOTHING]


def _configured(kind: PluginKind, name: str, factory: IPluginFactory, settings: Settings) -> Subject:
    choices: dict[str, list[tuple[str, PluginChoice]]] = {
        IDENTITY.name: list(settings.identity.sources.items()),
        DISCOVERY.name: [(service, each.discovery) for service, each in settings.services.items()],
        BALANCE.name: [(service, each.balance) for service, each in settings.services.items()],
        RETRY.name: [(service, each.retry) for service, each in settings.services.items()],
        AUTHORIZATION.name: [("", choice) for choice in settings.authorization],
    }
    for entry, choice in choices[kind.name]:
        if choice.plugin == name:
            workloads = {
                workload: Workload(workload, each.id, each.extra)
                for workload, each in settings.identity.workloads.items()
                if each.source in (None, entry)
            }
            served = workloads if kind is IDENTITY else None
            return Subject(factory, choice.settings, settings.trust_domain, settings.file.parent, served)
    raise CannotTellError(f"{settings.file} uses no {kind.name} plugin {name!r}")


def contract_case(kind: PluginKind, tried: Subject) -> type[SynchronousTestCase]:
    """The contract of a kind as a test case about this plugin."""

    contract: Any = _CONTRACTS[kind.name]

    class InstalledPlugin(contract, SynchronousTestCase):  # type: ignore[misc]
        def setUp(self) -> None:
            super().setUp()
            self.clock = LentClock()

        def make_factory(self) -> IPluginFactory:
            return tried.factory

        def make_settings(self) -> Any:
            return tried.settings

        def make_workloads(self) -> Mapping[str, Workload]:
            found: Mapping[str, Workload] = super().make_workloads() if tried.workloads is None else tried.workloads
            return found

        def make_context(self) -> Any:
            return plugin_context(
                clock=self.clock,
                trust_domain=tried.trust_domain,
                directory=tried.directory,
                workloads=self.make_workloads() if kind is IDENTITY else None,
            )

        def deliver(self, observer: FakeIdentityObserver | FakeDiscoveryObserver) -> None:
            for _ in range(_PATIENCE):
                if observer.events and not (self.clock.missed and _failed_only(observer)):
                    return
                self.clock.advance(1)
            if self.clock.missed:
                raise SkipTest(f"{_UNTRIED}{', '.join(dict.fromkeys(self.clock.missed))}, and has delivered nothing")

    return InstalledPlugin


def _failed_only(observer: FakeIdentityObserver | FakeDiscoveryObserver) -> bool:
    return all(event[0] == "failed" for event in observer.events)


def check_creation(kind: PluginKind, tried: Subject) -> None:
    """
    Insist that the plugin can be made with these settings.

    :raises CannotTellError: when it refuses them, for instance since they do not say where what it asks is.
    """
    case: Any = contract_case(kind, tried)()
    case.setUp()
    try:
        case.create()
    except ValueError as error:
        raise CannotTellError(
            f"{kind.name} plugin {tried.factory.name!r} cannot be made with these settings: {error}; write a "
            "configuration that uses it and name it with --config"
        ) from None
    except Exception:  # noqa: BLE001, S110  the contract's points tell of this one
        pass


class _Report(unittest.TestResult):
    """Collects one :class:`Point` per test."""

    def __init__(self) -> None:
        super().__init__()
        self.points: list[Point] = []

    def _note(self, test: unittest.TestCase, outcome: str, reason: str = "") -> None:
        name = test.id().rpartition(".test_")[2]
        if self.points and self.points[-1].name == name:  # a failure and then an error while cleaning up
            return
        description = (test.shortDescription() or name).replace("``", "`")  # reStructuredText
        self.points.append(Point(name, description, outcome, reason))

    def addSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802
        self._note(test, "ok")

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:  # noqa: N802
        self._note(test, "skip", str(reason))

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        self._note(test, "FAIL", _words(err[1]))

    def addError(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        self._note(test, "FAIL", _words(err[1]))


def _words(error: BaseException) -> str:
    text = str(error).strip()
    return text if isinstance(error, AssertionError) and text else f"{type(error).__name__}: {text}"


def run(kind: PluginKind, tried: Subject) -> list[Point]:
    """Run every point of the contract."""
    report = _Report()
    unittest.defaultTestLoader.loadTestsFromTestCase(contract_case(kind, tried)).run(report)
    return report.points


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the contract, write what came of it, and give the exit status."""
    parser = argparse.ArgumentParser("python -m tcpmesh.testing", description="Run a plugin through its contract.")
    parser.add_argument("kind", choices=[kind.name for kind in KINDS])
    parser.add_argument("name")
    parser.add_argument("--config", type=Path, help="take the settings from this configuration")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    kind = next(kind for kind in KINDS if kind.name == options.kind)
    try:
        tried = subject(kind, options.name, options.config)
        check_creation(kind, tried)
        points = run(kind, tried)
    except CannotTellError as error:
        complain(str(error))
        return 2
    except ConfigurationError as error:
        complain_of_configuration(error)
        return 2
    failed = sum(point.outcome == "FAIL" for point in points)
    untried = [point.reason for point in points if point.outcome == "skip" and point.reason.startswith(_UNTRIED)]
    if options.json:
        shown = {"kind": kind.name, "name": options.name, "points": [attrs.asdict(point) for point in points]}
        print(json.dumps(shown))  # noqa: T201
    else:
        print("\n".join(_lines(points)))  # noqa: T201
        print(f"{kind.name} plugin {options.name}: {failed or 'none'} of {len(points)} points failed")  # noqa: T201
    if untried:
        complain(
            f"{len(untried)} points could not be tried: {untried[0]}; the contract lends a clock and no reactor. See "
            "whether it delivers with a proxy: tcpmesh run, tcpmesh identity show"
        )
    return 1 if failed else 2 if untried else 0


def _lines(points: Sequence[Point]) -> list[str]:
    lines = []
    for point in points:
        lines.append(f"{point.outcome:4} {point.name}: {point.description}")
        lines += [f"       {line}" for line in point.reason.splitlines()]
    return lines


if __name__ == "__main__":
    sys.exit(main())
