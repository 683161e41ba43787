"""``identity.deny_list`` and ``on_expiry`` in a configuration."""

from __future__ import annotations

from tests.unit.config_samples import SAMPLE, ConfigTestCase, variant


def with_list(text: str) -> str:
    """The sample with a deny-list."""
    return variant("  sources:", f"  deny_list: {text}\n  sources:")


class DenyListTests(ConfigTestCase):
    """Entries that are written in the configuration itself."""

    def test_is_empty_unless_it_is_there(self) -> None:
        """No file either."""
        found = self.load(SAMPLE).identity.deny_list
        self.assertEqual((found.entries, found.file), ([], None))

    def test_says_something(self) -> None:
        """A file, entries, or both; entries may be none, which somebody then has written."""
        self.check_problems(
            with_list("‸{}"), "identity.deny_list: it says nothing; write file: FILE, entries:, or both"
        )
        self.assertEqual(self.load(with_list("{entries: []}")).identity.deny_list.entries, [])
        found = self.load(with_list('{file: ../denied.yaml, entries: [{serial: "0a:1b"}]}')).identity.deny_list
        self.assertEqual([str(entry) for entry in found.entries], ["serial 0a:1b"])
        assert found.file is not None
        self.assertTrue(found.file.is_absolute())

    def test_every_mistake_has_its_place(self) -> None:
        """Of the value, of the entry, of the second of two that are the same."""
        self.check_problems(
            with_list('{entries: [{serial: ‸"0x1b"}, ‸{id: "spiffe://a.test/web", serial: "1b"}]}'),
            "identity.deny_list.entries[0].serial: '0x1b': write the hex digits of a serial number without 0x",
            "identity.deny_list.entries[1]: an entry has one of the keys id, spki and serial; "
            "this one has id and serial",
        )
        self.check_problems(
            with_list('{entries: [{serial: "1b"}, ‸{serial: "01B"}]}'),
            "identity.deny_list: serial 01B is denied twice; first in line 4",
        )

    def test_has_one_place(self) -> None:
        """Who looks for it at the top is told."""
        self.check_problems(
            SAMPLE + "‸deny_list: {file: denied.yaml}\n",
            "unknown key 'deny_list'; this is said in identity.deny_list",
        )


class OnExpiryTests(ConfigTestCase):
    """What becomes of connections when the peer's certificate expires."""

    def test_keeps_them_unless_told(self) -> None:
        """On a listener for clients, on a service for servers."""
        settings = self.load(SAMPLE)
        self.assertEqual({one.on_expiry for one in (*settings.inbound, *settings.services.values())}, {"keep"})
        settings = self.load(variant("{name: in,", "{on_expiry: close, name: in,"))
        self.assertEqual([inbound.on_expiry for inbound in settings.inbound], ["close"])

    def test_is_one_of_two_words(self) -> None:
        """No number of seconds, no truth."""
        self.check_problems(
            variant("{name: in,", "{on_expiry: ‸drain, name: in,"),
            "inbound[0].on_expiry: expected 'keep' or 'close', got 'drain'",
        )
