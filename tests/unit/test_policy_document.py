"""docs/policy.md: every example is asked, everything that is said to be refused is."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.config import loads, warnings
from tcpmesh.errors import ConfigurationError
from tcpmesh.plugins import PluginRegistry
from tcpmesh.policy.files import PolicyReader
from tcpmesh.policy.language import Policy, RulesSettings
from tcpmesh.policy.ruling import Ruling
from tcpmesh.values import AuthorizationRequest, parse_duration
from tests.documents import ROOT, Block, blocks, section
from tests.unit.policy_samples import request

FILE = ROOT / "docs" / "policy.md"
PORTS = {"orders-in": 5000, "db-in": 5432}
SERVICES = ("orders", "mail")
NOW = 1_764_000_000.0
BASE = {
    "version": "1\n",
    "trust_domain": "example.org\n",
    "identity": """
  sources: {local: {plugin: embedded, state: state}}
  workloads: {web: {id: "spiffe://example.org/web"}}
""",
    "services": """
  orders: {expect: ["spiffe://example.org/orders"], discovery: {plugin: static, endpoints: ["192.0.2.1:1"]}}
""",
    "outbound": """[{name: out, listen: "127.0.0.1:1500", service: orders, workload: web}]\n""",
    "inbound": """[{name: orders-in, listen: "127.0.0.1:4143", target: "127.0.0.1:5000", workload: web}]\n""",
}


def read(text: str) -> Sequence[Policy]:
    """A list of policies."""
    data = "policies:\n" + "".join(f"  {line}\n" for line in text.splitlines())
    return PolicyReader([], PORTS, SERVICES).read([(Path("example.yaml"), data.encode())])


@attrs.frozen
class Row:
    """One connection, and what is said to become of it."""

    who: str
    source: str
    to: str
    also: dict[str, str]
    answer: str

    def asked(self) -> AuthorizationRequest:
        """The question."""
        changes: dict[str, Any] = {"id": None if self.who == "unauthenticated" else self.who, "source": self.source}
        if self.to.startswith("service "):
            changes |= {"service": self.to.removeprefix("service "), "inbound": "", "port": 0}
        else:
            changes |= {"inbound": self.to, "port": PORTS[self.to]}
        changes |= {name: self.also[name] for name in ("sni", "alpn") if name in self.also}
        age = parse_duration(self.also.get("age", "1m"))
        return request(**changes, not_before=self.now - age, not_after=self.now + 86400 * 30)

    @property
    def now(self) -> float:
        """The time of the question."""
        return datetime.datetime.fromisoformat(self.also["time"]).timestamp() if "time" in self.also else NOW


def table(text: str, block: Block) -> Iterator[list[str]]:
    """The rows of the table that follows a block."""
    after = text.split("\n")[block.line + block.text.count("\n") + 1 :]
    lines = iter(after)
    for line in lines:
        if line.startswith("|"):
            break
        assert not line.startswith(("#", "```")), f"line {block.line}: no table follows"
    next(lines)
    for line in lines:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.strip("|").split("|")]


class DocumentTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.text = FILE.read_text()
        self.blocks = blocks(self.text)

    def test_every_example_says_what_happens(self) -> None:
        """Each row of each table is asked; the answer names the policy where it is not the only one."""
        examples = [block for block in self.blocks if "policies" in block.words]
        self.assertGreater(len(examples), 6)
        for block in examples:
            policies = read(block.text)
            rows = [
                Row(who, source, to, dict(pair.split("=", 1) for pair in also.split()), answer)
                for who, source, to, also, answer in table(self.text, block)
            ]
            self.assertGreater(len(rows), 2, block.line)
            for row in rows:
                decision = Ruling(policies, lambda now=row.now: now).decide(row.asked())  # type: ignore[misc]
                said = decision.effect.value.replace("abstain", "-")
                if " by " in row.answer.partition(",")[0]:
                    said += f" by {decision.policy}"
                said += "".join(f", {note.says} by {note.policy}" for note in decision.notes)
                self.assertEqual(said, row.answer, f"line {block.line}: {row}")

    def test_configurations_load(self) -> None:
        """With the rest of a configuration around them; those that are said to warn do."""
        found = [block for block in self.blocks if "configuration" in block.words]
        self.assertEqual(len(found), 4)
        told = []
        for block in found:
            own = set(re.findall(r"^(\w+):", block.text, re.MULTILINE))
            around = "".join(f"{key}: {value}" for key, value in BASE.items() if key not in own)
            settings = loads((around + block.text).encode(), Path("/etc/tcpmesh/tcpmesh.yaml"), PluginRegistry())
            told += [problem.message for problem in warnings(settings) if "no authorization policy" not in str(problem)]
        self.assertEqual(len(told), 1, told)
        self.assertIn("defaults.inbound: allow", told[0])

    def test_what_is_said_to_be_refused_is(self) -> None:
        """With the words that are shown."""
        refused = section(self.text, "What is refused, and what is only doubted")
        rows = re.findall(r"^\| `(.+)` \| (.+) \|$", refused, re.MULTILINE)
        self.assertGreater(len(rows), 12)
        for written, told in rows:
            keys = {"name": "x", "action": "allow", "from": "[{any: authenticated}]"}
            keys |= dict(
                pair.split(": ", 1)
                for pair in ([written] if ": {" in written or "[" in written else written.split(", "))
            )
            text = "- {" + ", ".join(f"{key}: {value}" for key, value in keys.items()) + "}"
            failure = self.assertRaises(ConfigurationError, read, text)
            self.assertIn(told, str(failure), written)

    def test_describes_every_key(self) -> None:
        """Of the language, and of the plugin."""
        from tcpmesh.policy.language import Principals, Targets
        from tcpmesh.policy.times import CertificateTimes, Conditions, Window
        from tcpmesh.settings import keys

        for settings in (Policy, Principals, Targets, Conditions, Window, CertificateTimes, RulesSettings):
            for key in keys(settings):
                self.assertRegex(self.text, rf"\b{key}\b", settings.__name__)

    def test_the_cost_is_a_curve_that_was_measured(self) -> None:
        """From ten to a hundred thousand rules, as the benchmark prints it."""
        cost = section(self.text, "What a decision costs")
        self.assertEqual(
            re.findall(r"^ +(\d+) +[\d.]+ us", cost, re.MULTILINE), ["10", "100", "1000", "10000", "100000"]
        )
