"""
``tcpmesh bundle``: compare trust bundles before one takes the other's place.

Ring 4. Statuses: 0 the same authorities, 1 others, 2 a bundle cannot be read, 64 wrong usage.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import click
from cryptography import x509

from tcpmesh.cli.complaints import Failed
from tcpmesh.cli.options import json_option
from tcpmesh.cli.parsed import parsed
from tcpmesh.cli.small_files import read_file
from tcpmesh.identity.bundle_diff import BundleDiff, Change, compare_bundles
from tcpmesh.identity.bundle_document import MAX_BUNDLE_BYTES, BundleError, read_bundle
from tcpmesh.identity.certificates import moment
from tcpmesh.identity.inspection import describe
from tcpmesh.identity.material import MaterialError, load_certificates
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.wall_clock import wall_clock

__all__ = ["bundle"]

_CANNOT_TELL = 2

_file = click.Path(path_type=Path)


@attrs.frozen(eq=False)
class _Bundle:
    """What a file holds; ``sequence`` only where a bundle document says it."""

    authorities: Sequence[x509.Certificate]
    sequence: int | None = None


@click.group()
def bundle() -> None:
    """Look into trust bundles."""


@bundle.command()
@click.argument("old", type=_file)
@click.argument("new", type=_file)
@click.option(
    "--trust-domain",
    "trust_domain",
    metavar="NAME",
    type=parsed("trust domain", TrustDomain),
    help="Whose bundles they are; needed for SPIFFE bundle documents (JSON), which do not say it.",
)
@json_option
@click.pass_context
def diff(ctx: click.Context, old: Path, new: Path, trust_domain: TrustDomain | None, as_json: bool) -> None:
    """
    Say what changes when NEW takes the place of OLD: authorities that come, go and stay, and whom that cuts.

    Both are PEM files or SPIFFE bundle documents. Exit status: 0 when they hold the same authorities, 1 when they do
    not, 2 when one cannot be read.
    """
    before, after = _read(ctx, old, trust_domain), _read(ctx, new, trust_domain)
    found = compare_bundles(before.authorities, after.authorities, wall_clock())
    notes = [*found.notes, *_sequences(before, after)]
    if as_json:
        click.echo(json.dumps(_as_mapping(found, notes)))
    else:
        click.echo("\n".join(_lines(old, new, found, notes)))
    ctx.exit(0 if found.same else 1)


def _read(ctx: click.Context, path: Path, trust_domain: TrustDomain | None) -> _Bundle:
    data = read_file(path, MAX_BUNDLE_BYTES)
    try:
        if trust_domain is not None:
            document = read_bundle(data, trust_domain)
            return _Bundle(document.authorities, document.sequence)
        if data.lstrip().startswith(b"{"):
            raise click.UsageError(
                f"{path} looks like a SPIFFE bundle document, which does not say whose it is; add --trust-domain NAME",
                ctx,
            )
        return _Bundle(load_certificates(data))
    except (BundleError, MaterialError) as error:
        raise Failed(f"{path}: {error}", _CANNOT_TELL) from None


def _sequences(before: _Bundle, after: _Bundle) -> list[str]:
    old, new = before.sequence, after.sequence
    if old is not None and new is not None and new < old:
        return [f"spiffe_sequence goes back from {old} to {new}: the new document is the older one"]
    return []


def _as_mapping(found: BundleDiff, notes: Sequence[str]) -> dict[str, Any]:
    return {
        "same": found.same,
        "added": [_facts(change) for change in found.added],
        "removed": [_facts(change) for change in found.removed],
        "kept": [_facts(change) for change in found.kept],
        "notes": list(notes),
    }


def _facts(change: Change) -> dict[str, Any]:
    facts = describe(change.authority)
    return {
        "subject": facts.subject,
        "uris": list(facts.uris),
        "not_before": moment(facts.not_before),
        "not_after": moment(facts.not_after),
        "key_id": facts.key_id,
        "sha256": facts.sha256,
        "meaning": change.meaning,
    }


def _lines(old: Path, new: Path, found: BundleDiff, notes: Sequence[str]) -> list[str]:
    lines = [
        f"{old} to {new}: {len(found.added)} added, {len(found.removed)} removed, {len(found.kept)} kept",
    ]
    for sign, changes in (("+", found.added), ("-", found.removed), ("=", found.kept)):
        for change in changes:
            facts = describe(change.authority)
            lines += [
                f"{sign} {facts.subject}",
                f"    valid   {moment(facts.not_before)} to {moment(facts.not_after)}",
                f"    key id  {facts.key_id or 'none'}",
                f"    sha256  {facts.sha256}",
            ]
            if change.meaning:
                lines.append(f"    means   {change.meaning}")
    lines += [f"note: {note}" for note in notes]
    return lines
