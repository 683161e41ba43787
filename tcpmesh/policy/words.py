"""
How the values of the policy language are written.

Ring 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tcpmesh.policy.identities import (
    DnsPattern,
    IdPattern,
    IdPrefix,
    parse_dns_pattern,
    parse_id_pattern,
    parse_id_prefix,
)
from tcpmesh.policy.limit_language import Rate, parse_rate
from tcpmesh.policy.networks import Network, parse_network
from tcpmesh.policy.times import Hours, TimeZone, parse_hours, parse_zone

__all__ = ["WORDS"]

#: By type: what is expected, with its article, and the function that reads it or raises ValueError.
WORDS: Mapping[Any, tuple[str, Callable[[str], Any]]] = {
    IdPattern: (
        'a SPIFFE ID such as "spiffe://example.org/orders" or "spiffe://example.org/ns/*/web"',
        parse_id_pattern,
    ),
    IdPrefix: ('the beginning of SPIFFE IDs such as "spiffe://example.org/ns/batch/"', parse_id_prefix),
    DnsPattern: ('a DNS name such as "db.example.com" or "*.example.com"', parse_dns_pattern),
    Network: ('a network such as "10.0.0.0/8" or "fd00::/8"', parse_network),
    Hours: ('a part of a day such as "08:00-18:00"', parse_hours),
    Rate: ("a rate such as 10/s, 600/m or 100/h", parse_rate),
    TimeZone: ("a time zone such as Europe/Berlin", parse_zone),
}
