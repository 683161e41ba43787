"""A mistake of our own breaks one connection, visibly, and nothing else."""

from __future__ import annotations

from typing import Any

from tcpmesh.codes import CLEAN, INTERNAL
from tcpmesh.codes import RESET as RESET_CODE
from tests.integration.applications import RESET, Outbox, broken, exchange, receive, until, whole
from tests.integration.endings import EndingTestCase
from tests.integration.mesh import echo, in_thread


class Mistaken:
    """Stands in front of a leg's owner and fails as soon as data come."""

    def __init__(self, owner: Any) -> None:
        self._owner = owner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._owner, name)

    def leg_data(self, _leg: Any, _data: Any) -> None:
        raise RuntimeError("a mistake")


class MistakeTests(EndingTestCase):
    async def test_on_the_client_s_side(self) -> None:
        """Both applications see a reset, TM-O199 is on record, and the next client is served."""
        fate: Outbox[str] = Outbox()
        serve = [lambda connection: fate.put(broken(connection))]
        outer, inner, port = self.start_two_hops(self.application(lambda connection: serve[0](connection)))
        client = self.connect(port)
        await inner.opened()
        await until(lambda: outer.live[0].relay is not None, "the relay runs")
        outer.live[0].src.owner = Mistaken(outer.live[0].src.owner)
        client.sendall(b"x")
        self.assertEqual(await in_thread(receive, client), whole(b"")._replace(ending=RESET))
        self.assertEqual(await fate.take(), RESET)
        await self.assert_ends(outer, INTERNAL, "src", "an internal error: RuntimeError")
        await self.assert_ends(inner, RESET_CODE, "src")
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        serve[0] = echo
        self.assertEqual(await in_thread(exchange, self.connect(port), b"hello"), whole(b"hello"))
        self.assertIs((await outer.closed(2)).code, CLEAN)

    async def test_on_the_wire_s_side(self) -> None:
        """The same when the answer is what we stumble over."""
        fate: Outbox[str] = Outbox()

        def serve(connection: Any) -> None:
            receive(connection, 1)
            connection.sendall(b"answer")
            fate.put(broken(connection))

        outer, inner, port = self.start_two_hops(self.application(serve))
        client = self.connect(port)
        await inner.opened()
        await until(lambda: outer.live[0].relay is not None, "the relay runs")
        outer.live[0].dst.owner = Mistaken(outer.live[0].dst.owner)
        client.sendall(b"x")
        self.assertEqual(await in_thread(receive, client), whole(b"")._replace(ending=RESET))
        self.assertEqual(await fate.take(), RESET)
        await self.assert_ends(outer, INTERNAL, "dst", "an internal error: RuntimeError")
        record = await inner.closed()
        self.assertEqual(record.closed_by, "src")
        self.assertIsNot(record.code, CLEAN)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
