"""A balancer at arm's length: what it may choose, and what it is told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tcpmesh.balance.round_robin import RoundRobin
from tcpmesh.balance_interfaces import ILossBalancer
from tcpmesh.codes import BALANCER_FAILED, CLOSED_BEFORE_OK
from tcpmesh.errors import Refusal
from tcpmesh.net.arms_length import GuardedBalancer
from tcpmesh.testing import attempt_failure, endpoint
from tcpmesh.values import Endpoint

A, B = endpoint(1), endpoint(2)
NONE: frozenset[Endpoint] = frozenset()


class Choosing(RoundRobin):
    """Chooses what it was made with."""

    def __init__(self, choice: Any) -> None:
        super().__init__()
        self.choice = choice

    def pick(self, endpoints: Any, exclude: Any) -> Any:
        return self.choice


@implementer(ILossBalancer)
class Listening(RoundRobin):
    """Wants to know what was lost, and cannot bear it if it is told so."""

    def __init__(self, *, bears_it: bool = True) -> None:
        super().__init__()
        self.told: list[Endpoint] = []
        self.bears_it = bears_it

    def lost(self, endpoint: Endpoint, failure: Any) -> None:
        self.told.append(endpoint)
        if not self.bears_it:
            raise KeyError(endpoint)


class GuardedBalancerTests(SynchronousTestCase):
    def pick(self, choice: Any) -> Endpoint | None:
        return GuardedBalancer("orders", "choosing", Choosing(choice)).pick((A, B), NONE, None)

    def test_an_equal_endpoint_is_as_good(self) -> None:
        """A balancer may keep its own copies."""
        self.assertIs(self.pick(B), B)
        self.assertEqual(self.pick(attrs.evolve(B)), B)
        self.assertIsNone(self.pick(None))

    def test_endpoints_are_gone_through_once(self) -> None:
        """Not for every connection: there may be ten thousand."""

        class Counting(tuple[Endpoint, ...]):
            passes = 0

            def __iter__(self) -> Iterator[Endpoint]:
                self.passes += 1
                return super().__iter__()

        endpoints = Counting((A, B))
        guarded = GuardedBalancer("orders", "choosing", Choosing(B))
        for _ in range(10):
            self.assertIs(guarded.pick(endpoints, NONE, None), B)
        self.assertEqual(endpoints.passes, 1)

    def test_what_is_not_an_endpoint_of_the_service_is_refused(self) -> None:
        """Another port, another weight, something else altogether."""
        for stranger in (endpoint(3), endpoint(2, weight=9), "127.0.0.1:2"):
            refusal = self.assertRaises(Refusal, self.pick, stranger)
            self.assertEqual(refusal.code, BALANCER_FAILED)

    def test_what_only_says_that_it_is_equal_is_none(self) -> None:
        """It would be asked for its address."""

        class Everything:
            def __eq__(self, other: object) -> bool:
                return True

            __hash__ = None  # type: ignore[assignment]

        refusal = self.assertRaises(Refusal, self.pick, Everything())
        self.assertEqual(refusal.code, BALANCER_FAILED)

    def test_who_forgets_what_is_excluded_is_asked_without_it(self) -> None:
        """What failed for a connection is not tried again for it while there is another, whatever the plugin."""

        class Forgetful(RoundRobin):
            def pick(self, endpoints: Any, exclude: Any) -> Any:
                return endpoints[0]

        guarded = GuardedBalancer("orders", "forgetful", Forgetful())
        self.assertIs(guarded.pick((A, B), NONE, None), A)
        self.assertIs(guarded.pick((A, B), frozenset({A}), None), B)
        self.assertIsNone(guarded.pick((A, B), frozenset({A, B}), None))

    def test_who_insists_on_what_is_excluded_has_failed(self) -> None:
        """It chooses it although it is not even offered."""
        guarded = GuardedBalancer("orders", "choosing", Choosing(A))
        refusal = self.assertRaises(Refusal, guarded.pick, (A, B), frozenset({A}), None)
        self.assertEqual(refusal.code, BALANCER_FAILED)

    def test_one_that_always_raises_does_not_fill_the_log(self) -> None:
        """A thousand connections are eleven lines; another mistake is said at once, and many kinds are one."""

        class Raising(RoundRobin):
            error: type[Exception] = KeyError

            def opened(self, endpoint: Endpoint) -> None:
                raise self.error

        balancer = Raising()
        guarded = GuardedBalancer("orders", "raising", balancer)
        for _ in range(1024):
            guarded.opened(A)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 11)
        balancer.error = OSError
        guarded.opened(A)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        for number in range(1000):
            balancer.error = type(f"Error{number}", (Exception,), {})
            guarded.opened(A)
        self.assertLess(len(self.flushLoggedErrors()), 30)

    def test_a_loss_is_told_to_who_wants_to_know(self) -> None:
        """Others are not asked for a method that they need not have."""
        listening = Listening()
        for balancer in (listening, RoundRobin()):
            GuardedBalancer("orders", "x", balancer).lost(A, attempt_failure(A, code=CLOSED_BEFORE_OK))
        self.assertEqual(listening.told, [A])

    def test_one_that_raises_when_it_is_told_is_logged(self) -> None:
        """With its traceback, and nothing else happens."""
        listening = Listening(bears_it=False)
        GuardedBalancer("orders", "x", listening).lost(A, attempt_failure(A, code=CLOSED_BEFORE_OK))
        self.assertEqual(listening.told, [A])
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
