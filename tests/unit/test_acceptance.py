"""What a peer makes of us: read from its preface, its answer to a probe, an alert, silence or its end."""

from __future__ import annotations

from typing import Any

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import codes
from tcpmesh.checking.acceptance import Acceptance, Asker, Hearing
from tcpmesh.dataplane.preface import ALPN, OK, Preface
from tcpmesh.dataplane.probe import PROBE_ALPN, ProbeAnswer, ProbeRefusal
from tcpmesh.errors import Refusal
from tests.unit.test_probe import ANSWER

ALLOWED = attrs.evolve(ANSWER, allowed=True, code="", reason="", target="reachable", target_text="")
NOW = 1763852400.0
WEB = "spiffe://a.test/web"


class HearingCase(SynchronousTestCase):
    """One peer, and what it says."""

    def setUp(self) -> None:
        self.now = NOW

    def hearing(self, alpn: bytes, **more: Any) -> Hearing:
        return Hearing(alpn, Asker(WEB, "'CN=root'", NOW + 3600, lambda: self.now), **more)

    def answered(self, answer: ProbeAnswer | ProbeRefusal, took: float = 0.0) -> Acceptance:
        """Of an answer that is heard whole."""
        hearing = self.hearing(PROBE_ALPN)
        self.now += took
        self.assertIsNone(hearing.heard(answer.encode()))
        return hearing.ended(in_order=True)

    def assert_refused(self, acceptance: Acceptance | None, code: codes.Code, *words: str) -> None:
        assert acceptance is not None
        assert acceptance.refusal is not None, acceptance
        self.assertEqual((acceptance.refusal.code, acceptance.told), (code, False))
        for word in words:
            self.assertIn(word, acceptance.refusal.reason)


class ProbeTests(HearingCase):
    """A far side that answers."""

    def test_lets_us_in(self) -> None:
        """With the policy's name, and the application's word."""
        acceptance = self.answered(attrs.evolve(ALLOWED, clock=NOW))
        self.assertEqual((acceptance.refusal, acceptance.told, acceptance.odd), (None, True, False))
        self.assertEqual(
            acceptance.text,
            f"it said so: policy web-may lets {WEB} in at orders-in, and its application answers; the clocks agree",
        )
        untried = attrs.evolve(ALLOWED, clock=NOW, target="not tried", target_text="too soon")
        self.assertIn("; its application was not tried: too soon; ", self.answered(untried).text)

    def test_does_not_let_us_in(self) -> None:
        """With its own code; one that is not a peer's to say is shown and not believed."""
        self.assert_refused(
            self.answered(ANSWER),
            codes.NO_RULE_ALLOWS,
            f"it would refuse {WEB}, coming from 192.0.2.20, at",
            "(policy web-may)",
        )
        with_rule = attrs.evolve(ANSWER, code="TM-P101", rule="r1")
        self.assert_refused(self.answered(with_rule), codes.DENIED_BY_RULE, "(policy web-may, rule r1)")
        for code in ("TM-X1", "TM-I101", "TM-C101", "TM-U101"):
            self.assert_refused(self.answered(attrs.evolve(ANSWER, code=code)), codes.REFUSED_BY_PEER, f"'{code}'")
        away = attrs.evolve(ALLOWED, target="unreachable", target_text="TM-U101 refused")
        self.assert_refused(self.answered(away), codes.TARGET_FAILED, "does not answer: TM-U101 refused")

    def test_sees_somebody_else(self) -> None:
        """That deserves a look."""
        acceptance = self.answered(attrs.evolve(ALLOWED, clock=NOW, peer="spiffe://a.test/wbe"))
        self.assertTrue(acceptance.odd and acceptance.told)
        self.assertIn(f"; but we are {WEB}; ", acceptance.text)

    def test_compares_the_clocks(self) -> None:
        """Ten seconds are no difference; time that the answer took is none either."""
        for clock, took, words in (
            (NOW + 10, 0, "the clocks agree"),
            (NOW - 10, 0, "the clocks agree"),
            (NOW + 30, 30, "the clocks agree"),
            (NOW, 30, "the clocks agree"),
            (NOW + 70, 0, "its clock is 70 s ahead of ours"),
            (NOW - 70, 0, "its clock is 70 s behind ours"),
            (NOW + 7201, 1, "its clock is 2 h ahead of ours"),
        ):
            self.now = NOW
            acceptance = self.answered(attrs.evolve(ALLOWED, clock=clock), took)
            self.assertIn(words, acceptance.text, (clock, took))
            self.assertEqual(acceptance.odd, "agree" not in words)

    def test_says_when_our_certificate_ends_there(self) -> None:
        """By our own clock."""
        text = self.answered(attrs.evolve(ALLOWED, clock=NOW + 1800)).text
        self.assertTrue(text.endswith("ours at 2025-11-22T23:30:00Z by our clock"), text)

    def test_names_no_moment_before_the_calendar(self) -> None:
        """Whatever time a peer says it is, there is an answer."""
        for clock in (NOW + 3600 * 24 * 365, 4e10, 9.9e10, 0.0, -9.9e10):
            acceptance = self.answered(attrs.evolve(ALLOWED, clock=clock))
            self.assertEqual((acceptance.refusal, acceptance.odd), (None, True), clock)
            self.assertIn("ahead of ours" if clock > NOW else "behind ours", acceptance.text)

    def test_tells_others(self) -> None:
        """Then it is asked again, and what is to be done is said once."""
        self.assertTrue(self.answered(ProbeRefusal("TM-P106", "no")).not_for_us)
        acceptance = self.hearing(ALPN, refused_probe=True).heard(OK)
        assert acceptance is not None
        self.assertIn(f"add {WEB} to its listener's probe.allow", acceptance.text)
        self.assert_refused(self.answered(ProbeRefusal("TM-O102", "stop")), codes.STOPPING, "'stop'")

    def test_is_cut(self) -> None:
        """Half an answer is none, and an end without a word is not one either."""
        hearing = self.hearing(PROBE_ALPN)
        hearing.heard(ANSWER.encode())
        self.assert_refused(hearing.ended(in_order=False), codes.PREFACE_MALFORMED, "was cut")
        self.assert_refused(self.hearing(PROBE_ALPN).ended(in_order=False), codes.CLOSED_BEFORE_OK, "without saying")
        self.assert_refused(self.hearing(PROBE_ALPN).timed_out(), codes.PREFACE_TIMEOUT)

    @given(st.binary(max_size=300), st.booleans())
    def test_never_raises(self, data: bytes, in_order: bool) -> None:
        """Whatever comes, it is the far side that is broken."""
        hearing = self.hearing(PROBE_ALPN)
        acceptance = hearing.heard(data) or hearing.ended(in_order=in_order)
        self.assertIsNotNone(acceptance.refusal)


class PrefaceTests(HearingCase):
    """A tcpmesh that tells nobody how it sees them."""

    def test_lets_us_in(self) -> None:
        """And what to do to be told more."""
        acceptance = self.hearing(ALPN).heard(OK)
        assert acceptance is not None
        self.assertTrue(acceptance.told)
        self.assertIn(f"write probe: {{allow: [{WEB}]}} at its listener", acceptance.text)

    def test_does_not(self) -> None:
        """Its code and words, in pieces too; nonsense; silence; an end."""
        for piece in (1, 600):
            hearing, data = self.hearing(ALPN), Preface(False, "TM-P102", "no").encode()
            found = [hearing.heard(data[start : start + piece]) for start in range(0, len(data), piece)]
            self.assert_refused(found[-1], codes.NO_RULE_ALLOWS, "the peer refused: 'no'")
            self.assertEqual(found[:-1], [None] * (len(found) - 1))
        self.assert_refused(self.hearing(ALPN).heard(b"\xff\xff"), codes.PREFACE_MALFORMED)
        self.assert_refused(self.hearing(ALPN).timed_out(), codes.PREFACE_TIMEOUT)
        self.assert_refused(self.hearing(ALPN).ended(in_order=True), codes.CLOSED_BEFORE_OK)

    def test_refuses_our_certificate(self) -> None:
        """An alert after the handshake is about nothing else; other breaks are what they are."""
        alert = self.hearing(ALPN).broken(Refusal(codes.PEER_ALERT, "the peer sent the TLS alert 'unknown ca'"))
        self.assert_refused(alert, codes.PEER_ALERT, f"does not take our certificate, of {WEB}, issued by 'CN=root'")
        for name, hint in (
            ("unknown ca", "see whether its bundle has that authority: tcpmesh"),
            (
                "certificate expired",
                "by our clock, 2025-11-22T23:00:00Z, it is valid until 2025-11-23T00:00:00Z: compare",
            ),
            ("internal error", "whether its deny-list names us, and what time it is there"),
        ):
            alert = self.hearing(ALPN).broken(Refusal(codes.PEER_ALERT, f"the peer sent the TLS alert {name!r}"))
            self.assert_refused(alert, codes.PEER_ALERT, f"; {hint}" if name != "internal error" else hint)
        broken = self.hearing(ALPN).broken(Refusal(codes.TLS_BROKEN, "a record"))
        self.assertEqual(broken.refusal and broken.refusal.reason, "a record")


class ForeignTests(HearingCase):
    """A server that has no way to say so."""

    def test_is_not_waited_for(self) -> None:
        """Half a second, in which it may refuse; then nobody knows, and nothing is broken."""
        hearing = self.hearing(b"")
        self.assertEqual(hearing.seconds, 0.5)
        self.assertIsNone(self.hearing(ALPN).seconds)
        for acceptance in (
            hearing.timed_out(),
            self.hearing(b"").heard(b"220 hello"),
            self.hearing(b"").ended(in_order=True),
            self.hearing(b"").ended(in_order=False),
        ):
            assert acceptance is not None
            self.assertEqual((acceptance.refusal, acceptance.told), (None, False))
            self.assertIn("no way to say so", acceptance.text)
        self.assertIn("policy is against a client: read its log", self.hearing(b"").ended(in_order=False).text)
        not_asked = self.hearing(b"", asked=False)
        self.assertEqual(
            not_asked.timed_out().text,
            "it was not asked (the service's preface: never), and has said nothing against us",
        )
        self.assertIsNone(hearing.heard(b""))
