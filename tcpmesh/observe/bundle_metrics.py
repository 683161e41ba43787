"""
Metrics of the bundles of other trust domains.

Ring 3, without I/O.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.metrics_core import Metric

from tcpmesh.identity.federated import FederatedBundle

__all__ = ["bundle_families"]


def bundle_families(held: Sequence[FederatedBundle], now: float) -> Iterator[Metric]:
    """One sample per federated trust domain in each family; ``now`` in wall-clock seconds."""
    age = Metric("tcpmesh_bundle_age_seconds", "Seconds since the trust domain's bundle was last confirmed", "gauge")
    sequence = Metric("tcpmesh_bundle_sequence", "spiffe_sequence of the trust domain's bundle", "gauge")
    authorities = Metric("tcpmesh_bundle_authorities", "Authorities in the bundle; 0: all is revoked", "gauge")
    failing = Metric("tcpmesh_bundle_failing", "1 while the trust domain's bundle cannot be refreshed", "gauge")
    failures = Metric("tcpmesh_bundle_refresh_failures", "Failed attempts to refresh the bundle", "counter")
    for entry in held:
        labels = {"trust_domain": str(entry.trust_domain)}
        if entry.bundle is not None:
            authorities.add_sample(authorities.name, labels, len(entry.bundle.authorities))
        if entry.received is not None:
            age.add_sample(age.name, labels, now - entry.received)
        if entry.sequence is not None:
            sequence.add_sample(sequence.name, labels, entry.sequence)
        failing.add_sample(failing.name, labels, int(bool(entry.failure)))
        failures.add_sample(failures.name + "_total", labels, entry.failures)
    yield from (age, sequence, authorities, failing, failures)
