"""The probe's answer: what is written is read, in any pieces; whatever else comes is refused, soon and by name."""

from __future__ import annotations

import json
from typing import Any

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.dataplane.probe import MAX_PROBE_BYTES, InvalidProbe, ProbeAnswer, ProbeReader, ProbeRefusal

ANSWER = ProbeAnswer(
    clock=1763852400.125,
    version="0.1.0",
    listener="orders-in",
    peer="spiffe://a.test/web",
    peer_serial="1234",
    peer_not_after=1763856000.0,
    peer_source="192.0.2.20",
    authority="CN=root of a.test",
    authority_key="9f21",
    authorities=2,
    own="spiffe://a.test/orders",
    own_not_after=1763859600.0,
    generation=7,
    allowed=False,
    code="TM-P102",
    policy="web-may",
    reason="no policy allows spiffe://a.test/web",
    target="not tried",
    target_text="it would be refused",
)
TEXTS = st.text(max_size=20).map(lambda text: text * 100) | st.text(max_size=60)
MEMBERS = {"clock", "version", "listener", "peer", "bundle", "own", "decision", "target"}
JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


def read(data: bytes, piece: int = 1 << 20) -> ProbeAnswer | ProbeRefusal:
    """Feed it in pieces, then end."""
    reader = ProbeReader()
    for start in range(0, len(data), piece):
        reader.feed(data[start : start + piece])
    return reader.finish()


def without(*path: str, **changes: Any) -> bytes:
    """The answer as JSON, changed at a place."""
    document = json.loads(ANSWER.encode())
    members = document
    for name in path:
        members = members[name]
    members.update(changes)
    return json.dumps({name: value for name, value in document.items() if value is not None}).encode()


class ProbeTests(SynchronousTestCase):
    """Writing and reading."""

    def test_survives_the_way(self) -> None:
        """At once and byte by byte, a refusal too."""
        refusal = ProbeRefusal("TM-P106", "spiffe://a.test/web may not")
        for message in (ANSWER, attrs.evolve(ANSWER, allowed=True, code="", target="reachable"), refusal):
            for piece in (1, 1 << 20):
                self.assertEqual(read(message.encode(), piece), message)

    def test_has_a_stable_form(self) -> None:
        """Other implementations and later versions depend on the names."""
        document = json.loads(ANSWER.encode())
        self.assertEqual(set(document), MEMBERS | {"v"})
        self.assertEqual(document["v"], 1)
        self.assertEqual(
            document["peer"], {"id": ANSWER.peer, "serial": "1234", "not_after": 1763856000.0, "source": "192.0.2.20"}
        )
        self.assertEqual(ProbeRefusal("TM-P106", "no").encode(), b'{"v":1,"refused":{"code":"TM-P106","text":"no"}}')

    @given(TEXTS, TEXTS, TEXTS, TEXTS)
    def test_fits_whatever_plugins_say(self, policy: str, rule: str, reason: str, name: str) -> None:
        """Long and odd texts are cut and escaped; the longest IDs are not."""
        longest = "spiffe://a.test/" + "w" * 2032
        made = attrs.evolve(
            ANSWER, peer=longest, own=longest, policy=policy, rule=rule, reason=reason, authority=name, target_text=name
        )
        encoded = made.encode()
        self.assertLessEqual(len(encoded), MAX_PROBE_BYTES)
        back = read(encoded)
        assert isinstance(back, ProbeAnswer)
        self.assertEqual((back.peer, back.own, back.code), (longest, longest, "TM-P102"))
        self.assertTrue(back.policy.isascii() and len(back.policy) <= 400)

    def test_fits_although_everything_is_escaped(self) -> None:
        """Texts of quotation marks and backslashes only, and the longest IDs besides."""
        longest = "spiffe://a.test/" + "w" * 2032
        for mark in ('"', "\\", '\\"', "a", "\n"):
            many = dict.fromkeys(("policy", "rule", "reason", "authority", "listener", "target_text"), mark * 400)
            made = attrs.evolve(ANSWER, peer=longest, own=longest, **many)
            back = read(made.encode())
            assert isinstance(back, ProbeAnswer)
            self.assertGreaterEqual(len(back.rule), 198, mark)
        self.assertEqual(len(made.encode()), len(attrs.evolve(made, rule="\n" * 5000).encode()))

    def test_skips_what_later_versions_say_besides(self) -> None:
        """At any level."""
        self.assertEqual(read(without(colour="blue")), ANSWER)
        self.assertEqual(read(without("decision", colour=["blue"])), ANSWER)

    def assert_invalid(self, data: bytes, words: str) -> None:
        error = self.assertRaises(InvalidProbe, read, data)
        self.assertIn(words, str(error))
        self.assertLess(len(str(error)), 200)

    def test_refuses_what_is_no_answer(self) -> None:
        """Each way is named, and no word of the peer's is repeated."""
        for data, words in (
            (b"", "is empty"),
            (b"HTTP/1.1 400 Bad Request", "is not JSON"),
            (b"\xff\xfe", "is not ASCII"),
            (b"[]", "is not a JSON object"),
            (b"{}", "does not say its version"),
            (b'{"v":true}', "does not say its version"),
            (b'{"v":2}', "has version 2, this tcpmesh understands 1"),
            (b'{"v":1}', "has no object"),
            (b'{"v":1,"v":1}', "has a member twice"),
            (b'{"v":1,"refused":"x"}', "has no object 'refused'"),
            (b'{"v":1,"refused":{"code":1,"text":""}}', "has no text as 'code'"),
            (b'{"v":NaN}', "a number that is none"),
            (b'{"v":-Infinity}', "a number that is none"),
            (b'{"v":' + b"9" * 5000 + b"}", "a number that is too long"),
            (b"[" * 8000, "nested too deeply"),
            (b'{"a":' * 1600, "nested too deeply"),
            (b'{"v":1}' + b" {}", "is not JSON"),
            (without(clock=True), "has no number as 'clock'"),
            (without(clock=1e300), "is no time"),
            (without(clock=10**400), "is no time"),
            (without(clock="now"), "has no number as 'clock'"),
            (without("bundle", authorities=-1), "is no number of things"),
            (without("bundle", authorities=1.5), "has no whole number"),
            (without("peer", id="x" * 2049), "is too long"),
            (without("decision", reason="a\x1b[2J"), "cannot be printed"),
            (without("decision", reason="\u202eabc"), "cannot be printed"),
            (without("decision", allowed=1), "has no true or false"),
            (without("decision", allowed=True), "has a code and allows"),
            (without("decision", code=""), "denies without a code"),
            (without("target", state="maybe"), "unknown state"),
            *((without(**{name: None}), name) for name in MEMBERS),
        ):
            self.assert_invalid(data, words)

    def test_holds_no_more_than_the_limit(self) -> None:
        """Whoever sends without end is refused at the first byte too many, and what it sent is given up."""
        reader = ProbeReader()
        reader.feed(b" " * MAX_PROBE_BYTES)
        error = self.assertRaises(InvalidProbe, reader.feed, b" ")
        self.assertIn("longer than 8192 bytes", str(error))
        self.assertRaises(InvalidProbe, ProbeReader().feed, b" " * (1 << 20))

    @given(st.binary(max_size=600) | JSON.map(lambda value: json.dumps(value).encode()))
    def test_never_raises_anything_else(self, data: bytes) -> None:
        """Whatever a far side sends, the outcome is an answer or InvalidProbe."""
        try:
            read(data)
        except InvalidProbe:
            return
        self.fail(f"{data!r} is no answer")

    @given(st.sampled_from(sorted(MEMBERS)), JSON, st.sampled_from(["id", "code", "allowed", "state", "not_after"]))
    def test_never_takes_other_kinds(self, member: str, value: Any, inner: str) -> None:
        """An answer in which one thing is something else is refused, or is still an answer of the right kinds."""
        document = json.loads(ANSWER.encode())
        for changed in ({**document, member: value}, {**document, "peer": {**document["peer"], inner: value}}):
            try:
                answer = read(json.dumps(changed).encode())
            except InvalidProbe:
                continue
            assert isinstance(answer, ProbeAnswer)
            self.assertIsInstance(answer.clock, float)
            self.assertIsInstance(answer.peer, str)
