"""
What name servers answer, and what follows from it: addresses, for how long, or that there are none.

Ring 1, pure. TTLs are in seconds; names are in lower case without a final dot.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import attrs

from tcpmesh.addresses import TCPAddress
from tcpmesh.discovery.endpoint_rules import MAX_NUMBER, undialable
from tcpmesh.values import Endpoint

__all__ = [
    "MAX_CHAIN",
    "MAX_TARGETS",
    "Answer",
    "Found",
    "Record",
    "ServiceRecord",
    "Unfinished",
    "endpoints_at",
    "find",
    "found_besides",
    "merged",
    "rcode_name",
    "services_in",
]

RecordType = Literal["A", "AAAA", "SRV"]

MAX_CHAIN = 16  # CNAMEs from the name that was asked for to its addresses
MAX_TARGETS = 256  # of SRV records: each may have to be asked for
_MAX_TTL = 2**31 - 1  # a larger one is none (RFC 2181 section 8)
_RARE = 100  # an SRV weight of 0 beside others: a hundredth of a weight of 1 (RFC 2782: "a very small chance")
_CODES = {1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED"}
NXDOMAIN = 3


def rcode_name(code: int) -> str:
    """What a response code is called (RFC 1035 section 4.1.1)."""
    return _CODES.get(code, f"RCODE {code}")


@attrs.frozen
class Record:
    """One resource record of those that are read; ``data`` is an address, a CNAME's or SRV's target, or nothing."""

    name: str
    type: str
    ttl: int
    data: str = ""
    priority: int = 0  # SRV
    weight: int = 0  # SRV
    port: int = 0  # SRV
    minimum: int = 0  # SOA: how long it may be remembered that something is not there


@attrs.frozen
class Answer:
    """One server's; ``code`` is 0 for a good one, 3 (NXDOMAIN) when the name does not exist."""

    code: int
    answers: tuple[Record, ...] = ()
    authority: tuple[Record, ...] = ()
    additional: tuple[Record, ...] = ()
    final: bool = True  # whether the server knows it itself, or asks those who do (the flags AA and RA)


@attrs.frozen
class Found:
    """
    What there is of one type at a name.

    :ivar ttl: how long that is true; None when the answer does not say.
    :ivar exists: whether the name is there at all, with records of other types perhaps.
    :ivar alias: the name that CNAMEs lead to, of which all this is said; empty for the name that was asked for.
    """

    records: tuple[Record, ...]
    ttl: int | None
    exists: bool = True
    additional: tuple[Record, ...] = ()
    alias: str = ""


@attrs.frozen
class Unfinished:
    """The name is another name for ``name``, about which the answer says nothing: ask for that."""

    name: str
    ttl: int
    steps: int


def find(answer: Answer, name: str, kind: RecordType) -> Found | Unfinished:
    """
    Take from an answer what it says of a name, following its CNAMEs.

    :raises ValueError: when they lead in a circle or are too many; when the answer is a failure, or no answer.
    """
    if answer.code not in (0, NXDOMAIN):
        raise ValueError(rcode_name(answer.code))
    aliases = {record.name: record for record in answer.answers if record.type == "CNAME"}
    ttl, steps, asked, alias = _MAX_TTL, 0, name, ""
    while name in aliases:
        steps += 1
        if steps > MAX_CHAIN:
            raise ValueError(f"the CNAMEs of {asked} lead in a circle, or there are more than {MAX_CHAIN}")
        ttl = min(ttl, _sane(aliases[name].ttl))
        name = alias = aliases[name].data
    records = tuple(sorted({r for r in answer.answers if r.type == kind and r.name == name}, key=_order))
    if records:
        return Found(records, min(ttl, *(_sane(record.ttl) for record in records)), True, answer.additional, alias)
    negative = [min(_sane(soa.ttl), _sane(soa.minimum)) for soa in answer.authority if soa.type == "SOA"]
    if steps and not negative and answer.code == 0:
        return Unfinished(name, ttl, steps)
    if not negative and answer.code == 0 and not answer.final:
        # RFC 2308 section 2.2: a referral, which is no word that there is nothing.
        raise ValueError("it has no answer and would ask nobody: it is no server for this name, nor a resolver")
    return Found((), min(ttl, *negative) if negative else None, answer.code == 0, alias=alias)


def found_besides(found: Found, name: str, kind: RecordType) -> Found | None:
    """What the additional section of an answer says of another name; None when it says nothing."""
    records = tuple(record for record in found.additional if record.type == kind and record.name == name)
    return Found(records, min(_sane(record.ttl) for record in records)) if records else None


def _sane(ttl: int) -> int:
    return ttl if 0 <= ttl <= _MAX_TTL else 0


def _order(record: Record) -> tuple[int, int, int, str, int]:
    return record.priority, -record.weight, record.port, record.data, record.ttl


@attrs.frozen
class ServiceRecord:
    """One server of a service: its name and port, and when it is to be used."""

    target: str
    port: int
    priority: int
    weight: int


def services_in(found: Found) -> tuple[ServiceRecord, ...]:
    """
    Read SRV records (RFC 2782); none when the service is said not to be there (target ``.``).

    Weights become ours, of which 0 gets nothing: where all are 0 they are equal, else a 0 gets a hundredth of a 1.
    """
    records = [record for record in found.records if record.data]
    weights: dict[int, list[int]] = {}
    for record in records:
        weights.setdefault(record.priority, []).append(record.weight)
    services = []
    for record in records:
        of_priority = weights[record.priority]
        factor = min(_RARE, MAX_NUMBER // max(1, *of_priority)) if min(of_priority) == 0 < max(of_priority) else 1
        services.append(ServiceRecord(record.data, record.port, record.priority, max(1, record.weight * factor)))
    return tuple(services)


def endpoints_at(
    hosts: Iterable[str], service: ServiceRecord | None = None, port: int = 0
) -> tuple[tuple[Endpoint, ...], tuple[str, ...]]:
    """
    The endpoints at IP addresses, those of ``service`` or all alike at ``port``.

    :return: in the order of addresses; and why others cannot be used.
    """
    good, bad = [], []
    for host in sorted(set(hosts), key=lambda one: (":" in one, one)):
        address = TCPAddress(host, service.port if service is not None else port)
        why = undialable(address)
        if why:
            bad.append(why)
        elif service is None:
            good.append(Endpoint(address))
        else:
            good.append(
                Endpoint(
                    address,
                    weight=service.weight,
                    priority=service.priority,
                    metadata=(("dns", service.target),),
                )
            )
    return tuple(good), tuple(bad)


def merged(endpoints: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
    """Each address once, as its least priority and then its largest weight has it; in an order that does not change."""
    ranked = sorted(endpoints, key=lambda one: (one.priority, -one.weight, str(one.address)))
    found: dict[object, Endpoint] = {}
    for endpoint in ranked:
        found.setdefault(endpoint.address, endpoint)
    return tuple(sorted(found.values(), key=lambda one: (one.priority, str(one.address))))
