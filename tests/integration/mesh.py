"""
Two proxies, as in the field: an outbound and an inbound one with identities of their own, in this process.

Everything listens on loopback, on ports that the kernel chooses. Applications are blocking functions that run in
threads; what the proxies record is awaited, not polled.
"""

from __future__ import annotations

import contextlib
import socket
import textwrap
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet import reactor as _reactor  # noqa: TID251  trial installed it
from twisted.internet.defer import Deferred, succeed
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from tcpmesh import config
from tcpmesh.codes import Code
from tcpmesh.dataplane.openssl_private import GROUP_SETTER
from tcpmesh.observe.records import ConnectionRecord, IRecordSink
from tcpmesh.plugins import PluginRegistry
from tcpmesh.service import MeshService
from tests.integration.pki import TRUST_DOMAIN, Pki

reactor: Any = _reactor
T = TypeVar("T")

PATIENCE = 20  # seconds after which a test that waits for something has failed


class RecordTap:
    """Passes everything on to the service's own sink, keeps it, and tells who waits for it."""

    def __init__(self, sink: IRecordSink) -> None:
        self._sink = sink
        self.open: list[ConnectionRecord] = []
        self.close: list[ConnectionRecord] = []
        self.attempts: list[tuple[ConnectionRecord, Code, str]] = []
        self._waiting: list[tuple[Callable[[], Any], Deferred[None]]] = []

    def accepted(self, record: ConnectionRecord) -> None:
        self._sink.accepted(record)

    def opened(self, record: ConnectionRecord) -> None:
        self._sink.opened(record)
        self.open.append(record)
        self._tell()

    def closed(self, record: ConnectionRecord) -> None:
        self._sink.closed(record)
        self.close.append(record)
        self._tell()

    def attempt_failed(self, record: ConnectionRecord, code: Code, reason: str) -> None:
        self._sink.attempt_failed(record, code, reason)
        self.attempts.append((record, code, reason))
        self._tell()

    def when(self, condition: Callable[[], Any]) -> Deferred[None]:
        """Fires once the condition holds; looked at whenever something was recorded."""
        if condition():
            return succeed(None)
        waiter: Deferred[None] = Deferred()
        self._waiting.append((condition, waiter))
        waiter.addTimeout(PATIENCE, reactor)
        return waiter

    def _tell(self) -> None:
        for entry in list(self._waiting):
            condition, waiter = entry
            if condition():
                self._waiting.remove(entry)
                # Not from within the data path, in the middle of which a test must not go on.
                reactor.callLater(0, waiter.callback, None)


class Proxy:
    """A started service with its record tap."""

    def __init__(self, service: MeshService, plugins: PluginRegistry) -> None:
        self.service = service
        self.plugins = plugins
        assert service.plane is not None
        self.tap = RecordTap(service.plane.sink)
        service.plane.sink = self.tap

    @property
    def live(self) -> list[Any]:
        """The connections whose sockets are not all closed yet."""
        assert self.service.plane is not None
        return list(self.service.plane.live)

    def port(self, listener: str) -> int:
        """The port that a listener is bound to."""
        return int(self.service.bound_ports()[listener].port)

    async def closed(self, count: int = 1) -> ConnectionRecord:
        """Wait for the COUNT-th close record and give it."""
        await self.tap.when(lambda: len(self.tap.close) >= count)
        return self.tap.close[count - 1]

    async def opened(self, count: int = 1) -> ConnectionRecord:
        """Wait for the COUNT-th open record and give it."""
        await self.tap.when(lambda: len(self.tap.open) >= count)
        return self.tap.open[count - 1]


class MeshTestCase(TestCase):
    """
    Starts proxies and applications, and stops whatever is left.

    ``group_setter`` is how the proxies' TLS contexts set groups; None for pyOpenSSL's public interface. ``registry``
    finds their plugins.
    """

    timeout = 120
    registry = PluginRegistry
    group_setter = staticmethod(GROUP_SETTER)  # type: ignore[arg-type]

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir(parents=True)
        self.pki = Pki(self.directory / "pki")
        for name in ("web", "orders", "intruder"):
            self.pki.issue(name)

    # --- proxies

    def start(self, yaml: str, *, trust_domain: str = TRUST_DOMAIN) -> Proxy:
        """Start the service that this configuration describes, under ``version`` and a quiet access log."""
        # From another thread only the epoll reactors would notice the listeners.
        assert threading.current_thread() is threading.main_thread(), "a proxy starts in the reactor's thread"
        text = f"version: 1\ntrust_domain: {trust_domain}\nlog: {{access: none}}\n" + textwrap.dedent(yaml)
        plugins = self.registry()
        settings = config.loads(text.encode(), self.directory.absolute() / "tcpmesh.yaml", plugins)
        service = MeshService(settings, plugins, reactor, group_setter=self.group_setter)
        service.privilegedStartService()
        service.startService()
        self.addCleanup(self._stop, service)
        return Proxy(service, plugins)

    async def _stop(self, service: MeshService) -> None:
        stopping = service.stopService()
        service.stop_now()
        await stopping

    def identity(self, *workloads: str, pki: Pki | None = None, bundles: tuple[Pki, ...] = ()) -> str:
        """The ``identity`` part of a configuration: these workloads from files, and whose bundles to trust."""
        pki = pki or self.pki
        trusted = ", ".join(f'{p.trust_domain}: "{p.bundle.absolute()}"' for p in (bundles or (pki,)))
        lines = ["identity:", f"  sources: {{disk: {{plugin: files, bundles: {{{trusted}}}}}}}", "  workloads:"]
        lines += [
            f'    {name}: {{id: "{pki.id(name)}", certificate: "{(pki.directory / name).absolute()}.pem", '
            f'key: "{(pki.directory / name).absolute()}.key"}}'
            for name in workloads
        ]
        return "\n".join(lines) + "\n"

    def start_inbound(
        self,
        target: int | str,
        *,
        allow: tuple[str, ...] = ("web",),
        more: str = "",
        top: str = "",
        listen: str = "127.0.0.1:0",
    ) -> Proxy:
        """
        An inbound proxy ``orders-in`` on a port of its own.

        :param target: the application's port, or an address.
        :param more: further keys of the listener, in YAML's flow form: ``, truncation: eof``.
        :param top: further top-level keys.
        """
        address = target if isinstance(target, str) else f"127.0.0.1:{target}"
        ids = ", ".join(f'"{self.pki.id(name)}"' for name in allow)
        rules = f"[{{name: some-may, action: allow, from: [{{ids: [{ids}]}}]}}]"
        return self.start(
            self.identity("orders")
            + f'inbound: [{{name: orders-in, listen: "{listen}", target: "{address}", workload: orders{more}}}]\n'
            + (f"authorization: [{{plugin: rules, policies: {rules}}}]\n" if allow else "")
            + top
        )

    def start_outbound(
        self,
        *endpoints: int | str,
        workload: str = "web",
        expect: str = "",
        more: str = "",
        service: str = "",
        top: str = "",
        listen: str = "127.0.0.1:0",
    ) -> Proxy:
        """An outbound proxy ``to-orders``, for a service at these ports or addresses."""
        listed = ", ".join(f'"127.0.0.1:{each}"' if isinstance(each, int) else f'"{each}"' for each in endpoints)
        expected = expect or str(self.pki.id("orders"))
        return self.start(
            self.identity(workload)
            + f'services: {{orders: {{expect: ["{expected}"], '
            + f"discovery: {{plugin: static, endpoints: [{listed}]}}{service}}}}}\n"
            + f'outbound: [{{name: to-orders, listen: "{listen}", service: orders, workload: {workload}{more}}}]\n'
            + top
        )

    def start_two_hops(self, target: int | str, **inbound: Any) -> tuple[Proxy, Proxy, int]:
        """Both, with an allowed client: (outbound, inbound, the port for applications)."""
        inner = self.start_inbound(target, **inbound)
        outer = self.start_outbound(inner.port("orders-in"))
        return outer, inner, outer.port("to-orders")

    # --- applications

    def application(self, serve: Callable[[socket.socket], Any]) -> int:
        """Listen and run ``serve`` in a thread for each connection; give the port."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.serve(listener, serve)
        return int(listener.getsockname()[1])

    def serve(self, listener: socket.socket, serve: Callable[[socket.socket], Any]) -> None:
        """Run ``serve`` in a thread for each connection of a listener that the test made."""

        def accept() -> None:
            while True:
                try:
                    connection, _address = listener.accept()
                except OSError:
                    return
                threading.Thread(target=run, args=(connection,), daemon=True).start()

        def run(connection: socket.socket) -> None:
            # A test's application may be cut off at any point: what that means is asserted from outside.
            with contextlib.suppress(OSError), connection:
                serve(connection)

        threading.Thread(target=accept, daemon=True).start()

        def close() -> None:
            # shutdown wakes the accepting thread, which close alone does not.
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()

        self.addCleanup(close)

    def connect(self, port: int) -> socket.socket:
        """Connect as an application would; closed at the end of the test."""
        client = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.addCleanup(client.close)
        return client


def in_thread(function: Callable[..., T], *arguments: Any) -> Awaitable[T]:
    """Run blocking code beside the reactor."""
    return deferToThread(function, *arguments)


def unused_port() -> int:
    """A port on which nothing listens: bound for a moment, then given up."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        return int(holder.getsockname()[1])


def receive_all(connection: socket.socket) -> bytes:
    """Read up to the peer's FIN."""
    chunks = []
    while chunk := connection.recv(262144):
        chunks.append(chunk)
    return b"".join(chunks)


def echo(connection: socket.socket) -> None:
    """Send back whatever comes, then end."""
    while data := connection.recv(262144):
        connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)


__all__ = [
    "PATIENCE", "TRUST_DOMAIN", "MeshTestCase", "Pki", "Proxy", "RecordTap",
    "echo", "in_thread", "reactor", "receive_all", "unused_port",
]  # fmt: skip
