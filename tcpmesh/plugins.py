"""
Finds plugins by kind and name, verifies them, and says which could not be used and why.

Ring 4. Built-in and foreign plugins are found alike: ``twisted.plugin.getPlugins`` in ``twisted.plugins``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import attrs
import twisted.plugins
from twisted.plugin import getPlugins
from zope.interface import providedBy
from zope.interface.exceptions import Invalid
from zope.interface.verify import verifyObject

from tcpmesh.addresses import shown
from tcpmesh.codes import PLUGIN_UNUSABLE
from tcpmesh.config.problems import closest, did_you_mean
from tcpmesh.descriptors import PluginDescriptor
from tcpmesh.errors import ConfigurationError, Problem, StartError, TcpmeshError
from tcpmesh.interfaces import KINDS, IPluginFactory, PluginContext, PluginKind
from tcpmesh.plugin_origins import FailedPlugin, Origin, failed_plugins, origin_of
from tcpmesh.settings import PluginChoice

__all__ = ["FailedPlugin", "FoundPlugin", "Listing", "Origin", "PluginLookupError", "PluginRegistry"]


class PluginLookupError(TcpmeshError, LookupError):
    """There is no usable plugin of that kind and name; the message says why, and what there is."""


@attrs.frozen
class FoundPlugin:
    """A plugin that a drop-in offers; ``problem`` says why it cannot be used, empty if it can."""

    kind: PluginKind
    name: str
    description: str
    origin: Origin
    problem: str = ""


@attrs.frozen
class Listing:
    """Everything that ``tcpmesh plugins`` shows."""

    found: tuple[FoundPlugin, ...]
    failed: tuple[FailedPlugin, ...]


@attrs.frozen(eq=False)
class _Candidate:
    kind: PluginKind
    name: str
    factory: IPluginFactory
    module: str


class PluginRegistry:
    """
    The plugins that are installed, looked for once.

    :param package: where drop-ins are; ``twisted.plugins`` unless a test says otherwise.
    """

    def __init__(self, package: ModuleType | None = None) -> None:
        self._package = twisted.plugins if package is None else package
        self._candidates: tuple[_Candidate, ...] | None = None
        self._loaded: dict[tuple[str, str], IPluginFactory] = {}

    def names(self, kind: PluginKind) -> list[str]:
        """Every name that a plugin of this kind has, usable or not, in alphabetical order."""
        return sorted({candidate.name for candidate in self._all() if candidate.kind is kind})

    def find(self, kind: PluginKind, name: str) -> IPluginFactory:
        """
        Import and verify the factory of that name.

        :raises PluginLookupError: (a LookupError) when there is none, when two distributions offer one, or when it
            cannot be imported or does not provide its interface.
        """
        factory = self._loaded.get((kind.name, name))
        if factory is None:
            candidates = [found for found in self._all() if found.kind is kind and found.name == name]
            if not candidates:
                raise PluginLookupError(self._explain_missing(kind, name))
            if len(candidates) > 1:
                raise PluginLookupError(
                    f"there are {len(candidates)} {kind.name} plugins named {name!r}: "
                    + " and ".join(str(self._origin(candidate)) for candidate in candidates)
                    + "; uninstall all but one, or have one renamed"
                )
            try:
                factory = _load(candidates[0])
            except Exception as error:
                raise PluginLookupError(
                    f"the {kind.name} plugin {name!r} of {self._origin(candidates[0])} cannot be used: {_cause(error)}"
                ) from error
            self._loaded[kind.name, name] = factory
        return factory

    def create(self, kind: PluginKind, choice: PluginChoice, context: PluginContext) -> Any:
        """
        Make what the configuration chose, and verify it.

        Settings of None stand for the settings class's defaults.

        :raises PluginLookupError: as :meth:`find`.
        :raises ConfigurationError: when the plugin calls its settings contradictory, with their place.
        :raises StartError: when the plugin fails, or what it makes does not provide its interface.
        """
        factory = self.find(kind, choice.plugin)
        try:
            settings = factory.settings() if choice.settings is None else choice.settings
            product = factory.create(settings, context)
        except (TcpmeshError, MemoryError):
            raise
        except ValueError as error:
            raise ConfigurationError(
                [Problem(f"{kind.name} plugin {choice.plugin!r}: {error}", choice.mark)]
            ) from error
        except Exception as error:
            raise StartError(
                PLUGIN_UNUSABLE, f"the {kind.name} plugin {choice.plugin!r} cannot be created: {_cause(error)}"
            ) from error
        try:
            verifyObject(kind.product, product)
        except Invalid as error:
            raise StartError(
                PLUGIN_UNUSABLE, f"what the {kind.name} plugin {choice.plugin!r} creates cannot be used: {error}"
            ) from error
        return product

    def listing(self) -> Listing:
        """Everything that is installed, with where it comes from; each plugin is imported and verified."""
        found = []
        for candidate in self._all():
            try:
                self.find(candidate.kind, candidate.name)
                problem = ""
            except PluginLookupError as error:
                problem = str(error)
            description = _text(candidate.factory, "description")
            found.append(FoundPlugin(candidate.kind, candidate.name, description, self._origin(candidate), problem))
        order = [kind.name for kind in KINDS]
        found.sort(key=lambda plugin: (order.index(plugin.kind.name), plugin.name))
        return Listing(tuple(found), failed_plugins(self._package))

    def _all(self) -> tuple[_Candidate, ...]:
        if self._candidates is None:
            factories = list({id(factory): factory for factory in getPlugins(IPluginFactory, self._package)}.values())
            modules = _modules_of(factories, self._package)
            self._candidates = tuple(
                _Candidate(kind, _text(factory, "name"), factory, modules[id(factory)])
                for factory in factories
                for kind in KINDS
                if kind.factory in providedBy(factory)
            )
        return self._candidates

    def _origin(self, candidate: _Candidate) -> Origin:
        return origin_of(candidate.module)

    def _explain_missing(self, kind: PluginKind, name: str) -> str:
        names = self.names(kind)
        others = [other.name for other in KINDS if other is not kind and name in self.names(other)]
        if others and closest(name, names) is None:
            message = f"{shown(name)} is a plugin for {' and '.join(others)}, not for {kind.name}"
        else:
            what = f"installed {kind.name} plugins"
            message = f"there is no {kind.name} plugin {shown(name)}{did_you_mean(name, names, what)}"
        return "; ".join([message, *map(str, failed_plugins(self._package))])


def _load(candidate: _Candidate) -> IPluginFactory:
    factory = candidate.factory
    if isinstance(factory, PluginDescriptor):
        factory = factory.load()
    verifyObject(candidate.kind.factory, factory)
    if factory.name != candidate.name:
        raise ValueError(f"its factory calls itself {factory.name!r}, its descriptor {candidate.name!r}")
    if not (isinstance(factory.settings, type) and attrs.has(factory.settings)):
        raise TypeError(f"its settings, {factory.settings!r}, are not an attrs class")
    return factory


def _modules_of(factories: Iterable[IPluginFactory], package: ModuleType) -> dict[int, str]:
    """By id: which drop-in each of these is a module-level object of."""
    wanted = {id(factory) for factory in factories}
    return {
        id(value): name
        for name, module in list(sys.modules.items())
        if name.startswith(package.__name__ + ".")
        for value in list(vars(module).values())
        if id(value) in wanted
    }


def _text(factory: IPluginFactory, attribute: str) -> str:
    """A foreign factory's attribute, empty if it has none or fails to say; verifyObject then tells what is missing."""
    try:
        return str(getattr(factory, attribute))
    except Exception:  # noqa: BLE001 - reported by verifyObject when the plugin is selected or listed
        return ""


def _cause(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
