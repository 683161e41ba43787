"""One descriptor kept back, against the real limit of this process."""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.net.reserve import Reserve
from tests.unit.descriptors import no_descriptor_left


def can_open() -> bool:
    """Whether there is a descriptor to have."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return False
    return True


class ReserveTests(SynchronousTestCase):
    def reserve(self) -> Reserve:
        reserve = Reserve()
        self.addCleanup(reserve.close)
        return reserve

    def test_lends_exactly_one_and_takes_it_back(self) -> None:
        """Out of descriptors there is one within the block, and none outside."""
        reserve = self.reserve()
        with no_descriptor_left():
            for _again in range(3):
                self.assertFalse(can_open())
                with reserve.lent() as is_there:
                    self.assertTrue(is_there)
                    self.assertTrue(can_open())

    def test_says_when_there_is_none_to_lend(self) -> None:
        """Somebody took it while it was lent; once there is one again, it is in reserve again."""
        reserve = self.reserve()
        with no_descriptor_left():
            with reserve.lent():
                thief = os.open(os.devnull, os.O_RDONLY)
            with reserve.lent() as is_there:
                self.assertFalse(is_there)
            os.close(thief)
            with reserve.lent() as is_there:
                self.assertTrue(is_there)
            self.assertFalse(can_open())

    def test_an_exception_in_the_block_does_not_lose_it(self) -> None:
        """The next one in need finds it."""
        reserve = self.reserve()
        with no_descriptor_left():

            def fail() -> None:
                with reserve.lent():
                    raise ZeroDivisionError

            self.assertRaises(ZeroDivisionError, fail)
            self.assertFalse(can_open())
            with reserve.lent() as is_there:
                self.assertTrue(is_there)

    def test_closes_what_it_holds(self) -> None:
        """Twice does no harm."""
        reserve = self.reserve()
        with no_descriptor_left():
            reserve.close()
            reserve.close()
            self.assertTrue(can_open())
