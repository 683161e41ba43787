"""
Limits of policies as docs/policy-limits.md describes them, counted by looking at every connection each time.

Shares no code with the product. Rates are buckets of tokens in exact numbers, and nobody is ever forgotten.
"""

from __future__ import annotations

import ipaddress
from fractions import Fraction
from typing import Any

Limit = dict[str, Any]  # name, per, connections, rate, burst, enforced, ipv4_bits, ipv6_bits
Who = dict[str, str]  # identity, source, listener


class NaiveLimits:
    """Live connections by number, and what is left of everybody's rate."""

    def __init__(self) -> None:
        self.now = Fraction(0)
        self.limits: list[Limit] = []
        self.live: dict[int, tuple[Who, set[tuple[str, tuple[str, ...]]]]] = {}  # with the limits that only noted it
        self.left: dict[tuple[str, tuple[str, ...], tuple[Any, ...]], tuple[Fraction, Fraction]] = {}

    def use(self, limits: list[Limit]) -> None:
        """Other limits hold; who owes, owes as many seconds as before, but no more than the new bucket takes."""
        before = {(limit["name"], limit["per"]): limit for limit in self.limits}
        left = {}
        for limit in limits:
            name, per = limit["name"], limit["per"]
            old = before.get((name, per))
            if old is None or not old["rate"] or not limit["rate"]:
                continue
            for key, (tokens, when) in self.left.items():
                if key[:2] == (name, per):
                    tokens = min(Fraction(old["burst"]), tokens + (self.now - when) * Fraction(old["rate"]))
                    owed = (old["burst"] - tokens) / Fraction(old["rate"])
                    owed = min(owed, limit["burst"] / Fraction(limit["rate"]))
                    left[key] = (limit["burst"] - owed * Fraction(limit["rate"]), self.now)
        self.left = left
        self.limits = limits
        names = {(limit["name"], limit["per"]) for limit in limits}
        self.live = {number: (who, noted & names) for number, (who, noted) in self.live.items()}

    def open(self, number: int, who: Who) -> tuple[bool, list[str]]:
        """Whether it may come in, and the names of the limits that had no room, up to the one that refused."""
        full, noted = [], set()
        for limit in self.limits:
            if self._has_room(limit, who):
                continue
            full.append(limit["name"])
            if limit["enforced"]:
                return False, full
            noted.add((limit["name"], limit["per"]))
        for limit in self.limits:
            if limit["rate"] and (limit["name"], limit["per"]) not in noted:
                key = (limit["name"], limit["per"], key_of(limit, who))
                self.left[key] = (self._tokens(limit, who) - 1, self.now)
        self.live[number] = (who, noted)
        return True, full

    def count(self, limit: Limit, who: Who) -> int:
        """How many live connections count together with this one."""
        return sum(
            key_of(limit, other) == key_of(limit, who) and (limit["name"], limit["per"]) not in noted
            for other, noted in self.live.values()
        )

    def _has_room(self, limit: Limit, who: Who) -> bool:
        if limit["connections"] is not None and self.count(limit, who) >= limit["connections"]:
            return False
        return not limit["rate"] or self._tokens(limit, who) >= 1

    def _tokens(self, limit: Limit, who: Who) -> Fraction:
        key = (limit["name"], limit["per"], key_of(limit, who))
        tokens, when = self.left.get(key, (Fraction(limit["burst"]), self.now))
        return min(Fraction(limit["burst"]), tokens + (self.now - when) * Fraction(limit["rate"]))


def key_of(limit: Limit, who: Who) -> tuple[Any, ...]:
    """What must be equal for two connections to count together."""
    return tuple(_part(part, limit, who) for part in limit["per"])


def _part(part: str, limit: Limit, who: Who) -> Any:
    if part not in ("source", "network"):
        return who[part]
    if who["source"].startswith("unix:"):
        return None
    address = ipaddress.ip_address(who["source"])
    address = getattr(address, "ipv4_mapped", None) or address
    if part == "source":
        return address
    bits = limit["ipv4_bits"] if address.version == 4 else limit["ipv6_bits"]
    return ipaddress.ip_network((address, bits), strict=False)
