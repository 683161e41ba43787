"""
What can go wrong, as data: one base class, one code each.

Ring 0. Imports only codes.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from tcpmesh.codes import Code

__all__ = ["ConfigurationError", "Mark", "Problem", "Refusal", "StartError", "TcpmeshError"]


class TcpmeshError(Exception):
    """Base of every error that tcpmesh raises on purpose."""


@attrs.frozen
class Mark:
    """Where in which file something was written; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@attrs.frozen
class Problem:
    """One thing wrong with a configuration."""

    message: str
    mark: Mark | None = None

    def __str__(self) -> str:
        return f"{self.mark}: {self.message}" if self.mark else self.message


class ConfigurationError(TcpmeshError):
    """A configuration that cannot be used; it carries every problem found, not only the first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class StartError(TcpmeshError):
    """The proxy cannot start: a busy port, a state directory that somebody else owns, …: one line that says it."""

    def __init__(self, code: Code, reason: str) -> None:
        self.code = code
        self.reason = reason
        super().__init__(f"{code.id} {reason}")


class Refusal(TcpmeshError):
    """
    A connection, or one attempt at it, that must not go on.

    :param code: which rule refused it; the same code in log, record, metric and preface.
    :param reason: one sentence for the reader of the log: what was expected, what came.
    :param errno: the system error's name where there was one, such as ``ECONNREFUSED``.
    """

    def __init__(self, code: Code, reason: str, errno: str = "") -> None:
        self.code = code
        self.reason = reason
        self.errno = errno
        super().__init__(f"{code.id} {reason}")
