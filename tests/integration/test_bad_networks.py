"""
Two machines behind networks that drop, lose, reject, delay and choke: bytes are whole, and retries come before them.

Each machine is a network namespace. nftables drops and rejects, tbf (tc-tbf(8)) is the narrow wire, and the delay is a
relay's, since not every kernel has netem.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time

from tests.integration import program, skip_or_fail
from tests.integration.applications import MIB, Received, exchange, receive, stream, whole
from tests.integration.field import FieldTestCase, ProxyProcess
from tests.integration.namespaces import Machine, connect, needs_namespaces
from tests.integration.processes import PATIENCE
from tests.integration.servers import run

PORT, TARGET, OUTBOUND = 4143, 5000, 15000
ADDRESSES = {"one": "192.0.2.2", "two": "198.51.100.2"}
DATA = stream(2 * MIB)
CONNECT_TIMEOUT, PEER_VANISHED, CONNECT_REFUSED = "TM-T101", "TM-T107", "TM-U101"


class Service:
    """An application on a machine: it greets, echoes what comes, and writes down how each connection went."""

    def __init__(self, test: FieldTestCase, machine: Machine, greeting: bytes) -> None:
        self._greeting = greeting
        self.received: list[bytearray] = []
        self.endings: list[str] = []
        listener = machine.inside(socket.create_server, ("127.0.0.1", TARGET))
        test.addCleanup(listener.close)
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                accepted, _address = listener.accept()
                threading.Thread(target=self._serve, args=(accepted,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        got = bytearray()
        self.received.append(got)
        with connection:
            try:
                connection.sendall(self._greeting)
                while data := connection.recv(65536):
                    got += data
                    connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                self.endings.append("end")
            except OSError as problem:
                self.endings.append(type(problem).__name__)


class BadNetworkTests(FieldTestCase):
    """A client's machine with wires to two others, each of which has the service."""

    def setUp(self) -> None:
        super().setUp()
        needs_namespaces()
        self.nft = program("nft", "nftables")
        self.tc = program("tc", "iproute2")
        self.client = Machine(self, "client", self.directory)
        self.machines = {name: Machine(self, name, self.directory) for name in ADDRESSES}
        self.services = {}
        for name, address in ADDRESSES.items():
            connect(self.client, self.machines[name], address[:-1] + "1", address)
            self.services[name] = Service(self, self.machines[name], name.encode())
            self.start_proxy(
                f"inbound-{name}",
                self.identity("orders")
                + f'inbound: [{{name: orders-in, listen: "{address}:{PORT}", target: "127.0.0.1:{TARGET}", '
                + "workload: orders}]\n"
                + "authorization: [{plugin: rules, policies: [{name: web-may, action: allow, "
                + 'from: [{ids: ["spiffe://example.org/web"]}]}]}]\n',
                machine=self.machines[name],
            )

    def start_outer(
        self, first: str = f"{ADDRESSES['one']}:{PORT}", *, user_timeout: str = "60s", connect: str = "1s"
    ) -> ProxyProcess:
        """The proxy on the client's machine; it tries the machine ``one`` first while that is well."""
        second = f"{ADDRESSES['two']}:{PORT}"
        where = f'{{address: "{first}", priority: 0}}, {{address: "{second}", priority: 1}}'
        return self.start_proxy(
            "outbound",
            self.identity("web")
            + 'services: {orders: {expect: ["spiffe://example.org/orders"], '
            + f"discovery: {{plugin: static, endpoints: [{where}]}}, "
            + "retry: {plugin: exponential, attempts: 3, base: 1ms, max: 2ms}}}\n"
            + f'outbound: [{{name: to-orders, listen: "127.0.0.1:{OUTBOUND}", service: orders, workload: web}}]\n'
            + f"timeouts: {{connect: {connect}, user_timeout: {user_timeout}}}\n",
            machine=self.client,
        )

    def filter(self, name: str, *rules: str) -> None:
        """Let these rules hold for what comes to a machine, and no others."""
        lines = ["add table inet t", "flush table inet t"]
        lines += [
            "add chain inet t c { type filter hook input priority 0; }",
            *(f"add rule inet t c {r}" for r in rules),
        ]
        tried = run(*self.machines[name].enter, self.nft, "-f", "-", feed="\n".join(lines).encode(), status=None)
        if tried.returncode:
            skip_or_fail(f"nftables does not work here: {tried.stderr.decode(errors='replace').strip()}")

    def connect(self) -> socket.socket:
        client: socket.socket = self.client.inside(socket.create_connection, ("127.0.0.1", OUTBOUND), PATIENCE)
        self.addCleanup(client.close)
        return client

    def talk(self, by: str) -> None:
        """Be served by that machine, with every byte there and back."""
        client = self.connect()
        self.assertEqual(receive(client, 3), whole(by.encode()))
        self.assertEqual(exchange(client, DATA), whole(DATA))
        self.assertEqual(bytes(self.services[by].received[-1]), DATA)

    def assert_failed_over(self, outer: ProxyProcess, code: str) -> None:
        """The first machine was tried and got nothing; the second one got everything."""
        (record,) = outer.closed()
        self.assertEqual((record["code"], record["attempts"]), ("TM-D100", 2))
        self.assertEqual(record["dst.addr"], f"{ADDRESSES['two']}:{PORT}")
        (failure,) = record["failures"]
        self.assertEqual((failure["endpoint"], failure["code"]), (f"{ADDRESSES['one']}:{PORT}", code))
        self.assertEqual((record["bytes_sent"], record["bytes_recv"]), (len(DATA), len(DATA) + 3))
        self.assertEqual(self.services["one"].received, [])

    def test_a_black_hole_is_left_for_another_machine(self) -> None:
        """Nothing that is sent to the first machine is ever answered: its time runs out, the next one is dialled."""
        self.filter("one", "drop")
        outer = self.start_outer()
        self.talk("two")
        self.assert_failed_over(outer, CONNECT_TIMEOUT)

    def test_a_firewall_that_rejects_is_left_at_once(self) -> None:
        """It answers each SYN with a reset."""
        self.filter("one", f"tcp dport {PORT} reject with tcp reset")
        outer = self.start_outer()
        self.talk("two")
        self.assert_failed_over(outer, CONNECT_REFUSED)

    def test_a_machine_that_vanishes_in_the_middle_is_replaced_for_nobody(self) -> None:
        """Payload has moved: the application sees a reset, the next connection another machine, and none gets both."""
        outer = self.start_outer(user_timeout="2s")
        client = self.connect()
        self.assertEqual(receive(client, 3), whole(b"one"))
        client.sendall(DATA[:1000])
        self.assertEqual(receive(client, 1000), whole(DATA[:1000]))
        self.filter("one", "drop")
        client.sendall(DATA[1000:2000])
        self.assertEqual(receive(client).ending, "ECONNRESET")
        (record,) = outer.closed()
        self.assertEqual((record["code"], record["attempts"], record["bytes_sent"]), (PEER_VANISHED, 1, 2000))
        self.assertEqual((bytes(self.services["one"].received[0]), self.services["two"].received), (DATA[:1000], []))
        self.talk("two")

    def test_a_reset_in_the_middle_is_a_reset_and_nothing_else(self) -> None:
        """A firewall that forgot the connection answers its next segment with a reset."""
        outer = self.start_outer()
        client = self.connect()
        self.assertEqual(receive(client, 3), whole(b"one"))
        self.filter("one", f"tcp dport {PORT} reject with tcp reset")
        client.sendall(DATA[:1000])
        self.assertEqual(receive(client), Received(*whole(b"")[:2], "ECONNRESET"))
        (record,) = outer.closed()
        self.assertEqual((record["code"], record["attempts"]), ("TM-D101", 1))
        self.assertEqual((self.services["one"].received, self.services["two"].received), ([b""], []))

    def test_loss_and_a_narrow_wire_change_no_byte(self) -> None:
        """One packet of twenty to the server is lost, and there is little room: TCP mends it, unseen."""
        self.filter("one", "numgen random mod 20 == 0 counter drop")
        narrow = ["qdisc", "add", "dev", "one", "root", "tbf", "rate", "50mbit", "burst", "16kb", "latency", "20ms"]
        tried = run(*self.client.enter, self.tc, *narrow, status=None)
        if tried.returncode:
            skip_or_fail(f"tc has no tbf here: {tried.stderr.decode(errors='replace').strip()}")
        outer = self.start_outer(connect="20s")  # time for SYNs that are lost
        for _ in range(3):
            self.talk("one")
        for record in outer.closed(3):
            self.assertEqual((record["code"], record["bytes_sent"]), ("TM-D100", len(DATA)))
        rules = run(*self.machines["one"].enter, self.nft, "list", "ruleset").stdout
        self.assertRegex(rules, rb"counter packets [1-9]", "nothing was lost")

    def test_a_long_way_changes_no_byte(self) -> None:
        """Every piece takes its time in both directions, those of handshake and preface among them."""
        relay = Delay(self, self.client, f"{ADDRESSES['one']}:{PORT}")
        outer = self.start_outer(relay.address)
        self.talk("one")
        (record,) = outer.closed()
        self.assertEqual((record["code"], record["attempts"], record["dst.addr"]), ("TM-D100", 1, relay.address))


class Delay:
    """A relay on a machine that hands every piece on a little later."""

    def __init__(self, test: FieldTestCase, machine: Machine, target: str) -> None:
        self._machine = machine
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._listener: socket.socket = machine.inside(socket.create_server, ("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        test.addCleanup(self._listener.close)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _address = self._listener.accept()
                far: socket.socket = self._machine.inside(socket.create_connection, self._target)
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    @staticmethod
    def _carry(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                time.sleep(0.02)  # this is what it is for
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
