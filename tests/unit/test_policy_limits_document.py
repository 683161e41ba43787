"""docs/policy-limits.md: every example is played as its table says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import attrs
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.limit_interfaces import Part
from tcpmesh.mesh_state import MeshStateCell, NamedPolicy
from tcpmesh.net.limiting import Limiting
from tcpmesh.observe.limit_metrics import LimitMetrics
from tcpmesh.observe.records import ConnectionRecord
from tcpmesh.policy.files import PolicyReader
from tcpmesh.policy.limits import MAX_REMEMBERED, Places
from tcpmesh.policy.rules import Rules
from tcpmesh.values import AuthorizationRequest
from tests.documents import ROOT, blocks, section
from tests.unit.policy_samples import request

TEXT = (ROOT / "docs" / "policy-limits.md").read_text(encoding="utf-8")


@attrs.define(eq=False)
class Connection:
    """One row that opens."""

    who: str
    source: str
    at: str
    record: ConnectionRecord = attrs.field(factory=lambda: ConnectionRecord(1, "inbound", "", "", 0.0))
    places: Places | None = ()
    is_closed: bool = False

    def authorization_request(self) -> AuthorizationRequest:
        service = self.at.removeprefix("service ")
        where = {"service": service, "inbound": ""} if service != self.at else {"inbound": self.at}
        return request(id=self.who, source=self.source, **where)


class DocumentTests(SynchronousTestCase):
    """What it says is so."""

    def play(self, text: str, rows: Iterator[list[str]]) -> Iterator[tuple[str, str]]:
        """The answer and the reason of every row."""
        clock, cell = Clock(), MeshStateCell()
        limiting = Limiting(cell, clock)
        data = "policies:\n" + "".join(f"  {line}\n" for line in text.splitlines())
        reader = PolicyReader([], ("orders-in", "db-in"), ("orders", "mail"))
        policies = reader.read([(Path("example.yaml"), data.encode())])
        cell.swap(policies=(NamedPolicy("rules", Rules(policies)),))
        live: list[Connection] = []
        for second, who, source, at, does, answer in rows:
            clock.advance(float(second) - clock.seconds())
            one = Connection(who, source, at)
            one.record.listener = at
            if does == "closes":
                [gone, *_] = [each for each in live if (each.who, each.source, each.at) == (who, source, at)]
                live.remove(gone)
                limiting.release(gone)
                self.assertEqual(answer, "")
                continue
            self.assertEqual(does, "opens")
            refusal = limiting.admit(one)
            said = f"{refusal.code.id} by {one.record.policy}" if refusal is not None else "has room"
            said += "".join(f", {note.says} by {note.policy}" for note in one.record.notes)
            self.assertEqual(said, answer, (second, who, source, at))
            if refusal is None:
                live.append(one)
            yield answer, refusal.reason if refusal is not None else ""

    def test_plays_every_example(self) -> None:
        """And each reason that is shown is one of those that were given."""
        found = [block for block in blocks(TEXT) if block.language == "yaml"]
        reasons: set[str] = set()
        for block in found:
            self.assertIn("policies", block.words)
            behind = TEXT[TEXT.index(block.text) + len(block.text) :]
            table = re.match(r"```\n\n((?:\|.*\n)+)", behind)
            assert table is not None, block.text
            rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table[1].splitlines()[2:]]
            rows = [row + [""] * (6 - len(row)) for row in rows]
            self.assertGreater(len(rows), 1)
            reasons |= {reason for _, reason in self.play(block.text, iter(rows))}
        self.assertEqual(len(found), 5)
        [shown] = [block.text.splitlines() for block in blocks(TEXT) if block.language == "text"]
        self.assertEqual([line for line in shown if line not in reasons], [])
        self.assertEqual(len(shown), 4)

    def test_names_every_word_of_per(self) -> None:
        """In its table."""
        words = re.findall(r"^\| `(\w+)` \|", section(TEXT, "What is counted together: `per`"), re.MULTILINE)
        self.assertEqual(sorted(words), sorted(Part.__args__))  # type: ignore[attr-defined]

    def test_names_every_metric(self) -> None:
        """As a scrape has them."""
        cell = MeshStateCell()
        limiting = Limiting(cell, Clock())
        reader = PolicyReader([], (), ())
        data = b"policies: [{name: few, action: limit, from: [{any: authenticated}], limit: {connections: 1}}]"
        cell.swap(policies=(NamedPolicy("rules", Rules(reader.read([(Path("x.yaml"), data)]))),))
        samples = {sample.name for metric in LimitMetrics(limiting).collect() for sample in metric.samples}
        self.assertEqual(set(re.findall(r"^\| `(\w+)", section(TEXT, "Metrics"), re.MULTILINE)), samples)

    def test_says_how_many_are_remembered(self) -> None:
        """The number that the code has."""
        self.assertIn(f"up to {MAX_REMEMBERED:,} peers", section(TEXT, "Bounds").replace("\n", " "))
