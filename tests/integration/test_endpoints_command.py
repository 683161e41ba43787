"""tcpmesh endpoints beside a running proxy, whose endpoints answer, refuse, and come from a file that changes."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tcpmesh.codes import CLEAN, NO_ENDPOINT
from tests.integration.applications import RESET, broken, exchange, until, whole
from tests.integration.mesh import MeshTestCase, Proxy, echo, in_thread, unused_port
from tests.integration.processes import free_ports
from tests.integration.servers import run, temporary_directory


class EndpointsCase(MeshTestCase):
    """An outbound proxy with an admin socket."""

    def setUp(self) -> None:
        super().setUp()
        self.place = temporary_directory(self)
        self.socket = f"unix:{self.place / 'admin.sock'}"

    def outer(
        self, discovery: str, *, more: str = "", listen: str = "127.0.0.1:0", per_endpoint: bool = False
    ) -> Proxy:
        """Start it."""
        each = ", per_endpoint: true" if per_endpoint else ""
        return self.start(
            self.identity("web")
            + f'services: {{orders: {{expect: ["{self.pki.id("orders")}"], discovery: {discovery}{more}}}}}\n'
            + f'outbound: [{{name: to-orders, listen: "{listen}", service: orders, workload: web{each}}}]\n'
            + f'admin: {{listen: "{self.socket}"}}\n'
        )

    async def command(self, *words: str, status: int = 0) -> str:
        """Run it in a process of its own."""
        ended: subprocess.CompletedProcess[bytes] = await in_thread(
            lambda: run(sys.executable, "-m", "tcpmesh", "endpoints", "--admin", self.socket, *words, status=status)
        )
        return ended.stdout.decode()

    async def state(self) -> dict[str, Any]:
        """What it says of each endpoint, by address; its status says whether one is usable."""
        ended: subprocess.CompletedProcess[bytes] = await in_thread(
            lambda: run(sys.executable, "-m", "tcpmesh", "endpoints", "--admin", self.socket, "--json", status=None)
        )
        [service] = json.loads(ended.stdout)["services"]
        return {endpoint["address"]: endpoint for endpoint in service["endpoints"]}


class CommandTests(EndpointsCase):
    """The command."""

    async def test_shows_what_happened(self) -> None:
        """A live connection, and an endpoint that refused until it was ejected."""
        inner = self.start_inbound(self.application(echo))
        good, bad = f"127.0.0.1:{inner.port('orders-in')}", f"127.0.0.1:{unused_port()}"
        outer = self.outer(
            f'{{plugin: static, endpoints: ["{bad}", "{good}"]}}',
            more=", retry: {plugin: exponential, attempts: 2, base: 1ms}, "
            "health: {ejection: {failures: 2, time: 1h, max_time: 1h}}",
        )
        await self.command()  # an endpoint of which nothing is known is up
        for number in range(1, 5):
            connection = self.connect(outer.port("to-orders"))
            self.assertEqual(await in_thread(exchange, connection, b"x"), whole(b"x"))
            self.assertIs((await outer.closed(number)).code, CLEAN)
        held = self.connect(outer.port("to-orders"))
        await outer.opened(5)
        found = await self.state()
        self.assertEqual((found[good]["state"], found[good]["open"], found[good]["established"]), ("up", 1, 5))
        self.assertEqual((found[bad]["state"], found[bad]["failed"]), ("ejected", {"TM-U101": 2}))
        self.assertEqual(found[bad]["error"]["code"], "TM-U101")
        shown = await self.command("orders")
        self.assertIn("orders: 2 endpoints (1 ejected, 1 up)\n", shown)
        self.assertRegex(
            shown, rf"(?m)^{bad} +1 +ejected, (60|59) min left +0 +0 +0 +TM-U101 2 +TM-U101 connecting to "
        )
        await self.command("nosuch", status=64)
        held.close()

    async def test_says_when_nothing_can_be_tried(self) -> None:
        """The only endpoint is ejected: status 1."""
        bad = f"127.0.0.1:{unused_port()}"
        outer = self.outer(
            f'{{plugin: static, endpoints: ["{bad}"]}}',
            more=", health: {ejection: {failures: 1, time: 1h, max_time: 1h, max_share: 1.0}}",
        )
        await self.command()
        self.assertEqual(await in_thread(broken, self.connect(outer.port("to-orders"))), RESET)
        await outer.closed()
        self.assertIn("orders: 1 endpoint (1 ejected)\n", await self.command(status=1))


class FileTests(EndpointsCase):
    """A range of ports, whose endpoints a file names."""

    def write(self, *addresses: str) -> None:
        """Name these."""
        fresh = self.place / "fresh.yaml"
        fresh.write_text("".join(f'- "{address}"\n' for address in addresses) or "[]\n")
        fresh.replace(self.place / "endpoints.yaml")

    async def reload(self, proxy: Proxy, addresses: list[str]) -> None:
        """Let the proxy read the file, and wait until these are all."""
        proxy.service.reload_identities()
        cell = proxy.service.composition.state

        def known() -> bool:
            return sorted(str(each.address) for each in cell.current.endpoints["orders"]) == sorted(addresses)

        await until(known, "the file is read")

    async def test_ports_stay_where_they_are_while_a_file_changes(self) -> None:
        """The first entry goes and returns at the end of the list: no other port has moved, and then it is back."""
        inner = [self.start_inbound(self.application(echo)) for _ in range(3)]
        addresses = [f"127.0.0.1:{proxy.port('orders-in')}" for proxy in inner]
        first, second, third = addresses
        self.write(*addresses)
        ports = free_ports(3)
        outer = self.outer(
            f'{{plugin: file, path: "{self.place / "endpoints.yaml"}"}}',
            listen=f"127.0.0.1:{ports[0]}-{ports[-1]}",
            per_endpoint=True,
        )
        await self.reload(outer, addresses)
        numbers = {address: found["position"] for address, found in (await self.state()).items()}
        self.assertEqual(numbers, {first: 0, second: 1, third: 2})
        self.write(third, second)
        await self.reload(outer, [third, second])
        numbers = {address: found["position"] for address, found in (await self.state()).items()}
        self.assertEqual(numbers, {second: 1, third: 2})
        self.assertEqual(await in_thread(broken, self.connect(ports[0])), RESET)
        refused = await outer.closed()
        self.assertEqual(
            (refused.code, refused.reason),
            (NO_ENDPOINT, f"service 'orders' has no endpoint 0: {first}, which had that number, is gone"),
        )
        for port, address in ((ports[1], second), (ports[2], third)):
            self.assertEqual(await in_thread(exchange, self.connect(port), b"x"), whole(b"x"))
            self.assertEqual(outer.tap.open[-1].dst_addr, address)
        self.write(third, second, first)
        await self.reload(outer, addresses)
        self.assertEqual(await in_thread(exchange, self.connect(ports[0]), b"x"), whole(b"x"))
        self.assertEqual(outer.tap.open[-1].dst_addr, first)
