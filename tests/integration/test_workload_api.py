"""A proxy that gets its identities from a Workload API on a real socket."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from tcpmesh.codes import NO_IDENTITY, OWN_REVOKED
from tcpmesh.identity.certificates import serial_text
from tcpmesh.mesh_state import MeshState
from tcpmesh.sources.grpc_wire import Status
from tcpmesh.sources.workload_api import WorkloadAPISource
from tcpmesh.testing import FakeIdentityObserver, FakeWorkloadAPI, TestAuthority, plugin_context
from tcpmesh.values import IdentitySnapshot, IdentityState, TCPAddress
from tests.integration.mesh import MeshTestCase, Proxy, echo, in_thread, reactor, unused_port

CONFIGURATION = """\
identity:
  sources: {{agent: {{plugin: workload-api{socket}}}}}
  workloads:
    web: {{id: "spiffe://mesh.test/web"}}
    orders: {{id: "spiffe://mesh.test/orders", hint: internal}}
services:
  orders:
    expect: ["spiffe://mesh.test/orders"]
    discovery: {{plugin: static, endpoints: ["127.0.0.1:{inbound}"]}}
outbound: [{{name: to-orders, listen: "127.0.0.1:0", service: orders, workload: web}}]
inbound: [{{name: orders-in, listen: "127.0.0.1:{inbound}", target: "127.0.0.1:{target}", workload: orders}}]
authorization:
  - plugin: rules
    policies: [{{name: web-may, action: allow, from: [{{ids: ["spiffe://mesh.test/web"]}}]}}]
"""


class WorkloadAPITests(MeshTestCase):
    """Both hops in one proxy; the Workload API is this test's, its sockets are the system's."""

    def setUp(self) -> None:
        # Trial's directory can be too long for a unix socket.
        place = Path(tempfile.mkdtemp(prefix="tcpmesh"))
        self.addCleanup(shutil.rmtree, place)
        super().setUp()
        self.socket = place / "agent.sock"
        self.authority = TestAuthority("mesh.test")
        self.api = FakeWorkloadAPI()

    def issue(self) -> IdentitySnapshot:
        """New certificates for both workloads; the right one of two for ``orders`` is named by its hint."""
        return self.authority.snapshot("/web", "/orders", "/orders")

    def deliver(self) -> IdentitySnapshot:
        snapshot = self.issue()
        self.api.serve(snapshot, ["", "external", "internal"])
        return snapshot

    def listen(self) -> Any:
        """Answer on the unix socket, until the test ends or the port is closed."""
        port = reactor.listenUNIX(str(self.socket), self.api.factory())
        self.addCleanup(port.stopListening)
        return port

    def start_mesh(self, where: str = "") -> Proxy:
        text = CONFIGURATION.format(socket=where, inbound=unused_port(), target=self.application(echo))
        return self.start(text, trust_domain="mesh.test")

    def start_on_unix_socket(self) -> Proxy:
        return self.start_mesh(f', socket: "unix://{self.socket}"')

    async def until(self, proxy: Proxy, condition: Callable[[MeshState], bool]) -> None:
        """Wait for a state of the mesh."""
        cell = proxy.service.composition.state
        met: Deferred[None] = Deferred()

        def look(state: MeshState) -> None:
            if not met.called and condition(state):
                met.callback(None)

        cell.observe(look)
        look(cell.current)
        await met

    async def until_each_is(self, proxy: Proxy, state: IdentityState) -> None:
        await self.until(proxy, lambda mesh: set(mesh.identity_states.values()) == {state})

    async def until_used(self, proxy: Proxy, snapshot: IdentitySnapshot) -> None:
        """Wait until new connections show these certificates."""
        leaf = snapshot.svids[0].leaf
        await self.until(proxy, lambda mesh: "web" in mesh.svids and mesh.svids["web"].leaf == leaf)

    async def ask(self, client: socket.socket) -> bytes:
        """Send something and give what comes back."""

        def run() -> bytes:
            client.sendall(b"hello")
            return client.recv(5, socket.MSG_WAITALL)

        return await in_thread(run)

    async def test_connections_cross_with_what_it_gave(self) -> None:
        """Both ends show the certificates that the API gave, the hint's among them."""
        snapshot = self.deliver()
        self.listen()
        proxy = self.start_on_unix_socket()
        await self.until_used(proxy, snapshot)
        self.assertEqual(await self.ask(self.connect(proxy.port("to-orders"))), b"hello")
        record = await proxy.opened()
        self.assertEqual((record.src_identity, record.src_serial), (
            "spiffe://mesh.test/web", serial_text(snapshot.svids[0].leaf)
        ))  # fmt: skip
        self.assertEqual(proxy.service.composition.state.current.svids["orders"].leaf, snapshot.svids[2].leaf)

    async def test_on_tcp_where_the_environment_says_so(self) -> None:
        """tcp:// on loopback, without a setting."""
        snapshot = self.deliver()
        port = reactor.listenTCP(0, self.api.factory(), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        os.environ["SPIFFE_ENDPOINT_SOCKET"] = f"tcp://127.0.0.1:{port.getHost().port}"
        self.addCleanup(os.environ.pop, "SPIFFE_ENDPOINT_SOCKET")
        proxy = self.start_mesh()
        await self.until_used(proxy, snapshot)
        self.assertEqual(await self.ask(self.connect(proxy.port("to-orders"))), b"hello")

    async def test_rotation_leaves_connections_alone(self) -> None:
        """The open one lives on, the next one shows the new certificate."""
        first = self.deliver()
        self.listen()
        proxy = self.start_on_unix_socket()
        await self.until_used(proxy, first)
        lasting = self.connect(proxy.port("to-orders"))
        self.assertEqual(await self.ask(lasting), b"hello")
        for _ in range(3):
            second = self.deliver()
            await self.until_used(proxy, second)
            self.assertEqual(await self.ask(lasting), b"hello")
        before = len(proxy.tap.open)
        self.assertEqual(await self.ask(self.connect(proxy.port("to-orders"))), b"hello")
        await proxy.opened(before + 2)  # one record for each hop
        serials = {record.src_serial for record in proxy.tap.open[before:] if record.src_serial}
        self.assertEqual(serials, {serial_text(second.svids[0].leaf)})

    async def test_a_deleted_entry_ends_the_use(self) -> None:
        """New connections are refused from then on, and taken again when there is an entry again."""
        snapshot = self.deliver()
        self.listen()
        proxy = self.start_on_unix_socket()
        await self.until_used(proxy, snapshot)
        self.api.refuse(Status.PERMISSION_DENIED, "no identity issued")
        await self.until_each_is(proxy, IdentityState.REVOKED)
        self.assertEqual(proxy.service.composition.state.current.svids, {})
        client = self.connect(proxy.port("to-orders"))
        with self.assertRaises(ConnectionResetError):
            await in_thread(client.recv, 1)
        self.assertEqual((await proxy.closed()).code, OWN_REVOKED)
        again = self.deliver()
        await self.until_used(proxy, again)
        self.assertEqual(await self.ask(self.connect(proxy.port("to-orders"))), b"hello")

    async def test_serves_on_while_the_agent_is_gone(self) -> None:
        """Killed, its socket left behind; what it gave serves, and a new agent on the socket is found."""
        snapshot = self.deliver()
        port = self.listen()
        proxy = self.start_on_unix_socket()
        await self.until_used(proxy, snapshot)
        await port.stopListening()
        with socket.socket(socket.AF_UNIX) as left_behind:
            left_behind.bind(str(self.socket))  # nobody listens on it
        self.api.cut()
        await self.until_each_is(proxy, IdentityState.STALE)
        self.assertEqual(await self.ask(self.connect(proxy.port("to-orders"))), b"hello")
        self.socket.unlink()
        again = self.deliver()
        self.listen()
        await self.until_used(proxy, again)
        await self.until_each_is(proxy, IdentityState.READY)

    async def test_an_agent_may_come_later_than_the_proxy(self) -> None:
        """Until then every connection is refused."""
        proxy = self.start_on_unix_socket()
        client = self.connect(proxy.port("to-orders"))
        with self.assertRaises(ConnectionResetError):
            await in_thread(client.recv, 1)
        self.assertEqual((await proxy.closed()).code, NO_IDENTITY)
        snapshot = self.deliver()
        self.listen()
        await self.until_used(proxy, snapshot)
        self.assertEqual(await self.ask(self.connect(proxy.port("to-orders"))), b"hello")

    def test_stops_while_it_connects(self) -> None:
        """An attempt that is under way is given up; trial would find what is left of it."""
        full = socket.create_server(("127.0.0.1", 0), backlog=0)
        self.addCleanup(full.close)
        port = full.getsockname()[1]
        for _ in range(3):  # a queue of 0 takes one, and the kernel answers no more
            filler = socket.socket()
            self.addCleanup(filler.close)
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        context = plugin_context(clock=reactor, workloads={"web": self.authority.workload("web")})
        source = WorkloadAPISource(TCPAddress("127.0.0.1", port), context)
        observer = FakeIdentityObserver()
        source.start(observer)
        self.assertEqual(source.stop(), None)
        self.assertEqual(observer.events, [])

    async def test_a_proxy_that_stops_hangs_up(self) -> None:
        """The agent sees the connection end."""
        snapshot = self.deliver()
        self.listen()
        proxy = self.start_on_unix_socket()
        await self.until_used(proxy, snapshot)
        self.assertEqual(len(self.api.calls), 1)
        (call,) = self.api.calls
        gone: Deferred[None] = Deferred()
        lost = call.connectionLost

        def note(reason: Any = None) -> None:
            lost(reason)
            gone.callback(None)

        call.connectionLost = note  # type: ignore[method-assign]
        await self._stop(proxy.service)
        await gone
        self.assertEqual(self.api.calls, [])
