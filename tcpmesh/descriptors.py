"""
What a drop-in in ``twisted/plugins`` says of a plugin without importing it.

Ring 0, public. Every start of ``twistd`` on the machine imports every drop-in, so a drop-in imports only
:mod:`tcpmesh.interfaces` and this module; the plugin's own code is imported when somebody selects it.
"""

from __future__ import annotations

import importlib
from typing import Any

from zope.interface import alsoProvides, implementer

from tcpmesh.interfaces import IPluginFactory, PluginContext, PluginKind

__all__ = ["PluginDescriptor"]


@implementer(IPluginFactory)
class PluginDescriptor:
    """
    Stands for a factory until it is needed; a module-level object of a drop-in.

    :param kind: one of :data:`tcpmesh.interfaces.KINDS`.
    :param name: the factory's own ``name``.
    :param target: ``package.module:FactoryClass``; the class is called without arguments.
    """

    def __init__(self, kind: PluginKind, name: str, description: str, target: str) -> None:
        self.kind = kind
        self.name = name
        self.description = description
        self.target = target
        self._factory: IPluginFactory | None = None
        alsoProvides(self, kind.factory)  # what getPlugins looks for

    def load(self) -> IPluginFactory:
        """
        Import the target and make the factory, once.

        :raises Exception: whatever the import or the class raises.
        """
        if self._factory is None:
            module, colon, attribute = self.target.partition(":")
            if not (module and colon and attribute):
                raise ValueError(f"target {self.target!r} is not of the form package.module:FactoryClass")
            self._factory = getattr(importlib.import_module(module), attribute)()
        return self._factory

    @property
    def settings(self) -> type:
        """The factory's settings class."""
        return self.load().settings

    @property
    def workload_settings(self) -> type | None:
        """The factory's class for the keys of a workload; only identity factories have one."""
        factory: Any = self.load()
        workload_settings: type | None = factory.workload_settings
        return workload_settings

    def create(self, settings: Any, context: PluginContext) -> Any:
        """Make what the factory makes."""
        return self.load().create(settings, context)

    def __repr__(self) -> str:
        return f"<PluginDescriptor {self.kind.name} {self.name} = {self.target}>"
