"""The main job: a plain application reaches another one through two authenticated hops, and a stranger does not."""

from __future__ import annotations

import socket

from tcpmesh.codes import CLEAN, NO_RULE_ALLOWS
from tests.integration.mesh import MeshTestCase, echo, in_thread, receive_all


class TwoHopTests(MeshTestCase):
    """An outbound and an inbound proxy between a client and an echo service."""

    async def test_carries_a_request_and_its_answer(self) -> None:
        """Bytes arrive unchanged, both records agree, and both ends are identified."""
        outer, inner, port = self.start_two_hops(self.application(echo))

        def ask() -> bytes:
            client = self.connect(port)
            client.sendall(b"hello")
            client.shutdown(socket.SHUT_WR)
            return receive_all(client)

        self.assertEqual(await in_thread(ask), b"hello")
        there, here = await inner.closed(), await outer.closed()
        self.assertEqual((there.code, here.code), (CLEAN, CLEAN))
        self.assertEqual((here.bytes_sent, here.bytes_recv), (5, 5))
        self.assertEqual((there.bytes_sent, there.bytes_recv), (5, 5))
        self.assertEqual(there.src_identity, "spiffe://mesh.test/web")
        self.assertEqual(here.dst_identity, "spiffe://mesh.test/orders")
        self.assertEqual(len(there.conn), 16)
        self.assertEqual(there.conn, here.conn)
        self.assertEqual((there.alpn, there.tls_version), ("tcpmesh/1", "TLSv1.3"))

    async def test_refuses_a_stranger_before_the_application_is_dialled(self) -> None:
        """A verified peer that no rule names sees a reset; both records say the same code; nobody was called."""
        dialled: list[socket.socket] = []
        inner = self.start_inbound(self.application(dialled.append))
        outer = self.start_outbound(inner.port("orders-in"), workload="intruder")
        client = self.connect(outer.port("to-orders"))
        with self.assertRaises(ConnectionResetError):
            await in_thread(client.recv, 1)
        there, here = await inner.closed(), await outer.closed()
        self.assertEqual((there.code, here.code), (NO_RULE_ALLOWS, NO_RULE_ALLOWS))
        self.assertEqual(there.src_identity, "spiffe://mesh.test/intruder")
        self.assertIn("no policy allows spiffe://mesh.test/intruder", here.reason)
        self.assertEqual(dialled, [])
