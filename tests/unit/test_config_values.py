"""Tests for values: every type that a key may have, and what is said about one that is wrong."""

from __future__ import annotations

from pathlib import Path

from tcpmesh.config import loads
from tcpmesh.errors import Mark
from tcpmesh.identity.spiffe import SpiffeId, TrustDomain
from tcpmesh.settings import NoSettings, keys
from tcpmesh.values import (
    DNSName,
    Size,
    TCPAddress,
    UnixAddress,
)
from tests.unit.config_samples import FILE
from tests.unit.config_types import Everything, Inner, PluginTestCase


class ValueTests(PluginTestCase):
    """Values that are read."""

    def test_reads_every_type(self) -> None:
        """Each field becomes what its type says."""
        text = """\
            text: some text
            label: "22:22"
            whole: -12
            share: 0.25
            flag: true
            word: 3
            wait: 1.5s
            size: 64KiB
            address: "[::1]:80"
            tcp: 127.0.0.1:80
            unix: unix:run/a.sock
            id: spiffe://example.org/a
            domain: example.org
            name: db.example.org
            peer: dns:db.example.org
            path: a/b
            place: ./here
            class: special
            one_or_more: [a, b]
            texts: [a, "1"]
            pair: [1, 2]
            row: [3]
            once: [a, a]
            table: {a: 1}
            domains: {example.org: /a}
            inner: {size: 1B}
            inners: [{}, {size: 2B}]
            mixed: ["127.0.0.1:1", {size: 3B}]
            noted: 7
            fallback: {plugin: none}
            repeat: {plugin: exponential, attempts: 5}
            even: 2
            short: abc
            upper: abc
            number: 9
            scaled: 5
            secret: hidden"""
        settings = self.settings_of("\n".join(line.strip() for line in text.splitlines()))
        directory = FILE.parent
        expected = {
            "text": "some text",
            "label": "22:22",
            "whole": -12,
            "share": 0.25,
            "flag": True,
            "word": 3,
            "wait": 1.5,
            "size": 65536,
            "address": TCPAddress("::1", 80),
            "tcp": TCPAddress("127.0.0.1", 80),
            "unix": UnixAddress(f"{directory}/run/a.sock"),
            "id": SpiffeId.parse("spiffe://example.org/a"),
            "domain": TrustDomain("example.org"),
            "name": DNSName("db.example.org"),
            "peer": DNSName("db.example.org"),
            "path": directory / "a/b",
            "place": directory / "here",
            "class_": "special",
            "one_or_more": ["a", "b"],
            "texts": ["a", "1"],
            "pair": (1, 2),
            "row": [3],
            "once": frozenset({"a"}),
            "table": {"a": 1},
            "domains": {TrustDomain("example.org"): Path("/a")},
            "inner": Inner(Size(1), settings.inner.mark),
            "noted": 7,
            "even": 2,
            "short": "abc",
            "upper": "ABC",
            "number": 9,
            "scaled": 15,
            "secret": "hidden",
            "cache": None,
        }
        self.assertEqual({name: getattr(settings, name) for name in expected}, expected)
        self.assertEqual([inner.size for inner in settings.inners], [0, 2])
        self.assertEqual(settings.mixed[0], TCPAddress("127.0.0.1", 1))
        self.assertEqual(settings.mixed[1].size, 3)
        self.assertEqual((settings.fallback.plugin, settings.fallback.settings), ("none", NoSettings()))
        self.assertEqual(settings.repeat.settings.attempts, 5)

    def test_absent_keys_have_their_defaults(self) -> None:
        """Those of plugins that are chosen by default are filled in."""
        settings = self.settings_of("")
        defaults = Everything()
        names = [name for name in keys(Everything) if name not in ("repeat", "class")]
        self.assertEqual([getattr(settings, n) for n in names], [getattr(defaults, n) for n in names])
        self.assertEqual((settings.repeat.plugin, settings.repeat.settings.attempts), ("exponential", 3))

    def test_receives_its_place(self) -> None:
        """A field of type Mark says where the mapping begins, in every class."""
        settings = self.settings_of("inner: {size: 1B}\ninners:\n- size: 2B")
        self.assertEqual(settings.mark, Mark(str(FILE), 11, 7))
        self.assertEqual(settings.inner.mark, Mark(str(FILE), 12, 14))
        self.assertEqual(settings.inners[0].mark, Mark(str(FILE), 14, 9))

    def test_paths_are_relative_to_the_file(self) -> None:
        """Lexically, also upwards, and never to the current directory."""
        for text, path in {
            "a": "/etc/mesh/a",
            "./a": "/etc/mesh/a",
            "../a": "/etc/a",
            "..": "/etc",
            "/a/../b": "/b",
            "a b": "/etc/mesh/a b",
        }.items():
            self.assertEqual(self.settings_of(f'path: "{text}"').path, Path(path))

    def test_upward_paths_leave_the_real_directory(self) -> None:
        """A directory that is a link is followed, as the kernel would; a path inside of it keeps the link."""
        base = Path(self.mktemp()).absolute()
        (base / "real" / "etc").mkdir(parents=True)
        (base / "link").symlink_to(base / "real" / "etc")
        data = self.with_settings("path: ../x\nplace: ./x").encode()
        settings = loads(data, base / "link" / "tcpmesh.yaml", self.plugins).services["orders"].discovery.settings
        self.assertEqual((settings.path, settings.place), (base.resolve() / "real" / "x", base / "link" / "x"))


class RefusalTests(PluginTestCase):
    """Values that are not read."""

    def at(self, key: str) -> str:
        return f"services.orders.discovery.{key}"

    def check_values(self, table: dict[str, str]) -> None:
        for text, message in table.items():
            key = text.partition(":")[0]
            self.check(text, f"{self.at(key)}{message}")

    def test_yaml_1_1_surprises_are_shown_with_the_quoted_form(self) -> None:
        """Where text is expected, what YAML takes for something else is never guessed back."""
        self.check_values(
            {
                "text: ‸22:22": ': YAML reads 22:22 as the number 1342; for text, write "22:22"',
                "text: ‸-1:30": ': YAML reads -1:30 as the number -90; for text, write "-1:30"',
                "text: ‸off": ': YAML reads off as false; for text, write "off"',
                "text: ‸No": ': YAML reads No as false; for text, write "No"',
                "text: ‸on": ': YAML reads on as true; for text, write "on"',
                "text: ‸yes": ': YAML reads yes as true; for text, write "yes"',
                "text: ‸0600": ': YAML reads 0600 as the number 384; for text, write "0600"',
                "text: ‸0x1F": ': YAML reads 0x1F as the number 31; for text, write "0x1F"',
                "text: ‸0b11": ': YAML reads 0b11 as the number 3; for text, write "0b11"',
                "text: ‸1_000": ': YAML reads 1_000 as the number 1000; for text, write "1_000"',
                "text: ‸+5": ': YAML reads +5 as the number 5; for text, write "+5"',
                "text: ‸5": ': YAML reads 5 as a number; for text, write "5"',
                "text: ‸1.50": ': YAML reads 1.50 as a number; for text, write "1.50"',
                "text: ‸.inf": ': YAML reads .inf as a number; for text, write ".inf"',
                "text: ‸2020-01-01": ': YAML reads 2020-01-01 as a date; for text, write "2020-01-01"',
                "text: ‸~": ': YAML reads ~ as no value; for text, write "~"',
                "text: ‸null": ': YAML reads null as no value; for text, write "null"',
                "text: ‸“a b”": ': YAML takes typographic quotes for letters; write "a b"',
                "address: ‸\u2018127.0.0.1:1\u2019": ': YAML takes typographic quotes for letters; write "127.0.0.1:1"',
                "text: ‸=": ': YAML reads = as something else than text; for text, write "="',
                "text:‸": ": there is no value; expected text",
                "label: ‸off": ': YAML reads off as false; for text, write "off"',
                "address: ‸22:22": ': YAML reads 22:22 as the number 1342 unless it is written "22:22"; '
                'expected an address such as "127.0.0.1:5432", "[::1]:5432" or "unix:/run/app.sock"',
                "address: ‸5432": ": '5432' is only a port; write 127.0.0.1:5432",
                "wait: ‸off": ': YAML reads off as false unless it is written "off"; '
                "expected a duration such as 50ms, 5s, 10m, 1h or 7d",
                "wait: ‸5": ": '5' is not a duration; write a number and a unit: 50ms, 5s, 10m, 1h or 7d",
                "wait: ‸1:30": ': YAML reads 1:30 as the number 90 unless it is written "1:30"; '
                "expected a duration such as 50ms, 5s, 10m, 1h or 7d",
                "wait: ‸~": ": expected a duration such as 50ms, 5s, 10m, 1h or 7d, got ~, which is no value",
                "tcp: ‸true": ': expected a TCP address such as "127.0.0.1:5432" or "[::1]:5432", got true',
                "path: ‸0600": ': YAML reads 0600 as the number 384; for text, write "0600"',
            }
        )

    def test_a_number_of_any_length_is_refused(self) -> None:
        """Also one that Python would not convert."""
        digits = "1" * 5000
        self.check(f"whole: ‸{digits}", f"{self.at('whole')}: expected a whole number, got {digits[:40]}")
        self.check(
            f"text: ‸{digits}:11",
            f'{self.at("text")}: YAML reads {digits[:40]} as a number; for text, write "{digits[:97]}..."',
        )

    def test_numbers(self) -> None:
        """Only plain decimal digits are a number."""
        self.check_values(
            {
                "whole: ‸0600": ": expected a whole number, got 0600, which YAML reads as 384; "
                "write plain decimal digits",
                "whole: ‸1_000": ": expected a whole number, got 1_000, which YAML reads as 1000; "
                "write plain decimal digits",
                "whole: ‸22:22": ": expected a whole number, got 22:22, which YAML reads as 1342; "
                "write plain decimal digits",
                "whole: ‸'5'": ': expected a whole number, got the text "5"; remove the quotes',
                "whole: ‸5.0": ": expected a whole number, got 5.0",
                "whole: ‸five": ": expected a whole number, got 'five'",
                "whole: ‸1e3": ": expected a whole number, got '1e3'",
                "whole: ‸on": ": expected a whole number, got on, which YAML reads as true",
                "whole:‸": ": there is no value; expected a whole number",
                "whole: ‸''": ": expected a whole number, got ''",
                "whole: ‸~": ": expected a whole number, got ~, which YAML reads as no value",
                "share: ‸.5": ": expected a number such as 0.1, got .5",
                "share: ‸.nan": ": expected a number such as 0.1, got .nan",
                "share: ‸10%": ": expected a number such as 0.1, got '10%'",
                "flag: ‸yes": ": expected true or false, got yes; write true",
                "flag: ‸Off": ": expected true or false, got Off; write false",
                "flag: ‸'true'": ': expected true or false, got the text "true"; remove the quotes',
                "flag: ‸1": ": expected true or false, got '1'",
                "flag:‸": ": there is no value; expected true or false",
            }
        )

    def test_words(self) -> None:
        """One of a few words."""
        self.check_values(
            {
                "word: ‸tow": ": expected 'one', 'two' or 3, got 'tow'; did you mean 'two'?",
                "word: ‸ONE": ": expected 'one', 'two' or 3, got 'ONE'; did you mean 'one'?",
                "word: ‸'3'": ": expected 'one', 'two' or 3, got the text \"3\"; remove the quotes",
                "word: ‸4": ": expected 'one', 'two' or 3, got the number 4",
                "word: ‸off": ": expected 'one', 'two' or 3, got off, which YAML reads as false",
                "word:‸": ": there is no value; expected 'one', 'two' or 3",
                "word: ‸[one]": ": expected 'one', 'two' or 3, got a list",
                "place: ‸heer": ": expected 'here' or the path of a file or directory, got 'heer'; "
                "did you mean 'here'? (a file of that name is written \"./heer\")",
                "place: ‸stdout": ": expected 'here' or the path of a file or directory, got 'stdout' "
                '(a file of that name is written "./stdout")',
                "place: ‸off": ": expected 'here' or the path of a file or directory, got off, "
                "which YAML reads as false",
            }
        )

    def test_texts_with_a_form(self) -> None:
        """The parser's own words, after the key."""
        self.check_values(
            {
                "tcp: ‸unix:/a": ": 'unix:/a' is a unix socket; expected a TCP address such as "
                '"127.0.0.1:5432" or "[::1]:5432"',
                "unix: ‸127.0.0.1:1": ": '127.0.0.1:1' is a TCP address; expected a unix socket such as "
                '"unix:/run/app.sock"',
                "id: ‸spiffe://Example.org/a": ": trust domain 'Example.org' is not lower case: "
                "did you mean 'example.org'?",
                "id: ‸spiffe://example.org/*": ": wildcards are not in this version; "
                "write each ID in full instead of 'spiffe://example.org/*'",
                "domain: ‸spiffe://example.org/a": ": expected the bare name of a trust domain, got "
                "'spiffe://example.org/a'; write 'example.org'",
                "name: ‸'*.a'": ": '*.a' has a wildcard; a wildcard names nobody, write each name",
                "peer: ‸db.example.org": ": 'db.example.org' is neither a SPIFFE ID, as spiffe://example.org/orders, "
                "nor a DNS name, as dns:db.example.com, nor a pinned key, as spki:sha256:…",
                "size: ‸64k": ": '64k' is not a size; write a whole number and a unit: 512B, 64KiB, 1MiB or 2GiB",
                "path: ‸~/a": ": '~' is not expanded in '~/a'; write the path in full",
                "path: ‸$HOME/a": ": environment variables are not expanded in '$HOME/a'; write the path in full",
                "path: ‸''": ": the text is empty; expected the path of a file or directory",
                f"unix: ‸unix:{'a' * 100}": f": the path in 'unix:/etc/mesh/{'a' * 82}...' is longer than "
                "the 107 bytes a unix socket can have",
            }
        )

    def test_shapes(self) -> None:
        """A scalar, a list and a mapping are not each other."""
        self.check_values(
            {
                "text: ‸[a]": ": expected text, got a list",
                "text: ‸{a: b}": ": expected text, got a mapping",
                "texts: ‸a": ": expected a list, got 'a'; write [\"a\"]",
                "inners: ‸a": ": expected a list, got 'a'",
                "texts: ‸5": ": expected a list, got the number 5",
                "texts: ‸{a: b}": ": expected a list, got a mapping; begin each entry with '- '",
                "texts:‸": ": there is no value; expected a list",
                "table: ‸[a]": ": expected a mapping, got a list",
                "table: ‸a": ": expected a mapping, got 'a'",
                "inner: ‸[]": ": expected a mapping with the key size, got a list",
                "inner: ‸true": ": expected a mapping with the key size, got true",
                "inner: ‸off": ": expected a mapping with the key size, got off, which YAML reads as false",
                "one_or_more: ‸{}": ": expected text or a list, got a mapping; begin each entry with '- '",
                "fallback: ‸none": ": expected a mapping with the key plugin, got 'none'; write {plugin: none}",
                "fallback: ‸[none]": ": expected a mapping with the key plugin, got a list",
            }
        )

    def test_elements_have_places_of_their_own(self) -> None:
        """Every wrong one is reported, by index or name."""
        self.check(
            "texts: [a, ‸1, b, ‸off]\ntable: {a: ‸b, ‸on: 1, 'x y': ‸c, d: 1}\nmixed: [‸x, {‸y: 1}, {size: ‸5}]",
            f'{self.at("texts[1]")}: YAML reads 1 as a number; for text, write "1"',
            f'{self.at("texts[3]")}: YAML reads off as false; for text, write "off"',
            f"{self.at('table.a')}: expected a whole number, got 'b'",
            f'{self.at("table.on")}: YAML reads on as true; for text, write "on"',
            "services.orders.discovery.table['x y']: expected a whole number, got 'c'",
            f"{self.at('mixed[0]')}: 'x' has no port; write 127.0.0.1:5432, [::1]:5432 or unix:/run/app.sock",
            f"unknown key 'y' in {self.at('mixed[1]')}; known keys: size",
            f"{self.at('mixed[2].size')}: '5' is not a size; "
            "write a whole number and a unit: 512B, 64KiB, 1MiB or 2GiB",
        )

    def test_two_spellings_of_one_key(self) -> None:
        """Names that mean the same are one key, however they are written."""
        self.check(
            "hosts: {a.example: 1, ‸A.example: 2}",
            f"key 'A.example' is given twice in {self.at('hosts')}, in two spellings",
        )

    def test_what_the_class_refuses(self) -> None:
        """Validators and converters speak at the key's place; what concerns several keys, at the mapping's."""
        self.check(
            "even: ‸3\nshort: ‸abcd\nnumber: 1\nscaled: 2",
            f"{self.at('even')}: 3 is odd",
            f"{self.at('short')}: Length of 'short' must be <= 3: 4",
        )
        self.check_problems(
            self.with_settings("flag: true\nwhole: 101").replace("plugin: foreign", "‸plugin: foreign"),
            "services.orders.discovery: flag and whole contradict each other",
        )

    def test_secrets_are_not_shown(self) -> None:
        """A field that its author keeps out of the repr is kept out of messages."""
        hidden = f"{self.at('secret')}: the value, which is secret and not shown, is"
        self.check("secret: ‸0600", f"{hidden} not text")
        self.check("secret: ‸[hunter2]", f"{hidden} not text")
        self.check("secret: ‸123456789a", f"{hidden} refused")

    def test_unknown_keys(self) -> None:
        """With what was probably meant; else with all that there is."""
        self.check(
            "‸txet: a\n‸'text:a':\n‸Text: b\n"
            "‸one-or-more: c\n‸mark: d\n‸later: e\n‸cache: f\ninner: {‸sise: 1B}\n‸5: a",
            f"unknown key 'txet'{(where := ' in services.orders.discovery')}; did you mean 'text'?",
            f"unknown key 'text:a'{where}; a space is missing in 'text: a'",
            f"unknown key 'Text'{where}; did you mean 'text'?",
            f"unknown key 'one-or-more'{where}; did you mean 'one_or_more'?",
            f"unknown key 'mark'{where}; {(known := _known())}",
            f"unknown key 'later'{where}; {known}",
            f"unknown key 'cache'{where}; {known}",
            f"unknown key 'sise'{where}.inner; did you mean 'size'?",
            f"unknown key '5'{where}; {known}",
        )


def _known() -> str:
    names = [name for name in keys(Everything) if name not in ("mark", "cache", "later")]
    return f"known keys: {', '.join(names[:20])} and {len(names) - 20} more"
