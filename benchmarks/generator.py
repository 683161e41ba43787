"""Builds, starts and talks with the load generator in benchmarks/load, which is client and application."""

from __future__ import annotations

import hashlib
import json
import os
import selectors
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).parent / "load"
BUILD = Path(__file__).parent / "results" / ".build"


class LoadError(Exception):
    """The generator could not be built or went wrong itself, or operations that it tried failed."""


def compiler() -> str | None:
    """The C compiler, or None."""
    return shutil.which(os.environ.get("CC", "cc"))


def build(directory: Path = BUILD) -> Path:
    """Compile the generator unless that has been done for these sources.

    :raises LoadError: without a compiler, or with what it says.
    """
    sources = sorted(SOURCES.glob("*.c"))
    digest = hashlib.sha256(b"\0".join(file.read_bytes() for file in sorted(SOURCES.iterdir()))).hexdigest()[:16]
    program = directory / f"load-{digest}"
    if program.exists():
        return program
    cc = compiler()
    if cc is None:
        raise LoadError("no C compiler: the load generator needs one (on Debian: apt-get install gcc libc6-dev)")
    directory.mkdir(parents=True, exist_ok=True)
    fresh = directory / f"{program.name}.{os.getpid()}"
    done = subprocess.run(
        [cc, "-O2", "-o", str(fresh), *map(str, sources)], capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode:
        raise LoadError(f"{cc} refused the load generator:\n{done.stderr}")
    fresh.rename(program)
    return program


class Generator:
    """One process of the generator; a line of JSON at a time."""

    def __init__(self, program: Path, mode: str, **options: float) -> None:
        words = [str(word) for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
        self._title = f"load {mode} {' '.join(words)}".rstrip()
        self._process = subprocess.Popen(
            [str(program), mode, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        self._pending = b""

    @property
    def pid(self) -> int:
        """For whoever reads what it costs."""
        return self._process.pid

    def say(self, line: str) -> None:
        """Give it a line."""
        try:
            self._input.write(line.encode() + b"\n")
        except BrokenPipeError:
            raise LoadError(f"{self._title}: ended with status {self._process.wait(10)}") from None

    def hear(self, limit: float) -> dict[str, Any]:
        """Its next line.

        :param limit: seconds to wait.
        :raises LoadError: when none comes.
        """
        deadline = time.monotonic() + limit
        with selectors.DefaultSelector() as selector:
            selector.register(self._output, selectors.EVENT_READ)
            while b"\n" not in self._pending:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise LoadError(f"{self._title}: said nothing for {limit:.0f} s")
                data = self._output.read(65536)
                if not data:
                    raise LoadError(f"{self._title}: ended with status {self._process.wait(10)}")
                self._pending += data
        line, _newline, self._pending = self._pending.partition(b"\n")
        told: dict[str, Any] = json.loads(line)
        return told

    def result(self, limit: float) -> dict[str, Any]:
        """Its next line, which has to tell of no failed operation.

        :raises LoadError: as `hear`, and for failed operations.
        """
        told = self.hear(limit)
        if told["failures"]:
            raise LoadError(f"{told['failures']} failed, the first: {told['first_failure']}")
        return told

    def end(self) -> None:
        """End of input, which ends it; if not, the hard way."""
        self._input.close()
        self._output.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)


@contextmanager
def generating(program: Path, mode: str, **options: float) -> Iterator[Generator]:
    """A generator that is gone afterwards."""
    generator = Generator(program, mode, **options)
    try:
        yield generator
    finally:
        generator.end()


@contextmanager
def application(program: Path, port: int = 0) -> Iterator[tuple[int, int]]:
    """The application; gives its port and its process ID."""
    with generating(program, "serve", port=port) as generator:
        yield int(generator.hear(10)["port"]), generator.pid
