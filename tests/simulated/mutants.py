"""
Deliberate breakages of the way to an endpoint, to see that the tests of integrity notice each of them.

``python -m tests.simulated.mutants`` applies one after the other to a copy of the checkout, runs
``tests.simulated.test_integrity`` there, and says which test noticed it. A name, or several, as arguments choose some.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import attrs

ROOT = Path(__file__).parents[2]
TESTS = "tests.simulated.test_integrity"


@attrs.frozen
class Mutant:
    """One breakage: in ``file``, ``old`` (there once) becomes ``new``."""

    name: str
    file: str
    old: str
    new: str


MUTANTS = (
    Mutant(
        "retry after payload was sent",
        "net/relay.py",
        "untouched = not record.bytes_sent and not record.bytes_recv and self.state is State.OPEN",
        "untouched = not record.bytes_recv and self.state is State.OPEN",
    ),
    Mutant(
        "retry after payload was received",
        "net/relay.py",
        "untouched = not record.bytes_sent and not record.bytes_recv and self.state is State.OPEN",
        "untouched = not record.bytes_sent and self.state is State.OPEN",
    ),
    Mutant(
        "retry after an end was passed on",
        "net/relay.py",
        "untouched = not record.bytes_sent and not record.bytes_recv and self.state is State.OPEN",
        "untouched = not record.bytes_sent and not record.bytes_recv",
    ),
    Mutant(
        "retry after a peer said ok",
        "net/connector.py",
        "if not isinstance(leg, TLSLeg) or booking is None or leg.core.alpn == ALPN:",
        "if not isinstance(leg, TLSLeg) or booking is None:",
    ),
    Mutant(
        "forget which endpoints failed",
        "net/connector.py",
        "            self._failed |= {failure.endpoint}\n",
        "",
    ),
    Mutant(
        "retry what is final",
        "net/connector.py",
        "        if not refusal.code.retryable:\n            self._end(refusal)\n            return\n        wait =",
        "        wait =",
    ),
    Mutant(
        "send payload before the peer accepted",
        "net/attempt.py",
        "        if leg.core.alpn == ALPN:",
        "        if False:",
    ),
    Mutant(
        "send what was sent already once more",
        "net/relay.py",
        "            self.dst.send(data)\n",
        "            self.dst.send(data)\n            self.dst.send(data[: self.record.bytes_sent % 2])\n",
    ),
    Mutant(
        "take a truncated stream for an end",
        "net/tls.py",
        "if self._truncation_is_end and not self.core.inside_record:",
        "if not self.core.inside_record:",
    ),
    Mutant(
        "take a stream that was cut within a record for an end",
        "net/tls.py",
        'self.lost(Loss(TRUNCATED, "the connection ended without a TLS close_notify"))',
        "self.ended = True\n                self.owner.leg_ended(self)",
    ),
    Mutant(
        "pass a reset on as an end",
        "dataplane/closing.py",
        '_BREAK_BY_DST = Transition(State.CLOSED, (Action.RESET_DST, Action.RESET_SRC), closed_by="dst")',
        '_BREAK_BY_DST = Transition(State.CLOSED, (Action.RESET_DST, Action.END_SRC), closed_by="dst")',
    ),
    Mutant(
        "end a refused application in order",
        "net/outbound.py",
        "        self.src.reset()\n        self.close(refusal.code",
        "        self.src.end()\n        self.src.finish()\n        self.close(refusal.code",
    ),
    Mutant(
        "lose what came together with the preface",
        "net/tls.py",
        '        early, self._early = self._early, b""',
        '        early = b""',
    ),
    Mutant(
        "close behind an end before everything was written",
        "net/legs.py",
        "        self.finishing = True\n        if self._fin_sent:\n            self.transport.loseConnection()",
        "        self.finishing = True\n        self.transport.abortConnection()",
    ),
    Mutant(
        "record the end twice",
        "net/connection.py",
        "        if self._closed:\n            return\n        self._closed = True",
        "        self._closed = True",
    ),
    Mutant(
        "do not tell the balancer of an end",
        "net/connector.py",
        "            self._booking.closed()\n",
        "",
    ),
    Mutant(
        "do not tell the balancer of a cancelled attempt",
        "net/connector.py",
        "            booking.failed(AttemptFailure(CANCELLED, gone, booking.endpoint, duration))\n",
        "",
    ),
    Mutant(
        "leave the socket of an attempt that timed out",
        "net/attempt.py",
        "        self._leg.reset()\n        self._fail(refusal)\n\n    def _phase_ms",
        "        self._fail(refusal)\n\n    def _phase_ms",
    ),
    Mutant(
        "accept whoever answers",
        "dataplane/verification.py",
        "            match_expected(self._chain.peer, self._expected)",
        "            pass",
    ),
    Mutant(
        "dial on for an application that went away",
        "net/outbound.py",
        "            self._establishment.cancel()",
        "            pass",
    ),
    Mutant(
        "give no place back where a connection was lost before it moved",
        "net/booking.py",
        "failure.code, failure.reason, self._pool.clock.seconds())\n        self.closed()",
        "failure.code, failure.reason, self._pool.clock.seconds())",
    ),
    Mutant(
        "let who waits stay when its application has left",
        "net/connector.py",
        "            pool.leave(self._waiter)\n",
        "",
    ),
    Mutant(
        "forget that a limit is reached",
        "net/pool.py",
        "        return counts is None or counts.total < (self._limits.per_endpoint or 0)",
        "        return counts is None or counts.open < (self._limits.per_endpoint or 0)",
    ),
    Mutant(
        "keep a place that was given to somebody who left",
        "net/waiting.py",
        "        return outcome if isinstance(outcome, Booking) else None",
        "        return None",
    ),
    Mutant(
        "tell who waits of room and dial twice",
        "net/connector.py",
        "        self._note_wait()\n        self._dial(booking)",
        "        self._note_wait()\n        self._dial(booking)\n        self._try()",
    ),
    Mutant(
        "hand on twice what was read before the way was known",
        "net/prelude.py",
        "            self.owner.leg_data(self, early)\n",
        "            self.owner.leg_data(self, early)\n            self.owner.leg_data(self, early)\n",
    ),
    Mutant(
        "lose what was read before the way was known",
        "net/prelude.py",
        "            self.owner.leg_data(self, early)\n",
        "            pass\n",
    ),
    Mutant(
        "try the next service after a final refusal",
        "net/routing.py",
        "    return code.retryable or code in _OF_THE_SERVICE",
        "    return True",
    ),
    Mutant(
        "say that all went well when the time ran out",
        "net/relay.py",
        "            record.code = transition.code or code\n",
        "            record.code = CLEAN\n",
    ),
)


def copy_checkout(place: Path) -> Path:
    """What the tests need, in a directory of its own."""
    copy = place / "checkout"
    for name in ("tcpmesh", "tests", "twisted"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "dropin.cache"))
    return copy


def apply(mutant: Mutant, checkout: Path) -> str:
    """
    Break the copy; give the file's text of before.

    :raises ValueError: when the text to be replaced is not there exactly once.
    """
    file = checkout / "tcpmesh" / mutant.file
    text = file.read_text()
    if text.count(mutant.old) != 1:
        raise ValueError(f"{mutant.name}: {mutant.file} has {text.count(mutant.old)} times what is to be replaced")
    file.write_text(text.replace(mutant.old, mutant.new))
    return text


def try_it(mutant: Mutant, checkout: Path) -> str:
    """Run the tests against the broken copy; give what noticed it, empty if nothing did."""
    text = apply(mutant, checkout)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "twisted.trial", "-x", f"--temp-directory={checkout.parent / 'trial'}", TESTS],
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout), "TCPMESH_INTEGRITY_SHRINK": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        (checkout / "tcpmesh" / mutant.file).write_text(text)
    noticed = re.search(r"^\s+(test_\w+) \.\.\.\s+\[(?:FAIL|ERROR)\]$", ended.stdout, re.MULTILINE)
    if not ended.returncode or noticed is None:
        return "" if not ended.returncode else ended.stdout[-2000:] + ended.stderr[-2000:]
    said = re.search(r"First extra element 0:\n(.{0,160})", ended.stdout) or re.search(
        r"^(\w+(?:\.\w+)*(?:Error|Failure|FailTest).{0,120})", ended.stdout, re.MULTILINE
    )
    return f"{noticed[1]}: {said[1] if said else ''}"


def main() -> int:
    """Try all, or those that are named; the status is the number of those that nothing noticed."""
    chosen = [mutant for mutant in MUTANTS if mutant.name in sys.argv[1:] or len(sys.argv) == 1]
    survived = 0
    with tempfile.TemporaryDirectory(prefix="tcpmesh-mutants-") as place:
        checkout = copy_checkout(Path(place))
        for mutant in chosen:
            noticed = try_it(mutant, checkout)
            survived += not noticed
            print(f"{mutant.name}: {noticed or 'SURVIVED'}", flush=True)
    return survived


if __name__ == "__main__":
    sys.exit(main())
