"""
``tcpmesh identity show``: a running proxy's identities and trust bundles, and where they stand.

Ring 4. Statuses: 0 every identity is ready and every bundle fresh, 1 one is not, 2 no proxy could be asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from tcpmesh.cli.admin_client import AdminError, admin_address, ask
from tcpmesh.cli.options import config_option, json_option
from tcpmesh.identity.certificates import span
from tcpmesh.observe.text import printable
from tcpmesh.values import IdentityState

__all__ = ["show"]

_NO_BUNDLE = "  NOT USED  no authority of it is in use: its peers are refused"

_LISTED = 20  # entries of the deny-list


@click.command()
@click.option("--admin", metavar="ADDRESS", help="The proxy's admin socket, as unix:PATH; else as the configuration.")
@config_option
@json_option
@click.pass_context
def show(ctx: click.Context, admin: str | None, config: Path, as_json: bool) -> None:
    """
    Show every identity that a running proxy has, and by which authorities it judges others.

    Exit status: 0 when every identity is ready, every trust bundle in use and fresh and the deny-list as its file says,
    1 when one is not or the configuration is invalid, 2 when no proxy could be asked.
    """
    address = admin_address(admin, config)
    answer = ask(address, "/identity")
    try:
        lines = list(_lines(answer))
        good = all(_is_ready(one) for one in answer["workloads"]) and all(map(_is_fresh, answer["trust_domains"]))
        good = good and not (answer.get("deny_list") or {}).get("failure")
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        shown = printable(str(address))
        raise AdminError(f"what answers on {shown} does not describe its identities as tcpmesh does") from None
    click.echo(json.dumps(answer) if as_json else "\n".join(lines))
    ctx.exit(0 if good else 1)


def _is_ready(workload: Mapping[str, Any]) -> bool:
    return bool(workload["state"] == IdentityState.READY.value)


def _is_fresh(domain: Mapping[str, Any]) -> bool:
    fresh = all(origin["failing_s"] is None for origin in domain["from"])
    return bool(domain["authorities"]) and fresh and not domain.get("dispute")


def _lines(answer: Mapping[str, Any]) -> Iterator[str]:
    yield f"generation {_text(answer['generation'])} at {_text(answer['time'])}"
    for workload in answer["workloads"]:
        yield from _workload(workload)
    for domain in answer["trust_domains"]:
        yield from _trust_domain(domain)
    if answer.get("deny_list"):
        yield from _deny_list(answer["deny_list"])


def _workload(workload: Mapping[str, Any]) -> Iterator[str]:
    yield _text(workload["id"])
    yield f"  workload  {_text(workload['name'])} from identity source {_text(workload['source'])}"
    state = _text(workload["state"])
    if workload["state_s"] is not None:
        state += f" for {span(workload['state_s'])}, since generation {_text(workload['state_generation'])}"
    if workload["failing_s"] is not None:
        state += f", its source failing for {span(workload['failing_s'])}"
    if workload["reason"]:
        state += f": {_text(workload['reason'])}"
    yield f"  {'state     ' if _is_ready(workload) else 'PROBLEM   '}{state}"
    certificate = workload["certificate"]
    if certificate is None:
        yield "  serial    none: there is no certificate"
    else:
        yield f"  serial    {_text(certificate['serial'])}"
        yield f"  issuer    {_text(certificate['issuer'])}"
        used = certificate["in_use_s"]
        in_use = f", in use for {span(used)}" if used is not None else ""
        yield f"  valid     {_text(certificate['not_before'])} to {_text(certificate['not_after'])}{in_use}"
        yield f"  sha256    {_text(certificate['sha256'])}"
    for listener in workload["listeners"]:
        service = f" to service {_text(listener['service'])}" if listener.get("service") else ""
        yield f"  used by   {_text(listener['direction'])} {_text(listener['name'])}{service}"
    if not workload["listeners"]:
        yield "  used by   no listener"


def _trust_domain(domain: Mapping[str, Any]) -> Iterator[str]:
    yield f"trust domain {_text(domain['trust_domain'])}{' (our own)' if domain['own'] else ''}"
    for origin in domain["from"]:
        age = "nothing received yet" if origin["age_s"] is None else f"received {span(origin['age_s'])} ago"
        sequence = "" if origin["sequence"] is None else f", sequence {_text(origin['sequence'])}"
        yield f"  from      {_text(origin['origin'])}, {age}{sequence}"
        if origin["failing_s"] is not None:
            yield f"  PROBLEM   failing for {span(origin['failing_s'])}: {_text(origin['reason'])}"
    if not domain["from"]:
        only = ", ".join(map(_text, domain.get("only") or ()))
        also = f" that counts: identity.bundles_from wants {only}" if only else ""
        yield f"  from      nowhere: no source has delivered a bundle for it{also}"
    if domain.get("dispute"):
        yield f"  PROBLEM   {_text(domain['dispute'])}"
    for authority in domain["authorities"] or ():
        yield f"  authority {_text(authority['subject'])}, key {_text(authority['key_id']) or 'not named'}"
        yield f"            valid   {_text(authority['not_before'])} to {_text(authority['not_after'])}"
        yield f"            sha256  {_text(authority['sha256'])}"
    if not domain["authorities"]:
        yield _NO_BUNDLE


def _deny_list(deny_list: Mapping[str, Any]) -> Iterator[str]:
    entries, file = deny_list["entries"], deny_list["file"]
    if not entries and file is None:
        return
    yield f"deny-list, {len(entries)} {'entry' if len(entries) == 1 else 'entries'}"
    if file is not None:
        yield f"  from      {_text(file)}, good at {_text(deny_list['loaded'])}"
    if deny_list["failure"]:
        yield f"  PROBLEM   the file cannot be used, what it said before goes on: {_text(deny_list['failure'])}"
    for entry in entries[:_LISTED]:
        before = f" issued before {_text(entry['issued_before'])}" if entry["issued_before"] is not None else ""
        reason = f", because: {_text(entry['reason'])}" if entry["reason"] else ""
        yield f"  denied    {_text(entry['what'])}{before}{reason}"
    if len(entries) > _LISTED:
        yield f"            and {len(entries) - _LISTED} more: --json"


def _text(value: object) -> str:
    return printable(str(value))
