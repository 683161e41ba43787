"""
``tcpmesh identity check``: from our own certificate to the peer's acceptance, which layer is broken, and what to do.

Ring 4. Statuses: 0 nothing is broken, 1 something is, 2 one of the layers before the peer's acceptance could not be
looked at or the proxy could not be asked, 64 wrong usage.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import click

from tcpmesh.cli.admin_client import AdminError, NotRunningError, admin_address, ask
from tcpmesh.cli.options import config_option, json_option
from tcpmesh.errors import ConfigurationError, Mark
from tcpmesh.observe.text import printable

if TYPE_CHECKING:
    from tcpmesh.checking.choice import Choice

__all__ = ["check"]

_PATIENCE = 35.0  # seconds; the proxy's admin interface answers within 30, or not at all


@click.command()
@click.option("--service", "services", metavar="NAME", multiple=True, help="Only this service; may be repeated.")
@click.option("--peer", metavar="HOST:PORT", help="Only this address, whether a service lists it or not.")
@click.option("--workload", metavar="NAME", help="As this workload, where the configuration does not say as whom.")
@click.option("--offline", is_flag=True, help="Do not ask the proxy: read its files, as this user.")
@click.option("--admin", metavar="ADDRESS", help="The proxy's admin socket, as unix:PATH; else as the configuration.")
@config_option
@json_option
@click.pass_context
def check(
    ctx: click.Context,
    services: tuple[str, ...],
    peer: str | None,
    workload: str | None,
    offline: bool,
    admin: str | None,
    config: Path,
    as_json: bool,
) -> None:
    """
    Look for what keeps a service from being reached: our certificate, its address, its certificate, its acceptance.

    The running proxy does it, with the identities that it holds and over its own sockets. With --offline, or when no
    proxy is running, it is done here, from the configuration and its files. Each endpoint is connected to once or
    twice, for a TLS handshake, and no payload is sent; a tcpmesh there also connects to its application. The first
    layer that is broken is shown with what to do; layers behind it are not looked at. Exit status: 0 when nothing is
    broken, 1 when something is or the configuration is invalid, 2 when a layer could not be looked at or the proxy
    could not be asked.
    """
    from tcpmesh.checking.choice import Choice, WrongChoiceError
    from tcpmesh.cli.check_output import locate, status_of, text_lines

    if offline and admin is not None:
        raise click.UsageError("say --offline or --admin, not both", ctx)
    live = not offline
    try:
        choice = Choice.of(services, peer, workload)
        if live:
            try:
                answer = _from_proxy(admin, config, choice)
                marks = _marks(config, answer)
            except NotRunningError as reason:
                if admin is not None:
                    raise
                click.echo(f"{reason.format_message()}\nlooked at its files instead, as --offline does", err=True)
                live = False
        if not live:
            from tcpmesh.cli.check_offline import check_offline

            answer, marks = check_offline(config, choice)
    except WrongChoiceError as error:
        raise click.UsageError(str(error), ctx) from None
    locate(answer, marks)
    if as_json:
        click.echo(json.dumps({"by": "proxy" if live else "files", **answer}))
    else:
        for line in text_lines(answer, live=live):
            click.echo(line)
    ctx.exit(status_of(answer))


def _from_proxy(admin: str | None, config: Path, choice: Choice) -> dict[str, Any]:
    from tcpmesh.checking.choice import WrongChoiceError
    from tcpmesh.cli.check_output import is_answer

    address = admin_address(admin, config)
    words = [("service", name) for name in choice.services]
    words += [("peer", str(choice.peer))] if choice.peer is not None else []
    words += [("workload", choice.workload)] if choice.workload is not None else []
    answer = ask(address, f"/identity/check?{urlencode(words)}", method="POST", timeout=_PATIENCE)
    if isinstance(answer, dict) and isinstance(answer.get("wrong"), str):
        raise WrongChoiceError(printable(answer["wrong"]))
    if isinstance(answer, dict) and isinstance(answer.get("busy"), str):
        raise AdminError(f"the proxy does not check anything now: {printable(answer['busy'])}")
    if not is_answer(answer):
        raise AdminError(f"what answers on {printable(str(address))} finds nothing as tcpmesh does")
    return dict(answer)


def _marks(config: Path, answer: Mapping[str, Any]) -> Mapping[str, Mark]:
    """Where each key stands, if the file is still the one that the proxy was started with."""
    from tcpmesh.config import load_with_marks
    from tcpmesh.plugins import PluginRegistry

    try:
        settings, marks = load_with_marks(config.absolute(), PluginRegistry())
    except ConfigurationError:
        return {}
    return marks if settings.digest == answer.get("sha256") else {}
