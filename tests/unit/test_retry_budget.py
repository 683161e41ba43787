"""The retry budget: a share of the connections, a minimum, and a window that slides."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.retry.budget import RetryBudget
from tcpmesh.upstream_settings import RetryBudgetSettings
from tcpmesh.values import Duration


def budget(share: float = 0.2, minimum: int = 3, window: float = 10.0) -> RetryBudget:
    return RetryBudget(RetryBudgetSettings(share, minimum, Duration(window)))


class RetryBudgetTests(SynchronousTestCase):
    def taken(self, one: RetryBudget, now: float) -> int:
        """How many retries there are until it refuses."""
        count = 0
        while one.take(now):
            count += 1
        return count

    def test_gives_the_minimum_without_any_connection(self) -> None:
        """Few connections get their retries too."""
        self.assertEqual(self.taken(budget(), 0.0), 3)
        self.assertEqual(self.taken(budget(minimum=0), 0.0), 0)

    def test_gives_a_share_of_many_connections(self) -> None:
        """Of a hundred at 20 % twenty, the minimum among them."""
        one = budget()
        for _ in range(100):
            one.connection(1.0)
        self.assertEqual(one.spent(1.0), (0, 20))
        self.assertEqual(self.taken(one, 1.0), 20)
        self.assertEqual(one.spent(1.0), (20, 20))

    def test_is_exact_about_its_share(self) -> None:
        """0.7 of ten is seven, although 0.7 * 10 is less in floating point when it is summed up."""
        for share in range(1, 11):
            one = budget(share=share / 10, minimum=0)
            for _ in range(10):
                one.connection(0.0)
            self.assertEqual(self.taken(one, 0.0), share)

    def test_forgets_what_is_older_than_the_window(self) -> None:
        """Retries and connections alike, a tenth of the window at a time."""
        one = budget(minimum=0)
        for _ in range(50):
            one.connection(0.5)
        self.assertEqual(self.taken(one, 0.5), 10)
        self.assertEqual((one.take(9.9), one.spent(9.9)), (False, (10, 10)))
        self.assertEqual((one.take(10.0), one.spent(10.0)), (False, (0, 0)))
        for _ in range(5):
            one.connection(10.0)
        self.assertEqual(self.taken(one, 10.0), 1)

    def test_a_long_silence_forgets_everything(self) -> None:
        """However many windows have passed."""
        one = budget(minimum=1)
        one.connection(3.0)
        self.assertTrue(one.take(3.0))
        self.assertFalse(one.take(3.0))
        self.assertTrue(one.take(1e9))
        self.assertEqual(one.spent(2e9), (0, 1))

    def test_says_what_it_has_counted(self) -> None:
        """For the record of who gets no retry."""
        one = budget(minimum=1)
        for _ in range(4):
            one.connection(0.0)
        one.take(0.0)
        self.assertEqual(
            one.explain(0.0),
            "the service's retry budget is spent: 1 of 1 retries within 10s, connections: 4 (retry_budget)",
        )

    @given(st.floats(0, 1), st.integers(0, 5), st.lists(st.tuples(st.booleans(), st.integers(0, 400)), max_size=200))
    def test_never_exceeds_its_share_of_any_window(
        self, share: float, minimum: int, events: list[tuple[bool, int]]
    ) -> None:
        """Against plain lists of times, of which the last nine to ten tenths of a window count."""
        one = RetryBudget(RetryBudgetSettings(share, minimum, Duration(10.0)))
        connections: deque[int] = deque()  # tenths of a second
        retries: deque[int] = deque()
        now = 0
        for is_retry, passed in events:
            now += passed
            if not is_retry:
                one.connection(now / 10)
                connections.append(now)
                continue
            parts = now // 10
            seen = [sum(1 for at in times if at // 10 > parts - 10) for times in (connections, retries)]
            allowed = seen[1] < max(minimum, int(share * seen[0] + 1e-9))
            self.assertEqual(one.take(now / 10), allowed)
            if allowed:
                retries.append(now)
