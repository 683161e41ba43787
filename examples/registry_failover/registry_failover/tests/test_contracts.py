"""Each plugin keeps the contract of its kind."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from registry_failover.by_code import ByCodeFactory
from registry_failover.http_registry import HTTPRegistry, HTTPRegistryFactory, HTTPRegistrySettings
from registry_failover.last_good import LastGoodFactory
from registry_failover.tests.registry import FakeRegistry, instance
from tcpmesh.interfaces import PluginContext
from tcpmesh.testing import LoadBalancerContract, RetryStrategyContract, ServiceDiscoveryContract


class OfflineFactory(HTTPRegistryFactory):
    """Asks no network."""

    def create(self, settings: HTTPRegistrySettings, context: PluginContext) -> HTTPRegistry:
        return HTTPRegistry(settings, context, FakeRegistry(instance(1), instance(2)))


class HTTPRegistryContractTests(ServiceDiscoveryContract, SynchronousTestCase):
    """http-registry"""

    def make_factory(self) -> HTTPRegistryFactory:
        return OfflineFactory()

    def make_settings(self) -> HTTPRegistrySettings:
        return HTTPRegistrySettings("http://127.0.0.1:8500", "orders-db")


class LastGoodContractTests(LoadBalancerContract, SynchronousTestCase):
    """last-good"""

    def make_factory(self) -> LastGoodFactory:
        return LastGoodFactory()


class ByCodeContractTests(RetryStrategyContract, SynchronousTestCase):
    """by-code"""

    def make_factory(self) -> ByCodeFactory:
        return ByCodeFactory()
