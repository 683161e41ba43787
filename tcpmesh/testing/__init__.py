"""
For authors of plugins: contracts that a plugin must keep, fakes, and an authority that issues test identities.

Public, stable like :mod:`tcpmesh.interfaces`. Nothing in tcpmesh itself imports it.
"""

from __future__ import annotations

from tcpmesh.testing.authority import TestAuthority
from tcpmesh.testing.contract import PluginContract
from tcpmesh.testing.data_side import (
    AuthorizationPolicyContract,
    LoadBalancerContract,
    PolicySourceContract,
    RetryStrategyContract,
    SourceBalancerContract,
)
from tcpmesh.testing.discovery import ServiceDiscoveryContract
from tcpmesh.testing.identity import IdentitySourceContract
from tcpmesh.testing.making import (
    attempt_failure,
    authorization_request,
    endpoint,
    peer_identity,
    plugin_context,
)
from tcpmesh.testing.observers import FakeDiscoveryObserver, FakeIdentityObserver, FakePolicyObserver
from tcpmesh.testing.workload_api import FakeWorkloadAPI

__all__ = [
    "AuthorizationPolicyContract",
    "FakeDiscoveryObserver",
    "FakeIdentityObserver",
    "FakePolicyObserver",
    "FakeWorkloadAPI",
    "IdentitySourceContract",
    "LoadBalancerContract",
    "PluginContract",
    "PolicySourceContract",
    "RetryStrategyContract",
    "ServiceDiscoveryContract",
    "SourceBalancerContract",
    "TestAuthority",
    "attempt_failure",
    "authorization_request",
    "endpoint",
    "peer_identity",
    "plugin_context",
]
