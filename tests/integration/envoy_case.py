"""One proxy of ours and an Envoy."""

from __future__ import annotations

import re

from tcpmesh.observe.records import Side
from tests.integration.applications import Received, exchange, receive, until
from tests.integration.envoy import Change, unchanged
from tests.integration.foreign_case import ForeignProgramTestCase, Hop, Serve
from tests.integration.mesh import in_thread

__all__ = ["HELLO", "EnvoyTestCase"]

HELLO = b"hello"


class EnvoyTestCase(ForeignProgramTestCase):
    """Has Envoy at either side."""

    kind = "envoy"

    async def envoy_hop(self, side: Side, serve: Serve, change: Change = unchanged) -> Hop:
        """Envoy before our inbound proxy, or behind our outbound one."""
        if side == "src":
            return await self.client_hop(self.kind, "inbound", serve, change=change)
        return await self.server_hop(self.kind, "service", serve, change=change)

    async def ask(self, hop: Hop, data: bytes = HELLO) -> Received:
        """Send something and take all that comes."""

        def ask() -> Received:
            with hop.connect() as client:
                return exchange(client, data) if data else receive(client)

        return await in_thread(ask)

    async def said(self, hop: Hop, pattern: str) -> None:
        """Wait until Envoy's log has it."""
        try:
            await until(lambda: re.search(pattern, hop.peer.said, re.MULTILINE), f"it says {pattern}")
        except AssertionError:
            raise AssertionError(f"Envoy does not say {pattern}, but {hop.peer.said}") from None
