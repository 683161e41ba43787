"""
One YAML file, read into :class:`tcpmesh.settings.Settings`, with every error at its line and column.

Ring 1. :func:`load` reads a file, :func:`loads` bytes; :func:`warnings` says what is allowed but worth a line at every
start. Both raise one :class:`tcpmesh.errors.ConfigurationError` that carries every problem found.
"""

from __future__ import annotations

from tcpmesh.config.checks import warnings
from tcpmesh.config.load import load, load_with_marks, loads
from tcpmesh.config.lookup import IPluginLookup

__all__ = ["IPluginLookup", "load", "load_with_marks", "loads", "warnings"]
