"""python -m benchmarks.peers: which peers are on this machine, and whether each runs as the benchmark says."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import click

from benchmarks.peers import PEERS
from benchmarks.peers.base import GROUPS, Missing
from benchmarks.peers.checks import checks
from benchmarks.peers.hops import TwoHops


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, type=click.Choice([peer.name for peer in PEERS]))
def main(names: Iterable[str]) -> None:
    """Try the named peers, or all: who agrees on what between the hops, and who is refused.

    Exits with 1 when one of them does something else than the benchmark says.
    """
    wrong = 0
    for peer in PEERS:
        if names and peer.name not in names:
            continue
        found = peer.find()
        if isinstance(found, Missing):
            click.echo(f"{peer.name}: missing: {found.reason}")
            continue
        groups = [group for group in GROUPS if group in found.groups]
        if not isinstance(peer, TwoHops):
            click.echo(f"{peer.name}: no hops")
            continue
        click.echo(f"{peer.name} {found.version}, {found.tls_library}: {' and '.join(groups)}")
        for group in groups:
            click.echo(f"  {group}")
            for outcome in checks(peer, group):
                wrong += not outcome.good
                click.echo(f"    {'good ' if outcome.good else 'WRONG'} {outcome.text}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
