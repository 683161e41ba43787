"""
Where the commands of ``tcpmesh ca`` find the authority, and how they end when they cannot use it.

Ring 4.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import click

from tcpmesh.cli.complaints import Failed
from tcpmesh.cli.issued_files import TargetExists
from tcpmesh.codes import STATE_IN_USE
from tcpmesh.errors import Refusal, StartError
from tcpmesh.identity.authority import AuthorityError
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.sources.embedded import EmbeddedSettings

__all__ = ["CANNOT_TELL", "INVALID", "Place", "find_place", "state_option", "statuses"]

INVALID, CANNOT_TELL = 1, 2

state_option = click.option(
    "--state",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="The authority's directory; by default that of the configuration's embedded source.",
)


@contextmanager
def statuses() -> Iterator[None]:
    """End the command with one line and the status that the failure deserves."""
    try:
        yield
    except StartError as error:
        raise Failed(str(error), CANNOT_TELL if error.code is STATE_IN_USE else INVALID) from error
    except (AuthorityError, Refusal, TargetExists) as error:
        raise Failed(str(error), INVALID) from error
    except OSError as error:
        raise Failed(f"{error.filename or 'writing'}: {error.strerror}", CANNOT_TELL) from error


@attrs.frozen
class Place:
    """
    Where the authority is, and whose it must be; None when nobody said.

    :ivar ttl: how long workloads' certificates last, in seconds.
    """

    state: Path
    trust_domain: TrustDomain | None
    ttl: float = EmbeddedSettings(Path()).ttl


def find_place(state: Path | None, trust_domain: TrustDomain | None, config: Path) -> Place:
    """
    Find the authority that the options mean: the one of ``--state``, else the configuration's.

    :raises click.UsageError: when the configuration names none or several.
    """
    if state is not None:
        return Place(state.absolute(), trust_domain)
    from tcpmesh.config import load
    from tcpmesh.plugins import PluginRegistry

    settings = load(config.absolute(), PluginRegistry())
    states = {
        choice.settings.state: choice.settings.ttl
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
    ((found_state, ttl),) = states.items()
    return Place(found_state, settings.trust_domain, ttl)
