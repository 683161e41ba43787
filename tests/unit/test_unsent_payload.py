"""How much of what a TLS leg holds is payload: records say what the kernel was given, and count no TLS bytes."""

from __future__ import annotations

from typing import cast

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.net.leg_owners import TLSLegOwner
from tcpmesh.net.plane import DataPlane
from tcpmesh.net.tls import TLSLeg
from tcpmesh.settings import Timeouts
from tests.simulated.world import Plane
from tests.unit.tls_pairs import Pair, World


class StuckTransport:
    """Takes nothing; all that is written waits."""

    def __init__(self) -> None:
        self.unsent = 0

    def write(self, data: bytes | memoryview) -> None:
        """(ITransport)."""
        self.unsent += len(data)

    def unregisterProducer(self) -> None:
        """(IConsumer)."""


class UnsentPayloadTests(SynchronousTestCase):
    def setUp(self) -> None:
        world = World()
        pair = Pair(world.client(), world.server()).handshake()
        owner = TLSLegOwner()
        plane = cast(DataPlane, Plane(MemoryReactorClock()))
        self.leg = TLSLeg(owner, owner, pair.client, Timeouts(), plane, client=True)  # type: ignore[arg-type]
        self.leg.transport = self.transport = StuckTransport()

    def test_a_close_notify_is_no_payload(self) -> None:
        """A peer that is gone before it was told of our end misses nothing."""
        self.leg.end()
        self.assertGreater(self.transport.unsent, 0)
        self.assertEqual(self.leg.unsent_payload, 0)

    def test_records_are_counted_without_what_surrounds_them(self) -> None:
        """One record and full ones are known to the byte, with a close_notify behind them or without."""
        for size in (1, 5, 16_384, 16_385, 100_000):
            with self.subTest(size):
                self.transport.unsent = 0
                self.leg.send(bytes(size))
                self.assertGreater(self.leg.unsent, size)
                self.assertEqual(self.leg.unsent_payload, size)
        self.leg.end()
        self.assertEqual(self.leg.unsent_payload, 100_000)

    def test_of_many_small_records_it_is_never_less_than_what_they_hold(self) -> None:
        """Where they begin is not known any more: a record of the connection then tells too little, never too much."""
        for _ in range(100):
            self.leg.send(bytes(3))
        self.assertGreaterEqual(self.leg.unsent_payload, 300)
        self.assertLess(self.leg.unsent_payload, self.leg.unsent)
