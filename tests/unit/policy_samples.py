"""Policies as they are written, read as the configuration reads them, and requests to ask them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.config.names import Names, check_references
from tcpmesh.config.nodes import Scalar, compose
from tcpmesh.config.places import ROOT
from tcpmesh.config.problems import Problems
from tcpmesh.config.scalars import REFERENCES
from tcpmesh.config.structure import SettingsReader
from tcpmesh.errors import ConfigurationError, Mark
from tcpmesh.identity.spiffe import SpiffeId
from tcpmesh.policy.language import Policy, PolicyFile
from tcpmesh.values import (
    AuthorizationRequest,
    InboundName,
    PeerIdentity,
    ServiceName,
    TCPAddress,
    UnixAddress,
)
from tests.unit.config_samples import PLUGINS

HERE = Mark("policies.yaml", 1, 1)


def read(text: str | list[dict[str, Any]]) -> Sequence[Policy]:
    """
    Read the list of policies, as YAML or as what it says.

    :raises ConfigurationError: with everything that is wrong.
    """
    written = text if isinstance(text, str) else json.dumps(text)
    problems = Problems("policies.yaml")
    indented = "policies:\n" + "".join(f"  {line}\n" for line in written.splitlines())
    root = compose(indented, problems)
    assert root is not None
    reader = SettingsReader(Path("/"), PLUGINS, problems)
    found = reader.read(root, PolicyFile, ROOT)
    given = dict.fromkeys(REFERENCES, ()) | {
        InboundName: tuple(Scalar(HERE, name) for name in ("orders-in", "cart-in", "a", "b")),
        ServiceName: (Scalar(HERE, "db"), Scalar(HERE, "mail")),
    }
    check_references(reader.references, Names(given, frozenset()), problems)
    problems.raise_if_any()
    assert isinstance(found, PolicyFile)
    return found.policies


def refusal(case: SynchronousTestCase, text: str) -> str:
    """What is wrong with these policies."""
    return str(case.assertRaises(ConfigurationError, read, text))


def plain(**changes: Any) -> dict[str, Any]:
    """A request in the form of tests/naive_policies.py."""
    return {
        "id": "spiffe://example.test/web",
        "dns": "",
        "source": "192.0.2.1",
        "inbound": "orders-in",
        "port": 5432,
        "service": "",
        "sni": "",
        "alpn": "",
        "now": 0.0,
        "not_before": 0.0,
        "not_after": 3.2e9,
    } | changes


def request(**changes: Any) -> AuthorizationRequest:
    """The same as the product has it."""
    given = plain(**changes)
    identity = None if given["id"] is None else SpiffeId.parse(given["id"])
    peer = PeerIdentity(identity, "01", given["not_before"], given["not_after"], given["dns"])
    source = given["source"]
    address = UnixAddress(source[5:]) if source.startswith("unix:") else TCPAddress(source, 40000)
    return AuthorizationRequest(
        peer, address, given["inbound"], "orders", given["sni"], given["alpn"], given["port"], given["service"]
    )
