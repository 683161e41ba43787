"""
``tcpmesh identity resolve``: the SPIFFE ID of a foreign name, by which rule, and what the configuration does with it.

Ring 4. Verifies nothing: it says which ID a name has, not whose the name is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import click

from tcpmesh.cli.complaints import Failed
from tcpmesh.cli.options import config_option, json_option
from tcpmesh.cli.parsed import parsed
from tcpmesh.cli.small_files import read_file
from tcpmesh.codes import AMBIGUOUS, UNMAPPED, Code
from tcpmesh.config.mentions import Mention, Mentions, mentions
from tcpmesh.errors import Mark, Refusal
from tcpmesh.identity import foreign
from tcpmesh.identity.certificates import uri_names
from tcpmesh.identity.claims import MAX_BYTES
from tcpmesh.identity.foreign import ForeignName
from tcpmesh.identity.mapping import Miss, NameMapping, Resolution, compile_mappings
from tcpmesh.identity.mapping import resolve as resolve_name
from tcpmesh.identity.material import MaterialError, load_certificates
from tcpmesh.identity.profile import readable, svid_id
from tcpmesh.identity.spiffe import SpiffeId
from tcpmesh.settings import Settings

__all__ = ["resolve"]

_MAX_CERTIFICATE_FILE = 1 << 20
_OWN_RULE = "the certificate's own URI name"

_file = click.Path(path_type=Path)


@attrs.frozen
class _Answer:
    """What became of a name: an ID and its rule, or why there is none."""

    name: str
    identity: SpiffeId | None = None
    rule: NameMapping | None = None  # none: the name is the ID already
    code: Code | None = None
    reason: str = ""
    misses: tuple[Miss, ...] = ()
    candidates: tuple[tuple[NameMapping, SpiffeId], ...] = ()


@click.command()
@click.option(
    "--service-account",
    "service_account",
    metavar="NS/SA",
    type=parsed("service account", foreign.service_account),
    help="A Kubernetes service account.",
)
@click.option("--claims", metavar="FILE", type=_file, help="The claims of an OIDC token: its payload, as JSON.")
@click.option("--aws-arn", "aws_arn", metavar="ARN", type=parsed("ARN", foreign.aws_role), help="An AWS role.")
@click.option("--dns", metavar="NAME", type=parsed("DNS name", foreign.dns_name), help="A DNS name.")
@click.option("--certificate", metavar="FILE", type=_file, help="A certificate in PEM, for its subject.")
@click.option("--mapping", metavar="NAME", help="Ask this entry of identity.mapping only.")
@config_option
@json_option
@click.pass_context
def resolve(
    ctx: click.Context,
    service_account: ForeignName | None,
    claims: Path | None,
    aws_arn: ForeignName | None,
    dns: ForeignName | None,
    certificate: Path | None,
    mapping: str | None,
    config: Path,
    as_json: bool,
) -> None:
    """
    Say which SPIFFE ID a foreign name has by identity.mapping, and who speaks of that ID.

    Nothing is verified: neither a token's signature nor a certificate's. Exit status: 0 when the name has an ID; 1 when
    it has none, or several; 2 when a file cannot be read.
    """
    given = [each for each in (service_account, claims, aws_arn, dns, certificate) if each is not None]
    if len(given) != 1:
        raise click.UsageError(
            "name one of --service-account, --claims, --aws-arn, --dns and --certificate"
            + (", not several" if given else ""),
            ctx,
        )
    from tcpmesh.config import load_with_marks
    from tcpmesh.plugins import PluginRegistry

    settings, marks = load_with_marks(config.absolute(), PluginRegistry())
    if mapping is not None and mapping not in settings.identity.mapping:
        known = ", ".join(settings.identity.mapping) or "none"
        raise click.UsageError(f"{settings.file} has no mapping {mapping!r}; it has: {known}", ctx)
    if certificate is not None:
        answer = _certificate(certificate, settings, mapping)
    else:
        name = _claims(claims) if claims is not None else service_account or aws_arn or dns
        assert name is not None, "one is given"
        answer = _ask(name, settings, mapping)
    found = mentions(answer.identity, settings, marks) if answer.identity is not None else None
    if as_json:
        click.echo(json.dumps(_as_mapping(answer, found)))
    else:
        click.echo("\n".join(_lines(answer, found, settings)))
    ctx.exit(0 if answer.identity is not None else 1)


def _claims(path: Path) -> ForeignName:
    return _read(path, MAX_BYTES, foreign.oidc_claims)


def _read(path: Path, limit: int, read: Callable[[bytes], ForeignName]) -> ForeignName:
    try:
        return read(read_file(path, limit))
    except ValueError as error:
        raise Failed(f"{path}: {error}") from None


def _certificate(path: Path, settings: Settings, mapping: str | None) -> _Answer:
    """A certificate with a SPIFFE ID of its own needs no mapping, and gets none."""
    data = read_file(path, _MAX_CERTIFICATE_FILE)
    try:
        leaf = load_certificates(data)[0]
        with readable("the certificate"):
            if uri_names(leaf):
                identity = svid_id(leaf)
                return _Answer(f"certificate of {identity}", identity)
            name = foreign.certificate_subject(leaf.subject, leaf.issuer)
    except (MaterialError, Refusal) as error:
        raise Failed(f"{path}: {error}") from None
    return _ask(name, settings, mapping)


def _ask(name: ForeignName, settings: Settings, only: str | None) -> _Answer:
    mappings = compile_mappings(settings.identity.mapping)
    found = resolve_name(name, [each for each in mappings if only is None or each.name == only], settings.trust_domain)
    match found.found:
        case [(rule, identity)]:
            return _Answer(str(name), identity, rule)
        case []:
            return _Answer(str(name), code=UNMAPPED, reason=_why_unmapped(name, found, settings), misses=found.misses)
    rules = ", ".join(str(rule) for rule, _ in found.found)
    reason = f"{name} has {len(found.found)} SPIFFE IDs, by {rules}; which of them is meant, --mapping says"
    return _Answer(str(name), code=AMBIGUOUS, reason=reason, candidates=found.found)


def _why_unmapped(name: ForeignName, found: Resolution, settings: Settings) -> str:
    if not found.misses:
        return f"{name} has no SPIFFE ID: there is no identity.mapping in {settings.file}"
    return f"{name} has no SPIFFE ID: no mapping takes it"


# --- for programs


def _as_mapping(answer: _Answer, found: Mentions | None) -> dict[str, Any]:
    if answer.identity is None or found is None:
        assert answer.code is not None, "there is an ID or a code"
        return {
            "name": answer.name,
            "id": None,
            "code": answer.code.id,
            "reason": answer.reason,
            "candidates": [{"id": str(identity), **_rule(rule)} for rule, identity in answer.candidates],
            "misses": [{**_rule(miss.mapping), "reason": miss.reason} for miss in answer.misses],
        }
    return {
        "name": answer.name,
        "id": str(answer.identity),
        **(_rule(answer.rule) if answer.rule is not None else {"rule": _OWN_RULE}),
        "expected_by": [{"service": one.what, **_place(one.mark)} for one in found.services],
        "workloads": [{"workload": one.what, **_place(one.mark)} for one in found.workloads],
        "policies": [
            {"policy": one.what, "action": one.action, **_targets(one), **_place(one.mark)} for one in found.policies
        ],
        "not_examined": [{"plugin": one.what, **_place(one.mark)} for one in found.opaque],
    }


def _rule(rule: NameMapping) -> dict[str, Any]:
    return {"rule": str(rule), **_place(rule.mark)}


def _place(mark: Mark | None) -> dict[str, Any]:
    return {"file": mark.file, "line": mark.line, "column": mark.column} if mark is not None else {}


# --- for people


def _lines(answer: _Answer, found: Mentions | None, settings: Settings) -> list[str]:
    if answer.identity is None or found is None:
        return _without_id(answer)
    rule = f"{answer.rule}{_at(answer.rule.mark)}" if answer.rule is not None else _OWN_RULE
    lines = [str(answer.identity), f"  name      {answer.name}", f"  rule      {rule}"]
    if answer.identity.trust_domain != settings.trust_domain:
        lines.append(f"  note      this is another trust domain than {settings.trust_domain}, the configuration's own")
    lines += [f"  workload  {one.what}{_at(one.mark)}" for one in found.workloads]
    lines += [f"  expected  by service {one.what}{_at(one.mark)}" for one in found.services]
    if not found.services:
        lines.append("  expected  by no service")
    lines += [f"  policy    {_policy(one)}{_at(one.mark)}" for one in found.policies]
    if not found.policies:
        lines.append("  policy    none mentions it")
    lines += [
        f"  policy    authorization plugin {one.what!r} was not asked: it decides by itself{_at(one.mark)}"
        for one in found.opaque
    ]
    return lines


def _policy(one: Mention) -> str:
    where = f"at {', '.join(one.inbound) or 'every inbound listener'}"
    if one.services:
        where = f"to use {', '.join(one.services)}"
    verb = {"deny": "denies"}.get(one.action, one.action if one.action.startswith("would-") else f"{one.action}s")
    return f"{one.what} {verb} it {where}"


def _targets(one: Mention) -> dict[str, Any]:
    return {"services": list(one.services)} if one.services else {"inbound": list(one.inbound) or None}


def _without_id(answer: _Answer) -> list[str]:
    assert answer.code is not None, "there is an ID or a code"
    lines = [f"{answer.code.id} {answer.reason}"]
    lines += [f"  either   {identity} by {rule}{_at(rule.mark)}" for rule, identity in answer.candidates]
    # What takes other kinds of names is worth a line only if nothing else is there.
    near = [miss for miss in answer.misses if miss.step > 0] or list(answer.misses[:1])
    for position, miss in enumerate(near):
        lines.append(f"  {'also' if position else 'nearest':8} {miss.mapping}{_at(miss.mapping.mark)}: {miss.reason}")
    lines.append(f"  next     {answer.code.next_step}")
    return lines


def _at(mark: Mark | None) -> str:
    return f" at {mark}" if mark is not None else ""
