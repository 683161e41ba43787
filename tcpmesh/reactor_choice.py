"""
Which of Twisted's reactors runs the proxy: the one that the user names, else ours where there is epoll.

Ring 4. Imports a reactor only to install it; to be asked before anything imports ``twisted.internet.reactor``.
"""

from __future__ import annotations

import select
import sys
from typing import Any

from twisted.logger import Logger

__all__ = ["install_default", "install_named", "most_files"]

_FD_SETSIZE = 1024  # of select(2), in the C library

_log = Logger(namespace="tcpmesh")


def install_default() -> None:
    """
    Install ours, unless a reactor is installed already.

    Where ours cannot be, the choice is left to Twisted; the start-up block names the reactor that it was.
    """
    if "twisted.internet.reactor" in sys.modules or not hasattr(select, "epoll"):
        return
    from tcpmesh.net import reactor

    try:
        reactor.install()
    except ImportError as problem:
        _log.warn("{problem}; a reactor of Twisted's is used, which is slower", problem=problem)


def install_named(name: str) -> None:
    """
    Install the reactor that twistd knows under this name.

    :raises ValueError: when there is none, or when it cannot be used here, saying what there is instead.
    """
    from twisted.application.reactors import NoSuchReactor, getReactorTypes, installReactor

    try:
        installReactor(name)
    except NoSuchReactor:
        names = ", ".join(sorted(each.shortName for each in getReactorTypes()))
        raise ValueError(f"there is no reactor {name!r}; there are: {names}") from None
    except Exception as problem:  # a foreign toolkit may fail in any way it likes
        raise ValueError(
            f"the reactor {name!r} cannot be used: {problem}; twistd --help-reactors lists those that can"
        ) from problem


def most_files(reactor: Any) -> int | None:
    """Tell how many files, numbered from 0, a reactor can watch; None for as many as the process may open."""
    module = sys.modules.get("twisted.internet.selectreactor")
    return _FD_SETSIZE if module is not None and isinstance(reactor, module.SelectReactor) else None
