"""A process that is killed at any of its operations on the file system, as a machine may lose its power."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Collection


def killed_before(number: int, events: Collection[str], begin: Callable[[], Callable[[], object]]) -> bool:
    """
    Do something in a child that is killed before its n-th operation; false when it had fewer.

    :param events: what counts as an operation, as audit events (PEP 578) are named.
    :param begin: called in the child, before anything counts; gives what is to be done.
    :raises AssertionError: when it fails instead of being killed.
    """
    child = os.fork()
    if child == 0:
        count = 0

        def watch(event: str, _arguments: tuple[object, ...]) -> None:
            nonlocal count
            if event in events:
                count += 1
                if count == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            act = begin()
            sys.addaudithook(watch)
            act()
        except BaseException:
            os._exit(1)
        os._exit(0)
    _pid, status = os.waitpid(child, 0)
    if status == 256:
        raise AssertionError("the child failed instead of being killed")
    return os.WIFSIGNALED(status)
