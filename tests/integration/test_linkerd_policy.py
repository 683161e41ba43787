"""Linkerd's resources beside a proxy that runs: who comes in, what a change does, what a bad one does not."""

from __future__ import annotations

from tcpmesh.codes import DENIED_BY_RULE
from tests.integration.applications import RESET, receive
from tests.integration.mesh import MeshTestCase, Proxy, echo, in_thread

RESOURCES = """
apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {name: orders, namespace: shop}
spec: {podSelector: {matchLabels: {app: orders}}, port: 5432, proxyProtocol: opaque}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: AuthorizationPolicy
metadata: {name: web-only, namespace: shop}
spec:
  targetRef: {group: policy.linkerd.io, kind: Server, name: orders}
  requiredAuthenticationRefs: [{group: policy.linkerd.io, kind: MeshTLSAuthentication, name: web}]
---
apiVersion: policy.linkerd.io/v1alpha1
kind: MeshTLSAuthentication
metadata: {name: web, namespace: shop}
spec: {identities: ["spiffe://mesh.test/web"]}
"""
AUTHORIZATION = (
    "authorization: [{plugin: linkerd, resources: [linkerd.yaml], "
    "listeners: {orders-in: {namespace: shop, port: 5432, labels: {app: orders}}}}]\n"
)


class LinkerdPolicyTests(MeshTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.file = self.directory / "linkerd.yaml"
        self.file.write_text(RESOURCES)
        self.dialled = 0
        self.inner = self.start_inbound(self.application(self.note), allow=(), top=AUTHORIZATION)

    def note(self, connection: object) -> None:
        self.dialled += 1
        echo(connection)  # type: ignore[arg-type]

    def outer(self, workload: str = "web") -> Proxy:
        return self.start_outbound(self.inner.port("orders-in"), workload=workload)

    async def passes(self, outer: Proxy) -> bool:
        """Whether a connection gets through."""
        client = self.connect(outer.port("to-orders"))
        client.sendall(b"hello")
        client.shutdown(1)
        received = await in_thread(receive, client)
        if received.length == 5:
            return True
        self.assertEqual((received.length, received.ending), (0, RESET))
        return False

    async def test_lets_in_whom_the_resources_name(self) -> None:
        """The record says by which, in which line; whoever is denied is seen by no application."""
        self.assertTrue(await self.passes(self.outer()))
        allowed = await self.inner.closed(1)
        self.assertEqual(allowed.policy, "authorizationpolicy/shop/web-only")
        self.assertEqual(allowed.rule, f"{self.file.absolute()}:7:1")
        self.assertFalse(await self.passes(self.outer("intruder")))
        denied = await self.inner.closed(2)
        self.assertIs(denied.code, DENIED_BY_RULE)
        self.assertEqual(denied.policy, "server/shop/orders")
        self.assertEqual(self.dialled, 1)

    async def test_a_change_is_taken_and_a_bad_one_is_not(self) -> None:
        """From one generation to the next; the reason of what is not taken is there to be asked for."""
        web, intruder = self.outer(), self.outer("intruder")
        state, control = self.inner.service.composition.state, self.inner.service.composition.policies
        self.file.write_text(RESOURCES.replace("mesh.test/web", "mesh.test/intruder"))
        await control.reload()
        self.assertEqual([await self.passes(web), await self.passes(intruder)], [False, True])
        generation = state.current.generation
        self.file.write_text(RESOURCES.replace("proxyProtocol: opaque", "proxyProtocol: HTTP/2"))
        await control.reload()
        self.assertEqual([await self.passes(web), await self.passes(intruder)], [False, True])
        self.assertEqual(state.current.generation, generation)
        (report,) = control.report()
        self.assertIn(f"{self.file.absolute()}:5:78: Server shop/orders", report["failure"])
