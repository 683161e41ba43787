"""Policies that change a thousand times while real connections open, carry bytes and close."""

from __future__ import annotations

import gc
import socket
import weakref
from concurrent.futures import ThreadPoolExecutor

from twisted.internet.task import LoopingCall

from tcpmesh.codes import CLEAN, NO_RULE_ALLOWS, POLICY_CHANGED
from tcpmesh.mesh_state import NamedPolicy
from tcpmesh.policy.rules import Rules
from tests.integration.applications import Received, exchange, until, whole
from tests.integration.mesh import MeshTestCase, echo, in_thread
from tests.unit.policy_samples import read

ALWAYS, SOMETIMES, NEVER = "web", "intruder", "orders"
CHANGES, EACH = 1000, 150
ONCE = ", retry: {plugin: exponential, attempts: 1}"


def rules(turn: int) -> Rules:
    """Of this turn: one may always, one in every other turn, and whoever else is there never."""
    allowed = [ALWAYS, SOMETIMES] if turn % 2 else [ALWAYS]
    ids = ", ".join(f'"spiffe://mesh.test/{name}"' for name in allowed)
    return Rules(read(f"- {{name: turn-{turn}, action: allow, from: [{{ids: [{ids}]}}]}}"))


class PolicyRaceTests(MeshTestCase):
    async def test_a_thousand_changes_decide_nothing_that_no_policy_says(self) -> None:
        """Whom all of them allow is never refused or cut, whom none allows sees no byte, and no old one is kept."""
        inner = self.start_inbound(self.application(echo))
        ports = {
            name: self.start_outbound(inner.port("orders-in"), workload=name, service=ONCE).port("to-orders")
            for name in (ALWAYS, SOMETIMES, NEVER)
        }
        state = inner.service.composition.state
        kept: list[weakref.ref[Rules]] = []
        generations: list[int] = []  # by turn

        def change() -> None:
            if len(kept) < CHANGES:
                policy = rules(len(kept))
                kept.append(weakref.ref(policy))
                generations.append(state.swap(policies=(NamedPolicy("rules", policy),)).generation)

        def come_and_go(name: str) -> tuple[str, Received]:
            with socket.create_connection(("127.0.0.1", ports[name]), timeout=60) as client:
                return name, exchange(client, b"x" * 1000)

        def churn() -> list[tuple[str, Received]]:
            with ThreadPoolExecutor(12) as threads:
                return list(threads.map(come_and_go, list(ports) * EACH))

        change()
        changing = LoopingCall(change)
        changing.start(0.002)
        try:
            found = await in_thread(churn)
            await until(lambda: len(kept) == CHANGES, "all changes were made")
        finally:
            changing.stop()
        await inner.closed(3 * EACH)
        await until(lambda: not inner.live, "all sockets are closed")

        self.assertEqual({received for name, received in found if name == ALWAYS}, {whole(b"x" * 1000)})
        self.assertEqual({received.length for name, received in found if name == NEVER}, {0})
        for record in inner.tap.close:
            name = record.src_identity.rpartition("/")[2]
            codes = {ALWAYS: {CLEAN}, NEVER: {NO_RULE_ALLOWS}}.get(name, {CLEAN, NO_RULE_ALLOWS, POLICY_CHANGED})
            self.assertIn(record.code, codes, record.reason)
            if record.decision == "allow":
                turn = int(record.policy.removeprefix("turn-"))
                self.assertTrue(name == ALWAYS or turn % 2, f"{name} was allowed by {record.policy}")
                self.assertGreaterEqual(generations[turn], record.generation, "decided by policies of before")
        decided = {record.policy for record in inner.tap.close if record.decision == "allow"}
        self.assertGreater(len(decided), 10, "the changes came too slowly or too fast to matter")
        gc.collect()
        self.assertEqual([turn for turn, policy in enumerate(kept) if policy() is not None], [CHANGES - 1])
