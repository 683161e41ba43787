"""
Where in a configuration something stands, as a path of keys.

Ring 1.
"""

from __future__ import annotations

import re

import attrs

from tcpmesh.addresses import shown

__all__ = ["ROOT", "Place"]

_PLAIN = re.compile(r"[A-Za-z0-9_-]+")


@attrs.frozen
class Place:
    """
    A path of keys: ``path`` as it is shown (``services.orders.expect[0]``), ``pattern`` with every name and number
    that an operator chose replaced by ``*`` and the name of each plugin kept (``services.*.retry:none``).
    """

    path: str = ""
    pattern: str = ""

    def key(self, name: str) -> Place:
        """The value of a key that a settings class declares."""
        return Place(self._with(name), f"{self.pattern}.{name}".removeprefix("."))

    def entry(self, name: str) -> Place:
        """The value of a name that the operator chose."""
        return Place(self._with(name), f"{self.pattern}.*".removeprefix("."))

    def item(self, index: int) -> Place:
        """An element of a list."""
        return Place(f"{self.path}[{index}]", f"{self.pattern}.*".removeprefix("."))

    def settings_of(self, plugin: str) -> Place:
        """The same mapping, as the settings of a plugin."""
        return Place(self.path, f"{self.pattern}:{plugin}")

    @property
    def inside(self) -> str:
        """For the end of "unknown key": where it is; empty at the top of the file."""
        return f" in {self.path}" if self.path else ""

    def _with(self, name: str) -> str:
        if not _PLAIN.fullmatch(name):
            return f"{self.path}[{shown(name)}]"
        return f"{self.path}.{name}" if self.path else name

    def __str__(self) -> str:
        return self.path or "the configuration"


ROOT = Place()
