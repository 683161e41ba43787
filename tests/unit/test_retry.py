"""The built-in retry strategies."""

import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.retry.exponential import ExponentialFactory, ExponentialSettings
from tcpmesh.retry.fixed import FixedFactory, FixedSettings
from tcpmesh.retry.none import NoRetryFactory
from tcpmesh.settings import NoSettings
from tcpmesh.testing import plugin_context
from tcpmesh.values import Duration, RetryContext

CONTEXT = RetryContext("orders")


class Upmost(random.Random):
    """Draws the largest value of every interval, so that ceilings can be read."""

    def uniform(self, a: float, b: float) -> float:
        return b


def exponential(settings: ExponentialSettings, generator: random.Random | None = None) -> list[float]:
    strategy = ExponentialFactory(generator).create(settings, plugin_context("orders"))
    return list(strategy.attempts(CONTEXT))


class NoRetryTests(SynchronousTestCase):
    def test_never_retries(self) -> None:
        """The first attempt is the only one."""
        strategy = NoRetryFactory().create(NoSettings(), plugin_context("orders"))
        self.assertEqual(list(strategy.attempts(CONTEXT)), [])


class FixedTests(SynchronousTestCase):
    def waits(self, settings: FixedSettings) -> list[float]:
        strategy = FixedFactory().create(settings, plugin_context("orders"))
        return list(strategy.attempts(CONTEXT))

    def test_waits_the_same_each_time(self) -> None:
        """One wait less than attempts, which include the first; three and 100 ms are the default."""
        self.assertEqual(self.waits(FixedSettings()), [0.1, 0.1])
        self.assertEqual(self.waits(FixedSettings(4, Duration(2.0))), [2.0] * 3)
        self.assertEqual(self.waits(FixedSettings(1)), [])
        self.assertEqual(self.waits(FixedSettings(2, Duration(0.0))), [0.0])

    def test_contradictions_are_refused(self) -> None:
        """No attempt at all, more than can be counted, a wait that nobody has time for."""
        cases: list[tuple[dict[str, Any], str]] = [
            ({"attempts": 0}, "0 attempts are too few; the first counts, so 1 is the least"),
            (
                {"attempts": 10**20},
                f"{10**20} attempts are more than any connection has time for; 10000 are the most",
            ),
            ({"wait": 7200.0}, "a wait of 2h is longer than any connection has time for"),
        ]
        for change, message in cases:
            error = self.assertRaises(ValueError, FixedSettings, **change)
            self.assertEqual(str(error), message)


class ExponentialTests(SynchronousTestCase):
    def test_attempts_include_the_first(self) -> None:
        """With four attempts there are three waits."""
        self.assertEqual(len(exponential(ExponentialSettings(attempts=4))), 3)

    def test_one_attempt_never_waits(self) -> None:
        """One attempt means no retry."""
        self.assertEqual(exponential(ExponentialSettings(attempts=1)), [])

    def test_ceilings_double_up_to_the_maximum(self) -> None:
        """The longest possible waits are base, 2 base, 4 base, …, never more than max."""
        settings = ExponentialSettings(attempts=6, base=Duration(0.1), max=Duration(0.5))
        self.assertEqual(exponential(settings, Upmost()), [0.1, 0.2, 0.4, 0.5, 0.5])

    def test_waits_come_from_the_generator(self) -> None:
        """The same seed gives the same waits, another seed others."""
        settings = ExponentialSettings(attempts=5)
        first, again, other = (exponential(settings, random.Random(seed)) for seed in (1, 1, 2))
        self.assertEqual(first, again)
        self.assertNotEqual(first, other)

    def test_connections_do_not_share_their_progress(self) -> None:
        """Each connection starts at base, however far another one is."""
        settings = ExponentialSettings(attempts=4, base=Duration(0.1), max=Duration(10.0))
        strategy = ExponentialFactory(Upmost()).create(settings, plugin_context("orders"))
        one = strategy.attempts(CONTEXT)
        next(one), next(one)
        self.assertEqual(next(strategy.attempts(RetryContext("orders"))), 0.1)

    @given(st.integers(1, 2000), st.floats(0.001, 3600), st.floats(1, 1000), st.randoms(use_true_random=False))
    def test_every_wait_is_within_its_ceiling(
        self, attempts: int, base: float, factor: float, generator: random.Random
    ) -> None:
        """However many attempts, a wait is never negative nor above max, and nothing overflows."""
        settings = ExponentialSettings(attempts, Duration(base), Duration(min(base * factor, 3600.0)))
        waits = exponential(settings, generator)
        self.assertEqual(len(waits), attempts - 1)
        self.assertTrue(all(0 <= wait <= settings.max for wait in waits))
        self.assertTrue(all(wait <= base * 2**number for number, wait in enumerate(waits[:20])))

    def test_contradictions_are_refused(self) -> None:
        """Each impossible setting is named with its value."""
        cases = [
            ({"attempts": 0}, "0 attempts are too few; the first counts, so 1 is the least"),
            ({"base": 0.0}, "a base of 0ms never grows; it must be longer than nothing"),
            ({"max": 0.01}, "a max of 10ms is shorter than base, 50ms"),
            ({"max": 7200.0}, "a max of 2h is longer than any connection has time for"),
            ({"attempts": 10_001}, "10001 attempts are more than any connection has time for; 10000 are the most"),
        ]
        for change, message in cases:
            error = self.assertRaises(ValueError, ExponentialSettings, **change)
            self.assertEqual(str(error), message)
