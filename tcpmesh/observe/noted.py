"""
What policies that decide nothing would have done, counted by identity: ``audit`` and ``mode: dry-run``.

Ring 3, without I/O. Strangers choose how many identities there are, so only so many are told apart.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from tcpmesh.observe.records import MAX_TEXT, ConnectionRecord, bounded
from tcpmesh.observe.text import printable

__all__ = ["MAX_ENTRIES", "OTHERS", "NotedPolicies"]

MAX_ENTRIES = 1000  # sets of policy, place, listener and identity
OTHERS = "(others)"  # what the identities behind that many are together
_MAX_GROUPS = 200  # sets without the identity that are still told apart then
_SHORT, _LONG = 256, 400  # characters

_Key = tuple[str, str, str, str, str]  # says, policy, rule, where, identity


class NotedPolicies:
    """
    Counts each connection once for every policy that noted it.

    :param limit: how many sets of labels are kept; behind that, identities are counted together.
    """

    def __init__(self, limit: int = MAX_ENTRIES) -> None:
        self._limit = limit
        self._counts: Counter[_Key] = Counter()
        #: Connections whose notes found no place at all.
        self.left_out = 0

    def note(self, record: ConnectionRecord) -> None:
        """A connection was decided."""
        where = record.dst_service if record.direction == "outbound" else record.listener
        for note in record.notes:
            what = (_kept(note.says, _SHORT), _kept(note.policy, _SHORT), _kept(note.rule, _LONG), where)
            key: _Key = (*what, _kept(record.src_identity))
            if key not in self._counts and len(self._counts) >= self._limit:
                key = (*what, OTHERS)
                if key not in self._counts and len(self._counts) >= self._limit + _MAX_GROUPS:
                    self.left_out += 1
                    continue
            self._counts[key] += 1

    def report(self) -> dict[str, Any]:
        """Plain JSON values, those with the most connections first."""
        return {
            "notes": [
                {"says": says, "policy": policy, "rule": rule, "where": where, "identity": identity, "connections": n}
                for (says, policy, rule, where, identity), n in self._counts.most_common()
            ],
            "left_out": self.left_out,
        }


def _kept(text: str, limit: int = MAX_TEXT) -> str:
    """Cut before and after escapes have made it longer."""
    return bounded(printable(text, limit), limit)
