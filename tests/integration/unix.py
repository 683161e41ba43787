"""Applications on unix sockets."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.integration.mesh import PATIENCE, MeshTestCase


class UnixTestCase(MeshTestCase):
    """Has sockets in a directory with a short name (sun_path holds 108 bytes, unix(7))."""

    def setUp(self) -> None:
        super().setUp()
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.sockets = Path(directory.name)

    def unix_path(self, name: str) -> str:
        """A path for a socket of this test."""
        return str(self.sockets / name)

    def unix_application(self, path: str, serve: Callable[[socket.socket], Any]) -> None:
        """Listen and run ``serve`` in a thread for each connection."""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        self.serve(listener, serve)

    def connect_unix(self, path: str) -> socket.socket:
        """Connect as an application would; closed at the end of the test."""
        client = socket.socket(socket.AF_UNIX)
        self.addCleanup(client.close)
        client.settimeout(PATIENCE)
        client.connect(path)
        return client
