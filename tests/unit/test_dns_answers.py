"""What name servers' answers mean, and which are not even decoded."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.discovery.dns_answers import (
    MAX_CHAIN,
    Answer,
    Found,
    Record,
    ServiceRecord,
    Unfinished,
    endpoints_at,
    find,
    merged,
    services_in,
)
from tcpmesh.discovery.dns_guard import MAX_RECORDS, check_message
from tcpmesh.values import Endpoint, TCPAddress
from tests.unit import dns_samples as dns
from tests.unit.dns_samples import message, question

DB = "db.example.test"
ASKED = question(DB, dns.A)
GOOD = message(
    ASKED,
    answers=[dns.cname(DB, "x.test"), dns.a("x.test", "10.0.0.1"), dns.srv(DB, "x.test", 5432)],
    authority=[dns.soa("test", 30)],
    additional=[dns.record("t.test", dns.TXT, b"\x01a")],
)
POINTER = b"\xc0\x0c"  # to the name in the question


class GuardTests(SynchronousTestCase):
    def refusal(self, data: bytes) -> str:
        return str(self.assertRaises(ValueError, check_message, data))

    def test_takes_what_servers_send(self) -> None:
        """Every type that is read, others, and compressed names."""
        check_message(GOOD)
        check_message(
            message(ASKED, answers=[dns.a(POINTER, "10.0.0.1"), dns.record(POINTER, dns.CNAME, b"\x01x\xc0\x0f")])
        )

    def test_refuses_every_message_that_ends_too_early(self) -> None:
        """The decoder would take it for a shorter one."""
        for length in range(len(GOOD)):
            self.refusal(GOOD[:length])

    @given(st.binary(max_size=200))
    def test_comes_to_an_end_with_whatever_is_sent(self, data: bytes) -> None:
        """Nothing but ValueError is raised."""
        for whole in (data, message(ASKED) + data, struct.pack("!HHHHHH", 1, 0x8180, 1, 3, 0, 0) + ASKED + data):
            try:
                check_message(whole)
            except ValueError as error:
                self.assertTrue(str(error))

    def test_refuses_circles(self) -> None:
        """A pointer goes back, always."""
        here = len(message(ASKED))
        for owner in (
            struct.pack("!H", 0xC000 | here),  # itself
            struct.pack("!H", 0xC000 | here + 2),  # forward
            b"\x01a" + struct.pack("!H", 0xC000 | here),  # to its own beginning
            b"\xff\xff",
        ):
            self.assertIn("circle", self.refusal(message(ASKED, answers=[dns.a(owner, "10.0.0.1")])))

    def test_refuses_names_that_are_too_long(self) -> None:
        """However they are put together: four times 63 letters are more than 255 bytes."""
        label = b"\x3f" + b"x" * 63
        self.assertIn(
            "more than 255 bytes", self.refusal(message(ASKED, answers=[dns.a(label * 4 + b"\0", "10.0.0.1")]))
        )
        start = 0xC000 | len(message(ASKED))
        pieces = [dns.record(label * 3 + b"\0", dns.TXT, b""), dns.a(label + struct.pack("!H", start), "10.0.0.1")]
        self.assertIn("more than 255 bytes", self.refusal(message(ASKED, answers=pieces)))
        self.assertIn("does not exist", self.refusal(message(ASKED, answers=[dns.a(b"\x40\0", "10.0.0.1")])))

    def test_refuses_chains_of_pointers(self) -> None:
        """Each one back, and no end."""
        data = bytearray(message(ASKED, counts=(1, 1, 0, 0)))
        begin = len(data)
        data += dns.record("", dns.TXT, b"".join(struct.pack("!H", 0xC000 | begin + 9 + 2 * n) for n in range(100)))
        data[4:8] = struct.pack("!HH", 1, 2)
        data += dns.a(struct.pack("!H", 0xC000 | begin + 11 + 2 * 99), "10.0.0.1")
        self.assertIn("circle", self.refusal(bytes(data)))

    def test_refuses_ten_thousand_records(self) -> None:
        """Also when it only says that there are so many."""
        records = [dns.a(POINTER, "10.0.0.1")] * (MAX_RECORDS + 1)
        self.assertEqual(self.refusal(message(ASKED, answers=records)), "it has 1001 records; at most 1000 are read")
        self.assertEqual(
            self.refusal(message(ASKED, counts=(1, 10_000, 0, 0))), "it has 10000 records; at most 1000 are read"
        )
        check_message(message(ASKED, answers=records[1:]))

    def test_refuses_names_that_would_take_long(self) -> None:
        """Each record may refer to the longest name there can be, twice."""
        place = struct.pack("!H", 0xC000 | len(message(ASKED)))
        long = dns.record(".".join("a" * 120), dns.TXT, b"")
        records = [long, *[dns.record(place, dns.CNAME, place)] * 100]
        self.assertEqual(
            self.refusal(message(ASKED, answers=records)), "its names have more than 20000 labels together"
        )
        check_message(message(ASKED, answers=records[:80]))

    def test_refuses_another_number_of_questions(self) -> None:
        """None, or two."""
        for count in (0, 2):
            self.assertIn("questions", self.refusal(message(ASKED * count, counts=(count, 0, 0, 0))))

    def test_refuses_records_of_a_wrong_size(self) -> None:
        """Which would be read past their end."""
        for kind, data in (
            (dns.A, b"123"),
            (dns.AAAA, b"1234"),
            (dns.CNAME, b"\0\0"),
            (dns.SRV, b"\0" * 8),
            (dns.SOA, b"\0\0"),
        ):
            self.assertIn("a record of type", self.refusal(message(ASKED, answers=[dns.record(DB, kind, data)])))


def a(name: str, address: str, ttl: int = 60) -> Record:
    return Record(name, "A", ttl, address)


def alias(name: str, target: str, ttl: int = 60) -> Record:
    return Record(name, "CNAME", ttl, target)


class FindTests(SynchronousTestCase):
    def test_finds_what_was_asked_for_and_nothing_else(self) -> None:
        """In an order that does not change, each once."""
        records = (
            a(DB, "10.0.0.2"),
            a("other.test", "10.6.6.6"),
            a(DB, "10.0.0.1", 7),
            a(DB, "10.0.0.2"),
            Record(DB, "AAAA", 1, "::1"),
        )
        found = find(Answer(0, records), DB, "A")
        assert isinstance(found, Found)
        self.assertEqual([record.data for record in found.records], ["10.0.0.1", "10.0.0.2"])
        self.assertEqual(found.ttl, 7)
        self.assertEqual(find(Answer(0, records[::-1]), DB, "A"), found)

    def test_follows_aliases(self) -> None:
        """The least TTL on the way counts."""
        found = find(Answer(0, (alias(DB, "b.test", 5), alias("b.test", "c.test"), a("c.test", "10.0.0.1"))), DB, "A")
        assert isinstance(found, Found)
        self.assertEqual(([record.data for record in found.records], found.ttl), (["10.0.0.1"], 5))

    def test_an_alias_without_an_end_is_to_be_asked_for(self) -> None:
        """Not every server follows it."""
        self.assertEqual(find(Answer(0, (alias(DB, "b.test", 5),)), DB, "A"), Unfinished("b.test", 5, 1))

    def test_refuses_circles_of_aliases(self) -> None:
        """Of one, of two, and chains that are too long."""
        for aliases in (
            (alias(DB, DB),),
            (alias(DB, "b.test"), alias("b.test", DB)),
            (alias(DB, "0"), *(alias(str(n), str(n + 1)) for n in range(MAX_CHAIN + 1)), a("17", "10.0.0.1")),
        ):
            error = self.assertRaises(ValueError, find, Answer(0, aliases), DB, "A")
            self.assertIn("circle", str(error))

    def test_tells_nothing_there_from_a_failure(self) -> None:
        """Not the name, not the type, and neither said."""
        start = (Record("test", "SOA", 3600, minimum=30),)
        self.assertEqual(find(Answer(3, authority=start), DB, "A"), Found((), 30, False))
        self.assertEqual(find(Answer(0, authority=start), DB, "A"), Found((), 30, True))
        self.assertEqual(find(Answer(3), DB, "A"), Found((), None, False))
        self.assertEqual(find(Answer(3, (alias(DB, "b.test", 5),), start), DB, "A"), Found((), 5, False, (), "b.test"))
        for code, word in ((2, "SERVFAIL"), (5, "REFUSED"), (1, "FORMERR"), (4, "NOTIMP"), (11, "RCODE 11")):
            self.assertEqual(str(self.assertRaises(ValueError, find, Answer(code), DB, "A")), word)

    def test_a_referral_is_no_word_that_there_is_nothing(self) -> None:
        """RFC 2308 section 2.2: of a server that neither knows nor asks, only a zone's word or a failure counts."""
        self.assertRaises(ValueError, find, Answer(0, final=False), DB, "A")
        start = (Record("test", "SOA", 9, minimum=9),)
        self.assertEqual(find(Answer(0, (), start, final=False), DB, "A"), Found((), 9))
        self.assertEqual(find(Answer(3, final=False), DB, "A"), Found((), None, False))

    def test_a_ttl_beyond_all_bounds_is_none(self) -> None:
        """RFC 2181 section 8."""
        found = find(Answer(0, (a(DB, "10.0.0.1", 2**31),)), DB, "A")
        assert isinstance(found, Found)
        self.assertEqual(found.ttl, 0)


def service(target: str, priority: int, weight: int, port: int = 1) -> Record:
    return Record(DB, "SRV", 60, target, priority, weight, port)


class ServiceTests(SynchronousTestCase):
    def weights(self, *pairs: tuple[int, int]) -> list[int]:
        records = tuple(service(f"{number}.test", priority, weight) for number, (priority, weight) in enumerate(pairs))
        return [one.weight for one in services_in(Found(records, 60))]

    def test_reads_priorities_weights_and_ports(self) -> None:
        """As they are."""
        found = Found((service("a.test", 1, 5, 5432), service("b.test", 2, 7, 5433)), 60)
        self.assertEqual(services_in(found), (ServiceRecord("a.test", 5432, 1, 5), ServiceRecord("b.test", 5433, 2, 7)))

    def test_a_weight_of_nothing_is_a_very_small_chance(self) -> None:
        """Beside others of its priority; where all have none they are equal."""
        self.assertEqual(self.weights((0, 0), (0, 0)), [1, 1])
        self.assertEqual(self.weights((0, 0), (0, 3)), [1, 300])
        self.assertEqual(self.weights((0, 3), (1, 0)), [3, 1])
        self.assertEqual(self.weights((0, 0), (0, 65535)), [1, 65535])
        self.assertEqual(self.weights((0, 0), (0, 2000), (0, 1)), [1, 64000, 32])

    def test_a_dot_is_no_server(self) -> None:
        """RFC 2782: the service is decidedly not available."""
        self.assertEqual(services_in(Found((service("", 0, 0),), 60)), ())


class EndpointTests(SynchronousTestCase):
    def test_addresses_become_endpoints_in_their_order(self) -> None:
        """IPv4 first, each once."""
        good, bad = endpoints_at(["::1", "10.0.0.2", "10.0.0.1", "10.0.0.2"], port=5)
        self.assertEqual([str(one.address) for one in good], ["10.0.0.1:5", "10.0.0.2:5", "[::1]:5"])
        self.assertEqual(bad, ())

    def test_what_no_name_server_may_say_is_left_out(self) -> None:
        """With a reason each."""
        hosts = ["0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255", "::", "ff02::1", "::ffff:10.0.0.1", "10.0.0.1"]
        good, bad = endpoints_at(hosts, port=5)
        self.assertEqual([str(one.address) for one in good], ["10.0.0.1:5"])
        self.assertEqual(len(bad), 7)
        self.assertEqual(endpoints_at(["10.0.0.1"], ServiceRecord("a.test", 0, 0, 1))[0], ())

    def test_one_address_of_two_servers_is_used_once(self) -> None:
        """As the least priority has it, then the largest weight."""
        address = TCPAddress("10.0.0.1", 1)
        first, heavy, late = (
            Endpoint(address, 1, priority=0),
            Endpoint(address, 9, priority=0),
            Endpoint(address, 99, priority=1),
        )
        self.assertEqual(merged([late, first, heavy]), (heavy,))
