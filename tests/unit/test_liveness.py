"""The watch for peers that are gone: told by what the kernel would say, without a network."""

from __future__ import annotations

import struct
from errno import ETIMEDOUT
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.net.liveness import Liveness


class FakeSocket:
    """A socket's state as TCP_INFO gives it."""

    def __init__(self) -> None:
        self.probes = 0
        self.unacknowledged = 0
        self.last_ack_at = 0.0


class FakeTransport:
    """What the watch needs of a transport."""

    def __init__(self) -> None:
        self.socket = FakeSocket()
        self.given_up: list[int] = []

    def give_up(self, errno: int) -> None:
        self.given_up.append(errno)


class LivenessTests(SynchronousTestCase):
    """With a user timeout of 8 s: looked at every 2 s."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.transport = FakeTransport()
        self.liveness = Liveness(self.clock, self.read_info)
        self.liveness.add(self.transport, 8.0)

    def read_info(self, sock: Any) -> bytes:
        """A struct tcp_info: probes at 3, unacked at 24, last_ack_recv in milliseconds at 56."""
        info = bytearray(104)
        info[3] = sock.probes
        struct.pack_into("=I", info, 24, sock.unacknowledged)
        struct.pack_into("=I", info, 56, round((self.clock.seconds() - sock.last_ack_at) * 1000))
        return bytes(info)

    def pass_time(self, seconds: int) -> None:
        """Second by second."""
        for _second in range(seconds):
            self.clock.advance(1)

    def test_leaves_an_idle_connection_alone(self) -> None:
        """Nothing sent, nothing to acknowledge: that is what keepalive is for."""
        self.pass_time(3600)
        self.assertEqual(self.transport.given_up, [])

    def test_ends_a_connection_whose_data_nobody_acknowledges(self) -> None:
        """After the user timeout and at most a quarter more, with the error that the kernel would give."""
        self.pass_time(100)
        self.transport.socket.unacknowledged = 3
        self.pass_time(7)
        self.assertEqual(self.transport.given_up, [])
        self.pass_time(4)
        self.assertEqual(self.transport.given_up, [ETIMEDOUT])

    def test_an_old_acknowledgement_does_not_count_against_new_data(self) -> None:
        """Idle for an hour, then one packet under way at the moment of the look: no reason to end anything."""
        self.pass_time(3600)
        self.transport.socket.unacknowledged = 1
        self.pass_time(2)
        self.transport.socket.unacknowledged = 0
        self.pass_time(60)
        self.assertEqual(self.transport.given_up, [])

    def test_spares_a_live_peer_that_keeps_its_window_closed(self) -> None:
        """Its answers to window probes show that it lives, for as long as it likes not to read."""
        for _minute in range(30):
            self.transport.socket.probes = 1
            self.pass_time(4)
            self.transport.socket.last_ack_at = self.clock.seconds()
        self.assertEqual(self.transport.given_up, [])

    def test_ends_a_connection_whose_probes_go_unanswered(self) -> None:
        """A closed window whose owner has died is noticed like any other dead peer."""
        self.transport.socket.probes = 2
        self.pass_time(11)
        self.assertEqual(self.transport.given_up, [ETIMEDOUT])

    def test_forgets_what_it_is_told_to(self) -> None:
        """And leaves no timer behind."""
        self.liveness.discard(self.transport)
        self.transport.socket.unacknowledged = 1
        self.pass_time(60)
        self.assertEqual(self.transport.given_up, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_looks_at_many_in_slices(self) -> None:
        """1,200 sockets take three turns, not one long one."""
        looks: list[int] = []
        turns: list[int] = []

        class TurnCountingClock(Clock):
            """Notes how many were looked at whenever the watch asks for another turn."""

            def callLater(self, when: float, what: Any, *args: object, **kwargs: object) -> Any:
                if not when:
                    turns.append(len(looks))
                return super().callLater(when, what, *args, **kwargs)

        def read(sock: Any) -> bytes:
            looks.append(1)
            return self.read_info(sock)

        clock = TurnCountingClock()
        liveness = Liveness(clock, read)
        for _each in range(1200):
            liveness.add(FakeTransport(), 8.0)
        clock.advance(2)
        self.assertEqual((turns, len(looks)), ([500, 1000], 1200))
