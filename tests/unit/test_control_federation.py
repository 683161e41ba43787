"""The control side with bundles of other trust domains, from sources and from the configuration."""

from __future__ import annotations

from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.control import MeshControl
from tcpmesh.errors import StartError
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.mesh_state import MeshStateCell
from tcpmesh.settings import FederationSettings
from tcpmesh.sources.federation import Federation
from tcpmesh.testing import TestAuthority
from tcpmesh.values import IdentitySnapshot, IdentityState, TrustBundle, Workload
from tests.unit.bundles import document
from tests.unit.test_control import OneDelivery

OTHER = TrustDomain("other.test")
WEB = "spiffe://example.test/web"


class ControlTests(SynchronousTestCase):
    """One source for ``web`` of example.test, and the trust domain other.test in a file."""

    def setUp(self) -> None:
        self.authority, self.other = TestAuthority(), TestAuthority("other.test")
        self.own = self.authority.trust_domain
        self.file = Path(self.mktemp())
        self.clock, self.cell = Clock(), MeshStateCell()

    def control(self, snapshot: IdentitySnapshot, **federation: FederationSettings) -> MeshControl:
        """With a source that delivers this."""
        relations = {TrustDomain(f"{name}.test"): settings for name, settings in federation.items()}
        made = Federation(relations, self.own, self.clock, self.authority.now)
        control = MeshControl(self.cell, self.clock, self.authority.now, made)
        self.source = OneDelivery(snapshot)
        control.add_source("once", self.source, {"web": Workload("web", snapshot.svids[0].id)})
        self.addCleanup(control.stop)
        return control

    def snapshot(self, **bundles: TrustBundle) -> IdentitySnapshot:
        """What a healthy source delivers, with further bundles or others."""
        good = self.authority.snapshot(WEB)
        more = {TrustDomain(f"{name}.test"): bundle for name, bundle in bundles.items()}
        return IdentitySnapshot(good.svids, {**good.bundles, **more})

    def authorities(self, domain: TrustDomain = OTHER) -> tuple[object, ...] | None:
        bundle = self.cell.current.bundles.get(domain)
        return bundle.authorities if bundle is not None else None

    def test_the_file_is_part_of_the_state(self) -> None:
        """From the start, and at a reload; without changing whom we are."""
        self.file.write_bytes(document(self.other.root.certificate))
        control = self.control(self.snapshot(), other=FederationSettings(bundle=self.file))
        control.start()
        self.assertEqual(self.authorities(), (self.other.root.certificate,))
        self.assertEqual(list(self.cell.current.svids), ["web"])
        self.file.write_bytes(document())
        control.reload()
        self.assertEqual((self.authorities(), self.authorities(self.own)), ((), self.authority.bundle.authorities))

    def test_a_bad_file_is_found_by_a_check_and_ends_a_start(self) -> None:
        """With the same words."""
        control = self.control(self.snapshot(), other=FederationSettings(bundle=self.file))
        (problem,) = control.check()
        error = self.assertRaises(StartError, control.start)
        self.assertEqual(error.reason, problem.reason)
        self.assertIn("does not exist", problem.reason)

    def test_a_source_may_not_file_another_ones_authority_under_ours(self) -> None:
        """Whatever it delivered before stays in use."""
        both = TrustBundle(self.own, (*self.authority.bundle.authorities, self.other.root.certificate))
        self.control(self.snapshot()).start()
        self.source.observer.identity_changed(self.snapshot(example=both))
        self.assertEqual(self.authorities(self.own), self.authority.bundle.authorities)
        self.assertEqual(self.cell.current.identity_states, {"web": IdentityState.STALE})

    def test_what_is_wrong_with_another_ones_bundle_costs_only_its_peers(self) -> None:
        """A partner that lists our authority, or a third one's, must not keep us from being renewed."""
        third = TestAuthority("third.test")
        for foreign in (self.authority, third):
            self.cell = MeshStateCell()
            mixed = TrustBundle(OTHER, (self.other.root.certificate, foreign.root.certificate))
            self.control(self.snapshot(other=mixed, third=third.bundle)).start()
            self.assertEqual(set(self.cell.current.bundles), {self.own, third.trust_domain})
            self.assertEqual(self.cell.current.identity_states, {"web": IdentityState.READY})
