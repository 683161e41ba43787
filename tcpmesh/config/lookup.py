"""
What the configuration needs of whoever finds plugins.

Ring 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tcpmesh.interfaces import IPluginFactory, PluginKind

__all__ = ["IPluginLookup"]


class IPluginLookup(Protocol):
    """Where plugins are found by name; provided by the composition."""

    def find(self, kind: PluginKind, name: str) -> IPluginFactory:
        """
        The factory of that name.

        :raises LookupError: when there is none, or it cannot be used; the message is shown to the operator.
        """
        ...

    def names(self, kind: PluginKind) -> Sequence[str]:
        """The names of all plugins of a kind."""
        ...
