"""
Tables that find, for one connection, the few of many rules that can be about it.

Ring 1. One table serves one listener, port or service. It has a dictionary of exact IDs, tries of the patterns'
segments and labels, and a sorted line of networks: what a question costs depends on the ID's segments, not on how many
rules there are.

A bucket is a list of rules in the order of their rank. Behind a rule that nothing more is asked of none can decide, and
none is kept, unless all are wanted.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence

import attrs

from tcpmesh.dns_patterns import ONE, DnsPattern
from tcpmesh.policy.identities import IdPattern
from tcpmesh.policy.networks import Network, source_number
from tcpmesh.policy.times import Schedule
from tcpmesh.values import Address, AuthorizationRequest, Decision, PeerIdentity

__all__ = ["Bucket", "Guard", "Rule", "Selector", "Sought", "Table", "sought"]

#: What is asked of a request beside the selector that a rule is found by.
Guard = Callable[[AuthorizationRequest], bool]

#: What a rule is found by; None is every peer.
Selector = IdPattern | DnsPattern | Network | None


@attrs.frozen(eq=False)
class Rule:
    """
    One selector of one policy's ``from``, ready to be asked.

    :ivar rank: the lowest of those that match decides: denials in the order of the files, then the others.
    :ivar guard: what else must fit; None if nothing.
    :ivar schedule: when it holds; None for always.
    """

    rank: int
    selector: Selector
    decision: Decision
    guard: Guard | None = None
    schedule: Schedule | None = None

    @property
    def is_final(self) -> bool:
        """Whether being found is all that it takes."""
        return self.guard is None and self.schedule is None


Bucket = list[Rule]


class _Node:
    """A place in a trie: what ends here, what goes on below whatever follows, and what follows."""

    __slots__ = ("below", "children", "here", "star")

    def __init__(self) -> None:
        self.here: Bucket | None = None
        self.below: Bucket | None = None
        self.star: _Node | None = None
        self.children: dict[str, _Node] = {}

    def step(self, part: str) -> _Node:
        """The place behind a segment or label, made if it is not there yet."""
        if part == ONE:
            if self.star is None:
                self.star = _Node()
            return self.star
        return self.children.setdefault(part, _Node())

    def find(self, parts: Sequence[str], found: list[Bucket]) -> None:
        """Add the buckets of every pattern that these segments or labels fit."""
        level = [self]
        for part in parts:
            following = []
            for node in level:
                if node.below is not None:
                    found.append(node.below)
                child = node.children.get(part)
                if child is not None:
                    following.append(child)
                if node.star is not None:
                    following.append(node.star)
            if not following:
                return
            level = following
        found += [node.here for node in level if node.here is not None]


#: A peer in the form that tables are asked with: its SPIFFE ID without the scheme, the same as trust domain and
#: segments; without an ID the labels of its DNS name, the last one first; its address as ``source_number`` gives it.
Sought = tuple[str, Sequence[str], Sequence[str], int | None]


def sought(peer: PeerIdentity, source: Address) -> Sought:
    """Prepare a question: once for all tables that are asked."""
    identity = peer.spiffe_id
    if identity is not None:
        key = identity.trust_domain.name + identity.path  # a trust domain holds no slash
        return key, key.split("/"), (), source_number(source)
    name = peer.dns_name
    labels = name.lower().split(".")[::-1] if name.isascii() and name.isprintable() else ()
    return "", (), () if "" in labels else labels, source_number(source)


class Table:
    """
    The rules that may be about one listener, port or service.

    :param keep_all: also rules behind one that is final, for whoever wants to know all that match.
    """

    __slots__ = ("_buckets", "_dns", "_every", "_exact", "_firsts", "_keep_all", "_networks", "_root")

    def __init__(self, rules: Iterable[Rule], *, keep_all: bool = False) -> None:
        """:param rules: in the order of their rank."""
        self._keep_all = keep_all
        self._exact: dict[str, Bucket] = {}
        self._root: _Node | None = None
        self._dns: _Node | None = None
        self._every: Bucket = []
        self._networks: dict[tuple[int, int], Bucket] = {}
        for rule in rules:
            self._add(rule)
        self._firsts, self._buckets = self._line()

    def find(self, peer: Sought, found: list[Bucket]) -> None:
        """Add what can be about a peer, in any order."""
        key, parts, labels, place = peer
        if self._every:
            found.append(self._every)
        if key:
            bucket = self._exact.get(key)
            if bucket is not None:
                found.append(bucket)
            if self._root is not None:
                self._root.find(parts, found)
        elif labels and self._dns is not None:
            self._dns.find(labels, found)
        if place is not None and self._firsts:
            index = bisect_right(self._firsts, place)
            if index:
                found.append(self._buckets[index - 1])

    def _add(self, rule: Rule) -> None:
        selector = rule.selector
        if selector is None:
            bucket = self._every
        elif isinstance(selector, Network):
            bucket = self._networks.setdefault((selector.first, selector.last), [])
        elif isinstance(selector, DnsPattern):
            if self._dns is None:
                self._dns = _Node()
            bucket = _bucket(self._dns, selector.labels, selector.deep)
        elif selector.is_exact:
            bucket = self._exact.setdefault("/".join(selector.segments), [])
        else:
            if self._root is None:
                self._root = _Node()
            bucket = _bucket(self._root, selector.segments, selector.deep)
        if self._keep_all or not (bucket and bucket[-1].is_final):
            bucket.append(rule)

    def _line(self) -> tuple[list[int], list[Bucket]]:
        """
        Cut the line of addresses where a network begins or ends.

        :return: where each piece begins, and the rules of all networks that hold it. Networks lie within each other or
            apart, so a stack holds those that are open.
        """
        firsts: list[int] = []
        buckets: list[Bucket] = []
        open_now: list[tuple[int, Bucket]] = []

        def cut(place: int) -> None:
            if firsts and firsts[-1] == place:
                firsts.pop()
                buckets.pop()
            firsts.append(place)
            buckets.append(open_now[-1][1] if open_now else [])

        for (first, last), bucket in sorted(self._networks.items(), key=lambda entry: (entry[0][0], -entry[0][1])):
            while open_now and open_now[-1][0] < first:
                cut(open_now.pop()[0] + 1)
            inherited = open_now[-1][1] if open_now else []
            open_now.append((last, self._merged(bucket, inherited)))
            cut(first)
        while open_now:
            cut(open_now.pop()[0] + 1)
        self._networks.clear()
        return firsts, buckets

    def _merged(self, one: Bucket, other: Bucket) -> Bucket:
        if not other:
            return one
        merged = sorted([*one, *other], key=lambda rule: rule.rank)
        if not self._keep_all:
            for index, rule in enumerate(merged):
                if rule.is_final:
                    return merged[: index + 1]
        return merged


def _bucket(root: _Node, parts: Sequence[str], deep: bool) -> Bucket:
    node = root
    for part in parts:
        node = node.step(part)
    if deep:
        node.below = node.below if node.below is not None else []
        return node.below
    node.here = node.here if node.here is not None else []
    return node.here
