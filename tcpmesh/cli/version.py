"""
``tcpmesh version``.

Ring 4. Asks for the versions of distributions without importing them, where their metadata say it.
"""

from __future__ import annotations

import json
import platform
from importlib import metadata
from pathlib import Path

import click

import tcpmesh
from tcpmesh.cli.options import config_option, json_option

_DISTRIBUTIONS = (("twisted", "Twisted"), ("pyopenssl", "pyOpenSSL"), ("cryptography", "cryptography"))


def versions() -> dict[str, str]:
    """Name what the process stands on, as a bug report needs it."""
    from cryptography.hazmat.backends.openssl.backend import backend

    return {
        "tcpmesh": tcpmesh.__version__,
        "Python": platform.python_version(),
        **{name: metadata.version(distribution) for distribution, name in _DISTRIBUTIONS},
        # pyOpenSSL uses the OpenSSL that cryptography is linked with
        "OpenSSL": backend.openssl_version_text(),
    }


@click.command()
@config_option
@json_option
def version(config: Path, as_json: bool) -> None:
    """Show the versions of tcpmesh and of what it stands on. No configuration changes them."""
    found = versions()
    if as_json:
        click.echo(json.dumps(found))
    else:
        for name, number in found.items():
            click.echo(f"{name} {number}")
