"""Whatever the order of events: what arrives is a prefix of what was sent, and an end is only seen when it is whole."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.codes import CLEAN, RESET
from tests.simulated.world import CAPACITY, Application, SimulatedMesh
from tests.unit.tls_pairs import World

STEPS = st.lists(st.tuples(st.integers(0, 7), st.integers(1, CAPACITY)), max_size=200)
SIZES = st.integers(0, 60_000)
WORLD = World()


def payload(size: int, seed: int) -> bytes:
    """Bytes in which every position is recognisable."""
    return b"".join(((seed << 24) + position).to_bytes(4, "big") for position in range((size + 3) // 4))[:size]


class SpliceTests(SynchronousTestCase):
    """Two relays, two TLS cores, four pipes of a thousand bytes."""

    def assert_whole(self, sender: Application, receiver: Application, data: bytes) -> None:
        """Everything arrived, in order, and then the end."""
        self.assertEqual(len(receiver.received), len(data))
        self.assertEqual(bytes(receiver.received), data)
        self.assertTrue(receiver.saw_end)
        self.assertFalse(receiver.saw_reset or sender.saw_reset)

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(SIZES, SIZES, STEPS)
    def test_both_directions_arrive_whole_in_any_order_of_events(
        self, there: int, back: int, steps: list[tuple[int, int]]
    ) -> None:
        """Pipes a sixtieth of the data force every pause and resume; nothing stands still for ever."""
        mesh = SimulatedMesh(WORLD)
        question, answer = payload(there, 1), payload(back, 2)
        mesh.client.to_send += question
        mesh.server.to_send += answer
        mesh.client.will_end = mesh.server.will_end = True
        for choice, amount in steps:
            mesh.step(choice, amount)
        mesh.run_to_rest()
        self.assert_whole(mesh.client, mesh.server, question)
        self.assert_whole(mesh.server, mesh.client, answer)
        self.assertEqual(sorted(mesh.closed), ["inbound", "outbound"])
        self.assertEqual([record.code for record in mesh.records], [CLEAN, CLEAN])
        for record in mesh.records:
            self.assertEqual((record.bytes_sent, record.bytes_recv), (there, back))
        self.assertEqual(len(mesh.keeper.closed), 4)
        self.assertEqual(mesh.clock.getDelayedCalls(), [])

    @settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(SIZES, SIZES, STEPS, st.booleans(), STEPS)
    def test_a_reset_at_any_moment_is_never_seen_as_an_end(
        self, there: int, back: int, before: list[tuple[int, int]], client_resets: bool, after: list[tuple[int, int]]
    ) -> None:
        """The other application gets a prefix and a reset, or everything if it had ended before."""
        mesh = SimulatedMesh(WORLD)
        question, answer = payload(there, 1), payload(back, 2)
        mesh.client.to_send += question
        mesh.server.to_send += answer
        mesh.server.will_end = client_resets
        mesh.client.will_end = not client_resets
        for choice, amount in before:
            mesh.step(choice, amount)
        breaker, other, sent = (
            (mesh.client, mesh.server, question) if client_resets else (mesh.server, mesh.client, answer)
        )
        breaker.socket.abort()
        breaker.socket.reset = True  # it is gone: it neither sends nor reads any more
        for choice, amount in after:
            mesh.step(choice, amount)
        mesh.run_to_rest()
        self.assertEqual(bytes(other.received), sent[: len(other.received)])
        # It never said that it had ended, so nobody may say so for it.
        self.assertFalse(other.saw_end)
        self.assertTrue(other.saw_reset)
        self.assertEqual(sorted(mesh.closed), ["inbound", "outbound"])
        self.assertEqual([record.code for record in mesh.records], [RESET, RESET])
        side = "src" if client_resets else "dst"
        self.assertEqual([record.closed_by for record in mesh.records], [side, side])
        self.assertEqual(len(mesh.keeper.closed), 4)

    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.integers(1, 200_000), STEPS)
    def test_a_reader_that_does_not_read_stops_its_writer(self, size: int, steps: list[tuple[int, int]]) -> None:
        """What is on the way stays bounded, whoever gets turns in whatever order."""
        mesh = SimulatedMesh(WORLD)
        mesh.client.to_send += payload(size, 1)
        for choice, amount in steps:
            if choice != 3:  # the server's read
                mesh.step(choice, amount)
        for _round in range(1000):
            moved = [mesh.step(choice, CAPACITY) for choice in range(8) if choice != 3]
            if not any(moved):
                break
        # Three pipes, and in each of three transports at most one read's worth (a record is a little larger).
        self.assertLessEqual(len(mesh.client.sent), 3 * CAPACITY + 3 * (CAPACITY + 100))
        for leg in mesh.legs:
            self.assertLessEqual(leg.unsent, CAPACITY + 100)
        mesh.client.will_end = mesh.server.will_end = True
        mesh.run_to_rest()
        self.assert_whole(mesh.client, mesh.server, payload(size, 1))
