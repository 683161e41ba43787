"""
A peer that asks for new keys without end: answered, bounded, and never in the way of data.

OpenSSL's KeyUpdate (RFC 8446 section 4.6.3) is out of pyOpenSSL's reach, so the client's records are made by hand from
the secret that its key log gives away.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from twisted.trial.unittest import SynchronousTestCase

from tests.unit.tls_pairs import World, foreign_client, foreign_context, meet

_APPLICATION_DATA, _HANDSHAKE = 23, 22
_KEY_UPDATE = b"\x18\x00\x00\x01"
_DEMAND, _ANSWER = _KEY_UPDATE + b"\x01", _KEY_UPDATE + b"\x00"


def _expand(secret: bytes, label: bytes, length: int) -> bytes:
    """HKDF-Expand-Label with an empty context (RFC 8446 section 7.1)."""
    label = b"tls13 " + label
    info = length.to_bytes(2, "big") + bytes([len(label)]) + label + b"\0"
    return HKDFExpand(SHA384(), length, info).derive(secret)


class RecordKeys:
    """One direction of TLS_AES_256_GCM_SHA384 after the handshake, and its keys' succession."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._derive()

    def _derive(self) -> None:
        self._cipher = AESGCM(_expand(self._secret, b"key", 32))
        self._iv = int.from_bytes(_expand(self._secret, b"iv", 12), "big")
        self._number = 0

    def update(self) -> None:
        """Go on to the next keys (RFC 8446 section 7.2)."""
        self._secret = _expand(self._secret, b"traffic upd", 48)
        self._derive()

    def _nonce(self) -> bytes:
        number, self._number = self._number, self._number + 1
        return (self._iv ^ number).to_bytes(12, "big")

    def seal(self, kind: int, content: bytes) -> bytes:
        """One record."""
        header = b"\x17\x03\x03" + (len(content) + 17).to_bytes(2, "big")
        return header + self._cipher.encrypt(self._nonce(), content + bytes([kind]), header)

    def key_update(self, message: bytes = _DEMAND) -> bytes:
        """Announce new keys, then use them."""
        record = self.seal(_HANDSHAKE, message)
        self.update()
        return record

    def open(self, ciphertext: bytes) -> list[tuple[int, bytes]]:
        """Kind and content of each record; new keys are followed."""
        found = []
        while ciphertext:
            end = 5 + int.from_bytes(ciphertext[3:5], "big")
            plain = self._cipher.decrypt(self._nonce(), ciphertext[5:end], ciphertext[:5])
            content, kind = plain[:-1], plain[-1]
            if kind == _HANDSHAKE and content.startswith(_KEY_UPDATE):
                self.update()
            found.append((kind, content))
            ciphertext = ciphertext[end:]
        return found


class KeyUpdateTests(SynchronousTestCase):
    """The server's core against hand-made records."""

    def setUp(self) -> None:
        world = World()
        secrets: dict[bytes, bytes] = {}
        context = foreign_context(world.web)

        def remember(_connection: object, line: bytes) -> None:
            label, _random, secret = line.split()
            secrets[label] = bytes.fromhex(secret.decode())

        context.set_keylog_callback(remember)
        self.server = world.server()
        self.assertTrue(meet(foreign_client(context), self.server))
        self.ours = RecordKeys(secrets[b"CLIENT_TRAFFIC_SECRET_0"])
        self.theirs = RecordKeys(secrets[b"SERVER_TRAFFIC_SECRET_0"])
        # The client has read the tickets already; count them on our side too.
        self.theirs._number = 2

    def test_the_records_made_here_are_good(self) -> None:
        """The apparatus speaks TLS: data in both directions, across a change of keys."""
        self.assertEqual(self.server.decrypt(self.ours.seal(_APPLICATION_DATA, b"before")), b"before")
        self.assertEqual(self.server.decrypt(self.ours.key_update(_ANSWER)), b"")
        self.assertEqual(self.server.decrypt(self.ours.seal(_APPLICATION_DATA, b"after")), b"after")
        self.assertEqual(self.server.take_answers(idle=True), b"")  # nobody asked for an answer
        self.assertEqual(self.theirs.open(self.server.encrypt(b"reply")), [(_APPLICATION_DATA, b"reply")])

    def test_answers_with_keys_of_its_own(self) -> None:
        """A demand is answered before the next payload, once, and the payload is under the new keys."""
        self.assertEqual(self.server.decrypt(self.ours.key_update()), b"")
        sent = self.server.take_answers(idle=True) + self.server.encrypt(b"reply")
        self.assertEqual(self.theirs.open(sent), [(_HANDSHAKE, _ANSWER), (_APPLICATION_DATA, b"reply")])

    def test_a_flood_is_answered_within_bounds(self) -> None:
        """Thousands of demands in one read make no more answers than demands; payload still passes afterwards."""
        flood = b"".join(self.ours.key_update() for _ in range(2000))
        self.assertEqual(self.server.decrypt(flood), b"")
        self.assertIsNone(self.server.broken)
        answers = self.server.take_answers(idle=True)
        self.assertTrue(0 < len(answers) <= len(flood), len(answers))
        opened = self.theirs.open(answers)
        self.assertEqual(set(opened), {(_HANDSHAKE, _ANSWER)})
        self.assertEqual(self.server.take_output(), b"")
        self.assertEqual(self.server.decrypt(self.ours.seal(_APPLICATION_DATA, b"still here")), b"still here")
        last = self.theirs.open(self.server.encrypt(b"so am I"))
        self.assertEqual(last[-1], (_APPLICATION_DATA, b"so am I"))
        self.assertTrue(len(opened) + len(last) - 1 <= 2000, (len(opened), len(last)))

    def test_demands_among_data_do_not_pile_up(self) -> None:
        """With payload in every read, answers are looked for now and then."""
        answered = 0
        for _ in range(200):
            batch = self.ours.key_update() + self.ours.seal(_APPLICATION_DATA, b"x")
            self.assertEqual(self.server.decrypt(batch), b"x")
            answers = self.server.take_answers(idle=False)
            self.assertTrue(len(answers) <= 64 * 27, len(answers))
            answered += len(self.theirs.open(answers))
        self.assertTrue(answered >= 128, answered)
