"""
Fresh virtual environments for tests of what is installed how.

An environment sees the packages of the one that runs the tests, so nothing is downloaded; what the test installs comes
first. Building needs hatchling there: ``pip install --group test``.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path
from unittest import SkipTest

ROOT = Path(__file__).parents[1]
PATIENCE = 300.0  # seconds that an installation may take on a busy machine


def needs(*modules: str) -> None:
    """
    Skip the test when a tool is not installed.

    :raises SkipTest: naming the command that installs it.
    """
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise SkipTest(f"not installed: {', '.join(missing)}; pip install {' '.join(missing)}")


def without_ours() -> dict[str, str]:
    """The process's environment variables without those that would let Python find the checkout."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TCPMESH_", "VIRTUAL"))}


def run(*command: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, whatever that is."""
    return subprocess.run(
        command, cwd=directory, env=without_ours(), capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def succeed(*command: str, directory: Path) -> str:
    """
    Run a command and give its standard output.

    :raises AssertionError: with all that it wrote, when it fails.
    """
    result = run(*command, directory=directory)
    if result.returncode:
        raise AssertionError(f"{' '.join(command)} ended with {result.returncode}\n{result.stdout}\n{result.stderr}")
    return result.stdout


@functools.cache
def source_copy() -> Path:
    """
    A copy of what a distribution is built from.

    Not the checkout itself: other tests write caches into it while this one builds. It has a ``dropin.cache`` beside
    the drop-in, as every checkout has in which something ran.
    """
    needs("pip", "hatchling")
    copy = Path(tempfile.mkdtemp(prefix="tcpmesh-source-")).resolve()
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, copy / name)
    for name in ("tcpmesh", "twisted", "examples"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "_trial_temp*"))
    (copy / "twisted" / "plugins" / "dropin.cache").write_bytes(b"stale")
    return copy


class Environment:
    """A virtual environment in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.resolve()
        self.work = self.directory / "work"
        venv.create(self.directory, with_pip=False, symlinks=True)
        self.work.mkdir()
        self.python = str(self.directory / "bin" / "python")
        packages = Path(
            succeed(
                self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", directory=self.work
            ).strip()
        )
        # A path in a .pth file comes after the environment's own packages, and its own .pth files are not followed:
        # a checkout that is installed in the outer environment stays invisible here.
        paths = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
        (packages / "outer.pth").write_text("".join(f"{path}\n" for path in paths))

    def install(self, project: Path, *, editable: bool = False) -> None:
        """Install a project from its folder, without looking at any index."""
        command = [sys.executable, "-m", "pip", "--python", self.python, "install", "--quiet", "--no-index"]
        command += ["--no-deps", "--no-build-isolation", "--ignore-installed", "--disable-pip-version-check"]
        command += ["--editable"] if editable else []
        succeed(*command, str(project), directory=self.work)

    def module(self, *arguments: str) -> str:
        """``python -m …`` in the environment; it must succeed."""
        return succeed(self.python, "-m", *arguments, directory=self.work)

    def twistd(self, *arguments: str) -> str:
        """``twistd …`` in the environment; it must succeed."""
        program = "from twisted.scripts.twistd import run; run()"
        return succeed(self.python, "-c", program, *arguments, directory=self.work)
