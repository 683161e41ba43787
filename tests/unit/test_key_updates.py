"""A peer that asks for new keys without end: answered, bounded, and never in the way of data."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.dataplane.openssl_private import record_layer
from tcpmesh.dataplane.record_layer import READ_BYTES
from tests.unit.record_keys import (
    ALERT,
    ANSWER,
    APPLICATION_DATA,
    CLIENT,
    CLOSE_NOTIFY,
    HANDSHAKE,
    SERVER,
    RecordKeys,
    keep_secrets,
)
from tests.unit.tls_pairs import World, foreign_client, foreign_context, meet


class KeyUpdateTests(SynchronousTestCase):
    """The server's core against hand-made records."""

    records = staticmethod(record_layer)

    def setUp(self) -> None:
        world = World(self.records)
        context = foreign_context(world.web)
        secrets = keep_secrets(context)
        self.server = world.server()
        self.assertTrue(meet(foreign_client(context), self.server))
        self.ours = RecordKeys(secrets[CLIENT])
        self.theirs = RecordKeys(secrets[SERVER], 2)  # two tickets were read during the handshake

    def test_the_records_made_here_are_good(self) -> None:
        """The apparatus speaks TLS: data in both directions, across a change of keys."""
        self.assertEqual(self.server.decrypt(self.ours.seal(APPLICATION_DATA, b"before")), b"before")
        self.assertEqual(self.server.decrypt(self.ours.key_update(ANSWER)), b"")
        self.assertEqual(self.server.decrypt(self.ours.seal(APPLICATION_DATA, b"after")), b"after")
        self.assertEqual(self.server.take_output(), b"")  # nobody asked for an answer
        self.assertEqual(self.theirs.open(self.server.encrypt(b"reply")), [(APPLICATION_DATA, b"reply")])

    def test_answers_with_keys_of_its_own(self) -> None:
        """A demand is answered before the next payload, once, and the payload is under the new keys."""
        self.assertEqual(self.server.decrypt(self.ours.key_update()), b"")
        sent = self.server.take_output() + self.server.encrypt(b"reply")
        self.assertEqual(self.theirs.open(sent), [(HANDSHAKE, ANSWER), (APPLICATION_DATA, b"reply")])

    def test_a_flood_is_answered_within_bounds(self) -> None:
        """Thousands of demands in one read make no more answers than demands; payload still passes afterwards."""
        flood = b"".join(self.ours.key_update() for _ in range(2000))
        self.assertEqual(self.server.decrypt(flood), b"")
        self.assertIsNone(self.server.broken)
        answers = self.server.take_output()
        self.assertTrue(0 < len(answers) <= len(flood), len(answers))
        opened = self.theirs.open(answers)
        self.assertEqual(set(opened), {(HANDSHAKE, ANSWER)})
        self.assertEqual(self.server.take_output(), b"")
        self.assertEqual(self.server.decrypt(self.ours.seal(APPLICATION_DATA, b"still here")), b"still here")
        last = self.theirs.open(self.server.encrypt(b"so am I"))
        self.assertEqual(last[-1], (APPLICATION_DATA, b"so am I"))
        self.assertTrue(len(opened) + len(last) - 1 <= 2000, (len(opened), len(last)))

    def test_demands_among_data_do_not_pile_up(self) -> None:
        """With payload in every read, answers are looked for now and then."""
        answered = 0
        for _ in range(200):
            batch = self.ours.key_update() + self.ours.seal(APPLICATION_DATA, b"x")
            self.assertEqual(self.server.decrypt(batch), b"x")
            answers = self.server.take_output()
            self.assertTrue(len(answers) <= 64 * 27, len(answers))
            answered += len(self.theirs.open(answers))
        self.assertTrue(answered >= 128, answered)

    def test_answers_that_nobody_took_go_before_payload(self) -> None:
        """With the end in the same read, demands are answered only when there is payload to be sent: all of it goes."""
        demands = b"".join(self.ours.key_update() for _ in range(2000))
        self.assertEqual(self.server.decrypt(demands + self.ours.seal(ALERT, CLOSE_NOTIFY)), b"")
        self.assertTrue(self.server.peer_ended)
        payload = bytes(READ_BYTES - 1)
        opened = self.theirs.open(self.server.encrypt(payload))
        self.assertEqual(b"".join(content for kind, content in opened if kind == APPLICATION_DATA), payload)
        self.assertEqual(sum(content == ANSWER for _, content in opened), 2000)
        self.assertEqual(self.theirs.open(self.server.encrypt(b"reply")), [(APPLICATION_DATA, b"reply")])
