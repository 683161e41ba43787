"""A dial that is given up when the kernel has connected it already, and the reactor does not know yet."""

from __future__ import annotations

import socket

from twisted.internet.protocol import Protocol

from tcpmesh.errors import Refusal
from tcpmesh.net.sockets import Sockets
from tcpmesh.values import TCPAddress
from tests.integration.mesh import PATIENCE, MeshTestCase, reactor


class GivenUpDialTests(MeshTestCase):
    """What the target sees of it."""

    def test_the_target_sees_a_reset_and_no_orderly_end(self) -> None:
        """An application that is dialled for a client that is gone must not take that for an empty, whole stream."""
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        listener.settimeout(PATIENCE)
        sockets = Sockets(reactor)
        self.addCleanup(sockets.close)
        refusals: list[Refusal] = []
        address = TCPAddress("127.0.0.1", listener.getsockname()[1])
        dial = sockets.dial(address, Protocol(), PATIENCE, refusals.append)
        # connect(2) was called, and on loopback the kernel connects at once; the reactor hears of it in its next turn.
        dial.cancel()
        connection, _ = listener.accept()
        self.addCleanup(connection.close)
        connection.settimeout(PATIENCE)
        self.assertRaises(ConnectionResetError, connection.recv, 1)
        self.assertEqual(refusals, [])
