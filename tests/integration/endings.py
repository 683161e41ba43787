"""How a connection ended, in the records of both hops; and time that passes when the test says so."""

from __future__ import annotations

from twisted.internet.task import Clock

from tcpmesh.codes import Code
from tests.integration.mesh import MeshTestCase, Proxy


class EndingTestCase(MeshTestCase):
    async def assert_ends(self, proxy: Proxy, code: Code, closed_by: str, reason: str = "") -> None:
        """The close record's code, side and, where it is given, reason."""
        record = await proxy.closed()
        self.assertEqual((record.code, record.closed_by), (code, closed_by), (record.direction, record.reason))
        if reason:
            self.assertEqual(record.reason, reason)


class ControlledTime:
    """Takes over the timers of connections, so that a minute passes when the test says so."""

    def __init__(self, *proxies: Proxy) -> None:
        self._clocks = []
        for proxy in proxies:
            assert proxy.service.plane is not None
            clock = proxy.service.plane.clock = Clock()
            self._clocks.append(clock)

    def pass_by(self, seconds: int) -> None:
        for clock in self._clocks:
            clock.pump([1.0] * seconds)
