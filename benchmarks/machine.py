"""On what a run was made: without this its figures mean nothing."""

from __future__ import annotations

import os
import platform
import re
import resource
import subprocess
from pathlib import Path

import cryptography
import OpenSSL
import twisted
from OpenSSL import SSL

ROOT = Path(__file__).parents[1]


def facts() -> dict[str, str]:
    """Hardware, kernel, limits, and versions of what tcpmesh stands on."""
    flags = _first(r"^flags\s*: (.*)$", "/proc/cpuinfo").split()
    return {
        "processor": _first(r"^model name\s*: (.*)$", "/proc/cpuinfo") or platform.machine(),
        "processors": str(os.cpu_count()),
        "cryptography in hardware": " ".join(flag for flag in ("aes", "vaes", "avx2", "avx512f") if flag in flags),
        "memory": f"{int(_first(r'^MemTotal: +([0-9]+) kB', '/proc/meminfo') or 0) * 1024 / 1e9:.1f} GB",
        "kernel": f"{platform.system()} {platform.release()}",
        "open files": str(resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "Twisted": twisted.__version__,
        "pyOpenSSL": OpenSSL.__version__,
        "cryptography": cryptography.__version__,
        "OpenSSL of cryptography": SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode(),
        "tcpmesh": _commit(),
    }


def _first(pattern: str, path: str) -> str:
    found = re.search(pattern, Path(path).read_text(), re.MULTILINE)
    return found[1] if found else ""


def _commit() -> str:
    """The commit, and whether the tree differs from it."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown commit"
    return done.stdout.strip()
