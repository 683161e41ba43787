"""
``tcpmesh identity check``: from our own certificate to the peer's acceptance, which layer is broken, and what to do.

Ring 4. Statuses: 0 nothing is broken, 1 something is, 2 one of the layers before the peer's acceptance could not be
looked at, 64 wrong usage.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tcpmesh.cli.check_findings import LAYERS, Finding, Outcome, Pair
from tcpmesh.cli.options import config_option, json_option
from tcpmesh.config.mentions import destinations
from tcpmesh.observe.text import printable
from tcpmesh.settings import Settings
from tcpmesh.values import Address, Endpoint, parse_address

if TYPE_CHECKING:
    from tcpmesh.cli.check_material import Material

__all__ = ["check"]

_SECONDS = 10.0  # for each pair


@click.command()
@click.option("--service", "services", metavar="NAME", multiple=True, help="Only this service; may be repeated.")
@click.option("--peer", metavar="HOST:PORT", help="Only this address, whether a service lists it or not.")
@click.option("--workload", metavar="NAME", help="As this workload, where the configuration does not say as whom.")
@config_option
@json_option
@click.pass_context
def check(
    ctx: click.Context,
    services: tuple[str, ...],
    peer: str | None,
    workload: str | None,
    config: Path,
    as_json: bool,
) -> None:
    """
    Look for what keeps a service from being reached: our certificate, its address, its certificate, its acceptance.

    Works from the configuration and its files, with the certificates in them, as the user who types it. Each endpoint
    is connected to once, for a TLS handshake, and no payload is sent; a tcpmesh there also connects to its application.
    The first layer that is broken is shown with what to do; layers behind it are not looked at. Exit status: 0 when
    nothing is broken, 1 when something is or the configuration is invalid, 2 when a layer could not be looked at.
    """
    from tcpmesh.cli.check_layers import check_pair
    from tcpmesh.cli.check_material import read_material

    if services and peer is not None:
        raise click.UsageError("name services or a peer, not both", ctx)
    address = _address(peer, ctx) if peer is not None else None
    material = read_material(config)
    settings = material.settings
    _known(ctx, settings, "service", services, settings.services)
    _known(ctx, settings, "workload", (workload,) if workload else (), settings.identity.workloads)
    pairs = list(_pairs(ctx, material, services, address, workload))
    results = [(pair, check_pair(pair, material, _SECONDS)) for pair in pairs]
    if as_json:
        shown = [_as_mapping(pair, findings) for pair, findings in results]
        click.echo(json.dumps({"file": str(settings.file), "checks": shown}))
    else:
        for pair, findings in results:
            click.echo("\n".join(_lines(pair, findings, settings)))
    every = [finding for _, findings in results for finding in findings]
    if any(finding.outcome is Outcome.BROKEN for finding in every):
        ctx.exit(1)
    ctx.exit(2 if any(_hides(finding) for finding in every) else 0)


def _hides(finding: Finding) -> bool:
    """Whether a layer could not be looked at; that a peer has no way to say that it accepts is no gap of ours."""
    return finding.outcome is Outcome.UNKNOWN and finding.layer < len(LAYERS)


# --- what to look at


def _address(text: str, ctx: click.Context) -> Address:
    try:
        return parse_address(text)
    except ValueError as error:
        raise click.UsageError(f"--peer: {error}", ctx) from None


def _known(ctx: click.Context, settings: Settings, what: str, names: Sequence[str], known: Any) -> None:
    for name in names:
        if name not in known:
            close = get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has: {', '.join(known) or 'none'}"
            raise click.UsageError(f"{settings.file} has no {what} {name!r}; {hint}", ctx)


def _pairs(
    ctx: click.Context, material: Material, services: Sequence[str], peer: Address | None, workload: str | None
) -> Iterator[Pair]:
    """As each listener would reach each endpoint; then the workloads that reach nobody, unless one is asked for."""
    settings = material.settings
    found: list[Pair] = []
    for service, addresses in _addresses(material, services).items():
        wanted = [address for address in addresses or () if peer is None or address == peer]
        if peer is not None and not wanted:
            continue
        ways: dict[str, str] = {str(one.workload): one.name for one in settings.outbound if one.service == service}
        if workload is not None:
            ways = {workload: ways.get(workload, "")}
        elif not ways:
            ways = {_only_workload(ctx, settings, f"no outbound listener leads to service {service}"): ""}
        for name, listener in ways.items():
            if addresses is None:
                found.append(Pair(name, service, None, listener))
            found += [Pair(name, service, Endpoint(address), listener) for address in wanted]
    if peer is not None and not found:
        name = workload or _only_workload(ctx, settings, f"no service lists {peer}")
        found.append(Pair(name, None, Endpoint(peer)))
    yield from found
    if not services and peer is None:
        reaching = {pair.workload for pair in found}
        for name in settings.identity.workloads:
            if name not in reaching and workload in (None, name):
                yield Pair(name)


def _addresses(material: Material, services: Sequence[str]) -> dict[str, tuple[Address, ...] | None]:
    wanted = services or None
    return {each.service: each.addresses for each in destinations(material.settings, material.marks, wanted)}


def _only_workload(ctx: click.Context, settings: Settings, why: str) -> str:
    names = list(settings.identity.workloads)
    if len(names) != 1:
        raise click.UsageError(f"{why}; say as whom: --workload {'|'.join(names[:5])}", ctx)
    return names[0]


# --- what came of it


def _as_mapping(pair: Pair, findings: Sequence[Finding]) -> dict[str, Any]:
    return {
        "workload": pair.workload,
        "service": pair.service,
        "endpoint": str(pair.endpoint.address) if pair.endpoint is not None else None,
        "layers": [
            {
                "layer": finding.layer,
                "name": LAYERS[finding.layer - 1],
                "outcome": finding.outcome.value,
                "text": finding.text,
                **(
                    {"code": finding.code.id, "expected": finding.expected, "next": finding.code.next_step}
                    if finding.code is not None
                    else {}
                ),
                **({"where": finding.where} if finding.where else {}),
            }
            for finding in findings
        ],
        "not_looked_at": list(LAYERS[len(findings) :]),
    }


def _lines(pair: Pair, findings: Sequence[Finding], settings: Settings) -> Iterator[str]:
    there = f" to {pair.service or 'nobody that is known'} at {pair.endpoint.address}" if pair.endpoint else ""
    if pair.endpoint is None and pair.service is not None:
        there = f" to {pair.service}, whose endpoints are found while the proxy runs"
    yield printable(f"{pair.workload} ({settings.identity.workloads[pair.workload].id}){there}")
    for finding in findings:
        code = f"{finding.code.id} " if finding.code is not None else ""
        head = f"  L{finding.layer} {LAYERS[finding.layer - 1]:8}{finding.outcome.value.upper():9}"
        yield printable(f"{head}{code}{finding.text}")
        indent = " " * 22
        if finding.expected:
            yield printable(f"{indent}expected: {finding.expected}")
        if finding.code is not None:
            yield printable(f"{indent}next: {finding.code.next_step}")
        if finding.where:
            yield printable(f"{indent}where: {finding.where}")
    behind = LAYERS[len(findings) :]
    if behind:
        yield f"  not looked at: {', '.join(behind)}"
