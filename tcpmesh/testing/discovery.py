"""
The contract of service discoveries.

Public.
"""

from __future__ import annotations

from typing import ClassVar

from twisted.internet.defer import Deferred

from tcpmesh.discovery.endpoint_rules import complaint
from tcpmesh.interfaces import DISCOVERY, IServiceDiscovery, PluginKind
from tcpmesh.testing.contract import PluginContract
from tcpmesh.testing.observers import FakeDiscoveryObserver

__all__ = ["ServiceDiscoveryContract"]

_LONG = 86400.0  # seconds; nobody polls more slowly


class ServiceDiscoveryContract(PluginContract):
    """
    The points of a discovery. With ``make_settings`` it must find at least one endpoint.

    Override ``deliver`` when endpoints do not come within ``start`` itself.
    """

    kind: ClassVar[PluginKind] = DISCOVERY

    def deliver(self, observer: FakeDiscoveryObserver) -> None:
        """Override: let the time pass, or the answer come, after which the observer has been told."""

    def started(self) -> tuple[IServiceDiscovery, FakeDiscoveryObserver]:
        """A discovery that has delivered; it is stopped at the end of the test."""
        discovery: IServiceDiscovery = self.create()
        observer = FakeDiscoveryObserver()
        discovery.start(observer)
        self.deliver(observer)
        return discovery, observer

    def stop(self, discovery: IServiceDiscovery) -> None:
        """Stop, and wait for it."""
        stopped = discovery.stop()
        if isinstance(stopped, Deferred):
            self.successResultOf(stopped)

    def test_delivers_endpoints(self) -> None:
        """After ``start`` the observer is told of endpoints, and of no failure."""
        discovery, observer = self.started()
        self.addCleanup(self.stop, discovery)
        self.assertEqual(observer.failures, [])
        self.check(observer.deliveries, "the observer was told nothing; override deliver if it takes time")
        self.check(observer.deliveries[-1], "the observer was told of an empty set")

    def test_endpoints_can_be_dialled(self) -> None:
        """Each endpoint is one that a proxy would take, and none comes twice."""
        discovery, observer = self.started()
        self.addCleanup(self.stop, discovery)
        self.check(observer.deliveries, "the observer was told nothing; override deliver if it takes time")
        endpoints = observer.deliveries[-1]
        addresses = [endpoint.address for endpoint in endpoints]
        self.check(len(set(addresses)) == len(addresses), f"an address comes twice in {addresses}")
        for endpoint in endpoints:
            why = complaint(endpoint)
            self.check(not why, f"{endpoint} would be left out: {why}")

    def test_is_silent_after_stop(self) -> None:
        """After ``stop`` nothing is scheduled and the observer hears nothing more."""
        discovery, observer = self.started()
        self.stop(discovery)
        heard = list(observer.events)
        self.check(not self.clock.getDelayedCalls(), "something is still scheduled after stop")
        self.clock.advance(_LONG)
        self.assertEqual(observer.events, heard)

    def test_can_be_stopped_at_once(self) -> None:
        """A proxy that stops right after its start leaves nothing behind."""
        discovery: IServiceDiscovery = self.create()
        observer = FakeDiscoveryObserver()
        discovery.start(observer)
        self.stop(discovery)
        heard = list(observer.events)
        self.check(not self.clock.getDelayedCalls(), "something is still scheduled after stop")
        self.clock.advance(_LONG)
        self.assertEqual(observer.events, heard)
