"""
What a message of the Workload API brings to a source, fit for use.

Ring 1, no I/O: time is a parameter.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from tcpmesh.identity.own import verify_own
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.identity.workload_choice import choose
from tcpmesh.identity.workload_messages import read_bundles, read_svids
from tcpmesh.values import IdentitySnapshot, Svid, TrustBundle, Workload

__all__ = ["Delivery", "read_delivery"]

_REPORTED = 3  # defects of one message


@attrs.frozen(eq=False)
class Delivery:
    """The identities and bundles; what is wrong with other domains' bundles; which workloads get nothing, and why."""

    snapshot: IdentitySnapshot
    defects: tuple[str, ...]
    unserved: tuple[str, ...]


def read_delivery(
    message: bytes, workloads: Mapping[str, Workload], last: Mapping[TrustDomain, TrustBundle], now: float
) -> Delivery:
    """
    Read a message, choose what the workloads get, and verify it as a peer will.

    :param workloads: whom to serve; with none, the message holds bundles only.
    :param last: the bundles so far, of which one stays where the message has one that cannot be used.
    :param now: wall-clock seconds.
    :raises MessageError: for a message that must not be used.
    :raises Refusal: for an identity in it that must not be used.
    """
    answer = read_svids(message) if workloads else read_bundles(message)
    bundles = {domain: last[domain] for domain in answer.defects if domain in last}
    bundles.update(answer.bundles)
    choice = choose(answer.svids, workloads)
    svids: list[Svid] = []
    for offered in choice.offered:
        svid = offered.read()
        verify_own(svid, bundles, now)
        svids.append(svid)
    defects = tuple(sorted(answer.defects.values())[:_REPORTED])
    return Delivery(IdentitySnapshot(tuple(svids), bundles), defects, choice.unserved)
