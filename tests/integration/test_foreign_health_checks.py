"""Active checks of servers that are no tcpmesh: they live, are killed, and come back at the same address."""

from __future__ import annotations

from tcpmesh.health.states import EndpointState
from tcpmesh.values import TCPAddress
from tests.integration.applications import until
from tests.integration.field import TRUST_DOMAIN
from tests.integration.foreign_case import ForeignProgramTestCase
from tests.integration.foreign_programs import ForeignServer, issued_files
from tests.integration.mesh import Proxy, echo, in_thread


class ForeignCheckTests(ForeignProgramTestCase):
    """Each program in front of an application, with orders' certificate, demanding ours."""

    def outbound(self, port: int, kind: str) -> Proxy:
        check = f"{{type: {kind}, interval: 100ms, timeout: 100ms, rise: 1, fall: 2}}"
        return self.start(
            self.acting_as("web")
            + f'services: {{orders: {{expect: ["spiffe://{TRUST_DOMAIN}/orders"], health: {{check: {check}}}, '
            + f'discovery: {{plugin: static, endpoints: ["127.0.0.1:{port}"]}}}}}}\n'
            + 'outbound: [{name: to-orders, listen: "127.0.0.1:0", service: orders, workload: web}]\n',
            trust_domain=TRUST_DOMAIN,
        )

    def state(self, proxy: Proxy, port: int) -> EndpointState:
        assert proxy.service.plane is not None
        now = proxy.service.plane.clock.seconds()
        return proxy.service.composition.health.services["orders"].state(TCPAddress("127.0.0.1", port), now)

    async def checked(self, program: str, kind: str) -> None:
        """Good while it lives, down when it is killed, up again when it is back."""
        files = issued_files(self, "orders")
        application = self.application(echo)
        peer = await in_thread(lambda: ForeignServer(self, program, files, application))
        proxy, port = self.outbound(peer.wire, kind), peer.wire

        def is_good() -> bool:
            state = self.state(proxy, port)
            return state.state == "up" and state.check is not None and state.check.trouble is None

        await until(is_good, f"a good check of {program}")
        await in_thread(peer.server.kill)
        await until(lambda: self.state(proxy, port).state == "down", f"{program} is down")
        check = self.state(proxy, port).check
        assert check is not None
        assert check.trouble is not None
        self.assertIn(check.trouble.code, ("TM-U101", "TM-I405", "TM-T101", "TM-T102"))
        plain = None if program == "openssl" else application
        await in_thread(lambda: peer.start(f"{program}-server", wire=port, plain=plain, listening=port))
        await until(is_good, f"{program} is up again")

    async def test_haproxy(self) -> None:
        """It serves many at a time."""
        await self.checked("haproxy", "tls")

    async def test_nginx(self) -> None:
        """Whatever it makes of its application: the handshake counts."""
        await self.checked("nginx", "tls")

    async def test_stunnel(self) -> None:
        """It waits for close_notify."""
        await self.checked("stunnel", "tls")

    async def test_socat(self) -> None:
        """One process per connection."""
        await self.checked("socat", "tls")

    async def test_openssl(self) -> None:
        """s_server serves one connection after the other."""
        await self.checked("openssl", "tls")

    async def test_a_tcp_check(self) -> None:
        """Of a server that wants TLS, and hears an end instead."""
        await self.checked("haproxy", "tcp")
