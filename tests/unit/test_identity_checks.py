"""What the running proxy holds for a check: why an identity cannot be used."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.identity.life import SourceLife
from tcpmesh.identity_checks import IdentityChecks
from tcpmesh.mesh_state import MeshState
from tcpmesh.testing import TestAuthority
from tcpmesh.values import IdentitySnapshot, IdentityState, Workload


class DefectTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.authority = TestAuthority("a.test")
        svid = self.authority.svid("/web")
        self.source = SourceLife(name="disk", workloads={"web": Workload("web", svid.id, None)})
        self.source.delivered(IdentitySnapshot((svid,), {svid.id.trust_domain: self.authority.bundle}), 0.0)

    def defect(self) -> str:
        """Why ``web`` has no identity, which its certificate's end took away."""
        state = MeshState(identity_states={"web": IdentityState.EXPIRED})
        control = SimpleNamespace(sources=[self.source], seconds=lambda: 60.0, federation=SimpleNamespace(held=()))
        composition: Any = SimpleNamespace(control=control, settings=None, upstreams={})
        plane: Any = SimpleNamespace(state=SimpleNamespace(current=state), wall_clock=lambda: 60.0, contexts=None)
        return IdentityChecks(composition).knowledge(plane).defects["web"].reason

    def test_a_source_that_works_gives_no_reason(self) -> None:
        """That identities were received does not explain why one has expired."""
        self.assertEqual(self.defect(), "workload 'web' has no usable identity (it is in state EXPIRED)")

    def test_a_source_that_fails_says_why(self) -> None:
        """Why nothing came in time."""
        self.source.failed("disk full", 10.0, 10.0)
        self.assertEqual(self.defect(), "workload 'web' has no usable identity (it is in state EXPIRED): disk full")
