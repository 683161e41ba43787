"""The TLS core, end against end: every stream test in one piece and one byte at a time."""

from __future__ import annotations

from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import codes
from tcpmesh.dataplane.openssl_private import record_layer
from tcpmesh.dataplane.preface import ALPN
from tcpmesh.dataplane.record_layer import MAX_PAYLOAD_BYTES, READ_BYTES, RECORD_BYTES
from tcpmesh.errors import Refusal
from tests.unit.crafted import Extension, uri
from tests.unit.tls_pairs import (
    ORDERS,
    PIECES,
    TLS12,
    WEB,
    World,
    foreign_client,
    joined,
    meet,
    names_of,
    now_leaf,
    pieces,
    take,
)

MEBIBYTE = bytes(range(256)) * 4096


def records(ciphertext: bytes) -> list[tuple[int, int]]:
    """Content type and length of each TLS record (RFC 8446 section 5.1)."""
    found = []
    while ciphertext:
        length = int.from_bytes(ciphertext[3:5], "big")
        found.append((ciphertext[0], length))
        ciphertext = ciphertext[5 + length :]
    return found


class CoreCase(SynchronousTestCase):
    records = staticmethod(record_layer)

    def setUp(self) -> None:
        self.world = World(self.records)


class HandshakeTests(CoreCase):
    def test_identifies_both_ends(self) -> None:
        """Each end knows who the other is, at whatever size the bytes arrive."""
        for piece in PIECES:
            pair = joined(self.world, piece)
            self.assertEqual(str(pair.client.verification.peer), ORDERS)
            self.assertEqual(str(pair.server.verification.peer), WEB)

    def test_chooses_the_strongest_that_both_know(self) -> None:
        """Two tcpmesh speak TLS 1.3 with a post-quantum group and an AEAD cipher, and both ends say the same."""
        pair = joined(self.world)
        for core in (pair.client, pair.server):
            self.assertEqual((core.version, core.group), ("TLSv1.3", "X25519MLKEM768"))
            self.assertEqual(core.cipher, "TLS_AES_128_GCM_SHA256")

    def test_speaks_tls_1_2_where_it_is_configured(self) -> None:
        """For foreign peers: forward secret and AEAD all the same."""
        for piece in PIECES:
            pair = joined(self.world, piece, TLS12)
            self.assertEqual(pair.server.version, "TLSv1.2")
            self.assertIn("ECDHE-ECDSA-", pair.server.cipher)
            self.assertTrue("GCM" in pair.server.cipher or "CHACHA20" in pair.server.cipher, pair.server.cipher)
            self.assertEqual(pair.carry(pair.client.encrypt(b"old"), pair.server), b"old")

    def test_exports_the_same_secret_on_both_ends(self) -> None:
        """8 bytes in hex, equal on both ends, different for every connection, in both versions."""
        seen = set()
        for tls in (None, None, TLS12):
            pair = joined(self.world, tls=tls)
            self.assertEqual(pair.client.exporter(), pair.server.exporter())
            self.assertEqual(len(bytes.fromhex(pair.client.exporter())), 8)
            seen.add(pair.client.exporter())
        self.assertEqual(len(seen), 3)

    def test_agrees_on_the_preface(self) -> None:
        """A client that offers it gets it; one that does not, gets no protocol at all."""
        for offered, agreed in (((ALPN,), ALPN), ((), b"")):
            pair = joined(self.world, alpn=offered)
            self.assertEqual((pair.client.alpn, pair.server.alpn), (agreed, agreed))

    def test_takes_no_protocol_from_a_stranger(self) -> None:
        """Whoever offers other protocols is served without one, not refused; odd bytes do no harm."""
        for offered, agreed in (
            ([b"h2", b"http/1.1"], b""),
            ([b"h2", ALPN], ALPN),
            ([b"\x00\xff\n", b"tcpmesh/1 "], b""),
        ):
            client = foreign_client(self.world.web)
            client.set_alpn_protos(offered)
            server = self.world.server()
            self.assertTrue(meet(client, server))
            self.assertEqual((server.alpn, client.get_alpn_proto_negotiated()), (agreed, agreed))

    def test_reads_the_server_name(self) -> None:
        """Before and after the handshake; whatever a foreign client sends comes out as ASCII."""
        self.assertEqual(joined(self.world, sni="db.example.org").server.sni, "db.example.org")
        self.assertEqual(joined(self.world).server.sni, "")
        client = foreign_client(self.world.web)
        client.set_tlsext_host_name('evil"\n\x1b[2J\xff.test'.encode("latin-1"))
        server = self.world.server()
        meet(client, server)
        self.assertEqual(server.sni, 'evil"\n\x1b[2J\\xff.test')

    def test_sends_a_large_chain(self) -> None:
        """A server's flight beyond 32 KiB arrives whole."""
        padding = Extension("1.3.6.1.4.1.32473.1", False, bytes(40_000))
        state = self.world.state(orders=now_leaf(self.world.issuing, uri(ORDERS), more=[padding]))
        for piece in PIECES:
            server = self.world.server(state=state)
            client = self.world.client()
            client.handshake(b"")
            server.handshake(client.take_output())
            flight = server.take_output()
            self.assertTrue(len(flight) > 32 * 1024, len(flight))
            complete = [client.handshake(part) for part in pieces(flight, piece)]
            self.assertEqual((complete[-1], any(complete[:-1])), (True, False))

    def test_keeps_payload_that_came_with_the_end_of_the_handshake(self) -> None:
        """A client may speak in the same segment as its Finished: nothing of it is lost."""
        client, server = self.world.client(), self.world.server()
        client.handshake(b"")
        server.handshake(client.take_output())
        self.assertTrue(client.handshake(server.take_output()))
        together = client.take_output() + client.encrypt(b"at once") + client.close_notify()
        self.assertTrue(server.handshake(together))
        self.assertEqual((server.decrypt(b""), server.peer_ended), (b"at once", True))


class DataTests(CoreCase):
    def test_carries_both_ways(self) -> None:
        """What is encrypted on one end comes out on the other, in order."""
        for piece in PIECES:
            pair = joined(self.world, piece)
            for sender, receiver in pair.both_ways():
                for payload in (b"x", b"hello" * 50, b"\0" * 3000):
                    self.assertEqual(pair.carry(sender.encrypt(payload), receiver), payload)

    def test_carries_a_large_batch_in_one_call(self) -> None:
        """A MiB becomes 64 full records (pyOpenSSL writes one at a time), and one decrypt gives all of it."""
        pair = joined(self.world)
        for sender, receiver in pair.both_ways():
            ciphertext = sender.encrypt(memoryview(MEBIBYTE))
            self.assertEqual([length for _, length in records(ciphertext)], [RECORD_BYTES + 17] * 64)
            self.assertEqual(receiver.decrypt(memoryview(ciphertext)), MEBIBYTE)

    def test_says_nothing_until_a_record_is_whole(self) -> None:
        """The bytes of half a record are no payload, no end and no error."""
        pair = joined(self.world)
        ciphertext = pair.client.encrypt(b"hello")
        self.assertEqual(pair.server.decrypt(ciphertext[:-1]), b"")
        self.assertEqual((pair.server.peer_ended, pair.server.broken), (False, None))
        self.assertEqual(pair.server.decrypt(ciphertext[-1:]), b"hello")

    def test_a_batch_has_bounds(self) -> None:
        """More than a batch holds breaks the connection, and nothing else: it is never written beyond the buffer."""
        client, server = self.world.client(), self.world.server()
        client.handshake(b"")
        server.handshake(client.take_output())
        self.assertTrue(client.handshake(server.take_output()))
        # What came with the handshake was to be asked for before there is more.
        self.assertTrue(server.handshake(client.take_output() + client.encrypt(bytes(READ_BYTES))))
        payload = server.decrypt(client.encrypt(bytes(READ_BYTES - RECORD_BYTES)))
        self.assertEqual(payload, bytes(MAX_PAYLOAD_BYTES))
        assert server.broken is not None
        self.assertEqual(server.broken.code, codes.TLS_BROKEN)

    def test_answers_nothing_of_its_own(self) -> None:
        """Ordinary data leaves nothing to be sent back, however much of it comes."""
        pair = joined(self.world)
        pair.server.decrypt(pair.client.encrypt(MEBIBYTE))
        self.assertEqual(pair.server.take_output(), b"")


class EndTests(CoreCase):
    def test_ends_one_direction_and_keeps_the_other(self) -> None:
        """close_notify is heard once all data before it is delivered; the other direction goes on."""
        for piece in PIECES:
            for tls in (None, TLS12):
                pair = joined(self.world, piece, tls)
                for sender, receiver in pair.both_ways():
                    last = sender.encrypt(b"last words")
                    end = sender.close_notify()
                    self.assertTrue(0 < len(end) < 64)
                    self.assertEqual(pair.carry(last, receiver), b"last words")
                    self.assertFalse(receiver.peer_ended)
                    self.assertEqual(pair.carry(end, receiver), b"")
                    self.assertTrue(receiver.peer_ended)
                    if sender is pair.client:
                        self.assertEqual(pair.carry(receiver.encrypt(b"reply"), sender), b"reply")
                self.assertEqual((pair.client.broken, pair.server.broken), (None, None))

    def test_delivers_data_and_end_of_one_read(self) -> None:
        """Data and close_notify in one batch: the data first, and the end is known."""
        pair = joined(self.world)
        batch = pair.client.encrypt(MEBIBYTE) + pair.client.close_notify()
        self.assertEqual(pair.server.decrypt(batch), MEBIBYTE)
        self.assertTrue(pair.server.peer_ended)

    def test_cannot_tell_a_cut_from_silence(self) -> None:
        """Without close_notify the stream has no end here: only the transport's FIN makes it a truncation."""
        for piece in PIECES:
            pair = joined(self.world, piece)
            self.assertEqual(pair.carry(pair.client.encrypt(b"hello"), pair.server), b"hello")
            for _ in range(3):
                self.assertEqual(pair.server.decrypt(b""), b"")
            self.assertEqual((pair.server.peer_ended, pair.server.broken), (False, None))

    def test_ends_twice_without_harm(self) -> None:
        """A second close_notify adds nothing, nor does one after a broken record."""
        pair = joined(self.world)
        self.assertTrue(pair.client.close_notify())
        self.assertEqual(pair.client.close_notify(), b"")
        pair.client.decrypt(b"\x17\x03\x03\x00\x13" + b"x" * 19)
        pair.client.close_notify()
        assert pair.client.broken is not None
        self.assertEqual(pair.client.broken.code, codes.TLS_BROKEN)

    def test_does_not_look_at_what_comes_after_the_end(self) -> None:
        """It is to be ignored (RFC 8446 section 6.1): a read full of headers is no work."""
        pair = joined(self.world)
        pair.server.decrypt(b"")
        self.assertEqual(pair.server.decrypt(pair.client.close_notify() + b"\x17\x03\x03\0\0" * 50_000), b"")
        self.assertTrue(pair.server.peer_ended)
        self.assertEqual(pair.server.opened, 1)
        self.assertEqual(pair.server.decrypt(b"\x17\x03\x03\0\0" * 50_000), b"")
        self.assertEqual((pair.server.opened, pair.server.peer_ended, pair.server.broken), (0, True, None))

    def test_sends_nothing_after_its_end(self) -> None:
        """Payload after close_notify is refused instead of being dropped."""
        pair = joined(self.world)
        pair.client.close_notify()
        refusal = self.assertRaises(Refusal, pair.client.encrypt, b"too late")
        self.assertEqual(refusal.code, codes.TLS_BROKEN)


class DamageTests(CoreCase):
    def test_delivers_what_came_before_a_damaged_record(self) -> None:
        """A record that does not decrypt ends the stream; what was whole before it is payload all the same."""
        for piece in PIECES:
            pair = joined(self.world, piece)
            good, bad = pair.client.encrypt(b"good"), bytearray(pair.client.encrypt(b"bad"))
            bad[-1] ^= 1
            self.assertEqual(pair.carry(good + bytes(bad), pair.server), b"good")
            broken = pair.server.broken
            assert broken is not None
            self.assertEqual(broken.code, codes.TLS_BROKEN)
            self.assertIn("bad record mac", broken.reason)
            self.assertFalse(pair.server.peer_ended)

    def test_is_told_by_an_alert_what_the_peer_thinks(self) -> None:
        """The end that saw the damage says so; the other one names the alert."""
        for piece in PIECES:
            pair = joined(self.world, piece)
            bad = bytearray(pair.client.encrypt(b"bad"))
            bad[-1] ^= 1
            pair.carry(bytes(bad), pair.server)
            self.assertEqual(pair.carry(pair.server.take_output(), pair.client), b"")
            broken = pair.client.broken
            assert broken is not None
            self.assertEqual(broken.code, codes.PEER_ALERT)
            self.assertEqual(broken.reason, "the peer sent the TLS alert 'bad record mac'")

    def test_keeps_the_cause_when_it_is_asked_again(self) -> None:
        """What OpenSSL says after the fatal alert is about itself: the alert stays the answer."""
        for piece in PIECES:
            pair = joined(self.world, piece)
            pair.carry(b"\x17\x03\x03\x00\x13" + b"x" * 19, pair.server)
            alert = pair.server.take_output()
            self.assertEqual(pair.carry(alert, pair.client), b"")
            for more in (b"", alert, b"\x17\x03\x03\x00\x13" + b"x" * 19):
                self.assertEqual(pair.client.decrypt(more), b"")
                broken = pair.client.broken
                assert broken is not None
                self.assertEqual(broken.code, codes.PEER_ALERT)
                self.assertEqual(broken.reason, "the peer sent the TLS alert 'bad record mac'")

    def test_refuses_plaintext_in_the_stream(self) -> None:
        """Bytes that are no records at all are damage as well."""
        pair = joined(self.world)
        pair.server.decrypt(b"GET / HTTP/1.1\r\n")
        broken = pair.server.broken
        assert broken is not None
        self.assertEqual(broken.code, codes.TLS_BROKEN)

    def test_replayed_and_swapped_records_do_not_pass(self) -> None:
        """A relay on the wire can neither repeat, drop nor exchange a record unnoticed."""
        for order in ((0, 0), (1, 0), (1,)):
            pair = joined(self.world)
            sent = [pair.client.encrypt(b"one"), pair.client.encrypt(b"two")]
            pair.server.decrypt(b"".join(sent[number] for number in order))
            assert pair.server.broken is not None, order
            self.assertEqual(pair.server.broken.code, codes.TLS_BROKEN)

    def test_a_client_cannot_renegotiate(self) -> None:
        """TLS 1.2's renegotiation would change who the peer is; the attempt changes nothing."""
        client = foreign_client(self.world.web)
        server = self.world.server(TLS12)
        meet(client, server)
        client.renegotiate()
        self.assertRaises(SSL.WantReadError, client.do_handshake)
        self.assertEqual(server.decrypt(take(client)), b"")
        client.bio_write(server.take_output())
        error = self.assertRaises(SSL.Error, client.do_handshake)
        self.assertIn("no renegotiation", names_of(error))
        self.assertEqual(str(server.verification.peer), WEB)
