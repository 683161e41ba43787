"""
Which of the SVIDs that a Workload API offers are for the workloads of this proxy.

Ring 1, no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from tcpmesh.identity.certificates import shown
from tcpmesh.identity.workload_messages import OfferedSvid
from tcpmesh.values import Workload

__all__ = ["Choice", "choose"]

_LISTED = 5  # identities in a complaint


@attrs.frozen(eq=False)
class Choice:
    """The SVIDs that are wanted, one for each workload that is served; and what to say of the others."""

    offered: tuple[OfferedSvid, ...]
    unserved: tuple[str, ...]


def choose(offered: Sequence[OfferedSvid], workloads: Mapping[str, Workload]) -> Choice:
    """
    Find for each workload the first SVID that has its hint, if it names one, else the first that has its ID.

    A hint chooses and never excuses: the SVID must have the workload's ID all the same.
    (SPIFFE_Workload_API.md section 5.2.1: of several with one hint, the first counts.)
    """
    found = []
    unserved = []
    for name, workload in sorted(workloads.items()):
        hint = getattr(workload.settings, "hint", None)
        if hint is None:
            svid = next((svid for svid in offered if svid.id == workload.id), None)
        else:
            svid = next((svid for svid in offered if svid.hint == hint), None)
        if svid is None:
            wanted = f"the hint {shown(hint)}" if hint is not None else str(workload.id)
            unserved.append(f"no SVID for workload {name!r} with {wanted}; there are {_listed(offered)}")
        elif svid.id != workload.id:
            unserved.append(
                f"the SVID with the hint {shown(svid.hint)} is {svid.id}; workload {name!r} is {workload.id} in the "
                "configuration"
            )
        else:
            found.append(svid)
    return Choice(tuple(found), tuple(unserved))


def _listed(offered: Sequence[OfferedSvid]) -> str:
    texts = [f"{svid.id} (hint {shown(svid.hint)})" if svid.hint else str(svid.id) for svid in offered[:_LISTED]]
    more = len(offered) - len(texts)
    return ", ".join(texts) + (f" and {more} more" if more > 0 else "")
