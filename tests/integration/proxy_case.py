"""A test case with one proxy under twistd or ``tcpmesh run``: both hops in one process, the application in the test."""

from __future__ import annotations

import shutil
import socket
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.processes import PATIENCE, TWISTD, Daemon, Running, accepts, free_port, is_ready, wait_until

CONFIGURATION = """\
version: 1
trust_domain: example.test
identity:
  sources: {{local: {{plugin: embedded, state: state}}}}
  workloads:
    web: {{id: "spiffe://example.test/web"}}
    orders: {{id: "spiffe://example.test/orders"}}
services:
  orders:
    expect: ["spiffe://example.test/orders"]
    discovery: {{plugin: static, endpoints: ["127.0.0.1:{inbound}"]}}
outbound:
  - {{name: web-to-orders, listen: "127.0.0.1:{outbound}", service: orders, workload: web}}
inbound:
  - {{name: orders-in, listen: "127.0.0.1:{inbound}", target: "127.0.0.1:{target}", workload: orders}}
authorization:
  - plugin: rules
    policies:
      - name: web-may-use-orders
        action: allow
        to: {{inbound: [orders-in]}}
        from: [{{ids: ["spiffe://example.test/web"]}}]
timeouts: {{shutdown: {shutdown}}}
admin: {{metrics: "127.0.0.1:{metrics}"}}
log: {{access: "{access}"}}
"""


class ProxyTestCase(SynchronousTestCase):
    """One mesh of two hops in one process, and the application behind it, which is this test."""

    def setUp(self) -> None:
        # Not in trial's directory, where another user may not go.
        self.directory = Path(tempfile.mkdtemp(prefix="tcpmesh"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.file = self.directory / "tcpmesh.yaml"
        self.application = socket.create_server(("127.0.0.1", 0))
        self.application.settimeout(PATIENCE)
        self.addCleanup(self.application.close)
        self.outbound, self.inbound, self.metrics = free_port(), free_port(), free_port()

    def configure(self, *, shutdown: str = "30s", access: str = "access.log", more: str = "") -> None:
        text = CONFIGURATION.format(
            outbound=self.outbound,
            inbound=self.inbound,
            metrics=self.metrics,
            target=self.application.getsockname()[1],
            shutdown=shutdown,
            access=access,
        )
        self.file.write_text(text + more)

    def start(self, *arguments: str, ready: bool = True, environment: dict[str, str] | None = None) -> Running:
        running = Running(self, arguments, directory=self.directory, environment=environment)
        if ready:
            running.wait_until(lambda: is_ready(self.metrics), "not ready")
        return running

    def foreground(self, *, ready: bool = True) -> Running:
        return self.start(*TWISTD, "-n", "tcpmesh", "--config", "tcpmesh.yaml", ready=ready)

    def daemon(self, *options: str, pidfile: str = "twistd.pid") -> Daemon:
        """Start a daemon; twistd's first process must say nothing and end well once the daemon serves."""
        Daemon.adopt_orphans()
        parent = self.start(*TWISTD, *options, "tcpmesh", "--config", "tcpmesh.yaml", ready=False)
        self.assertEqual((parent.wait(), parent.out, parent.err), (0, "", ""))
        daemon = Daemon(self, int((self.directory / pidfile).read_text()))
        wait_until(lambda: is_ready(self.metrics), "not ready")
        return daemon

    def connect(self) -> tuple[socket.socket, socket.socket]:
        """Open a connection through both hops; give the client's end and the application's."""
        client = socket.create_connection(("127.0.0.1", self.outbound), timeout=PATIENCE)
        self.addCleanup(client.close)
        client.sendall(b"hello\n")
        server, _ = self.application.accept()
        self.addCleanup(server.close)
        server.settimeout(PATIENCE)
        self.assertEqual(server.recv(100), b"hello\n")
        server.sendall(b"welcome\n")
        self.assertEqual(client.recv(100), b"welcome\n")
        return client, server

    def assert_everything_is_free(self) -> None:
        """No listener is left."""
        for port in (self.outbound, self.inbound, self.metrics):
            self.assertFalse(accepts(port), port)
