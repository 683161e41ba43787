"""Proxies with identities from a real SPIRE, what they say of themselves, and a load of connections through them."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.addresses import UnixAddress
from tcpmesh.cli.admin_client import ask
from tests.integration.field import FieldTestCase, ProxyProcess
from tests.integration.processes import PATIENCE, free_port
from tests.integration.spire import SpireAgent, SpireServer, needs_spire

__all__ = ["PARTNER", "US", "Echo", "Load", "SpireProxy", "SpireTestCase", "call", "talk"]

US = "example.org"
PARTNER = "partner.example"
_WORD = b"hello"


class Echo:
    """An application that sends back what it gets."""

    def __init__(self, test: SynchronousTestCase) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()
        test.addCleanup(self._close)

    def _accept(self) -> None:
        while True:
            try:
                connection, _address = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    @staticmethod
    def _serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:  # how it ended is asserted from outside
            while data := connection.recv(4096):
                connection.sendall(data)

    def _close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread, which close alone does not
        self._listener.close()


def talk(connection: socket.socket) -> bytes:
    """Send a word; what comes back."""
    connection.sendall(_WORD)
    return connection.recv(len(_WORD), socket.MSG_WAITALL)


def call(port: int) -> bool:
    """
    Make a connection of its own, and say whether it was carried.

    :return: False when it was refused, by a reset.
    """
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
            return talk(connection) == _WORD
    except ConnectionResetError:
        return False


class Load:
    """Connections that stay, and others that come and go, each in use all the time, until stop."""

    def __init__(self, test: SynchronousTestCase, port: int, *, lasting: int) -> None:
        self._port = port
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(self._last,)) for _ in range(lasting)]
        self._threads.append(threading.Thread(target=self._run, args=(self._come_and_go,)))
        self.errors: list[BaseException] = []
        self.answers = 0
        test.addCleanup(self.stop)
        for thread in self._threads:
            thread.start()

    def _run(self, use: Callable[[], None]) -> None:
        try:
            use()
        except Exception as error:  # the test looks at them
            self.errors.append(error)

    def _last(self) -> None:
        with socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE) as connection:
            while not self._stopping.wait(0.05):  # between two words
                self._exchange(connection)

    def _come_and_go(self) -> None:
        while not self._stopping.wait(0.05):  # between two connections
            with socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE) as connection:
                self._exchange(connection)

    def _exchange(self, connection: socket.socket) -> None:
        if talk(connection) != _WORD:
            raise ConnectionError("the connection ended")
        self.answers += 1

    def stop(self) -> None:
        """End them all in order."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()


class SpireProxy(ProxyProcess):
    """A proxy, and what it says of its identities."""

    def identity(self) -> dict[str, Any]:
        """What ``tcpmesh identity show`` would show."""
        answer: dict[str, Any] = ask(UnixAddress(str(self.admin)), "/identity")
        return answer

    def workload(self, name: str) -> dict[str, Any]:
        """One workload's part of that."""
        (found,) = (each for each in self.identity()["workloads"] if each["name"] == name)
        return dict(found)

    def states(self) -> dict[str, str]:
        """The states of all workloads."""
        return {each["name"]: each["state"] for each in self.identity()["workloads"]}

    def serial(self, name: str) -> str:
        """The serial number of a workload's certificate in use; nothing when there is none."""
        certificate = self.workload(name)["certificate"]
        return "" if certificate is None else str(certificate["serial"])

    def authorities(self, trust_domain: str = US) -> set[str]:
        """The key identifiers of a trust domain's authorities, as SPIRE writes them."""
        domains = {each["trust_domain"]: each["authorities"] for each in self.identity()["trust_domains"]}
        return {str(each["key_id"]).replace(":", "").lower() for each in domains.get(trust_domain) or ()}

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for a state of it."""
        self.running.wait_until(condition, what)

    def until_states(self, **states: str) -> None:
        """Wait until these workloads are in these states."""
        self.until(lambda: states.items() <= self.states().items(), f"not {states}")


class SpireTestCase(FieldTestCase):
    """One SPIRE for ``example.org`` with an agent, more on demand."""

    plugins = ""  # of the server

    def setUp(self) -> None:
        needs_spire()
        super().setUp()
        self.server = SpireServer(self, US, plugins=self.plugins)
        self.agent = SpireAgent(self, self.server)
        self.application = Echo(self)

    def start_spire_proxy(self, name: str, configuration: str, trust_domain: str = US) -> SpireProxy:
        """Run it until it is ready."""
        return SpireProxy(self, self.directory, name, configuration, trust_domain)

    def source(self, agent: SpireAgent, *workloads: str, trust_domain: str = US, more: str = "") -> str:
        """The ``identity`` part of a configuration."""
        named = ", ".join(f'{name}: {{id: "spiffe://{trust_domain}/{name}"}}' for name in workloads)
        return (
            f'identity:\n  sources: {{agent: {{plugin: workload-api, socket: "unix://{agent.socket}"}}}}\n'
            f"  workloads: {{{named}}}\n{more}"
        )

    @staticmethod
    def outbound(endpoint: int, plain: int, expected: str) -> str:
        """A service and a listener for it."""
        return (
            f'services: {{orders: {{expect: ["{expected}"], '
            f'discovery: {{plugin: static, endpoints: ["127.0.0.1:{endpoint}"]}}}}}}\n'
            f'outbound: [{{name: to-orders, listen: "127.0.0.1:{plain}", service: orders, workload: web}}]\n'
        )

    def inbound(self, port: int, allowed: str) -> str:
        """A listener before the application, and who may come in."""
        rules = f'[{{name: some-may, action: allow, from: [{{ids: ["{allowed}"]}}]}}]'
        return (
            f'inbound: [{{name: orders-in, listen: "127.0.0.1:{port}", '
            f'target: "127.0.0.1:{self.application.port}", workload: orders}}]\n'
            f"authorization: [{{plugin: rules, policies: {rules}}}]\n"
        )

    def start_both_hops(self) -> tuple[SpireProxy, int]:
        """One proxy with both hops, for ``web`` and ``orders``; and the port for applications."""
        wire, plain = free_port(), free_port()
        text = self.source(self.agent, "web", "orders")
        text += self.outbound(wire, plain, f"spiffe://{US}/orders") + self.inbound(wire, f"spiffe://{US}/web")
        return self.start_spire_proxy("proxy", text), plain

    def connect(self, port: int) -> socket.socket:
        """A connection that is there until the test ends."""
        connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.addCleanup(connection.close)
        return connection

    def file(self, name: str, content: bytes) -> Path:
        """A file of the test's."""
        path = self.directory / name
        path.write_bytes(content)
        return path
