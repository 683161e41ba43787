"""Deny-lists: what an entry may say, whom a list means, and what a file of them may hold."""

from __future__ import annotations

from pathlib import Path

from cryptography.x509.oid import ExtensionOID
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.codes import PEER_DENIED
from tcpmesh.config.deny_list import MAX_FILE_BYTES, read_deny_list
from tcpmesh.errors import ConfigurationError, Refusal
from tcpmesh.identity.certificates import authority_key_identifier, not_after, not_before, serial_text
from tcpmesh.identity.denial import check_denied, own_denial
from tcpmesh.identity.deny_list import MAX_ENTRIES, NOBODY, DenyEntry, DenyList, parse_key_identifier, parse_serial
from tcpmesh.identity.key_pin import key_pin
from tcpmesh.identity.spiffe import SpiffeId, TrustDomain
from tcpmesh.moments import Moment, parse_moment
from tcpmesh.values import PeerIdentity
from tests.unit.crafted import DAY, NOW, authority, leaf, uri

FILE = Path("denied.yaml")
WEB = SpiffeId.parse("spiffe://a.test/web")


def read(text: str | bytes) -> tuple[DenyEntry, ...]:
    return read_deny_list(text if isinstance(text, bytes) else text.encode(), FILE)


class MomentTests(SynchronousTestCase):
    """Points in time."""

    def test_reads_the_zone(self) -> None:
        """However it is written."""
        for text in ("2026-11-22T10:00:00Z", "2026-11-22t10:00:00z", "2026-11-22T11:30:00+01:30"):
            self.assertEqual(parse_moment(text), 1795341600.0)
        self.assertEqual(parse_moment("2026-11-22T10:00:00.25Z"), 1795341600.25)

    def test_refuses_what_would_be_a_guess(self) -> None:
        """A time without a zone, a day, a number, a day that there is not."""
        for text in ("2026-11-22T10:00:00", "2026-11-22", "1795341600", "2026-13-22T10:00:00Z", "0000-01-01T00:00:00Z",
                     "2026-11-22T25:00:00Z", "2026-11-22T10:00:00Z\n", "now", ""):  # fmt: skip
            self.assertRaises(ValueError, parse_moment, text)


class SerialTests(SynchronousTestCase):
    """Serial numbers in hex."""

    def test_reads_what_tools_show(self) -> None:
        """``openssl x509 -serial`` and ``-text``, and our own records."""
        for text in ("0a1b2c", "0A1B2C", "a1b2c", "0A:1B:2C", "00:0a:1b:2c"):
            self.assertEqual(parse_serial(text), "0a1b2c")
        self.assertEqual(parse_serial("f" * 40), "f" * 40)

    def test_refuses_everything_else(self) -> None:
        """With what is wrong: nobody is denied by a number that no certificate has."""
        for text, words in (
            ("0x1b", "without 0x"),
            ("0X1B", "without 0x"),
            ("-1b", "is negative"),
            ("", "is not a serial number"),
            ("1b2g", "is not a serial number"),
            ("1:2b", "is not a serial number"),
            ("0a:1b:", "is not a serial number"),
            ("0a 1b", "is not a serial number"),
            ("\u0661\u0662", "is not a serial number"),
            ("0", "serial number 0"),
            ("00:00", "serial number 0"),
            ("1" + "0" * 40, "20 octets"),
            ("f" * 100_000, "20 octets"),
        ):
            failure = self.assertRaises(ValueError, parse_serial, text)
            self.assertIn(words, str(failure))
            self.assertLess(len(str(failure)), 400)

    @given(st.integers(min_value=1, max_value=2**160 - 1))
    def test_means_the_number_that_a_certificate_has(self, number: int) -> None:
        """Written in any of its forms."""
        plain = f"{number:x}"
        even = plain.zfill(len(plain) + len(plain) % 2)
        colons = ":".join(even[at : at + 2] for at in range(0, len(even), 2))
        self.assertEqual({parse_serial(each) for each in (plain, plain.upper(), even, colons)}, {even})

    def test_key_identifiers_are_whole_octets(self) -> None:
        """With colons or without."""
        self.assertEqual(parse_key_identifier("9F:3A"), parse_key_identifier("9f3a"))
        for text in ("9f3", "", "0x9f", "f" * 130):
            self.assertRaises(ValueError, parse_key_identifier, text)


class EntryTests(SynchronousTestCase):
    """What one entry may say."""

    def test_means_one_thing(self) -> None:
        """An ID, a key or a serial number."""
        for given_, words in (
            ({}, "has none of them"),
            ({"id": WEB, "serial": "1b"}, "has id and serial"),
            ({"serial": "1b", "issued_before": Moment(1.0)}, "issued_before goes with id"),
            ({"id": WEB, "trust_domain": TrustDomain("a.test")}, "go with serial"),
            ({"spki": "sha256:" + "A" * 43 + "=", "authority_key_id": "9f"}, "go with serial"),
            ({"id": SpiffeId.parse("spiffe://a.test")}, "names a whole trust domain"),
            ({"spki": "sha256:9f3a"}, "is not a pin"),
            ({"spki": "sha1:" + "A" * 27 + "="}, "is not a pin"),
            ({"id": WEB, "reason": "x" * 201}, "at most 200 characters"),
        ):
            failure = self.assertRaises(ValueError, DenyEntry, **given_)
            self.assertIn(words, str(failure))


class FindTests(SynchronousTestCase):
    """Whom a list means."""

    def setUp(self) -> None:
        self.root = authority("root")
        self.issuing = authority("issuing", self.root)
        self.leaf = leaf(self.issuing, serial=0x0ABC)
        certificate = self.leaf.certificate
        self.peer = PeerIdentity(WEB, serial_text(certificate), not_before(certificate), not_after(certificate))

    def denied(self, *entries: DenyEntry) -> str:
        """Why the leaf is denied, empty if it is not; the peer's view and that of its owner are the same."""
        found = DenyList(entries)
        try:
            check_denied(found, self.peer, self.leaf.chain, lambda: [key_pin(c).sha256 for c in self.leaf.chain])
        except Refusal as refusal:
            self.assertIs(refusal.code, PEER_DENIED)
            self.assertIn(own_denial(found, WEB, self.leaf.chain), refusal.reason)
            return refusal.reason
        self.assertEqual(own_denial(found, WEB, self.leaf.chain), "")
        return ""

    def test_by_id(self) -> None:
        """All of its certificates, or those that begin before a moment."""
        self.assertEqual(
            self.denied(DenyEntry(id=WEB, reason="stolen {laptop}")),
            "the peer spiffe://a.test/web, serial 0abc, is on the deny-list: id spiffe://a.test/web, because: "
            "'stolen {laptop}'",
        )
        start = not_before(self.leaf.certificate)
        self.assertIn("issued before ", self.denied(DenyEntry(id=WEB, issued_before=Moment(start + 1))))
        self.assertEqual(self.denied(DenyEntry(id=WEB, issued_before=Moment(start))), "")
        self.assertEqual(self.denied(DenyEntry(id=SpiffeId.parse("spiffe://a.test/web/more"))), "")
        self.assertEqual(self.denied(DenyEntry(id=SpiffeId.parse("spiffe://b.test/web"))), "")

    def test_the_entry_that_denies_more_counts(self) -> None:
        """In whatever order; one of them may be in the configuration and the other in the file."""
        start = not_before(self.leaf.certificate)
        early, late = (DenyEntry(id=WEB, issued_before=Moment(start + by)) for by in (-10, 10))
        for entries in ((early, late), (late, early), (early, DenyEntry(id=WEB)), (DenyEntry(id=WEB), early)):
            self.assertTrue(self.denied(*entries), entries)
        self.assertEqual(self.denied(early, early), "")

    def test_by_serial(self) -> None:
        """Of anybody, of a trust domain, of an authority, of both."""
        key = authority_key_identifier(self.leaf.certificate)
        own, other = TrustDomain("a.test"), TrustDomain("b.test")
        for entry, denied in (
            (DenyEntry(serial="0a:bc"), True),
            (DenyEntry(serial="abc", trust_domain=own), True),
            (DenyEntry(serial="abc", authority_key_id=key.upper()), True),
            (DenyEntry(serial="abc", trust_domain=own, authority_key_id=key), True),
            (DenyEntry(serial="abd"), False),
            (DenyEntry(serial="abc", trust_domain=other), False),
            (DenyEntry(serial="abc", authority_key_id="9f3a"), False),
            (DenyEntry(serial="abc", trust_domain=other, authority_key_id=key), False),
        ):
            self.assertEqual(bool(self.denied(entry)), denied, entry)
        both = (DenyEntry(serial="abc", trust_domain=other), DenyEntry(serial="abc", trust_domain=own))
        self.assertIn("serial abc of a.test", self.denied(*both))

    def test_by_serial_of_an_authority_that_the_certificate_does_not_name(self) -> None:
        """The issuer's own identifier counts then; when that is not known either, the serial number alone."""
        key = authority_key_identifier(self.leaf.certificate)
        this, another = DenyEntry(serial="abc", authority_key_id=key), DenyEntry(serial="abc", authority_key_id="9f3a")
        self.leaf = leaf(self.issuing, serial=0x0ABC, changes={"authority_key": None})
        self.assertTrue(self.denied(this))
        self.assertEqual(self.denied(another), "")
        unnamed = authority("unnamed", drop=[ExtensionOID.SUBJECT_KEY_IDENTIFIER.dotted_string])
        self.leaf = leaf(unnamed, serial=0x0ABC, changes={"authority_key": None})
        self.assertTrue(self.denied(another))
        self.assertEqual(self.denied(DenyEntry(serial="abd", authority_key_id="9f3a")), "")

    def test_by_key(self) -> None:
        """The leaf's own, or that of an authority above it."""
        for certificate in self.leaf.chain:
            self.assertTrue(self.denied(DenyEntry(spki=str(key_pin(certificate)))))
            self.assertTrue(self.denied(DenyEntry(spki=str(key_pin(certificate)).removeprefix("spki:"))))
        self.assertEqual(self.denied(DenyEntry(spki=str(key_pin(authority("other").certificate)))), "")

    def test_asks_for_keys_only_when_it_needs_them(self) -> None:
        """Hashing is what costs."""

        def never() -> list[bytes]:
            raise AssertionError("asked")

        entries = [DenyEntry(id=WEB, issued_before=Moment(NOW - DAY)), DenyEntry(serial="1b")]
        self.assertIsNone(DenyList(entries).find(self.peer, never, lambda: str(never())))
        self.assertIsNone(NOBODY.find(self.peer, never, lambda: str(never())))

    def test_what_cannot_be_read_is_refused(self) -> None:
        """A key of a kind that the library does not know cannot be compared, so nobody gets in with it."""

        def unreadable() -> list[bytes]:
            raise ValueError("an unknown kind of key")

        found = DenyList([DenyEntry(spki=str(key_pin(self.root.certificate)))])
        self.assertRaises(Refusal, check_denied, found, self.peer, self.leaf.chain, unreadable)


class FileTests(SynchronousTestCase):
    """A list in a file of its own."""

    def problems(self, text: str | bytes) -> str:
        failure = self.assertRaises(ConfigurationError, read, text)
        return str(failure)

    def test_reads_every_kind_of_entry(self) -> None:
        """With or without quotes around the moment; each remembers its place."""
        entries = read(
            "entries:\n"
            '  - {id: "spiffe://a.test/web", issued_before: 2026-11-22T10:00:00Z, reason: stolen}\n'
            '  - {id: "spiffe://a.test/db", issued_before: "2026-11-22T10:00:00Z"}\n'
            '  - {spki: "sha256:1x0/sCOaEYj4JjUH3D1PKkgkNqvlWlh6l4VfYnEWPVE="}\n'
            '  - {serial: "0a1b", trust_domain: a.test, authority_key_id: "9f:3a"}\n'
        )
        self.assertEqual([entry.issued_before for entry in entries], [1795341600.0, 1795341600.0, None, None])
        self.assertEqual([str(entry.mark) for entry in entries][:2], ["denied.yaml:2:5", "denied.yaml:3:5"])
        self.assertEqual(str(entries[3]), "serial 0a1b of a.test of the authority with key 9f:3a")
        self.assertEqual(read("entries: []\n"), ())

    def test_says_what_is_wrong_and_where(self) -> None:
        """Each with line and column, all at once, and nothing is taken from such a file."""
        for text, words in (
            ("", "denied.yaml:1:1: the file is empty; write 'entries: []'"),
            ("# nobody\n", "the file is empty"),
            ("---\n", "the file is empty"),
            ("- {serial: 1b}\n", "denied.yaml:1:1: a deny-list begins with 'entries:'"),
            ("{}\n", "key 'entries' is missing"),
            ("entries:\n", "denied.yaml:1:9: entries: "),
            ("entries: {}\n", "expected a list"),
            ("entries: [web]\n", "denied.yaml:1:11: entries[0]: expected a mapping"),
            ('entries: [{seria: "1b"}]\n', "did you mean 'serial'?"),
            ('entries: [{serial: "1b"}]\nmore: 1\n', "denied.yaml:2:1: unknown key 'more'"),
            ("entries: [{serial: 1234}]\n", 'denied.yaml:1:20: entries[0].serial: YAML reads 1234 as a number'),
            ('entries: [{serial: "0x1b"}]\n', "denied.yaml:1:20: entries[0].serial: '0x1b': write the hex digits"),
            ('entries: [{serial: "-1b"}]\n', "is negative"),
            (f'entries: [{{serial: "{"f" * 50}"}}]\n', "longer than the 20 octets"),
            ('entries: [{serial: "1b", trust_domain: A.test}]\n', "denied.yaml:1:40: entries[0].trust_domain"),
            ('entries: [{serial: "1b", trust_domain: "spiffe://a.test"}]\n', "bare name of a trust domain"),
            ('entries: [{id: "spiffe://a.test/*"}]\n', "wildcards"),
            ('entries: [{id: "spiffe://a.test/web", issued_before: 2026-11-22}]\n', "denied.yaml:1:54: "),
            ('entries: [{id: "spiffe://a.test/web", serial: "1b"}]\n', "denied.yaml:1:11: entries[0]: an entry"),
            ('entries: [{serial: "1b"}, {serial: "001B"}]\n', "denied.yaml:1:27: serial 001B is denied twice; first in "
             "line 1"),
            ('entries: [{id: "spiffe://a.test/w", issued_before: 2026-01-01T00:00:00Z}, {id: "spiffe://a.test/w"}]\n',
             "is denied twice"),
            ('entries: [{serial: "1b", serial: "1c"}]\n', "is given twice"),
            ('entries:\n  - {serial: "1b"\n', "denied.yaml:3:1: the '{' of line 2 is not closed"),
            ('entries:\n  - {serial: "1', "this quote is never closed"),
            (b"\xff\xfee\0", "UTF-16"),
            (b"entries: [{reason: '\xe4'}]", "not UTF-8"),
            ("entries: [{serial: !!python/name:os.system x}]\n", "YAML tags are not supported"),
        ):  # fmt: skip
            self.assertIn(words, self.problems(text))
        self.assertEqual(len(self.problems('entries: [{serial: "0"}, {serial: "-1"}]\n').splitlines()), 2)

    def test_bombs_end_early(self) -> None:
        """Aliases that multiply, depth without end, and a file that is simply large."""
        bomb = 'a: &a [{serial: "1b"}, {serial: "1b"}, {serial: "1b"}, {serial: "1b"}]\n'
        for number in range(1, 10):
            bomb += f"a{number}: &a{number} [{', '.join([f'*a{number - 1}' if number > 1 else '*a'] * 10)}]\n"
        self.assertIn("once its aliases are followed", self.problems(bomb + "entries: *a9\n"))
        self.assertIn("nested deeper", self.problems("entries: " + "[" * 5000))
        self.assertIn("larger than 256 KiB", self.problems(b"#" * (MAX_FILE_BYTES + 1)))
        self.assertIn("an alias inside of what it stands for", self.problems("entries: &a [*a]\n"))

    def test_a_list_has_a_size(self) -> None:
        """So that reading it never holds up connections for long."""
        lines = [f'  - {{serial: "{number + 1:08x}"}}\n' for number in range(MAX_ENTRIES + 1)]
        self.assertEqual(len(read("entries:\n" + "".join(lines[:-1]))), MAX_ENTRIES)
        self.assertIn("more than a deny-list holds (1000)", self.problems("entries:\n" + "".join(lines)))

    @given(st.binary(max_size=300))
    def test_whatever_it_holds_is_a_list_or_a_problem(self, data: bytes) -> None:
        """Nothing else is ever raised."""
        try:
            read(b"entries:\n" + data)
        except ConfigurationError as error:
            self.assertTrue(error.problems)

    def test_leaf_names_are_not_needed(self) -> None:
        """A server that is known by another name can be denied by serial and key."""
        made = leaf(authority("root"), uri("https://a.test"), serial=0x77)
        peer = PeerIdentity(None, "77", 0.0, 1.0, dns_name="db.a.test")
        self.assertRaises(
            Refusal, check_denied, DenyList(read('entries: [{serial: "77"}]')), peer, made.chain[:1], tuple
        )
        check_denied(DenyList(read('entries: [{serial: "77", trust_domain: a.test}]')), peer, made.chain[:1], tuple)
