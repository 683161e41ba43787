"""The metrics of other trust domains' bundles, as a scraper reads them."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.identity.bundle_document import BundleDocument
from tcpmesh.identity.federated import FederatedBundle
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.mesh_state import MeshStateCell
from tcpmesh.observe.metrics import Metrics
from tests.unit import crafted

ONE = crafted.authority("one").certificate


class BundleMetricsTests(SynchronousTestCase):
    def samples(self, *held: FederatedBundle) -> dict[str, float]:
        """The lines about bundles, at second 100, by what stands before the number."""
        metrics = Metrics(MeshStateCell(), lambda: 100.0, {}, federated=lambda: held)
        lines = metrics.render()[1].decode().splitlines()
        return {
            line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith("tcpmesh_bundle")
        }

    def test_shows_age_sequence_and_failure(self) -> None:
        """One that serves, and one of which there is nothing yet."""
        good, absent = FederatedBundle(TrustDomain("b.test")), FederatedBundle(TrustDomain("c.test"))
        good.accept(BundleDocument((ONE,), 7), None, 60.0)
        absent.failed("down", 60.0)
        absent.failed("down", 60.0)
        self.assertEqual(
            self.samples(good, absent),
            {
                'tcpmesh_bundle_age_seconds{trust_domain="b.test"}': 40.0,
                'tcpmesh_bundle_sequence{trust_domain="b.test"}': 7.0,
                'tcpmesh_bundle_authorities{trust_domain="b.test"}': 1.0,
                'tcpmesh_bundle_failing{trust_domain="b.test"}': 0.0,
                'tcpmesh_bundle_failing{trust_domain="c.test"}': 1.0,
                'tcpmesh_bundle_refresh_failures_total{trust_domain="b.test"}': 0.0,
                'tcpmesh_bundle_refresh_failures_total{trust_domain="c.test"}': 2.0,
            },
        )

    def test_shows_a_revocation(self) -> None:
        """As no authority, which is not the same as no bundle."""
        held = FederatedBundle(TrustDomain("b.test"))
        held.accept(BundleDocument(()), None, 60.0)
        self.assertEqual(self.samples(held)['tcpmesh_bundle_authorities{trust_domain="b.test"}'], 0.0)
        self.assertNotIn('tcpmesh_bundle_sequence{trust_domain="b.test"}', self.samples(held))
