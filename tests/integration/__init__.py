"""
Tests against real processes: twistd, and the servers and peers that Debian packages.

A machine without one of those skips its tests, saying what is missing; with TCPMESH_REQUIRE_ALL=1, as in continuous
integration, that is a failure.
"""

from __future__ import annotations

import glob
import os
import shutil
from typing import NoReturn

from twisted.trial.unittest import SkipTest

__all__ = ["program", "skip_or_fail"]

# Where Debian puts servers that are not on an ordinary user's path.
_ELSEWHERE = ("/usr/sbin", "/usr/lib/postgresql/*/bin")


def skip_or_fail(reason: str) -> NoReturn:
    """
    Leave the test that calls this, since something it needs is not there.

    :raises SkipTest: where that is nobody's fault.
    :raises AssertionError: where everything was promised to be there.
    """
    if os.environ.get("TCPMESH_REQUIRE_ALL") == "1":
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
