"""
The plugin interfaces: everything that is a matter of taste or of place.

Ring 0, public, stable within one :data:`API_VERSION`. Each of the five kinds is a factory (what twistd's plugin
system finds: a name, a description, a settings class) and the thing that the factory creates.

Threads: every method is called in the reactor's thread, and every call into an observer must be made there.
Failure: raising, being too slow or returning nonsense means *deny*, *no endpoint* or *no retry*, and is logged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.plugin import IPlugin
from zope.interface import Attribute, Interface

from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.values import (
    Address,
    AttemptFailure,
    AuthorizationRequest,
    Decision,
    Endpoint,
    IdentitySnapshot,
    RetryContext,
    Workload,
)
from tcpmesh.wall_clock import WallClock, wall_clock

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.logger import Logger

API_VERSION = 1


@attrs.frozen(eq=False)
class PluginContext:
    """What the proxy lends to a plugin that it creates."""

    name: str  # the entry's name in the configuration: a source's, a service's, a policy's
    trust_domain: TrustDomain  # the proxy's own
    clock: IReactorTime  # all time comes from here, so that tests own it
    log: Logger  # namespaced with the plugin's name
    directory: Path  # of the configuration file: relative paths in settings are already resolved against it
    workloads: Mapping[str, Workload] = attrs.field(factory=dict)  # for identity sources: whom to serve
    inbound: Mapping[str, Address] = attrs.field(factory=dict)  # inbound listeners by name, with their first targets
    inbound_ports: Mapping[str, Sequence[int]] = attrs.field(factory=dict)  # of all of their targets
    services: Sequence[str] = ()  # by name
    wall_clock: WallClock = wall_clock  # seconds since the epoch: certificates and office hours go by it


class IPluginFactory(IPlugin):
    """What all five kinds of factory have in common."""

    name: str = Attribute("The word that selects it in ``plugin:``; unique among its kind.")
    description: str = Attribute("One line for ``tcpmesh plugins``.")
    settings: type = Attribute(
        "An attrs class: its fields are the plugin's configuration keys, its types and defaults their rules. "
        "Values are read, and errors reported with file, line and column, before ``create`` is called."
    )

    def create(settings: Any, context: PluginContext) -> Any:
        """
        Make one instance; must not start work, open files or block.

        :param settings: an instance of the settings class.
        :raises ValueError: when the settings contradict each other; the message is shown beside their place.
        """


class IIdentityObserver(Interface):
    """Where an identity source delivers; provided by the proxy."""

    def identity_changed(snapshot: IdentitySnapshot) -> None:
        """Use this from now on: the complete state, replacing whatever came before. What is absent is withdrawn."""

    def identity_failed(reason: str) -> None:
        """The source cannot refresh; the last snapshot goes on to serve until it expires."""

    def identity_revoked(reason: str) -> None:
        """The source says that nothing it gave may be used any longer."""


class IIdentitySource(Interface):
    """Delivers this proxy's own identities and the bundles to verify others with. Runs on the control side."""

    def start(observer: IIdentityObserver) -> None:
        """
        Begin; the first snapshot may come at once or later. Called once.

        :raises tcpmesh.errors.StartError: when the proxy must not start (a state that somebody else owns).
        """

    def stop() -> Deferred[None] | None:
        """End, release everything; no observer call may follow. Called once, also when ``start`` raised."""


class ICheckable(Interface):
    """A source, discovery or policy that can tell beforehand what is wrong: optional, asked by ``tcpmesh check``."""

    def check() -> None:
        """
        Look, and change nothing: neither files nor the source itself, which is not started afterwards.

        :raises tcpmesh.errors.StartError: with what ``start`` would complain of.
        """


class IReloadable(Interface):
    """
    A source that can be told to look for something new now: optional, for SIGHUP and ``tcpmesh identity reload``.

    Of identities, of endpoints or of a policy.
    """

    def reload() -> Any:
        """
        Look now instead of when it would have looked, and tell the observer what came of it, at once or later.

        A policy may return a Deferred that fires when that is done. Called between ``start`` and ``stop`` only.
        """


class IAuthority(Interface):
    """A source that signs with an authority of its own: optional, for ``tcpmesh ca`` beside a running proxy."""

    authority_state: Path = Attribute("The directory of the authority.")

    def change_authority(step: str, slot: int | None, force: str) -> Mapping[str, Any]:
        """
        Do one step of the authority's rotation, and deliver what follows from it at once.

        :param step: ``prepare``, ``activate``, ``taint`` or ``revoke``.
        :param slot: which authority the step is about, for the last two.
        :param force: why it shall be done although something speaks against it; empty when it shall not.
        :returns: what was done, as plain JSON values.
        :raises tcpmesh.errors.TcpmeshError: when it was not done, and why.
        """


class IIdentitySourceFactory(IPluginFactory):
    """Makes identity sources. ``create`` gets the workloads that name this source in its context."""

    workload_settings: type | None = Attribute(
        "An attrs class for the keys that a workload of this source may have beside ``id`` and ``source``, or None."
    )

    def create(settings: Any, context: PluginContext) -> IIdentitySource:
        """Make one source."""


class IDiscoveryObserver(Interface):
    """Where discovery delivers; provided by the proxy."""

    def endpoints_changed(endpoints: Sequence[Endpoint], reason: str = "") -> None:
        """These are all endpoints from now on, 10000 at most; none is taken at its word, for what ``reason`` says."""

    def endpoints_failed(reason: str) -> None:
        """The source of endpoints cannot be asked; the last ones go on to serve."""


class IServiceDiscovery(Interface):
    """Says where a service answers. Runs on the control side, one instance per service."""

    def start(observer: IDiscoveryObserver) -> None:
        """Begin; called once."""

    def stop() -> Deferred[None] | None:
        """End; no observer call may follow."""


class IServiceDiscoveryFactory(IPluginFactory):
    """Makes discoveries."""

    def create(settings: Any, context: PluginContext) -> IServiceDiscovery:
        """Make the discovery of one service, whose name is ``context.name``."""


class IAuthorizationPolicy(Interface):
    """Decides who may use an inbound listener. Runs on the data side, before the application is dialled."""

    def decide(request: AuthorizationRequest) -> Decision | Deferred[Decision]:
        """
        Allow, deny or abstain; of all policies any denial denies, and one at least must allow.

        A Deferred is given ``timeouts.decision`` and cancelled then; no answer denies. Its answer is remembered for as
        long as its ``valid_for`` says, for the same identity, certificate, address, listener and names.

        :raises tcpmesh.errors.Refusal: to deny with TM-P103 and a reason; the Deferred may fail so, too.
        """

    def describe() -> Sequence[str]:
        """Say in one line per rule what the policy holds, for the start-up block."""


class IPolicyObserver(Interface):
    """Where a policy that changes while the proxy runs delivers; provided by the proxy."""

    def policy_changed(policy: IAuthorizationPolicy) -> None:
        """Decide by this one from now on, instead of whatever came before. It must not change any more itself."""

    def policy_failed(reason: str) -> None:
        """Something new cannot be used, and why; the policy of before goes on to decide."""


class IPolicySource(Interface):
    """
    A policy that is kept current while the proxy runs: optional, provided beside IAuthorizationPolicy.

    Runs on the control side. Until it has delivered a policy it is asked itself, and should deny.
    """

    def start(observer: IPolicyObserver) -> None:
        """
        Begin; the first policy may come at once or later. Called once, before the first connection.

        :raises tcpmesh.errors.ConfigurationError: or StartError, when the proxy must not start.
        """

    def stop() -> Deferred[None] | None:
        """End, release everything; no observer call may follow. Called once, also when ``start`` raised."""


class IAuthorizationPolicyFactory(IPluginFactory):
    """Makes policies."""

    def create(settings: Any, context: PluginContext) -> IAuthorizationPolicy:
        """Make one policy."""


class IRetryStrategy(Interface):
    """Says whether and when a failed attempt is followed by another. One instance per service, on the data side."""

    def attempts(context: RetryContext) -> Iterator[float]:
        """
        Give the waits, in seconds, before a second, third, … attempt; ending means: no more.

        The proxy asks for the next wait after appending the newest failure to ``context.failures``, so a
        generator may look at it. Failures whose code is not retryable never get here.
        """


class IRetryStrategyFactory(IPluginFactory):
    """Makes retry strategies."""

    def create(settings: Any, context: PluginContext) -> IRetryStrategy:
        """Make the strategy of one service."""


class ILoadBalancer(Interface):
    """Chooses an endpoint for each attempt. One instance per service, on the data side."""

    def pick(endpoints: Sequence[Endpoint], exclude: frozenset[Endpoint]) -> Endpoint | None:
        """
        Choose one of the endpoints that is not excluded (it failed for this connection already), or None.

        Never called with no endpoints. Every pick is followed by ``opened``.
        """

    def opened(endpoint: Endpoint) -> None:
        """Dialling the endpoint begins."""

    def established(endpoint: Endpoint, duration: float) -> None:
        """Connection, handshake and preface took ``duration`` seconds."""

    def failed(endpoint: Endpoint, failure: AttemptFailure) -> None:
        """An opened attempt failed; ``closed`` does not follow."""

    def closed(endpoint: Endpoint) -> None:
        """An established connection ended."""


class ILoadBalancerFactory(IPluginFactory):
    """Makes balancers."""

    def create(settings: Any, context: PluginContext) -> ILoadBalancer:
        """Make the balancer of one service."""


@attrs.frozen
class PluginKind:
    """One of the five kinds: the word for it, the factory's interface and what the factory makes."""

    name: str
    factory: type[Interface]
    product: type[Interface]


IDENTITY = PluginKind("identity", IIdentitySourceFactory, IIdentitySource)
DISCOVERY = PluginKind("discovery", IServiceDiscoveryFactory, IServiceDiscovery)
AUTHORIZATION = PluginKind("authorization", IAuthorizationPolicyFactory, IAuthorizationPolicy)
RETRY = PluginKind("retry", IRetryStrategyFactory, IRetryStrategy)
BALANCE = PluginKind("balance", ILoadBalancerFactory, ILoadBalancer)
KINDS: tuple[PluginKind, ...] = (IDENTITY, DISCOVERY, AUTHORIZATION, RETRY, BALANCE)
