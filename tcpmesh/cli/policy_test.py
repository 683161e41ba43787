"""
``tcpmesh policy test``: a table of expectations, held against the policies of a configuration.

Ring 4.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import click
from twisted.internet.defer import inlineCallbacks

from tcpmesh.cli.explain_output import explanation_lines, head
from tcpmesh.cli.options import config_option, json_option
from tcpmesh.cli.policy_side import PolicySide, policy_side, waited_for
from tcpmesh.cli.small_files import read_file
from tcpmesh.errors import Mark
from tcpmesh.observe.text import printable
from tcpmesh.policy.expectations import MAX_BYTES, Expectation, difference, read_expectations, undecided
from tcpmesh.wall_clock import wall_clock

__all__ = ["policy_test"]


@attrs.frozen
class _Result:
    """What became of one expectation; ``failure`` is empty if it came true."""

    expectation: Expectation
    explanation: Mapping[str, Any]
    failure: str


@attrs.define
class _Moment:
    """The time of day that policies see."""

    seconds: float | None = None  # None: now

    def now(self) -> float:
        return wall_clock() if self.seconds is None else self.seconds


@click.command("test")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@config_option
@json_option
@click.pass_context
def policy_test(ctx: click.Context, file: Path, config: Path, as_json: bool) -> None:
    """
    Hold the policies of the configuration against the expectations in FILE.

    FILE is a list in YAML: from, to and expect (allow or deny), and as needed ip, sni, alpn, at, cert_age, cert_left;
    with policy, rule and code the reason must be right too. Policies that decided nothing are named, since nothing says
    what they are for. Exit status: 0 when everything is as expected, 1 when something is not or a file is invalid, 2
    when FILE cannot be read.
    """
    data = read_file(file, MAX_BYTES)
    moment = _Moment()
    with policy_side(config, moment.now) as side:
        expectations = read_expectations(file, data, side.places)
        results: Sequence[_Result] = waited_for(_ask(side, expectations, moment))
        idle = [
            (policy.name, policy.mark)
            for policy in undecided(side.state.policies, (result.explanation for result in results))
        ]
    failed = [result for result in results if result.failure]
    if as_json:
        click.echo(json.dumps(_as_mapping(file, results, idle)))
    else:
        for result in failed:
            _show(result)
        for name, mark in idle:
            click.echo(printable(f"hint: {mark or ''}: policy {name!r} decides none of these"))
        click.echo(f"{len(results) - len(failed)} of {len(results)} expectations came true")
    ctx.exit(1 if failed else 0)


@inlineCallbacks
def _ask(side: PolicySide, expectations: Sequence[Expectation], moment: _Moment) -> Any:
    results = []
    for expectation in expectations:
        moment.seconds = expectation.at
        request = expectation.question.request(side.places, moment.now())
        explanation = yield side.explain(request, nearest=False)
        failure = difference(expectation, explanation)
        if failure:  # what came nearest takes longer to find than the decision
            explanation = yield side.explain(request)
        results.append(_Result(expectation, explanation, failure))
    return results


def _show(result: _Result) -> None:
    expectation = result.expectation
    about = f"{expectation.from_} to {expectation.to}: {result.failure}"
    click.echo(printable(f"{expectation.mark}: {about}"))
    click.echo(f"  {head(result.explanation)}")
    for line in explanation_lines(result.explanation, "    "):
        click.echo(line)


def _as_mapping(file: Path, results: Sequence[_Result], idle: Sequence[tuple[str, Mark | None]]) -> dict[str, Any]:
    return {
        "file": str(file),
        "expectations": len(results),
        "failed": [
            {
                "line": result.expectation.mark.line if result.expectation.mark else None,
                "from": result.expectation.from_,
                "to": result.expectation.to,
                "failure": result.failure,
                "explanation": result.explanation,
            }
            for result in results
            if result.failure
        ],
        "undecided": [{"policy": name, "place": str(mark or "")} for name, mark in idle],
    }
