"""
What a message of the Workload API brings to a source, fit for use.

Ring 1, no I/O: time is a parameter.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from cryptography import x509

from tcpmesh.errors import Refusal
from tcpmesh.identity.own import verify_own
from tcpmesh.identity.workload_choice import choose
from tcpmesh.identity.workload_messages import read_bundles, read_svids
from tcpmesh.values import IdentitySnapshot, Svid, Workload

__all__ = ["NOTHING", "Delivery", "read_delivery"]

_REPORTED = 3  # defects of one message


@attrs.frozen(eq=False)
class Delivery:
    """
    The identities and bundles; what is wrong with other domains' bundles; which workloads get nothing, and why.

    ``revoked`` are certificates that were offered although their authority has left the bundle.
    """

    snapshot: IdentitySnapshot
    defects: tuple[str, ...] = ()
    unserved: tuple[str, ...] = ()
    revoked: tuple[x509.Certificate, ...] = ()


NOTHING = Delivery(IdentitySnapshot((), {}))


def read_delivery(message: bytes, workloads: Mapping[str, Workload], last: Delivery, now: float) -> Delivery:
    """
    Read a message, choose what the workloads get, and verify it as a peer will.

    A certificate that was good, and comes again beside a bundle without its authority, has been revoked with it: the
    bundle counts and the certificate does not. A new one that does not verify makes the message unusable.

    :param workloads: whom to serve; with none, the message holds bundles only.
    :param last: what was delivered before; of its bundles one stays where the message has one that cannot be used.
    :param now: wall-clock seconds.
    :raises MessageError: for a message that must not be used.
    :raises Refusal: for an identity in it that must not be used.
    """
    answer = read_svids(message) if workloads else read_bundles(message)
    before = last.snapshot.bundles
    bundles = {domain: before[domain] for domain in answer.defects if domain in before}
    bundles.update(answer.bundles)
    choice = choose(answer.svids, workloads)
    svids: list[Svid] = []
    revoked: list[x509.Certificate] = []
    unserved = list(choice.unserved)
    for offered in choice.offered:
        svid = offered.read()
        try:
            verify_own(svid, bundles, now)
        except Refusal as refusal:
            if not _lost_its_authority(svid, last, now):
                raise
            revoked.append(svid.leaf)
            unserved.append(f"its authority has been taken from the bundle, and there is no new certificate: {refusal}")
        else:
            svids.append(svid)
    defects = tuple(sorted(answer.defects.values())[:_REPORTED])
    return Delivery(IdentitySnapshot(tuple(svids), bundles), defects, tuple(unserved), tuple(revoked))


def _lost_its_authority(svid: Svid, last: Delivery, now: float) -> bool:
    """Whether this very certificate was good by the bundles that came with it before."""
    if svid.leaf in last.revoked:
        return True
    if all(svid.leaf != one.leaf for one in last.snapshot.svids):
        return False
    try:
        verify_own(svid, last.snapshot.bundles, now)
    except Refusal:
        return False
    return True
