"""
Expectations of policies, as a table in a file: who may do what, and what became of each.

Ring 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs

from tcpmesh.config.nodes import ListNode, compose
from tcpmesh.config.places import Place
from tcpmesh.config.problems import Problems
from tcpmesh.config.structure import SettingsReader
from tcpmesh.config.syntax import decode
from tcpmesh.errors import Mark
from tcpmesh.mesh_state import NamedPolicy
from tcpmesh.moments import Moment
from tcpmesh.policy.files import NoPlugins
from tcpmesh.policy.language import Policy
from tcpmesh.policy.questions import Question, parse_ip, parse_who
from tcpmesh.policy.replay import Places
from tcpmesh.policy.rules import Rules
from tcpmesh.values import Duration

__all__ = ["MAX_BYTES", "Expectation", "difference", "read_expectations", "undecided"]

MAX_BYTES = 4 * 2**20


def _is_who(_instance: object, _attribute: object, value: str) -> None:
    parse_who(value)


def _is_ip(_instance: object, _attribute: object, value: str | None) -> None:
    if value is not None:
        parse_ip(value)


@attrs.frozen
class Expectation:
    """
    One row: a connection, and what is to become of it.

    ``policy``, ``rule`` and ``code`` are looked at when they are given; a rule's file and line may be left out.
    """

    from_: str = attrs.field(validator=_is_who)  # the key "from", a Python keyword
    to: str
    expect: Literal["allow", "deny"]
    ip: str | None = attrs.field(default=None, validator=_is_ip)
    sni: str | None = None
    alpn: str | None = None
    at: Moment | None = None
    cert_age: Duration | None = None
    cert_left: Duration | None = None
    policy: str | None = None
    rule: str | None = None
    code: str | None = None
    mark: Mark | None = attrs.field(default=None, eq=False)  # not a key

    @property
    def question(self) -> Question:
        """What is asked."""
        return Question(
            who=self.from_,
            to=self.to,
            ip=self.ip or "",
            sni=self.sni or "",
            alpn=self.alpn or "",
            cert_age=self.cert_age,
            cert_left=self.cert_left,
        )


def read_expectations(path: Path, data: bytes, places: Places) -> list[Expectation]:
    """
    Read a table.

    :raises ConfigurationError: with everything that is wrong, each at its file, line and column.
    """
    problems = Problems(str(path))
    root = compose(decode(data, problems), problems)
    if not isinstance(root, ListNode) or not root.items:
        problems.fail(
            "this is no table of expectations: expected a list, as - {from: ID, to: LISTENER, expect: allow}",
            Mark(str(path), 1, 1),
        )
    reader = SettingsReader(path.parent, NoPlugins(), problems)
    found = reader.read(root, list[Expectation], Place("expectations", "expectations"))
    for place, expectation in reader.of(Expectation):
        try:
            expectation.question.request(places, 0.0)
        except ValueError as error:
            problems.add(f"{place}: {error}", expectation.mark)
    problems.raise_if_any()
    assert isinstance(found, list), "a failed read leaves a problem"
    return found


def difference(expectation: Expectation, explanation: Mapping[str, Any]) -> str:
    """What came instead of what was expected; empty if it came."""
    found = explanation["decision"]
    if found != expectation.expect:
        return f"expected {expectation.expect}, got {found}"
    for name in ("policy", "rule", "code"):
        wanted, got = getattr(expectation, name), str(explanation.get(name, ""))
        if wanted is not None and wanted != got and not (name == "rule" and wanted == got.partition(" (")[0]):
            return f"expected {name} {wanted}, got {got or 'none'}"
    return ""


def undecided(policies: Sequence[NamedPolicy], explanations: Iterable[Mapping[str, Any]]) -> Iterator[Policy]:
    """The policies of ``rules`` that decided none of these, whoever they were meant for."""
    deciding = {explanation.get("policy") for explanation in explanations}
    for named in policies:
        if isinstance(named.policy, Rules):
            yield from (policy for policy in named.policy.policies if policy.decides and policy.name not in deciding)
