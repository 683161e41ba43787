"""
``tcpmesh policy``: policies tried before they are applied.

Ring 4. Statuses: 0 good; 1 an expectation failed, somebody would be cut off, or a configuration is invalid; 2 could not
tell; 64 wrong usage.
"""

from __future__ import annotations

import click

from tcpmesh.cli.policy_diff import policy_diff
from tcpmesh.cli.policy_import import policy_import
from tcpmesh.cli.policy_reload import policy_reload
from tcpmesh.cli.policy_report import policy_report
from tcpmesh.cli.policy_test import policy_test

__all__ = ["policy"]


@click.group()
def policy() -> None:
    """Try policies before they are applied, and see what those that only watch have noted."""


policy.add_command(policy_test)
policy.add_command(policy_diff)
policy.add_command(policy_report)
policy.add_command(policy_reload)
policy.add_command(policy_import)
