"""
Endpoints as people list them: in the configuration, and in files beside it.

Ring 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from tcpmesh.discovery.endpoint_rules import (
    MAX_ENDPOINTS,
    expectation_complaint,
    metadata_complaint,
    number_complaint,
    undialable,
    zone_complaint,
)
from tcpmesh.values import Address, Endpoint, ExpectedIdentity

__all__ = ["ListedEndpoint", "address_of", "check_list", "endpoints_of"]


def _check_weight(_instance: object, _attribute: object, value: int) -> None:
    _refuse(number_complaint("weight", value))


def _check_zone(_instance: object, _attribute: object, value: str | None) -> None:
    _refuse(zone_complaint(value or ""))


def _check_priority(_instance: object, _attribute: object, value: int) -> None:
    _refuse(number_complaint("priority", value))


def _check_expect(_instance: object, _attribute: object, value: tuple[ExpectedIdentity, ...] | None) -> None:
    if value is not None:
        _refuse(
            expectation_complaint(value) or ("" if value else "the list is empty; leave it out, or name who may answer")
        )


def _check_metadata(_instance: object, _attribute: object, value: dict[str, str]) -> None:
    _refuse(metadata_complaint(value.items()))


def _refuse(complaint: str) -> None:
    if complaint:
        raise ValueError(complaint)


@attrs.frozen
class ListedEndpoint:
    """An endpoint of which more is said than its address."""

    address: Address
    weight: int = attrs.field(default=1, validator=_check_weight)  # its share among those of its priority; 0: none
    zone: str | None = attrs.field(default=None, validator=_check_zone)
    priority: int = attrs.field(default=0, validator=_check_priority)  # the least are used first
    expect: tuple[ExpectedIdentity, ...] | None = attrs.field(default=None, validator=_check_expect)
    metadata: dict[str, str] = attrs.field(factory=dict, validator=_check_metadata)


def address_of(entry: Address | ListedEndpoint) -> Address:
    """Where an entry of a list answers."""
    return entry.address if isinstance(entry, ListedEndpoint) else entry


def check_list(entries: Sequence[Address | ListedEndpoint]) -> None:
    """
    Hold the entries against each other.

    :raises ValueError: for an address that nobody can connect to, one that comes twice, and for too many.
    """
    if len(entries) > MAX_ENDPOINTS:
        raise ValueError(f"{len(entries)} endpoints are listed; a service has at most {MAX_ENDPOINTS}")
    seen: set[Address] = set()
    for entry in entries:
        address = address_of(entry)
        _refuse(undialable(address))
        if address in seen:
            raise ValueError(f"{address} is listed twice; give it a weight instead")
        seen.add(address)


def endpoints_of(entries: Sequence[Address | ListedEndpoint]) -> tuple[Endpoint, ...]:
    """The endpoints that the entries mean, in their order."""
    return tuple(_endpoint(entry) for entry in entries)


def _endpoint(entry: Address | ListedEndpoint) -> Endpoint:
    if not isinstance(entry, ListedEndpoint):
        return Endpoint(entry)
    return Endpoint(
        address=entry.address,
        weight=entry.weight,
        zone=entry.zone or "",
        priority=entry.priority,
        expect=entry.expect or (),
        metadata=tuple(sorted(entry.metadata.items())),
    )
