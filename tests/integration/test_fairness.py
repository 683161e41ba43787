"""A flood of handshakes and a connection that is there: what is counted is work per turn of the reactor."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.task import deferLater

from tcpmesh.dataplane.tls_core import TLSCore
from tcpmesh.net.handshake_turns import STEPS
from tests.integration.endings import EndingTestCase
from tests.integration.mesh import echo, in_thread, reactor
from tests.unit.tls_pairs import client_hello

FLOOD = 40


class FairnessTests(EndingTestCase):
    """Forty peers say hello at once, and one that is established says something."""

    async def test_a_flood_of_handshakes_does_not_stop_who_is_there(self) -> None:
        """In no turn more steps than a turn has, and the established connection is served in the first ones."""
        _outer, inner, port = self.start_two_hops(self.application(echo))
        client = self.connect(port)
        await inner.opened()
        [established] = [connection for connection in inner.live if connection.record.established]
        steps = 0
        real = TLSCore.handshake

        def counting(core: TLSCore, *arguments: Any) -> bool:
            nonlocal steps
            steps += 1
            return real(core, *arguments)

        self.patch(TLSCore, "handshake", counting)
        hello = client_hello()
        flood = []
        for _ in range(FLOOD):  # all of it is in the kernel before the reactor has another turn
            peer = socket.create_connection(("127.0.0.1", inner.port("orders-in")))
            self.addCleanup(peer.close)
            peer.sendall(hello)
            flood.append(peer)
        client.sendall(b"x")
        most = 0
        steps_before_it_was_served: int | None = None
        for _turn in range(10_000):
            before = steps
            await deferLater(reactor, 0)
            most = max(most, steps - before)
            if steps_before_it_was_served is None and established.record.bytes_sent:
                steps_before_it_was_served = steps
            if steps >= FLOOD and steps_before_it_was_served is not None:
                break
        self.assertGreaterEqual(steps, FLOOD)
        self.assertLessEqual(most, STEPS)
        assert steps_before_it_was_served is not None
        self.assertLess(steps_before_it_was_served, FLOOD, "it was served while the flood was under way")
        self.assertEqual(await in_thread(client.recv, 1), b"x")
        for peer in flood:
            peer.close()
        client.close()
        await inner.closed(FLOOD + 1)
