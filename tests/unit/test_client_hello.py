"""What a client offers, read from its first message."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.codes import CLIENT_HELLO_TIMEOUT, NO_BYTE, NOT_TLS
from tcpmesh.dataplane.client_hello import (
    MAX_CLIENT_HELLO,
    ClientHello,
    ClientHelloReader,
    InvalidClientHelloError,
    parse_client_hello,
    supported_groups,
)
from tcpmesh.errors import Refusal
from tests.unit.mutations import MUTATIONS, Mutation, mutated
from tests.unit.tls_pairs import client_hello, foreign_client, foreign_context, take


def hello(extensions: bytes) -> bytes:
    """A record with the least ClientHello and these extensions."""
    body = b"\x03\x03" + bytes(32) + b"\0" + b"\0\x02\x13\x01" + b"\x01\0" + extensions
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message


def extension(kind: int, content: bytes) -> bytes:
    return kind.to_bytes(2, "big") + len(content).to_bytes(2, "big") + content


class SupportedGroupsTests(SynchronousTestCase):
    def test_gives_the_groups_in_their_order(self) -> None:
        """Wherever the extension stands."""
        groups = extension(10, b"\0\x06\x11\xec\0\x1d\0\x17")
        for extensions in (groups, extension(21, b"abc") + groups, groups + extension(51, b"\0\0")):
            whole = len(extensions).to_bytes(2, "big") + extensions
            self.assertEqual(supported_groups(hello(whole)), (0x11EC, 0x1D, 0x17))

    def test_a_client_may_name_none(self) -> None:
        """Without the extension, and without any."""
        self.assertEqual(supported_groups(hello(b"")), ())
        self.assertEqual(supported_groups(hello(b"\0\x04" + extension(23, b""))), ())

    def test_reads_what_openssl_sends(self) -> None:
        """P-256 alone, and the library's own list, which has X25519 and P-256."""
        self.assertTrue({0x1D, 0x17} <= set(supported_groups(client_hello())))
        context = foreign_context()

        context.set_tmp_ecdh(ec.SECP256R1())
        client = foreign_client(context)
        self.assertRaises(SSL.WantReadError, client.do_handshake)
        self.assertEqual(supported_groups(take(client)), (0x17,))

    def test_refuses_everything_else(self) -> None:
        """Other records and messages, and a ClientHello that ends anywhere before its end."""
        whole = client_hello()
        for data in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x15" + whole[1:], whole[:5] + b"\x02" + whole[6:]):
            self.assertRaises(InvalidClientHelloError, supported_groups, data)
        for end in range(len(whole)):
            self.assertRaises(InvalidClientHelloError, supported_groups, whole[:end])
        odd = extension(10, b"\0\x03\0\x1d\0")
        self.assertRaises(InvalidClientHelloError, supported_groups, hello(len(odd).to_bytes(2, "big") + odd))


def with_name(name: bytes, more: bytes = b"") -> bytes:
    """A record with a ClientHello that asks for a server name."""
    content = b"\0" + len(name).to_bytes(2, "big") + name
    extensions = extension(0, len(content).to_bytes(2, "big") + content) + more
    return hello(len(extensions).to_bytes(2, "big") + extensions)


def fragmented(record: bytes, size: int) -> bytes:
    """The same message in records of so many bytes of content."""
    content = record[5:]
    return b"".join(
        b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part
        for part in (content[start : start + size] for start in range(0, len(content), size))
    )


def openssl_hello(name: bytes, protocols: list[bytes] | None = None) -> bytes:
    """What OpenSSL sends to ask for a name."""
    client = foreign_client(foreign_context())
    client.set_tlsext_host_name(name)
    if protocols:
        client.set_alpn_protos(protocols)
    try:
        client.do_handshake()
    except SSL.WantReadError:
        return take(client)
    raise AssertionError("a handshake without a peer")


class ParseTests(SynchronousTestCase):
    """The message by itself."""

    def test_reads_the_name_that_openssl_sends(self) -> None:
        """As it was given to it."""
        found = parse_client_hello(openssl_hello(b"Orders.Example.TEST", [b"h2", b"http/1.1"])[5:])
        self.assertEqual(found.server_name, "Orders.Example.TEST")
        self.assertFalse(found.encrypted)

    def test_ignores_what_it_does_not_know(self) -> None:
        """Grease of RFC 8701 among extensions, and any other number."""
        grease = extension(0x0A0A, b"") + extension(0xFAFA, b"\0") + extension(0x1234, b"abc")
        self.assertEqual(parse_client_hello(with_name(b"a.test", grease)[5:]).server_name, "a.test")

    def test_notes_an_encrypted_one(self) -> None:
        """Whether there is a second message in it, or grease, nobody can tell."""
        found = parse_client_hello(with_name(b"public.test", extension(0xFE0D, bytes(50)))[5:])
        self.assertEqual((found.server_name, found.encrypted), ("public.test", True))

    def test_refuses_what_could_be_read_in_two_ways(self) -> None:
        """Two names, an extension twice, names that end before their end."""
        two = b"\0\0\x01a\0\0\x01b"
        for content, said in (
            (extension(0, len(two).to_bytes(2, "big") + two), "several server names"),
            (extension(0, b"\0\x04\0\0\x01a" + b"x"), "several server names"),
            (extension(0, b"\0\x04\x01\0\x01a"), "unknown kind 1"),
            (extension(0, b"\0\x03\0\0\0"), "the server name '' is none"),
            (extension(0, b"\0\x06\0\0\x03a\0b"), "is none"),
            (extension(0, b"\0\x06\0\0\x03a\xfcb"), "is none"),
            (extension(0, b"\0\x04\0\0\x01a") * 2, "extension 0 comes twice"),
            (extension(0, b""), "announced"),
        ):
            message = hello(len(content).to_bytes(2, "big") + content)[5:]
            failure = self.assertRaises(InvalidClientHelloError, parse_client_hello, message)
            self.assertIn(said, str(failure))
        behind = with_name(b"a.test")[5:]
        for message in (behind + b"x", behind[:1] + (len(behind) - 3).to_bytes(3, "big") + behind[4:] + b"x"):
            failure = self.assertRaises(InvalidClientHelloError, parse_client_hello, message)
            self.assertEqual(str(failure), "there are bytes behind it")

    def test_takes_names_that_can_be_one(self) -> None:
        """A stranger's name is kept in records, decisions and answers of policies: 64 KiB of it would add up."""
        longest = b"a" * 255
        self.assertEqual(parse_client_hello(with_name(longest)[5:]).server_name.encode(), longest)
        for length in 256, 16_000, 60_000:
            failure = self.assertRaises(InvalidClientHelloError, parse_client_hello, with_name(b"a" * length)[5:])
            self.assertEqual(str(failure), f"the server name has {length} bytes, and 255 are the most")

    def test_takes_so_many_extensions(self) -> None:
        """More than any client has, and no more: each costs the reader time."""
        for count in (256, 257):
            extensions = b"".join(extension(kind, b"") for kind in range(100, 100 + count))
            message = hello(len(extensions).to_bytes(2, "big") + extensions)[5:]
            if count == 256:
                self.assertEqual(parse_client_hello(message), ClientHello())
            else:
                failure = self.assertRaises(InvalidClientHelloError, parse_client_hello, message)
                self.assertEqual(str(failure), "it has more than 256 extensions")

    def test_reads_nothing_into_anything(self) -> None:
        """Whatever the bytes are: a message, or the one exception."""

        message = openssl_hello(b"a.test", [b"h2"])[5:]

        @given(MUTATIONS)
        @settings(max_examples=300, deadline=None)
        def check(mutations: list[Mutation]) -> None:
            try:
                found = parse_client_hello(mutated(message, mutations))
            except InvalidClientHelloError:
                return
            self.assertTrue(found.server_name.isascii())

        check()


class ReaderTests(SynchronousTestCase):
    """Bytes as they come."""

    def refused(self, *pieces: bytes) -> Refusal:
        reader = ClientHelloReader("way out")
        for piece in pieces[:-1]:
            self.assertIsNone(reader.feed(piece))
        return self.assertRaises(Refusal, reader.feed, pieces[-1])

    def test_takes_any_pieces_in_any_records(self) -> None:
        """The same message, whatever came when, and no byte of it lost; nor of what came behind it."""
        whole = openssl_hello(b"a.test")
        expected = parse_client_hello(whole[5:])

        @given(st.integers(1, 700), st.lists(st.integers(1, 300), max_size=8), st.binary(max_size=20))
        @settings(max_examples=100, deadline=None)
        def check(size: int, cuts: list[int], behind: bytes) -> None:
            reader = ClientHelloReader()
            data = fragmented(whole, size)
            found, place = None, 0
            for cut in [*cuts, len(data)]:
                if place == len(data):
                    break
                piece = data[place : place + cut]
                place += len(piece)
                self.assertIsNone(found)
                found = reader.feed(memoryview(piece + (behind if place == len(data) else b"")))
            self.assertEqual(found, expected)
            self.assertEqual(reader.rest, data + behind)

        check()

    def test_takes_one_byte_at_a_time(self) -> None:
        """And knows with the last one."""
        data = fragmented(openssl_hello(b"a.test"), 100)
        reader = ClientHelloReader()
        for place in range(len(data) - 1):
            self.assertIsNone(reader.feed(data[place : place + 1]), place)
        found = reader.feed(data[-1:])
        assert isinstance(found, ClientHello)
        self.assertEqual(found.server_name, "a.test")

    def test_refuses_other_protocols_at_their_first_byte(self) -> None:
        """And says what to do about those that it knows."""
        for first, said in (
            (b"GET / HTTP/1.1\r\n", "use https"),
            (b"G", "the first bytes are not TLS: b'G'"),
            (bytes.fromhex("0000000804d2162f"), "sslnegotiation=direct"),
            (bytes.fromhex("00000054") + b"\0\x03\0\0user", "sslmode=require"),
            (b"*1\r\n$4\r\nPING\r\n", "Redis"),
            (b"PRI * HTTP/2.0\r\n\r\nSM", "insecure channel"),
            (b"\x80\x2e\x01\x00\x02", "not TLS"),  # SSL 2.0
            (b"\x16\x02\0", "not TLS"),
            (b"\x15\x03\x01\0\x02\x02\x28", "not TLS"),
        ):
            refusal = self.refused(first)
            self.assertIs(refusal.code, NOT_TLS)
            self.assertIn(said, refusal.reason)
            self.assertTrue(refusal.reason.endswith("; way out"), refusal.reason)
            self.assertNotIn("HTTP/1.1", refusal.reason)  # what a stranger says further is not for the log

    def test_refuses_other_messages_and_records(self) -> None:
        """As soon as they can be told."""
        begin = openssl_hello(b"a.test")
        for pieces, said in (
            ((b"\x16\x03\x01\0\x01\x02",), "of kind 2, and no ClientHello"),
            ((b"\x16\x03\x01\0\0",), "a TLS record of 0 bytes is none"),
            ((b"\x16\x03\x01\x40\x01",), "a TLS record of 16385 bytes is none"),
            ((fragmented(begin, 100)[:105], b"\x17\x03\x03\0\x01x"), "within a ClientHello came a record"),
            ((hello(b"\0\x09" + extension(0, b"x")),), "the ClientHello cannot be read"),
        ):
            refusal = self.refused(*pieces)
            self.assertIs(refusal.code, NOT_TLS)
            self.assertIn(said, refusal.reason)

    def test_takes_no_more_than_its_bound(self) -> None:
        """Announced, or in records that never end."""
        large = b"\x01" + MAX_CLIENT_HELLO.to_bytes(3, "big")
        refusal = self.refused(b"\x16\x03\x01\0\x04" + large)
        self.assertIn("no whole ClientHello in 65536 bytes", refusal.reason)
        reader = ClientHelloReader()
        record = b"\x16\x03\x01\0\x01"
        self.assertIsNone(reader.feed(record + b"\x01" + record + b"\0" + record + b"\xff" + record + b"\0"))
        refusal = self.assertRaises(Refusal, reader.feed, (record + b"x") * (MAX_CLIENT_HELLO // 6))
        self.assertIn("no whole ClientHello in 65536 bytes", refusal.reason)

    def test_says_what_an_end_and_a_silence_mean(self) -> None:
        """Whether there was a byte or not."""
        reader = ClientHelloReader("way out")
        self.assertIs(reader.ended().code, NO_BYTE)
        late = reader.late(10.0)
        self.assertIs(late.code, CLIENT_HELLO_TIMEOUT)
        self.assertEqual(late.reason, "no whole ClientHello within 10s, nothing came; way out")
        reader.feed(b"\x16\x03")
        self.assertIs(reader.ended().code, NOT_TLS)
        self.assertIn("2 bytes of it came", reader.late(10.0).reason)

    def test_never_fails_otherwise(self) -> None:
        """Whatever comes: more is needed, a message, or one refusal."""

        whole = fragmented(openssl_hello(b"a.test"), 60)

        @given(MUTATIONS)
        @settings(max_examples=300, deadline=None)
        def check(mutations: list[Mutation]) -> None:
            data = mutated(whole, mutations)
            reader = ClientHelloReader()
            try:
                reader.feed(data)
            except Refusal as refusal:
                self.assertIs(refusal.code, NOT_TLS)
                self.assertTrue(refusal.reason.isascii())
            self.assertEqual(reader.rest, data)

        check()
