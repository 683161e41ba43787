"""
Collects what is wrong with a configuration, and words the hints that most complaints end with.

Ring 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import NoReturn

from tcpmesh.errors import ConfigurationError, Mark, Problem

__all__ = ["Problems", "closest", "did_you_mean", "enumerate_words"]

# Beyond this many nobody reads on; the bound keeps a hostile or mangled file from costing time and memory.
MAX_PROBLEMS = 50
_MAX_COMPARED = 1000  # names that a suggestion is chosen from
_MAX_WORD = 64  # characters of a word that is worth comparing


class Problems:
    """What was found so far in one file, each once."""

    def __init__(self, file: str) -> None:
        self.file = file
        self._found: dict[Problem, None] = {}

    def __len__(self) -> int:
        return len(self._found)

    def add(self, message: str, mark: Mark | None = None) -> None:
        """
        Take note, and go on.

        :raises ConfigurationError: when there are too many to go on.
        """
        self._found[Problem(message, mark)] = None
        if len(self._found) >= MAX_PROBLEMS:
            self.fail(f"{self.file}: there are more problems; these are the first {MAX_PROBLEMS} that were found")

    def fail(self, message: str, mark: Mark | None = None) -> NoReturn:
        """Take note, and give up: nothing after this could be understood."""
        self._found[Problem(message, mark)] = None
        raise ConfigurationError(self.in_order())

    def conceal(self, known: int, message: str) -> None:
        """Replace the message of everything but the first ``known``, as it may show a secret."""
        for problem in list(self._found)[known:]:
            del self._found[problem]
            self._found[Problem(message, problem.mark)] = None

    def raise_if_any(self) -> None:
        """
        End the reading.

        :raises ConfigurationError: with everything that was found, in the order of the file.
        """
        if self._found:
            raise ConfigurationError(self.in_order())

    def in_order(self) -> Sequence[Problem]:
        """Everything found, in the order of the file; what has no place comes last."""
        return sorted(
            self._found,
            key=lambda problem: (0, problem.mark.line, problem.mark.column) if problem.mark is not None else (1, 0, 0),
        )


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that ``word`` is probably a misspelling of, if there is one."""
    if len(word) > _MAX_WORD or not any(character.isalpha() for character in word):
        return None
    candidates = {name.lower(): name for name in list(known)[:_MAX_COMPARED]}
    found = difflib.get_close_matches(word.lower().replace("_", "-"), _spellings(candidates), n=1, cutoff=0.65)
    return _spellings(candidates)[found[0]] if found else None


def _spellings(names: dict[str, str]) -> dict[str, str]:
    return {lower.replace("_", "-"): name for lower, name in names.items()}


def did_you_mean(word: str, known: Iterable[str], what: str = "") -> str:
    """
    The end of a complaint about an unknown word: what was probably meant, else everything that is known.

    :param what: how the known words are called when all of them are listed; without it they are not.
    """
    known = list(known)
    suggestion = closest(word, known)
    if suggestion is not None:
        return f"; did you mean {suggestion!r}?"
    if not what:
        return ""
    if not known:
        return "; there are none at all"
    more = f" and {len(known) - 20} more" if len(known) > 20 else ""
    return f"; {what}: {', '.join(known[:20])}{more}"


def enumerate_words(words: Sequence[str]) -> str:
    """Write ``a``, ``a or b``, ``a, b or c``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
