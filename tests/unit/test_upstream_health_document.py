"""docs/upstream-health.md: its examples load, its tables are played, and its rule is the one that holds."""

from __future__ import annotations

import re
from collections.abc import Iterator

import attrs

from tcpmesh.codes import CLOSED_BEFORE_OK, by_id
from tcpmesh.errors import Refusal
from tcpmesh.health.faults import ANSWERS, FAULTS
from tcpmesh.health.service_health import ServiceHealth
from tcpmesh.net.health_checks import AT_ONCE
from tcpmesh.observe.health_lines import LINES, WINDOW
from tcpmesh.testing import endpoint
from tcpmesh.upstream_settings import CheckSettings, CircuitSettings, EjectionSettings, HealthSettings
from tcpmesh.values import Duration, Endpoint, format_duration
from tests.documents import ROOT, Block, blocks
from tests.unit.config_samples import ConfigTestCase, variant

TEXT = (ROOT / "docs" / "upstream-health.md").read_text(encoding="utf-8")
NUMBERS = {name: number for number, name in enumerate("ABCD", 1)}


def tables() -> Iterator[tuple[Block, list[list[str]]]]:
    """Each YAML block with the rows of the table below it, if there is one."""
    for block in blocks(TEXT):
        if block.language == "yaml":
            below = "\n".join(TEXT.splitlines()[block.line + block.text.count("\n") + 1 :])
            table = re.match(r"\n\| second .*\n\|[- |]+\n((?:\|.*\n)+)", below)
            rows = table[1].splitlines() if table else []
            yield block, [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


@attrs.define
class Play:
    """A service as a table has it."""

    health: ServiceHealth
    names: list[str]
    trials: dict[str, object] = attrs.field(factory=dict)

    def endpoint(self, name: str) -> Endpoint:
        return endpoint(NUMBERS[name])

    def endpoints(self) -> list[Endpoint]:
        return [self.endpoint(name) for name in self.names]

    def event(self, name: str, what: str, now: float) -> bool:
        """Let it happen; says whether it could."""
        code = by_id(what.rpartition(" ")[2])
        health, who = self.health, object()
        if what.startswith("connection "):
            if health.refuses(now, who) is not None:
                return what == "connection is refused"
            at = self.endpoint(self.names[0])
            if code is None:
                health.established(at, now, who)
            else:
                health.connection_failed(code, "a reason", now, who)
            return what != "connection is refused"
        at = self.endpoint(name)
        if what == "joins":
            self.names.append(name)
            health.retain(self.endpoints(), now)
        elif what.startswith("check "):
            health.checked(at.address, Refusal(code, "a reason") if code is not None else None, 0.1, now)
        elif what == "breaks before a byte":
            health.lost(at, CLOSED_BEFORE_OK, "a reason", now)
        elif what == "is not admitted":
            return not health.admits(at, now)
        else:
            if what.startswith("trial "):
                who = self.trials.pop(name)
            elif not health.admits(at, now):
                return False
            else:
                health.opened(at, now, who)
            if what == "is tried":
                self.trials[name] = who
            elif code is None:
                health.established(at, now, who)
            else:
                health.failed(at, code, "a reason", now, who)
        return True

    def state(self, name: str, now: float) -> str:
        """In the words of the tables."""
        if name == "all":
            circuit = self.health.circuit(now)
            left = f" for {format_duration(circuit.until - now)}" if circuit.until is not None else ""
            return circuit.state + left
        state = self.health.state(self.endpoint(name).address, now)
        if state.state == "ejected" and state.until is not None:
            return f"ejected for {format_duration(state.until - now)}"
        return f"slow-start, share {state.share:.4g}" if state.state == "slow-start" else state.state


class DocumentTests(ConfigTestCase):
    """What it says is so."""

    def settings(self, block: Block) -> HealthSettings:
        health = "".join(f"      {line}\n" for line in block.text.splitlines())
        return self.load(variant("    expect:", f"    health:\n{health}    expect:")).services["orders"].health

    def test_plays_every_table(self) -> None:
        """Row by row, each endpoint in the state that its row ends with."""
        played = 0
        for block, rows in tables():
            settings = self.settings(block)
            if not rows:
                continue
            joining = {row[1] for row in rows if row[2] == "joins"}
            names = sorted({row[1] for row in rows} - joining - {"all"}) or ["A"]
            if len(names) == 1 and settings.circuit is None and settings.check is None:
                names.append("D")
            play = Play(ServiceHealth("orders", settings), names)
            play.health.retain(play.endpoints(), 0.0)
            for row in rows:
                second, name, what, state = row
                self.assertTrue(play.event(name, what, float(second)), (block.text, row))
                self.assertEqual(play.state(name, float(second)), state, (block.text, row))
                played += 1
        self.assertGreater(played, 60)

    def test_the_first_example_has_the_defaults(self) -> None:
        """But for the parts that are off unless they are set."""
        (block, _), *_ = tables()
        found = self.settings(block)
        self.assertEqual(found.ejection, EjectionSettings())
        self.assertEqual(found.check, CheckSettings("tls"))
        self.assertEqual(found.circuit, CircuitSettings())
        self.assertEqual(found.slow_start, Duration(30.0))

    def test_the_rule_is_the_one_that_holds(self) -> None:
        """Word for word."""
        rules = {block.comment: block.text.split() for block in blocks(TEXT) if block.comment}
        self.assertEqual(rules, {"faults": sorted(FAULTS), "answers": [*ANSWERS]})

    def test_says_how_much_is_done_and_said_at_a_time(self) -> None:
        """The numbers that nobody can set."""
        self.assertIn(f"At most {AT_ONCE} checks are under way", TEXT)
        self.assertEqual((LINES, WINDOW), (20, 10.0))
        self.assertIn("at most twenty of these lines in ten seconds", " ".join(TEXT.split()))
