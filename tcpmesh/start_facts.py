"""
What the start-up block says of listeners and workloads, from the settings and from what became of them.

Ring 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tcpmesh.identity.federated import FederatedBundle
from tcpmesh.mesh_state import MeshState
from tcpmesh.observe.start_block import ListenerFacts, WorkloadFacts
from tcpmesh.port_ranges import ListenAddress
from tcpmesh.settings import Settings
from tcpmesh.values import IdentityState, TCPAddress

__all__ = ["bundle_facts", "listener_facts", "workload_facts"]


def listener_facts(settings: Settings, bound: Mapping[str, Any]) -> list[ListenerFacts]:
    """
    Every listener.

    :param bound: by listener name, the address that is really bound.
    """
    facts = [
        ListenerFacts("outbound", o.name, _bound(o.listen, bound.get(o.name)), o.destination, o.workload)
        for o in settings.outbound
    ]
    facts += [
        ListenerFacts("inbound", i.name, _bound(i.listen, bound.get(i.name)), i.destination, ", ".join(i.workloads))
        for i in settings.inbound
    ]
    return facts


def workload_facts(settings: Settings, state: MeshState) -> list[WorkloadFacts]:
    """Every workload, and where its identity stands."""
    facts = []
    for name, workload in settings.identity.workloads.items():
        svid = state.svids.get(name)
        expires = svid.leaf.not_valid_after_utc.timestamp() if svid is not None else None
        status = state.identity_states.get(name, IdentityState.INIT)
        facts.append(WorkloadFacts(name, str(workload.id), status.value, expires))
    return facts


def _bound(configured: ListenAddress, host: Any) -> str:
    """The address as it was bound: port 0 has become a real one."""
    if isinstance(configured, TCPAddress) and host is not None:
        return str(TCPAddress(configured.host, host.port))
    return str(configured)


def bundle_facts(entry: FederatedBundle, now: float) -> dict[str, Any]:
    """
    Where another trust domain's bundle stands, as plain JSON values.

    :param now: wall-clock seconds.
    """
    return {
        "trust_domain": str(entry.trust_domain),
        "authorities": len(entry.bundle.authorities) if entry.bundle is not None else None,
        "sequence": entry.sequence,
        "age_s": round(now - entry.received, 3) if entry.received is not None else None,
        "failure": entry.failure,
    }
