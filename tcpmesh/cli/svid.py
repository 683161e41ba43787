"""
``tcpmesh svid``: what is in a certificate, or what a server presents, and what would have it refused.

Ring 4. Statuses: 0 nothing speaks against it, 1 something does, 2 it could not be seen, 64 wrong usage.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from cryptography import x509

from tcpmesh.cli.complaints import Failed
from tcpmesh.cli.options import json_option
from tcpmesh.cli.small_files import read_file
from tcpmesh.codes import KEY_MISMATCH, PEER_ALERT
from tcpmesh.errors import Refusal
from tcpmesh.identity.certificates import moment, span
from tcpmesh.identity.inspection import CertificateFacts, Finding, Inspection, inspect_chain
from tcpmesh.identity.material import MaterialError, load_certificates, load_private_key
from tcpmesh.identity.profile import readable, svid_id
from tcpmesh.values import Svid
from tcpmesh.wall_clock import wall_clock

if TYPE_CHECKING:
    from tcpmesh.cli.presented import Presented

__all__ = ["svid"]

_CANNOT_TELL = 2
_MAX_FILE = 1 << 20
_SECONDS = 10.0

_file = click.Path(path_type=Path)


@click.group()
def svid() -> None:
    """Look into certificates."""


@svid.command()
@click.argument("what", metavar="FILE|HOST:PORT")
@click.option(
    "--identity",
    metavar="CERT KEY",
    nargs=2,
    type=_file,
    help="Present this certificate with this key to the server; by default none.",
)
@click.option("--sni", metavar="NAME", help="The server name to ask for; by default HOST, if it is a name.")
@json_option
@click.pass_context
def inspect(ctx: click.Context, what: str, identity: tuple[Path, Path] | None, sni: str | None, as_json: bool) -> None:
    """
    Show the certificates in FILE (PEM, the leaf first), or those that a server presents.

    HOST:PORT, or unix:PATH, is connected to for one TLS handshake: no payload is sent. Whether an authority is behind
    the certificates is not looked at. Exit status: 0 when nothing speaks against them, 1 when something does, 2 when
    they could not be seen.
    """
    from tcpmesh.cli.presented import look_at, parse_target

    target = None if _is_there(Path(what)) else parse_target(what)
    if target is None:
        if identity or sni is not None:
            raise click.UsageError(f"--identity and --sni are for servers; {what} is a file", ctx)
        presented, chain = None, _certificates(Path(what))
    else:
        own = _identity(*identity) if identity else None
        try:
            presented = look_at(target, own, sni, _SECONDS)
        except Refusal as refusal:
            raise Failed(f"{refusal}; {refusal.code.next_step}", _CANNOT_TELL) from None
        chain = presented.chain
    now = wall_clock()
    try:
        with readable("the certificate"):
            found = inspect_chain(chain, now)
    except Refusal as refusal:
        raise Failed(f"{what}: {refusal}") from None
    findings = list(found.findings)
    if presented is not None and presented.refusal and identity:
        findings.append(Finding(PEER_ALERT, f"the server refused this identity: {presented.refusal}"))
    if as_json:
        click.echo(json.dumps(_as_mapping(what, presented, found, findings)))
    else:
        click.echo("\n".join(_lines(what, presented, found, findings, now)))
    ctx.exit(1 if findings else 0)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # the name of a server may be longer than that of a file can be
        return False


def _certificates(path: Path) -> tuple[x509.Certificate, ...]:
    try:
        return load_certificates(read_file(path, _MAX_FILE))
    except MaterialError as error:
        raise Failed(f"{path}: {error}") from None


def _identity(certificate: Path, key: Path) -> Svid:
    chain = _certificates(certificate)
    try:
        private_key = load_private_key(read_file(key, _MAX_FILE))
    except MaterialError as error:
        raise Failed(f"{key}: {error}") from None
    try:
        own = Svid(svid_id(chain[0]), chain, private_key)
        if own.leaf.public_key() != private_key.public_key():
            raise Refusal(KEY_MISMATCH, f"the key in {key} does not belong to this certificate")
    except Refusal as refusal:
        raise Failed(f"{certificate}: {refusal}") from None
    return own


# --- for programs


def _as_mapping(what: str, presented: Presented | None, found: Inspection, findings: list[Finding]) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "from": what,
        "id": str(found.identity) if found.identity else None,
        "certificates": [_facts(certificate) for certificate in found.certificates],
        "problems": [
            {"code": finding.code.id, "reason": finding.reason, "next": finding.code.next_step} for finding in findings
        ],
    }
    if presented is not None:
        answer["tls"] = {
            "version": presented.version,
            "cipher": presented.cipher,
            "group": presented.group,
            "sni": presented.sni,
            "refusal": presented.refusal,
        }
    return answer


def _facts(certificate: CertificateFacts) -> dict[str, Any]:
    return {
        "subject": certificate.subject,
        "issuer": certificate.issuer,
        "serial": certificate.serial,
        "uris": list(certificate.uris),
        "dns": list(certificate.dns),
        "not_before": moment(certificate.not_before),
        "not_after": moment(certificate.not_after),
        "key": certificate.key,
        "pin": certificate.pin,
        "key_id": certificate.key_id,
        "issuer_key_id": certificate.issuer_key_id,
        "sha256": certificate.sha256,
        "self_signed": certificate.self_signed,
    }


# --- for people


def _lines(what: str, presented: Presented | None, found: Inspection, findings: list[Finding], now: float) -> list[str]:
    lines = [str(found.identity) if found.identity else "no SPIFFE ID", f"  from      {what}"]
    if presented is not None:
        asked = f", asked for {presented.sni}" if presented.sni else ""
        lines.append(f"  tls       {presented.version} {presented.cipher} {presented.group}{asked}")
        if presented.refusal:
            lines.append(f"  note      {presented.refusal}")
    for depth, certificate in enumerate(found.certificates):
        lines += _certificate_lines(depth, certificate, now)
    for finding in findings:
        lines += [f"  PROBLEM   {finding.code.id} {finding.reason}", f"            next: {finding.code.next_step}"]
    if not findings:
        lines.append("  good      nothing speaks against it; whether it is trusted was not looked at")
    return lines


def _certificate_lines(depth: int, certificate: CertificateFacts, now: float) -> list[str]:
    role = "leaf" if depth == 0 else "root" if certificate.self_signed else "above"
    key_id = f", id {certificate.key_id}" if certificate.key_id else ""
    lines = [
        f"  {role:8}  {certificate.subject}",
        f"            issuer  {certificate.issuer}",
        f"            valid   {_validity(certificate, now)}",
        f"            key     {certificate.key}{key_id}",
        f"            pin     {certificate.pin}",
        f"            serial  {certificate.serial}",
        f"            sha256  {certificate.sha256}",
    ]
    names = [*certificate.uris, *(f"dns:{name}" for name in certificate.dns)]
    if names:
        lines.insert(1, f"            names   {' '.join(names)}")
    return lines


def _validity(certificate: CertificateFacts, now: float) -> str:
    dates = f"{moment(certificate.not_before)} to {moment(certificate.not_after)}"
    if certificate.not_before <= now <= certificate.not_after:
        return f"{dates} ({span(certificate.not_after - now)} left)"
    return f"{dates} NOT VALID NOW"
