"""
``tcpmesh ca``: make the embedded authority, issue certificates with it, and show it.

Ring 4. Works beside a proxy that owns the state: issuing changes only the audit log there, and showing nothing.
Statuses: 0 good, 1 the authority or the request is invalid, 2 could not tell or could not write, 64 wrong usage.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from tcpmesh.cli.ca_place import INVALID, Place, find_place, state_option, statuses
from tcpmesh.cli.ca_rotation import activate, audit, prepare, revoke, taint
from tcpmesh.cli.complaints import Failed, complain
from tcpmesh.cli.issued_files import require_free, write_issued
from tcpmesh.cli.options import config_option, json_option
from tcpmesh.cli.parsed import parsed
from tcpmesh.errors import StartError
from tcpmesh.identity.authority import ISSUING_LIFETIME, MIN_TTL
from tcpmesh.identity.certificates import (
    fingerprint,
    moment,
    name_text,
    not_after,
    not_before,
    serial_text,
    subject_key_identifier,
    uri_names,
)
from tcpmesh.identity.spiffe import SpiffeId, TrustDomain
from tcpmesh.sources.authority_state import BUNDLE_FILE, AuthorityState
from tcpmesh.values import DNSName, format_duration, parse_dns_name, parse_duration
from tcpmesh.wall_clock import wall_clock

__all__ = ["ca"]


def _ttl(text: str) -> float:
    ttl = parse_duration(text)
    if not MIN_TTL <= ttl <= ISSUING_LIFETIME:
        raise ValueError(f"a ttl is {format_duration(MIN_TTL)} to {format_duration(ISSUING_LIFETIME)}")
    return ttl


@click.group()
def ca() -> None:
    """Make an authority, issue certificates with it, replace its root, and show it."""


for _command in (prepare, activate, taint, revoke, audit):
    ca.add_command(_command)


@ca.command()
@state_option
@click.option(
    "--trust-domain",
    "trust_domain",
    metavar="NAME",
    type=parsed("trust domain", TrustDomain),
    help="The name of the new root of trust; by default the configuration's.",
)
@config_option
def init(state: Path | None, trust_domain: TrustDomain | None, config: Path) -> None:
    """Make a root and an issuing authority. One that is there already is left as it is."""
    place = find_place(state, trust_domain, config)
    if place.trust_domain is None:
        raise click.UsageError("--trust-domain is missing")
    with statuses():
        authority = AuthorityState.own(place.state, place.trust_domain, wall_clock())
        try:
            click.echo(
                f"authority of {authority.trust_domain} in {authority.path}, valid until "
                f"{moment(not_after(authority.root.certificate))}"
            )
            click.echo(f"bundle for peers: {authority.path / BUNDLE_FILE}")
        finally:
            authority.close()


@ca.command("issue")
@click.option(
    "--id",
    "identity",
    metavar="SPIFFE-ID",
    required=True,
    type=parsed("SPIFFE ID", SpiffeId.parse),
    help="Whom the certificate is for, such as spiffe://example.org/db.",
)
@click.option(
    "--dns",
    metavar="NAME",
    multiple=True,
    type=parsed("DNS name", parse_dns_name),
    help="A DNS name that the certificate carries as well; may be repeated.",
)
@click.option(
    "--ttl",
    metavar="DURATION",
    default="24h",
    show_default=True,
    type=parsed("duration", _ttl),
    help="How long it is valid; up to 14d, cut where the issuing authority ends.",
)
@click.option(
    "--out",
    metavar="DIR",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where certificate.pem, key.pem and bundle.pem go; made if missing.",
)
@click.option("--force", is_flag=True, help="Replace files that are there.")
@state_option
@config_option
def issue_command(
    identity: SpiffeId,
    dns: tuple[DNSName, ...],
    ttl: float,
    out: Path,
    force: bool,
    state: Path | None,
    config: Path,
) -> None:
    """Issue a certificate with a new key, for a program that is not under the proxy's care."""
    place = find_place(state, None, config)
    now = wall_clock()
    with statuses():
        if not force:
            require_free(out)
        authority = _able_to_issue(place, ttl, now)
        try:
            svid = authority.issue(identity, ttl=ttl, now=now, dns=dns, to=f"files, for user {os.getuid()}")
            roots = authority.authorities
        finally:
            authority.close()
        write_issued(out, svid, roots, replace=force)
    end = not_after(svid.leaf)
    click.echo(f"{identity} valid until {moment(end)}, serial {serial_text(svid.leaf)}, in {out}")
    if end < int(now) + int(ttl):
        complain("the issuing authority ends then, and the certificate with it")


@ca.command()
@json_option
@state_option
@config_option
def show(as_json: bool, state: Path | None, config: Path) -> None:
    """Show the root and the issuing authority, and which process owns them."""
    place = find_place(state, None, config)
    with statuses():
        authority = AuthorityState.read(place.state, place.trust_domain)
        try:
            owner = authority.owner()
            facts = _facts(authority, owner)
        finally:
            authority.close()
    click.echo(json.dumps(facts) if as_json else "\n".join(_lines(facts)))
    if not all(facts[which]["valid"] for which in ("root", "issuing")):
        raise Failed("not every certificate shown is valid now", INVALID)


def _able_to_issue(place: Place, ttl: float, now: float) -> AuthorityState:
    """
    Open the authority for reading; become its owner only if its issuing authority has to be renewed.

    :raises StartError: when it has to be, and another process owns it.
    """
    authority = AuthorityState.read(place.state, place.trust_domain)
    if not authority.issuing_renewal_due(now):
        return authority
    try:
        owned = AuthorityState.own(place.state, authority.trust_domain, now)
    except StartError as error:
        if not_after(authority.issuing.certificate) - now >= ttl:
            return authority  # old, but long enough for this one
        authority.close()
        raise StartError(error.code, f"the issuing authority has to be renewed first, but {error.reason}") from error
    authority.close()
    return owned


def _facts(authority: AuthorityState, owner: int | None) -> dict[str, Any]:
    now = wall_clock()
    shown: dict[str, Any] = {
        "state": str(authority.path),
        "trust_domain": str(authority.trust_domain),
        "owner": owner,
        "bundle": str(authority.path / BUNDLE_FILE),
        "slots": [
            {
                "slot": slot.number,
                "state": slot.state.value,
                "tainted": slot.tainted,
                "since": moment(slot.since) if slot.since else None,
            }
            for slot in authority.slots.entries
        ],
    }
    for which, certificate in (("root", authority.root.certificate), ("issuing", authority.issuing.certificate)):
        shown[which] = {
            "subject": name_text(certificate.subject),
            "spiffe_id": uri_names(certificate)[0],
            "serial": serial_text(certificate),
            "not_before": moment(not_before(certificate)),
            "not_after": moment(not_after(certificate)),
            "valid": not_before(certificate) <= now <= not_after(certificate),
            "key_id": subject_key_identifier(certificate),
            "sha256": fingerprint(certificate),
        }
    return shown


def _lines(facts: dict[str, Any]) -> list[str]:
    owner = facts["owner"]
    owned = "nobody" if owner is None else f"process {owner}" if owner else "another process"
    lines = [f"{facts['trust_domain']} in {facts['state']}, owned by {owned}", f"bundle   {facts['bundle']}"]
    for slot in facts["slots"]:
        since = slot["since"] or "it was made"
        lines.append(f"slot {slot['slot']:<3} {slot['state']}{', tainted' * slot['tainted']} since {since}")
    for which in ("root", "issuing"):
        fact = facts[which]
        note = "" if fact["valid"] else " NOT VALID NOW"
        lines += [
            f"{which:8} {fact['subject']}",
            f"         id      {fact['spiffe_id']}",
            f"         valid   {fact['not_before']} to {fact['not_after']}{note}",
            f"         serial  {fact['serial']}",
            f"         key id  {fact['key_id']}",
            f"         sha256  {fact['sha256']}",
        ]
    return lines
