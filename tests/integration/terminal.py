"""A command in a terminal of its own, as somebody types it."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import termios
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.integration import program
from tests.integration.processes import PATIENCE, wait_until

__all__ = ["Terminal"]

INTERRUPT = b"\x03"  # what Ctrl-C types


class Terminal:
    """
    Runs one command on a pseudo-terminal that is its controlling one, so that what is typed reaches it as signals.

    :param environment: all of it.
    """

    def __init__(
        self, test: SynchronousTestCase, command: str, *, directory: Path, environment: Mapping[str, str]
    ) -> None:
        self._shown = bytearray()
        self._keyboard, screen = pty.openpty()
        try:
            termios.tcsetwinsize(screen, (50, 1000))  # wide enough that nothing is wrapped or cut
            self.process = subprocess.Popen(
                [program("setsid", "util-linux"), "--ctty", "sh", "-c", f"exec {command}"],
                stdin=screen,
                stdout=screen,
                stderr=screen,
                cwd=directory,
                env=environment,
            )
        finally:
            os.close(screen)
        # A proxy drops the log lines that its terminal does not take, so somebody has to read all the time.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        test.addCleanup(self._end)

    @property
    def text(self) -> str:
        """What it has shown until now."""
        return bytes(self._shown).decode().replace("\r\n", "\n")

    def type(self, keys: bytes) -> None:
        os.write(self._keyboard, keys)

    def wait_until(self, condition: Callable[[], object], what: str) -> None:
        """Poll until the condition is true or the command has ended."""

        def met() -> bool:
            if condition():
                return True
            if self.process.poll() is not None:
                self._reader.join(PATIENCE)
                if condition():
                    return True
                raise AssertionError(f"{what}: the command ended with {self.process.returncode}\n{self.text}")
            return False

        wait_until(met, lambda: f"{what}\n{self.text}")

    def wait(self) -> int:
        """Wait for its end; give the exit status, negative for a signal."""
        try:
            status = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not end\n{self.text}") from None
        self._reader.join(PATIENCE)
        return status

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO: nobody has the screen open any longer
            while data := os.read(self._keyboard, 65536):
                self._shown += data

    def _end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # it is the leader of its session and group
        self.process.wait()
        self._reader.join(PATIENCE)
        os.close(self._keyboard)
