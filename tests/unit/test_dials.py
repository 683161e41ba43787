"""Dials on real sockets, without a reactor that runs: what each outcome of connect(2) becomes."""

from __future__ import annotations

from twisted.internet.protocol import Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.codes import CONNECT_FAILED
from tcpmesh.errors import Refusal
from tcpmesh.net.dialling import Dial
from tcpmesh.net.reset_watch import ResetWatch
from tcpmesh.values import TCPAddress

PATIENCE = 20  # seconds


class DialCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.watch = ResetWatch(self.reactor)
        self.addCleanup(self.watch.close)
        self.protocol = Protocol()
        self.refusals: list[Refusal] = []

    def dial(self, host: str, port: int) -> Dial:
        """Begin; the test plays the reactor's part."""
        dial = Dial(TCPAddress(host, port), self.protocol, PATIENCE, self.refusals.append, self.watch, self.reactor)
        self.addCleanup(dial.cancel)
        return dial


class DialTests(DialCase):
    def test_an_interface_that_is_not_there_is_named_in_words(self) -> None:
        """The resolver's numbers are not the system's errors."""
        self.dial("fe80::1%nosuch0", 9)
        self.reactor.advance(0)
        [refusal] = self.refusals
        self.assertEqual((refusal.code, refusal.errno), (CONNECT_FAILED, "ENODEV"))
        self.assertEqual(refusal.reason, "connecting to [fe80::1%nosuch0]:9: No such device")
