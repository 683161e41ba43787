"""
What a peer makes of us: the last layer, told by its hop preface, by its answer to a probe, or by nothing at all.

Ring 3, no I/O: whoever moves the bytes says what came and when the time was over.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from tcpmesh.codes import (
    CLOSED_BEFORE_OK,
    PEER_ALERT,
    PREFACE_MALFORMED,
    PREFACE_TIMEOUT,
    PROBE_NOT_ALLOWED,
    REFUSED_BY_PEER,
    TARGET_FAILED,
    by_id,
)
from tcpmesh.dataplane.preface import ALPN, InvalidPreface, Preface, PrefaceReader
from tcpmesh.dataplane.probe import PROBE_ALPN, InvalidProbe, ProbeAnswer, ProbeReader, ProbeRefusal
from tcpmesh.errors import Refusal
from tcpmesh.identity.certificates import moment, span
from tcpmesh.net.attempt import FROM_PEERS

__all__ = ["Acceptance", "Asker", "Hearing"]

_AFTERWARDS = 0.5  # seconds in which a server that has no way to say so may refuse after the handshake (TLS 1.3)
_CLOCKS_AGREE = 10.0  # seconds that two clocks may differ without a word


@attrs.frozen
class Acceptance:
    """
    What the peer made of us.

    :ivar refusal: None if it did not refuse.
    :ivar told: whether it said that it accepts; else nobody knows.
    :ivar odd: whether it accepts, and something deserves a look.
    :ivar not_for_us: it tells others how it sees them: ask again without a probe.
    """

    text: str = ""
    refusal: Refusal | None = None
    told: bool = False
    odd: bool = False
    not_for_us: bool = False


@attrs.frozen
class Asker:
    """
    Who asks.

    :ivar identity: our SPIFFE ID, as the certificate has it.
    :ivar issuer: the authority above it and its key, for people to compare with the peer's bundle.
    :ivar not_after: until when it is valid, seconds since the epoch.
    :ivar now: wall-clock seconds.
    """

    identity: str
    issuer: str
    not_after: float
    now: Callable[[], float]

    def not_taken(self, alert: Refusal, when: str) -> Refusal:
        """
        Say what an alert of a server means that has shown its own certificate: it does not take ours.

        :param alert: what came, with TLS's word for it.
        """
        who = f"{alert.reason} {when}: it does not take our certificate, of {self.identity}, issued by {self.issuer}"
        if "expired" in alert.reason:
            hint = f"by our clock, {moment(self.now())}, it is valid until {moment(self.not_after)}: compare the clocks"
        elif "unknown ca" in alert.reason:
            hint = "see whether its bundle has that authority: tcpmesh identity show there"
        else:
            # A tcpmesh can say no more than "internal error" of what OpenSSL itself has nothing against.
            hint = (
                "its log says why: see whether its bundle has that authority (tcpmesh identity show there), whether "
                "its deny-list names us, and what time it is there"
            )
        return Refusal(alert.code, f"{who}; {hint}")


class Hearing:
    """
    Listens to one peer after the handshake; every method gives the acceptance once there is one.

    :param alpn: what was negotiated: it decides what the peer can say.
    :param refused_probe: whether the peer has said before that we may not probe.
    :param asked: whether tcpmesh/1 was offered, which lets a tcpmesh say whether it accepts.
    :ivar seconds: how long to wait at most for a peer that has no way to say anything; None where it must speak.
    """

    def __init__(self, alpn: bytes, asker: Asker, *, refused_probe: bool = False, asked: bool = True) -> None:
        self._alpn = alpn
        self._asker = asker
        self._refused_probe = refused_probe
        self._preface = PrefaceReader()
        self._probe = ProbeReader()
        self._begun = asker.now()
        self._spoke = False
        self._mute = (
            "it has no way to say so (no tcpmesh/1)" if asked else "it was not asked (the service's preface: never)"
        )
        self.seconds = None if alpn in (ALPN, PROBE_ALPN) else _AFTERWARDS

    def heard(self, plaintext: bytes | memoryview) -> Acceptance | None:
        """Something came."""
        self._spoke = self._spoke or bool(plaintext)
        try:
            if self._alpn == PROBE_ALPN:
                self._probe.feed(plaintext)
            elif self._alpn == ALPN:
                found = self._preface.feed(plaintext)
                return self._of_preface(found[0]) if found is not None else None
            elif plaintext:
                return Acceptance(f"{self._mute}, and has said nothing against us")
        except (InvalidPreface, InvalidProbe) as error:
            return Acceptance(refusal=Refusal(PREFACE_MALFORMED, str(error)))
        return None

    def broken(self, refusal: Refusal) -> Acceptance:
        """An alert came, or something that is no TLS."""
        if refusal.code is PEER_ALERT:
            # In TLS 1.3 a server judges its client last, when the client is through (RFC 8446 section 4.4.4).
            refusal = self._asker.not_taken(refusal, "after our handshake")
        return Acceptance(refusal=refusal)

    def ended(self, *, in_order: bool) -> Acceptance:
        """
        The peer has ended its stream.

        :param in_order: whether it said so, in TLS.
        """
        if self._alpn == PROBE_ALPN and (in_order or self._spoke):
            try:
                if not in_order:
                    raise InvalidProbe("the answer was cut")
                found = self._probe.finish()
            except InvalidProbe as error:
                return Acceptance(refusal=Refusal(PREFACE_MALFORMED, str(error)))
            return self._of_refusal(found) if isinstance(found, ProbeRefusal) else self._of_answer(found)
        if self.seconds is None:
            what = "it closed the connection without saying whether it accepts"
            return Acceptance(refusal=Refusal(CLOSED_BEFORE_OK, what))
        how = "as servers do whose policy is against a client: read its log"
        return Acceptance(f"{self._mute}, and closed the connection without a word, {how}")

    def timed_out(self) -> Acceptance:
        """Nothing more came in time."""
        if self.seconds is None:
            return Acceptance(refusal=Refusal(PREFACE_TIMEOUT, "it did not say in time whether it accepts"))
        return Acceptance(f"{self._mute}, and has said nothing against us")

    # --- what the peer said

    def _of_preface(self, preface: Preface) -> Acceptance:
        if not preface.ok:
            return Acceptance(refusal=_refusal(preface.code, f"the peer refused: {preface.text or 'no reason'!a}"))
        said = "it said so: its policy lets us in, and its application answers"
        more = f"add {self._asker.identity} to its listener's probe.allow"
        if not self._refused_probe:
            more = f"write probe: {{allow: [{self._asker.identity}]}} at its listener"
        return Acceptance(f"{said}; to be told how it sees us, {more}", told=True)

    def _of_refusal(self, refused: ProbeRefusal) -> Acceptance:
        if refused.code == PROBE_NOT_ALLOWED.id:
            return Acceptance(not_for_us=True)
        return Acceptance(refusal=_refusal(refused.code, f"the peer refused: {refused.text!a}"))

    def _of_answer(self, answer: ProbeAnswer) -> Acceptance:
        if not answer.allowed:
            by = f" (policy {answer.policy}" + (f", rule {answer.rule})" if answer.rule else ")")
            who = f"{answer.peer}, coming from {answer.peer_source}, at {answer.listener}"
            text = f"it would refuse {who}: {answer.reason or 'without a reason'}"
            return Acceptance(refusal=_refusal(answer.code, text + (by if answer.policy else "")))
        if answer.target == "unreachable":
            text = f"its policy lets {answer.peer} in, but its application does not answer: {answer.target_text}"
            return Acceptance(refusal=Refusal(TARGET_FAILED, text))
        policy = f"policy {answer.policy}" if answer.policy else "its policy"
        text = f"it said so: {policy} lets {answer.peer} in at {answer.listener}"
        tried = answer.target == "reachable"
        text += ", and its application answers" if tried else f"; its application was not tried: {answer.target_text}"
        odd = answer.peer != self._asker.identity
        if odd:
            text += f"; but we are {self._asker.identity}"
        skew = self._skew(answer.clock)
        return Acceptance(f"{text}; {skew or 'the clocks agree'}", told=True, odd=odd or bool(skew))

    def _skew(self, clock: float) -> str:
        """How far the peer's clock is off, and what it means; it was read between our question and now."""
        now, asker = self._asker.now(), self._asker
        if clock - now > _CLOCKS_AGREE:
            off = clock - now
            text = f"its clock is {span(off)} ahead of ours, and certificates end there so much earlier"
            end = asker.not_after - off
            # A peer may say any time; there is no name for those before the first year.
            return text + (f": ours at {moment(end)} by our clock" if end > 0 else "")
        if self._begun - clock > _CLOCKS_AGREE:
            off = self._begun - clock
            return (
                f"its clock is {span(off)} behind ours: for so long after its issue a certificate is not valid there "
                "yet, and for so long after its end it still is"
            )
        return ""


def _refusal(code: str, text: str) -> Refusal:
    """With the peer's own code, if it is one that a peer can know of."""
    known = by_id(code)
    if known is None or not code.startswith(FROM_PEERS):
        return Refusal(REFUSED_BY_PEER, f"{text}, with {code!a}")
    return Refusal(known, text)
