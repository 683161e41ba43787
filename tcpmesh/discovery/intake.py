"""
What a discovery delivers, made fit for use: a bounded set of endpoints of which each address is there once.

Ring 1, pure. A plugin is not trusted to keep its own rules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import islice

import attrs

from tcpmesh.discovery.endpoint_rules import MAX_ENDPOINTS, complaint
from tcpmesh.values import Address, Endpoint

__all__ = ["Change", "Intake", "change", "few", "take_in"]

_SHOWN = 3  # complaints, and addresses of one kind of change, in one line


@attrs.frozen
class Intake:
    """The endpoints that can be used, and what is to be said of the others: one sentence, empty for nothing."""

    endpoints: tuple[Endpoint, ...]
    remark: str = ""


def take_in(delivered: Iterable[object], known: Collection[Endpoint], refuses: Callable[[Endpoint], str]) -> Intake:
    """
    Sort out what cannot be used; of several endpoints with one address, the first counts.

    :param known: endpoints that were found good before, and are not looked at again.
    :param refuses: why an endpoint that is good by itself must not be used by this service; empty when it may.
    :raises ValueError: when something was delivered and nothing of it can be used, or it cannot be gone through:
        that is no word of the plugin's that there are no endpoints.
    """
    complaints: Counter[str] = Counter()
    found: dict[Address, Endpoint] = {}
    count = 0
    try:
        for one in islice(delivered, MAX_ENDPOINTS + 1):
            count += 1
            if count > MAX_ENDPOINTS:
                complaints[f"there are more than {MAX_ENDPOINTS}, of which those are used"] += 1
                break
            why = "" if isinstance(one, Endpoint) and _is_known(one, known) else complaint(one)
            why = why or (refuses(one) if isinstance(one, Endpoint) else "")
            if why:
                complaints[why] += 1
            elif isinstance(one, Endpoint) and found.setdefault(one.address, one) is not one:
                complaints[f"{one.address} comes twice, and the first counts"] += 1
    except Exception as error:
        raise ValueError(f"it delivered something that is no list of endpoints: {type(error).__name__}") from error
    if count and not found:
        raise ValueError(f"nothing of what it delivered can be used: {_listed(complaints)}")
    return Intake(tuple(found.values()), _listed(complaints))


def _is_known(endpoint: Endpoint, known: Collection[Endpoint]) -> bool:
    try:
        return endpoint in known
    except TypeError:  # a field that cannot be hashed, of a plugin that does not look at types
        return False


def _listed(complaints: Counter[str]) -> str:
    shown = [f"{text} ({count} times)" if count > 1 else text for text, count in islice(complaints.items(), _SHOWN)]
    more = len(complaints) - len(shown)
    return "; ".join([*shown, f"and {more} more"] if more > 0 else shown)


@attrs.frozen
class Change:
    """What is different between two sets of endpoints; an endpoint is its address."""

    added: tuple[Address, ...]
    removed: tuple[Address, ...]
    altered: tuple[Address, ...]  # the weight or something else that is said of it

    def __str__(self) -> str:
        """Say ``2 added (…), 1 removed (…)``; empty when nothing is different."""
        kinds = (("added", self.added), ("removed", self.removed), ("altered", self.altered))
        return ", ".join(f"{len(addresses)} {word} ({few(addresses)})" for word, addresses in kinds if addresses)


def few(addresses: Sequence[Address]) -> str:
    """Some of the addresses, and how many more there are."""
    more = len(addresses) - _SHOWN
    return ", ".join([*map(str, addresses[:_SHOWN]), *([f"and {more} more"] if more > 0 else [])])


def change(before: Iterable[Endpoint], now: Iterable[Endpoint]) -> Change:
    """Compare two sets."""
    old = {endpoint.address: endpoint for endpoint in before}
    new = {endpoint.address: endpoint for endpoint in now}
    return Change(
        added=tuple(address for address in new if address not in old),
        removed=tuple(address for address in old if address not in new),
        altered=tuple(address for address, endpoint in new.items() if address in old and old[address] != endpoint),
    )
