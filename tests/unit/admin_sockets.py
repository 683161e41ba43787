"""A test case for commands that ask a proxy: a real unix socket at a short path, that answers once."""

from __future__ import annotations

import io
import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.cli import main


class AdminSocketCase(SynchronousTestCase):
    """Runs commands against a socket that the test answers on."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir(parents=True)
        number = os.open(self.directory, os.O_DIRECTORY)
        self.addCleanup(os.close, number)
        # A unix socket's path has little room, and trial's directory may be deep.
        self.path = f"/proc/self/fd/{number}/a.sock"

    def answer(self, answer: Callable[[bytes], bytes]) -> None:
        """Answer one request on the socket, with what the callable makes of it."""
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(listener.close)
        listener.bind(self.path)
        listener.listen()

        def run() -> None:
            client, _ = listener.accept()
            with client:
                client.sendall(answer(client.recv(65536)))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self.addCleanup(thread.join, 10)

    def command(self, *arguments: str, out: io.StringIO | None = None) -> tuple[Any, str, str]:
        """The command's exit status, standard output and error."""
        stdout, stderr = out or io.StringIO(), io.StringIO()
        self.patch(sys, "stdout", stdout)
        self.patch(sys, "stderr", stderr)
        status = self.assertRaises(SystemExit, main, arguments).code
        return status, stdout.getvalue(), stderr.getvalue()

    def admin(self) -> tuple[str, str]:
        """The option that names the socket."""
        return "--admin", f"unix:{self.path}"
