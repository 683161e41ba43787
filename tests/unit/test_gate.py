"""The limits at the door, by count."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.codes import CONNECTION_LIMIT, HANDSHAKE_LIMIT, OUT_OF_DESCRIPTORS
from tcpmesh.net.plane import Gate


class GateTests(SynchronousTestCase):
    def test_a_connection_needs_room_for_both_of_its_sockets(self) -> None:
        """Lingering sockets of others take that room away, and give it back."""
        gate = Gate(100, 100, 5)
        self.assertIsNone(gate.enter())
        gate.sockets = 3
        self.assertIsNone(gate.enter())
        gate.sockets = 4
        self.assertIs(gate.enter(), OUT_OF_DESCRIPTORS)
        self.assertEqual(gate.connections, 2)
        gate.sockets = 3
        self.assertIsNone(gate.enter())

    def test_the_limit_of_connections_is_named_first(self) -> None:
        """When both are reached it is the one that the configuration can raise."""
        gate = Gate(1, 100, 2)
        self.assertIsNone(gate.enter())
        gate.sockets = 2
        self.assertIs(gate.enter(), CONNECTION_LIMIT)
        gate.leave()
        self.assertIs(gate.enter(), OUT_OF_DESCRIPTORS)

    def test_without_a_limit_of_descriptors_sockets_do_not_matter(self) -> None:
        """None: RLIM_INFINITY."""
        gate = Gate(2, 100)
        gate.sockets = 10**6
        self.assertIsNone(gate.enter())

    def test_handshakes_have_their_own_limit(self) -> None:
        """A place is taken by one that began, not by one that was refused."""
        gate = Gate(100, 1)
        self.assertIsNone(gate.begin_handshake())
        self.assertIs(gate.begin_handshake(), HANDSHAKE_LIMIT)
        gate.end_handshake()
        self.assertIsNone(gate.begin_handshake())
