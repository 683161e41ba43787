"""
``tcpmesh ca``: make the embedded authority, issue certificates with it, and show it.

Ring 4. Works beside a proxy that owns the state: issuing and showing only read. Statuses: 0 good, 1 the authority or
the request is invalid, 2 could not tell or could not write, 64 wrong usage.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import click

from tcpmesh.cli.complaints import Failed, complain
from tcpmesh.cli.issued_files import TargetExists, write_issued
from tcpmesh.cli.options import config_option, json_option
from tcpmesh.cli.parsed import parsed
from tcpmesh.codes import STATE_IN_USE
from tcpmesh.errors import Refusal, StartError
from tcpmesh.identity.authority import ISSUING_LIFETIME, MIN_TTL, AuthorityError, issue
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
from tcpmesh.sources.embedded import EmbeddedSettings
from tcpmesh.values import DNSName, format_duration, parse_dns_name, parse_duration
from tcpmesh.wall_clock import wall_clock

__all__ = ["ca"]

_INVALID, _CANNOT_TELL = 1, 2


def _ttl(text: str) -> float:
    ttl = parse_duration(text)
    if not MIN_TTL <= ttl <= ISSUING_LIFETIME:
        raise ValueError(f"a ttl is {format_duration(MIN_TTL)} to {format_duration(ISSUING_LIFETIME)}")
    return ttl


_state_option = click.option(
    "--state",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="The authority's directory; by default that of the configuration's embedded source.",
)


@contextmanager
def _statuses() -> Iterator[None]:
    """End the command with one line and the status that the failure deserves."""
    try:
        yield
    except StartError as error:
        raise Failed(str(error), _CANNOT_TELL if error.code is STATE_IN_USE else _INVALID) from error
    except (AuthorityError, Refusal, TargetExists) as error:
        raise Failed(str(error), _INVALID) from error
    except OSError as error:
        raise Failed(f"{error.filename or 'writing'}: {error.strerror}", _CANNOT_TELL) from error


@click.group()
def ca() -> None:
    """Make an authority, issue certificates with it, and show it."""


@ca.command()
@_state_option
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
    place = _place(state, trust_domain, config)
    if place.trust_domain is None:
        raise click.UsageError("--trust-domain is missing")
    with _statuses():
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
@_state_option
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
    place = _place(state, None, config)
    now = wall_clock()
    with _statuses():
        authority = _able_to_issue(place, ttl, now)
        try:
            root = authority.root.certificate
            svid = issue(authority.issuing, root, identity, ttl=ttl, now=now, dns=dns)
        finally:
            authority.close()
        write_issued(out, svid, root, replace=force)
    end = not_after(svid.leaf)
    click.echo(f"{identity} valid until {moment(end)}, serial {serial_text(svid.leaf)}, in {out}")
    if end < int(now) + int(ttl):
        complain("the issuing authority ends then, and the certificate with it")


@ca.command()
@json_option
@_state_option
@config_option
def show(as_json: bool, state: Path | None, config: Path) -> None:
    """Show the root and the issuing authority, and which process owns them."""
    place = _place(state, None, config)
    with _statuses():
        authority = AuthorityState.read(place.state, place.trust_domain)
        try:
            owner = authority.owner()
            facts = _facts(authority, owner)
        finally:
            authority.close()
    click.echo(json.dumps(facts) if as_json else "\n".join(_lines(facts)))
    if not all(facts[which]["valid"] for which in ("root", "issuing")):
        raise Failed("not every certificate shown is valid now", _INVALID)


@attrs.frozen
class _Place:
    """Where the authority is, and whose it must be; None when nobody said."""

    state: Path
    trust_domain: TrustDomain | None


def _place(state: Path | None, trust_domain: TrustDomain | None, config: Path) -> _Place:
    """
    Find the authority that the options mean: the one of ``--state``, else the configuration's.

    :raises click.UsageError: when the configuration names none or several.
    """
    if state is not None:
        return _Place(state.absolute(), trust_domain)
    from tcpmesh.config import load
    from tcpmesh.plugins import PluginRegistry

    settings = load(config.absolute(), PluginRegistry())
    states = {
        choice.settings.state
        for choice in settings.identity.sources.values()
        if isinstance(choice.settings, EmbeddedSettings)
    }
    if len(states) != 1:
        found = f"{len(states)} embedded sources" if states else "no embedded source"
        raise click.UsageError(f"{config} has {found}; say which directory with --state")
    if trust_domain is not None and trust_domain != settings.trust_domain:
        raise click.UsageError(
            f"{config} is of trust domain {settings.trust_domain}; for {trust_domain} say a directory with --state"
        )
    return _Place(states.pop(), settings.trust_domain)


def _able_to_issue(place: _Place, ttl: float, now: float) -> AuthorityState:
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
