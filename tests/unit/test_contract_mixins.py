"""The contracts catch plugins that break them: each point fails for a plugin that is wrong in that one way."""

import itertools
import unittest
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tcpmesh.balance.round_robin import RoundRobin
from tcpmesh.discovery.static import StaticDiscovery
from tcpmesh.interfaces import (
    AUTHORIZATION,
    BALANCE,
    DISCOVERY,
    IDENTITY,
    RETRY,
    IAuthorizationPolicy,
    IDiscoveryObserver,
    IIdentityObserver,
    IIdentitySource,
    IReloadable,
    IRetryStrategy,
    IServiceDiscovery,
    PluginContext,
    PluginKind,
)
from tcpmesh.limit_interfaces import ILimitingPolicy, Limit
from tcpmesh.settings import NoSettings
from tcpmesh.testing import (
    AuthorizationPolicyContract,
    IdentitySourceContract,
    LoadBalancerContract,
    PluginContract,
    RetryStrategyContract,
    ServiceDiscoveryContract,
    TestAuthority,
    authorization_request,
    endpoint,
)
from tcpmesh.values import (
    AuthorizationRequest,
    Decision,
    Effect,
    Endpoint,
    IdentitySnapshot,
    RetryContext,
    Svid,
    TrustBundle,
)

CONTRACTS: dict[PluginKind, type[PluginContract]] = {
    IDENTITY: IdentitySourceContract,
    DISCOVERY: ServiceDiscoveryContract,
    AUTHORIZATION: AuthorizationPolicyContract,
    RETRY: RetryStrategyContract,
    BALANCE: LoadBalancerContract,
}


def failing_points(kind: PluginKind, create: Callable[[PluginContext], object], **changes: Any) -> set[str]:
    """Run the contract of a kind against a factory whose ``create`` is this, and name the points that fail."""

    class Factory:
        name = "sample"
        description = "a sample"
        settings = NoSettings
        workload_settings = None

        def create(self, settings: object, context: PluginContext) -> object:
            return create(context)

    for name, value in changes.items():
        setattr(Factory, name, value)
    factory = implementer(kind.factory)(Factory)

    class Case(CONTRACTS[kind], SynchronousTestCase):  # type: ignore[misc]
        def make_factory(self) -> Any:
            return factory()

        def allowed(self) -> list[AuthorizationRequest]:
            return [authorization_request("spiffe://example.test/web")]

        def denied(self) -> list[AuthorizationRequest]:
            return [authorization_request("spiffe://example.test/other")]

        def break_source(self) -> bool:
            return True

    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(Case).run(result)
    return {test.id().rpartition(".test_")[2] for test, _ in result.failures + result.errors}


class FactoryTests(SynchronousTestCase):
    def broken(self, **changes: Any) -> set[str]:
        return failing_points(BALANCE, lambda context: RoundRobin(), **changes)

    def test_a_good_plugin_fails_nothing(self) -> None:
        """The sample passes, so that the failures below are those of its changes."""
        self.assertEqual(self.broken(), set())

    def test_factory(self) -> None:
        """A bad name, description, settings class, product or shared instance each fails its point."""
        shared = RoundRobin()
        self.assertEqual(self.broken(name="Round Robin"), {"name_can_be_written_in_a_configuration"})
        self.assertEqual(self.broken(description="two\nlines"), {"description_is_one_line"})
        self.assertEqual(self.broken(description=""), {"description_is_one_line"})
        unreadable = {"settings_can_be_read_from_a_configuration"}
        self.assertEqual(self.broken(settings=dict), {"settings_are_an_attrs_class"} | unreadable)
        self.assertEqual(
            self.broken(settings=attrs.make_class("Odd", {"when": attrs.field(type=complex, default=1j)})), unreadable
        )
        self.assertIn("creates_what_its_interface_promises", failing_points(BALANCE, lambda context: object()))
        self.assertEqual(failing_points(BALANCE, lambda context: shared), {"create_makes_a_new_one_each_time"})

    def test_work_in_create(self) -> None:
        """A plugin that schedules something before it is started is caught."""

        def create(context: PluginContext) -> RoundRobin:
            context.clock.callLater(1, int)
            return RoundRobin()

        self.assertEqual(failing_points(BALANCE, create), {"create_schedules_nothing"})


class BalanceTests(SynchronousTestCase):
    def test_picks(self) -> None:
        """A balancer that ignores exclusion, invents endpoints, or forgets changes is caught."""

        class Deaf(RoundRobin):
            def pick(self, endpoints: Any, exclude: Any) -> Endpoint | None:
                return super().pick(endpoints, frozenset())

        class Inventive(RoundRobin):
            def pick(self, endpoints: Any, exclude: Any) -> Endpoint | None:
                return endpoint(99)

        class Conservative(RoundRobin):
            known: Any = None

            def pick(self, endpoints: Any, exclude: Any) -> Endpoint | None:
                self.known = self.known or endpoints
                return super().pick(self.known, exclude)

        class Fragile(RoundRobin):
            def failed(self, endpoint: Any, failure: Any) -> None:
                raise KeyError(endpoint)

        excluded = {"does_not_pick_what_is_excluded", "picks_none_when_all_are_excluded"}
        self.assertEqual(failing_points(BALANCE, lambda context: Deaf()), excluded)
        self.assertTrue({"picks_the_only_one", "picks_what_there_is"} <= failing_points(BALANCE, lambda _: Inventive()))
        self.assertEqual(failing_points(BALANCE, lambda context: Conservative()), {"follows_a_change_of_endpoints"})
        self.assertEqual(
            failing_points(BALANCE, lambda context: Fragile()),
            {"takes_note_of_a_whole_life", "takes_note_of_news_in_any_order"},
        )


@implementer(IRetryStrategy)
class Waits:
    """Gives these waits."""

    def __init__(self, waits: Any) -> None:
        self.waits = waits

    def attempts(self, context: RetryContext) -> Iterator[float]:
        return iter(self.waits)


class RetryTests(SynchronousTestCase):
    def broken(self, make: Callable[[], Any]) -> set[str]:
        return failing_points(RETRY, lambda context: Waits(make()))

    def test_waits(self) -> None:
        """Negative, infinite and textual waits, no end, and waits shared between connections are caught."""
        self.assertEqual(self.broken(lambda: [0, 0.5]), set())
        for wrong in (-1.0, float("nan"), float("inf"), "1s", None):
            self.assertIn("waits_are_numbers_of_seconds", self.broken(lambda wrong=wrong: [wrong]))
        self.assertEqual(self.broken(lambda: itertools.repeat(1.0)), {"ends"})
        self.assertEqual(self.broken(lambda: iter([1.0])), {"connections_have_retries_of_their_own"})


@implementer(IAuthorizationPolicy)
class Answers:
    """Answers with what the callable makes of a request."""

    def __init__(self, answer: Callable[[AuthorizationRequest], Any], lines: Any = ("a line",)) -> None:
        self.answer = answer
        self.lines = lines

    def decide(self, request: AuthorizationRequest) -> Any:
        return self.answer(request)

    def describe(self) -> Any:
        return self.lines


@implementer(ILimitingPolicy)
class Limiting(Answers):
    """The same, within limits."""

    limits: Any = (Limit("few", connections=1),)

    def __init__(self, limits_of: Callable[[AuthorizationRequest], Any]) -> None:
        super().__init__(sensible)
        self.limits_of = limits_of


def sensible(request: AuthorizationRequest) -> Decision:
    allowed = str(request.peer.spiffe_id) == "spiffe://example.test/web"
    return Decision(Effect.ALLOW if allowed else Effect.ABSTAIN, "sample", "web")


class AuthorizationTests(SynchronousTestCase):
    def broken(self, answer: Callable[[AuthorizationRequest], Any], lines: Any = ("a line",)) -> set[str]:
        return failing_points(AUTHORIZATION, lambda context: Answers(answer, lines))

    def test_answers(self) -> None:
        """Nonsense, exceptions, silence, unnamed rules and wrong answers each fail the points that they break."""
        asks = {f"decides_about_{what}" for what in ("a_peer_with_an_id", "a_listener_it_never_heard_of")}
        anybody = asks | {"decides_about_a_peer_without_an_id"}
        self.assertEqual(self.broken(sensible), set())
        self.assertEqual(self.broken(lambda request: succeed(sensible(request))), set())
        self.assertEqual(
            self.broken(lambda request: None), anybody | {"allows_what_it_must", "does_not_allow_what_it_must_not"}
        )
        self.assertTrue(anybody <= self.broken(lambda request: Deferred()))
        self.assertEqual(
            self.broken(lambda request: sensible(request) if request.peer.spiffe_id else 1 / 0),
            {"decides_about_a_peer_without_an_id"},
        )
        self.assertEqual(self.broken(lambda request: Decision(Effect.ABSTAIN)), {"allows_what_it_must"})
        self.assertEqual(
            self.broken(lambda request: Decision(Effect.ALLOW, "everybody")), {"does_not_allow_what_it_must_not"}
        )
        self.assertEqual(self.broken(sensible, ["two\nlines"]), {"describes_itself_in_single_lines"})

    def test_limits(self) -> None:
        """Limits that were not announced, and exceptions about peers without an ID."""

        def broken(limits_of: Callable[[AuthorizationRequest], Any]) -> set[str]:
            return failing_points(AUTHORIZATION, lambda context: Limiting(limits_of))

        asks = {f"decides_about_{what}" for what in ("a_peer_with_an_id", "a_listener_it_never_heard_of")}
        self.assertEqual(broken(lambda request: Limiting.limits), set())
        self.assertEqual(broken(lambda request: ()), set())
        self.assertTrue(asks <= broken(lambda request: [Limit("new", connections=1)]))
        self.assertEqual(
            broken(lambda request: () if request.peer.spiffe_id else 1 / 0), {"decides_about_a_peer_without_an_id"}
        )


@implementer(IServiceDiscovery)
class Discovers(StaticDiscovery):
    """Delivers, and does what the callables say at start and stop."""

    def __init__(self, endpoints: Any, context: PluginContext, started: Any = None) -> None:
        super().__init__(endpoints)
        self.context = context
        self.started = started

    def start(self, observer: IDiscoveryObserver) -> None:
        if self._endpoints is not None:
            super().start(observer)
        if self.started:
            self.started(self.context.clock, observer)


class DiscoveryTests(SynchronousTestCase):
    def broken(self, endpoints: Any, started: Any = None) -> set[str]:
        return failing_points(DISCOVERY, lambda context: Discovers(endpoints, context, started))

    def test_deliveries(self) -> None:
        """Nothing, an empty set, a port 0, duplicates, and work after stop are caught."""
        self.assertEqual(self.broken((endpoint(1), endpoint(2))), set())
        self.assertEqual(self.broken(()), {"delivers_endpoints"})
        self.assertEqual(self.broken(None), {"delivers_endpoints", "endpoints_can_be_dialled"})
        self.assertEqual(self.broken((endpoint(0),)), {"endpoints_can_be_dialled"})
        self.assertEqual(self.broken((endpoint(1, weight=-1),)), {"endpoints_can_be_dialled"})
        self.assertEqual(self.broken((endpoint(1), endpoint(1, weight=2))), {"endpoints_can_be_dialled"})
        self.assertEqual(
            self.broken((endpoint(1),), lambda clock, observer: clock.callLater(5, observer.endpoints_failed, "x")),
            {"is_silent_after_stop", "can_be_stopped_at_once"},
        )


AUTHORITY, OTHER = TestAuthority(), TestAuthority()


def snapshot(**changes: Any) -> IdentitySnapshot:
    good = AUTHORITY.snapshot("/web")
    return IdentitySnapshot(changes.get("svids", good.svids), changes.get("bundles", good.bundles))


@implementer(IIdentitySource)
class Source:
    """Delivers one snapshot, and again every minute if asked to."""

    def __init__(self, context: PluginContext, delivered: Any, repeat: bool = False, stoppable: bool = True) -> None:
        self.clock: Any = context.clock
        self.delivered = delivered
        self.repeat = repeat
        self.stoppable = stoppable
        self.call: Any = None

    def start(self, observer: IIdentityObserver) -> None:
        if self.delivered is not None:
            observer.identity_changed(self.delivered)
        if self.repeat:
            self.call = self.clock.callLater(60, self.start, observer)

    def stop(self) -> None:
        if self.stoppable and self.repeat:
            self.call.cancel()


@implementer(IReloadable)
class Reloadable(Source):
    """Does what the callable says when it is told to look."""

    def __init__(self, context: PluginContext, told: Any) -> None:
        super().__init__(context, snapshot())
        if told is not None:
            self.reload = lambda: told(self.observer)

    def start(self, observer: IIdentityObserver) -> None:
        self.observer = observer
        super().start(observer)


class IdentityTests(SynchronousTestCase):
    def broken(self, delivered: Any, **how: bool) -> set[str]:
        found = failing_points(IDENTITY, lambda context: Source(context, delivered, **how))
        return found - {"keeps_the_last_good_identities_when_it_fails"}

    def test_deliveries(self) -> None:
        """Nothing, another ID, no bundle, another authority, another's key and an expired certificate are caught."""
        trust_domain = AUTHORITY.trust_domain
        [svid] = AUTHORITY.snapshot("/web").svids
        self.assertEqual(self.broken(snapshot()), set())
        self.assertTrue({"delivers_a_snapshot", "serves_every_workload"} <= self.broken(None))
        self.assertEqual(self.broken(snapshot(svids=(AUTHORITY.svid("/other"),))), {"serves_every_workload"})
        unverifiable = {"delivers_the_bundle_of_the_own_trust_domain", "svids_are_fit_for_use"}
        self.assertEqual(self.broken(snapshot(bundles={})), unverifiable)
        self.assertEqual(self.broken(snapshot(bundles={trust_domain: TrustBundle(trust_domain, ())})), unverifiable)
        self.assertEqual(self.broken(snapshot(bundles={trust_domain: OTHER.bundle})), {"svids_are_fit_for_use"})
        stolen = Svid(svid.id, svid.chain, AUTHORITY.svid("/web").private_key)
        self.assertEqual(self.broken(snapshot(svids=(stolen,))), {"svids_are_fit_for_use"})
        expired = AUTHORITY.svid("/web", now=AUTHORITY.now() - 3000, ttl=10)
        self.assertEqual(self.broken(snapshot(svids=(expired,))), {"svids_are_fit_for_use"})

    def test_ends(self) -> None:
        """A source that goes on after stop, or cannot be stopped without a start, is caught."""
        after_stop = {"is_silent_after_stop", "can_be_stopped_at_once"}
        self.assertEqual(self.broken(snapshot(), repeat=True, stoppable=False), after_stop)
        self.assertEqual(self.broken(snapshot(), repeat=True), {"can_be_stopped_without_a_start"})

    def test_a_broken_source_that_says_nothing(self) -> None:
        """A source whose refresh fails must say so, and must not deliver."""
        point = "keeps_the_last_good_identities_when_it_fails"
        self.assertEqual(failing_points(IDENTITY, lambda context: Source(context, snapshot())), {point})

    def test_a_source_that_fails_when_it_is_told_to_look(self) -> None:
        """One that raises, withdraws, says that it failed, or has no such method is caught."""
        point, [svid] = "looks_when_it_is_told_to", AUTHORITY.snapshot("/web").svids
        bundles = {AUTHORITY.trust_domain: AUTHORITY.bundle}
        for told, caught in (
            (lambda observer: observer.identity_changed(IdentitySnapshot((svid,), bundles)), set()),
            (lambda observer: observer.identity_changed(IdentitySnapshot((), bundles)), {point}),
            (lambda observer: observer.identity_failed("nothing new"), {point}),
            (lambda observer: observer.identity_revoked("asked too often"), {point}),
            (lambda observer: {}["missing"], {point}),
            (None, {point}),
        ):
            found = failing_points(IDENTITY, partial(Reloadable, told=told))
            self.assertEqual(found - {"keeps_the_last_good_identities_when_it_fails"}, caught)

    def test_workload_settings(self) -> None:
        """Settings of a workload that are no attrs class are caught."""
        found = failing_points(IDENTITY, lambda context: Source(context, snapshot()), workload_settings=dict)
        self.assertIn("workload_settings_are_an_attrs_class_or_none", found)
