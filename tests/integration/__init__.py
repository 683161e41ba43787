"""
Tests against real processes: twistd, and the servers and peers that Debian packages, or that ``go install`` makes.

A machine without one of those skips its tests, saying what is missing; with TCPMESH_REQUIRE_ALL=1, as in continuous
integration, that is a failure, but for the programs that TCPMESH_LACKING names: what could not be had there.
"""

from __future__ import annotations

import glob
import os
import shutil
from pathlib import Path
from typing import NoReturn

from twisted.trial.unittest import SkipTest

__all__ = ["GO_PROGRAMS", "go_program", "program", "skip_or_fail"]

# Where Debian puts servers that are not on an ordinary user's path.
_ELSEWHERE = ("/usr/sbin", "/usr/lib/postgresql/*/bin")

# What installs each, and where, below the user's cache, "make spire" and its like put it.
GO_PROGRAMS = {
    "spire-server": ("go install github.com/spiffe/spire/cmd/spire-server@v1.15.3", "tcpmesh/spire-v1.15.3"),
    "spire-agent": ("go install github.com/spiffe/spire/cmd/spire-agent@v1.15.3", "tcpmesh/spire-v1.15.3"),
    "opa": ("go install github.com/open-policy-agent/opa@v1.9.0", "tcpmesh/opa-v1.9.0"),
    "ghostunnel": ("go install github.com/ghostunnel/ghostunnel@v1.11.1", "tcpmesh-bench/ghostunnel-v1.11.1"),
    "kafka_brokers": ("make kafka", "tcpmesh/kafka-brokers-2"),
}


def skip_or_fail(reason: str, lacking: str = "") -> NoReturn:
    """
    Leave the test that calls this, since something it needs is not there.

    :param lacking: the program that is missing, as TCPMESH_LACKING would name it.
    :raises SkipTest: where that is nobody's fault.
    :raises AssertionError: where everything was promised to be there.
    """
    excused = lacking in os.environ.get("TCPMESH_LACKING", "").split()
    if os.environ.get("TCPMESH_REQUIRE_ALL") == "1" and not excused:
        raise AssertionError(f"{reason}, and TCPMESH_REQUIRE_ALL=1 forbids to skip")
    raise SkipTest(reason)


def program(name: str, package: str) -> str:
    """
    Find a program, or leave the test.

    :param package: the Debian package that has it, for the reason.
    """
    places = [place for pattern in _ELSEWHERE for place in sorted(glob.glob(pattern), reverse=True)]
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        skip_or_fail(f"{name} is not installed (Debian: apt install {package})")
    return found


def go_program(name: str) -> str:
    """
    Find one of GO_PROGRAMS, or leave the test.

    Looked for in the directory that TCPMESH_SPIRE names, where ``make`` puts it, and on the path.
    """
    command, below = GO_PROGRAMS[name]
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    places = [os.environ.get("TCPMESH_SPIRE"), str(Path(cache, below))]
    found = shutil.which(name, path=os.pathsep.join(filter(None, places))) or shutil.which(name)
    if found is None:
        skip_or_fail(f"{name} is not installed ({command})", name)
    return found
