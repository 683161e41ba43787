"""PROXY headers: reading what others send, writing what others read, and refusing everything else."""

from __future__ import annotations

import ipaddress
import struct
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.protocols.haproxy import _v1parser, _v2parser
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.codes import NO_BYTE, PROXY_HEADER_MALFORMED, PROXY_HEADER_MISSING, PROXY_HEADER_TIMEOUT, Code
from tcpmesh.dataplane.crc32c import crc32c
from tcpmesh.dataplane.proxy_header import (
    SIGNATURE,
    ClientTLS,
    ProxyHeader,
    TlvType,
    encode_client_tls,
    encode_local,
    encode_v1,
    encode_v2,
    looks_like_header,
)
from tcpmesh.dataplane.proxy_reader import MAX_HEADER_BYTES, ProxyHeaderReader
from tcpmesh.errors import Refusal
from tcpmesh.values import Address, TCPAddress, UnixAddress

CLIENT, FRONT = TCPAddress("192.0.2.1", 56324), TCPAddress("192.0.2.11", 443)
CLIENT6, FRONT6 = TCPAddress("2001:db8::1", 56324), TCPAddress("2001:db8::2", 443)
PAYLOAD = b"\x16\x03\x01\x02\x00 what follows"


def read(data: bytes, *sizes: int) -> tuple[ProxyHeader | None, bytes]:
    """Feed pieces of these sizes, then the rest; what the reader makes of it, and what is left."""
    reader = ProxyHeaderReader()
    begin = 0
    for size in (*sizes, len(data)):
        piece = bytearray(data[begin : begin + size])
        header = reader.feed(memoryview(piece))
        piece[:] = b"?" * len(piece)  # the buffer is shared: it holds something else after the call
        begin += size
        if header is not None:
            return header, reader.rest + data[begin:]
    return None, b""


def v2(command: int, kind: int, content: bytes, length: int | None = None) -> bytes:
    """A header of version 2 with whatever is wanted in it."""
    return SIGNATURE + struct.pack("!BBH", command, kind, len(content) if length is None else length) + content


def tlv(kind: int, value: bytes, length: int | None = None) -> bytes:
    return struct.pack("!BH", kind, len(value) if length is None else length) + value


TCP4 = bytes([192, 0, 2, 1, 192, 0, 2, 11]) + struct.pack("!HH", 56324, 443)


class HeaderCase(SynchronousTestCase):
    def refused(self, data: bytes, code: Code = PROXY_HEADER_MALFORMED) -> str:
        """The reason; the same whether the bytes come at once or one by one."""
        at_once = self.assertRaises(Refusal, read, data)
        self.assertIs(at_once.code, code, at_once.reason)
        one_by_one = self.assertRaises(Refusal, read, data, *[1] * len(data))
        self.assertIs(one_by_one.code, code, one_by_one.reason)
        self.assertTrue(at_once.reason.isascii() and at_once.reason.isprintable(), at_once.reason)
        return str(at_once.reason)


class ChecksumTests(SynchronousTestCase):
    """CRC32C."""

    def test_vectors(self) -> None:
        """RFC 3720 appendix B.4, and the check value of the catalogues."""
        for data, expected in (
            (bytes(32), 0x8A9136AA),
            (b"\xff" * 32, 0x62A8AB43),
            (bytes(range(32)), 0x46DD794E),
            (bytes(range(31, -1, -1)), 0x113FDB5C),
            (b"123456789", 0xE3069283),
            (b"", 0),
        ):
            self.assertEqual(crc32c(data), expected)


class Version1Tests(HeaderCase):
    """The line."""

    def test_reads_both_families(self) -> None:
        """The specification's own example, and one in IPv6, upper case and all."""
        line = b"PROXY TCP4 192.0.2.1 192.0.2.11 56324 443\r\n"
        self.assertEqual(read(line + PAYLOAD), (ProxyHeader(1, CLIENT, FRONT), PAYLOAD))
        line = b"PROXY TCP6 2001:DB8::1 2001:0db8:0:0:0:0:0:2 56324 443\r\n"
        self.assertEqual(read(line + PAYLOAD), (ProxyHeader(1, CLIENT6, FRONT6), PAYLOAD))

    def test_reads_unknown_whatever_follows(self) -> None:
        """In 107 bytes with the CRLF, the longest line that there is."""
        longest = (
            b"PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535"
        )
        self.assertEqual(len(longest) + 2, 107)
        for line in (b"PROXY UNKNOWN", b"PROXY UNKNOWN ", b"PROXY UNKNOWN \xff\r \n", longest):
            self.assertEqual(read(line + b"\r\n" + PAYLOAD), (ProxyHeader(1), PAYLOAD))

    def test_split_at_every_byte(self) -> None:
        """In two reads, and one byte at a time."""
        whole = b"PROXY TCP4 192.0.2.1 192.0.2.11 56324 443\r\n" + PAYLOAD
        expected = (ProxyHeader(1, CLIENT, FRONT), PAYLOAD)
        for cut in range(1, len(whole)):
            self.assertEqual(read(whole, cut), expected, cut)
        self.assertEqual(read(whole, *[1] * len(whole)), expected)

    def test_an_ipv4_address_in_ipv6_form_is_the_ipv4_address(self) -> None:
        """Else a rule for its network could be passed by."""
        header, _ = read(b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:c000:20b 56324 443\r\n")
        self.assertEqual(header, ProxyHeader(1, CLIENT, FRONT))

    def test_refuses_a_line_without_an_end(self) -> None:
        """107 bytes without CRLF are no line, whatever comes then; and a lone CR or LF ends none."""
        for line in (
            b"PROXY " + b"x" * 101 + b"\r\n",
            b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.11 56324 443\n".ljust(107, b"x"),
            b"PROXY TCP4 192.0.2.1 192.0.2.11 56324 443\r".ljust(107, b"x"),
        ):
            self.assertIn("no CRLF within the first 107 bytes", self.refused(line))
        self.assertEqual(read(b"PROXY " + b"x" * 100), (None, b""))

    def test_refuses_what_is_not_written_as_it_must_be(self) -> None:
        """Addresses that other programs read in another way, above all."""
        good = "TCP4 192.0.2.1 192.0.2.11 56324 443"
        for fields in (
            "TCP4  192.0.2.1 192.0.2.11 56324 443",
            f"{good} ",
            f" {good}",
            f"{good} 1",
            "TCP4 192.0.2.1 192.0.2.11 56324",
            "tcp4 192.0.2.1 192.0.2.11 56324 443",
            "UDP4 192.0.2.1 192.0.2.11 56324 443",
            "UNKNOWNS",
            "TCP6 192.0.2.1 192.0.2.11 56324 443",
            "TCP4 2001:db8::1 2001:db8::2 56324 443",
            "TCP4 192.0.2.01 192.0.2.11 56324 443",
            "TCP4 0300.0.2.1 192.0.2.11 56324 443",
            "TCP4 192.0.513 192.0.2.11 56324 443",
            "TCP4 192.0.2.256 192.0.2.11 56324 443",
            "TCP4 192.0.2.1 example.com 56324 443",
            "TCP4 192.0.2.1/32 192.0.2.11 56324 443",
            "TCP6 fe80::1%eth0 fe80::2 56324 443",
            "TCP6 [2001:db8::1] 2001:db8::2 56324 443",
            "TCP6 1::2::3 2001:db8::2 56324 443",
            "TCP4 192.0.2.1 192.0.2.11 056324 443",
            "TCP4 192.0.2.1 192.0.2.11 65536 443",
            "TCP4 192.0.2.1 192.0.2.11 -1 443",
            "TCP4 192.0.2.1 192.0.2.11 +1 443",
            "TCP4 192.0.2.1 192.0.2.11 56324 ",
            "TCP4 192.0.2.1 192.0.2.11 56324 4\u00b23",
            "TCP4 192.0.2.1\t192.0.2.11 56324 443",
            "TCP4 192.0.2.1 192.0.2.11 56324 443\n",
            "",
        ):
            self.refused(f"PROXY {fields}\r\n".encode("latin-1") + PAYLOAD)

    def test_writes_what_it_reads(self) -> None:
        """And UNKNOWN for what has no words in it."""
        self.assertEqual(encode_v1(CLIENT, FRONT), b"PROXY TCP4 192.0.2.1 192.0.2.11 56324 443\r\n")
        self.assertEqual(encode_v1(CLIENT6, FRONT6), b"PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\n")
        unknown = b"PROXY UNKNOWN\r\n"
        self.assertEqual(encode_v1(CLIENT, FRONT6), unknown)
        self.assertEqual(encode_v1(UnixAddress(""), UnixAddress("/run/app.sock")), unknown)
        self.assertEqual(encode_v1(UnixAddress(""), FRONT), unknown)
        scoped = encode_v1(TCPAddress("fe80::1%eth0", 1), TCPAddress("fe80::2%eth0", 2))
        self.assertEqual(scoped, b"PROXY TCP6 fe80::1 fe80::2 1 2\r\n")
        self.assertEqual(read(b"PROXY UNKNOWN\r\n"), (ProxyHeader(1), b""))


class Version2Tests(HeaderCase):
    """The binary header."""

    def test_reads_what_haproxy_sends(self) -> None:
        """Bytes of HAProxy 2.6 (send-proxy-v2, proxy-v2-options crc32c,unique-id)."""
        content = TCP4 + tlv(TlvType.UNIQUE_ID, b"7F000001") + tlv(TlvType.CRC32C, bytes(4))
        whole = bytearray(v2(0x21, 0x11, content))
        whole[-4:] = crc32c(bytes(whole)).to_bytes(4, "big")
        header, rest = read(bytes(whole) + PAYLOAD)
        assert header is not None
        self.assertEqual((header.source, header.destination, rest), (CLIENT, FRONT, PAYLOAD))
        self.assertEqual(header.tlv(TlvType.UNIQUE_ID), b"7F000001")
        self.assertIsNone(header.tlv(TlvType.ALPN))

    def test_reads_every_family_of_streams(self) -> None:
        """Paths end at their first NUL; an abstract one begins with one."""
        pairs: list[tuple[Address, Address]] = [
            (CLIENT, FRONT),
            (CLIENT6, FRONT6),
            (UnixAddress(""), UnixAddress("/run/app.sock")),
            (UnixAddress("/" + "x" * 107), UnixAddress("/run/a")),
        ]
        for source, destination in pairs:
            header, rest = read(encode_v2(source, destination) + PAYLOAD)
            assert header is not None
            self.assertEqual((header.source, header.destination, rest), (source, destination, PAYLOAD))
        names = b"\0abstract".ljust(108, b"\0") + b"/run/\xff\n.sock\0junk".ljust(108, b"\0")
        header, _ = read(v2(0x21, 0x31, names))
        self.assertEqual(header, ProxyHeader(2, UnixAddress("@abstract"), UnixAddress("/run/\\xff\\x0a.sock")))

    def test_local_says_nothing_whatever_it_holds(self) -> None:
        """The block is to be discarded, the family with it, valid or not (Envoy crashed here, CVE-2024-23327)."""
        for kind, content in ((0x00, b""), (0x11, TCP4), (0x11, b""), (0xFF, b"junk"), (0x31, b"\0" * 7)):
            self.assertEqual(read(v2(0x20, kind, content) + PAYLOAD), (ProxyHeader(2, local=True), PAYLOAD))
        self.assertEqual(read(encode_local() + PAYLOAD), (ProxyHeader(2, local=True), PAYLOAD))

    def test_unspecified_families_say_nothing(self) -> None:
        """The connection's own addresses count."""
        for kind, content in ((0x00, b""), (0x00, b"anything"), (0x01, b""), (0x10, TCP4), (0x02, TCP4)):
            self.assertEqual(read(v2(0x21, kind, content) + PAYLOAD), (ProxyHeader(2), PAYLOAD))
        self.assertEqual(read(encode_v2(UnixAddress(""), FRONT) + PAYLOAD), (ProxyHeader(2), PAYLOAD))

    def test_refuses_commands_families_and_protocols_that_do_not_exist(self) -> None:
        """And datagrams, which no stream carries."""
        for command in (0x00, 0x01, 0x11, 0x22, 0x2F, 0x31, 0xFF):
            self.assertIn("expected version 2 and LOCAL or PROXY", self.refused(v2(command, 0x11, TCP4)))
        for kind in (0x13, 0x41, 0x1F, 0xF1):
            self.assertIn("there is no family and protocol", self.refused(v2(0x21, kind, TCP4)))
        for kind in (0x12, 0x22, 0x32):
            self.assertIn("it is for datagrams", self.refused(v2(0x21, kind, bytes(216))))

    def test_refuses_lengths_that_lie(self) -> None:
        """Too short for the addresses; a TLV that ends behind the header, or leaves a byte or two."""
        self.assertIn("addresses of IPv4 take 12 bytes, 11 are there", self.refused(v2(0x21, 0x11, TCP4[:-1])))
        self.assertIn("addresses of IPv6 take 36 bytes", self.refused(v2(0x21, 0x21, TCP4)))
        self.assertIn("addresses of unix sockets take 216", self.refused(v2(0x21, 0x31, bytes(215))))
        self.assertIn("addresses of IPv4 take 12 bytes, 0 are there", self.refused(v2(0x21, 0x11, b"")))
        for end in (b"\x01", b"\x01\x00"):
            self.assertIn("too few for a TLV", self.refused(v2(0x21, 0x11, TCP4 + tlv(1, b"h2") + end)))
        self.assertIn("announces 3 bytes, 2 are there", self.refused(v2(0x21, 0x11, TCP4 + tlv(1, b"h2", 3))))
        self.assertIn("announces 65535 bytes", self.refused(v2(0x21, 0x11, TCP4 + tlv(0xE0, b"", 65535))))

    def test_takes_no_payload_for_a_tlv(self) -> None:
        """A TLV that reaches into what follows the header is refused, and an honest header leaves it alone."""
        self.refused(v2(0x21, 0x11, TCP4 + tlv(0xE0, b"", len(PAYLOAD))) + PAYLOAD)
        header, rest = read(v2(0x21, 0x11, TCP4 + tlv(0xE0, b"")) + tlv(0xE1, b"payload"))
        assert header is not None
        self.assertEqual((header.tlvs, rest), (((0xE0, b""),), tlv(0xE1, b"payload")))

    def test_is_at_most_4096_bytes_long(self) -> None:
        """It is refused as soon as it says more, not after waiting for it."""
        room = MAX_HEADER_BYTES - 16 - len(TCP4) - 3
        header, _ = read(v2(0x21, 0x11, TCP4 + tlv(0xE0, b"x" * room)))
        assert header is not None
        self.assertEqual(header.tlv(0xE0), b"x" * room)
        self.assertIn("4097 bytes long", self.refused(v2(0x21, 0x11, TCP4, MAX_HEADER_BYTES - 15)))
        self.assertIn("65551 bytes long", self.refused(v2(0x20, 0x00, b"", 65535)))

    def test_checks_the_checksum(self) -> None:
        """Any bit that changes, changes it, unless it is the type that says checksum; and it has four bytes."""
        good = encode_v2(CLIENT, FRONT, [(TlvType.ALPN, b"h2"), (0xE0, b"spiffe://mesh.test/web")])
        self.assertIsNotNone(read(good)[0])
        for place in set(range(16, len(good))) - {len(good) - 7}:
            damaged = bytearray(good)
            damaged[place] ^= 0x01
            self.refused(bytes(damaged))
        self.assertIn("5 bytes instead of 4", self.refused(v2(0x21, 0x11, TCP4 + tlv(3, bytes(5)))))
        self.assertIn("3 bytes instead of 4", self.refused(v2(0x21, 0x11, TCP4 + tlv(3, bytes(3)))))

    def test_has_one_checksum(self) -> None:
        """They are counted before any is computed, right or wrong: whoever sends hundreds shall not take our time."""
        for count in (2, 500):
            whole = v2(0x21, 0x11, TCP4 + tlv(3, bytes(4)) * count)
            self.assertIn(f"it has {count} checksums", self.refused(whole))

    def test_checks_the_checksum_of_what_is_discarded(self) -> None:
        """One bit makes LOCAL of PROXY, and the load balancer's address would count for the client's."""
        for good in (encode_v2(CLIENT, FRONT), encode_v2(CLIENT6, FRONT6)):
            damaged = bytearray(good)
            damaged[12] ^= 0x01
            self.assertIn("it was damaged on the way", self.refused(bytes(damaged)))
        for good in (encode_local(), encode_v2(UnixAddress(""), FRONT)):
            self.assertIsNotNone(read(good)[0])
            self.assertIn("it was damaged on the way", self.refused(good[:-1] + bytes([good[-1] ^ 0x01])))

    def test_refuses_tlvs_that_break_their_rules(self) -> None:
        """A unique ID is at most 128 bytes long; the SSL TLV has five bytes, then TLVs that fill it exactly."""
        self.assertIsNotNone(read(v2(0x21, 0x11, TCP4 + tlv(5, b"x" * 128)))[0])
        self.assertIn("129 bytes", self.refused(v2(0x21, 0x11, TCP4 + tlv(5, b"x" * 129))))
        self.assertIn("SSL TLV of 4 bytes", self.refused(v2(0x21, 0x11, TCP4 + tlv(0x20, bytes(4)))))
        inner = bytes(5) + tlv(0x22, b"web", 4)
        self.assertIn("announces 4 bytes, 3 are there", self.refused(v2(0x21, 0x11, TCP4 + tlv(0x20, inner))))

    def test_reads_what_is_said_of_the_client(self) -> None:
        """Version, name and cipher; verify is zero for success."""
        client = ClientTLS(True, True, True, "TLSv1.3", "web", "TLS_AES_256_GCM_SHA384")
        header, _ = read(encode_v2(CLIENT, FRONT, [(TlvType.SSL, encode_client_tls(client))]))
        assert header is not None
        self.assertEqual(header.client_tls, client)
        plain = ClientTLS(False, False, False)
        self.assertEqual(encode_client_tls(plain), bytes([0, 0, 0, 0, 1]))
        self.assertEqual(encode_client_tls(client)[:5], bytes([7, 0, 0, 0, 0]))

    def test_split_at_every_byte(self) -> None:
        """In two reads, and one byte at a time."""
        whole = encode_v2(CLIENT6, FRONT6, [(TlvType.AUTHORITY, b"orders.example.com")]) + PAYLOAD
        expected = read(whole)
        self.assertEqual(expected[1], PAYLOAD)
        for cut in range(1, len(whole)):
            self.assertEqual(read(whole, cut), expected, cut)
        self.assertEqual(read(whole, *[1] * len(whole)), expected)

    def test_two_families_become_one(self) -> None:
        """The IPv4 address in IPv6 form, which readers turn back."""
        whole = encode_v2(CLIENT, FRONT6)
        self.assertEqual(whole[13], 0x21)
        header, _ = read(whole)
        self.assertEqual(header and (header.source, header.destination), (CLIENT, FRONT6))

    def test_what_does_not_fit_is_not_written(self) -> None:
        """Nothing is cut."""
        self.assertRaises(ValueError, encode_v2, CLIENT, FRONT, [(0xE0, b"x" * 65536)])
        self.assertRaises(ValueError, encode_v2, CLIENT, FRONT, [(0xE0, b"x" * 40000)] * 2)
        header, _ = read(encode_v2(UnixAddress("/" + "x" * 108), UnixAddress("/run/a")))
        self.assertEqual(header and (header.source, header.destination), (UnixAddress(""), UnixAddress("/run/a")))


class BeginTests(HeaderCase):
    """What is there instead of a header."""

    def test_says_that_there_is_none(self) -> None:
        """At the first byte that can be none."""
        self.assertIn("got the TLS handshake", self.refused(b"\x16\x03\x01\x02\x00", PROXY_HEADER_MISSING))
        for begin in (b"GET / HTTP/1.1\r\n", b"proxy TCP4", b"PROXX", b"\r\n\r\nGET", b"\r\n\r\n\x01", b"\x00"):
            self.refused(begin, PROXY_HEADER_MISSING)
        self.assertNotIn("\x1b", self.refused(b"\x1b[2J", PROXY_HEADER_MISSING))

    def test_shows_no_password(self) -> None:
        """Whoever misses the header may speak in plaintext: Redis, for example."""
        for sent in (b"AUTH hunter2\r\n", b"*2\r\n$4\r\nAUTH\r\n$7\r\nhunter2\r\n"):
            reason = str(self.assertRaises(Refusal, read, sent).reason)
            self.assertIn(f"got {sent[:5].decode()!a}", reason)
            self.assertNotIn("hunter", reason)

    def test_waits_for_what_may_become_one(self) -> None:
        """Every beginning of either, to its last byte but one."""
        for whole in (encode_v1(CLIENT, FRONT), encode_v2(CLIENT, FRONT)):
            for end in range(len(whole)):
                self.assertEqual(read(whole[:end]), (None, b""))

    def test_an_end_before_it_is_complete(self) -> None:
        """Without a byte it is a check of the port; otherwise half a header is a bad one."""
        reader = ProxyHeaderReader()
        self.assertIs(reader.ended().code, NO_BYTE)
        reader.feed(b"PROXY TCP4")
        self.assertIs(reader.ended().code, PROXY_HEADER_MALFORMED)
        self.assertIn("after 10 bytes", reader.ended().reason)
        self.assertIs(reader.late(3.0).code, PROXY_HEADER_TIMEOUT)
        self.assertIn("10 bytes and no complete header within 3 s", reader.late(3.0).reason)

    def test_is_recognized_where_none_is_expected(self) -> None:
        """For a message that says so."""
        for whole in (encode_v1(CLIENT, FRONT), encode_v2(CLIENT, FRONT), SIGNATURE[:6]):
            self.assertTrue(looks_like_header(whole))
        for other in (b"", b"\r\n", b"PROXY", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1"):
            self.assertFalse(looks_like_header(other))


hosts4 = st.ip_addresses(v=4).map(str)
hosts6 = st.ip_addresses(v=6).filter(lambda host: host.ipv4_mapped is None).map(str)
ports = st.integers(0, 65535)
paths = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=107).filter(
    lambda path: "\\" not in path and not path.startswith("@")
)


def pair(hosts: Any) -> Any:
    return st.tuples(st.builds(TCPAddress, hosts, ports), st.builds(TCPAddress, hosts, ports))


tcp_pairs = pair(hosts4) | pair(hosts6)
unix_pairs = st.tuples(st.builds(UnixAddress, paths), st.builds(UnixAddress, paths))
tlvs = st.lists(
    st.tuples(st.integers(0, 255).filter(lambda kind: kind not in (3, 5, 0x20)), st.binary(max_size=100)), max_size=4
)


patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy


class PropertyTests(SynchronousTestCase):
    """Whatever is written is read as it was, however it is split; and nothing else than a Refusal comes of garbage."""

    @patient
    @given(tcp_pairs | unix_pairs, tlvs, st.binary(max_size=40), st.lists(st.integers(1, 60), max_size=40))
    def test_version_2(self, addresses: Any, tlvs: Any, payload: bytes, sizes: list[int]) -> None:
        """Addresses, TLVs and what follows."""
        header, rest = read(encode_v2(*addresses, tlvs) + payload, *sizes)
        assert header is not None
        self.assertEqual((header.source, header.destination), addresses)
        self.assertEqual(list(header.tlvs[:-1]), tlvs)
        self.assertEqual((header.tlvs[-1][0], rest), (TlvType.CRC32C, payload))

    @patient
    @given(tcp_pairs, st.binary(max_size=40), st.lists(st.integers(1, 60), max_size=40))
    def test_version_1(self, addresses: Any, payload: bytes, sizes: list[int]) -> None:
        """Addresses and what follows."""
        header, rest = read(encode_v1(*addresses) + payload, *sizes)
        self.assertEqual((header, rest), (ProxyHeader(1, *addresses), payload))

    @patient
    @given(st.sampled_from([b"", b"PROXY ", SIGNATURE, SIGNATURE + b"\x21\x11"]), st.binary(max_size=400))
    def test_garbage(self, begin: bytes, garbage: bytes) -> None:
        """At once and byte by byte, with the same outcome."""
        outcomes = []
        for sizes in ((), [1] * 450):
            try:
                outcomes.append(str(read(begin + garbage, *sizes)))
            except Refusal as refusal:
                outcomes.append(refusal.code.id)
        self.assertEqual(outcomes[0], outcomes[1])

    @patient
    @given(tcp_pairs, tlvs, st.data())
    def test_damage_is_noticed(self, addresses: Any, tlvs: Any, data: Any) -> None:
        """One changed byte: refused, or more is awaited, or it has no address, or no checksum any longer."""
        good = encode_v2(*addresses, tlvs)
        damaged = bytearray(good)
        place = data.draw(st.integers(0, len(good) - 1))
        damaged[place] ^= data.draw(st.integers(1, 255))
        try:
            header, _ = read(bytes(damaged))
        except Refusal:
            return
        self.assertTrue(header is None or header.source is None or header.tlv(TlvType.CRC32C) is None, header)


class TwistedTests(SynchronousTestCase):
    """Twisted's own reader sees the same addresses."""

    @patient
    @given(tcp_pairs, tlvs)
    def test_version_2(self, addresses: Any, tlvs: Any) -> None:
        """It knows no TLVs and skips them."""
        self.compare(_v2parser.V2Parser.parse(encode_v2(*addresses, tlvs)), addresses)

    @patient
    @given(tcp_pairs)
    def test_version_1(self, addresses: Any) -> None:
        """Without the CRLF, as its parser wants it."""
        found = _v1parser.V1Parser.parse(encode_v1(*addresses)[:-2])
        self.assertEqual((found.source.host, found.destination.host), tuple(address.host for address in addresses))
        self.assertEqual((found.source.port, found.destination.port), tuple(address.port for address in addresses))

    def compare(self, found: Any, addresses: tuple[TCPAddress, TCPAddress]) -> None:
        def twisted(address: TCPAddress) -> Any:
            if ":" in address.host:  # its reader does not shorten
                host = ipaddress.ip_address(address.host)
                return IPv6Address(
                    "TCP", ":".join(f"{part:x}" for part in struct.unpack("!8H", host.packed)), address.port
                )
            return IPv4Address("TCP", address.host, address.port)

        self.assertEqual((found.source, found.destination), tuple(map(twisted, addresses)))
