"""A real Open Policy Agent on a unix socket."""

from __future__ import annotations

import socket
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.integration import go_program
from tests.integration.servers import Server, temporary_directory

__all__ = ["OpaAgent"]


class OpaAgent:
    """
    ``opa run --server`` with some files; ``socket`` is where it answers.

    :param files: policies and data by name.
    """

    def __init__(self, test: SynchronousTestCase, files: dict[str, str]) -> None:
        self._program = go_program("opa")
        self.directory = temporary_directory(test)
        self.socket = self.directory / "opa.sock"
        for name, text in files.items():
            self.put(name, text)
        command = [self._program, "run", "--server", "--disable-telemetry", f"--addr=unix://{self.socket}"]
        self.process = Server(test, [*command, *files], directory=self.directory)
        self.process.wait_until(self._answers, "Open Policy Agent answers")

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def put(self, name: str, text: str) -> Path:
        """Write one of its files."""
        path = self.directory / name
        path.write_text(text)
        return path
