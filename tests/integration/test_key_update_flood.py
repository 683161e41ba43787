"""A peer that demands new keys without end and reads no answer: memory stays bounded, and it is put out."""

from __future__ import annotations

import socket
from typing import Any

from tcpmesh import codes
from tcpmesh.net.tcp import READ_BYTES
from tests.integration.applications import RESET, Outbox, Received, push, receive
from tests.integration.mesh import in_thread
from tests.integration.refusals import RefusalTestCase
from tests.integration.strangers import Stranger
from tests.unit.record_keys import APPLICATION_DATA, CLIENT, RecordKeys, keep_secrets
from tests.unit.tls_pairs import foreign_context

SMALL = 4096  # bytes: the kernel's buffers between the two, so that a queue begins early
ANSWER_BYTES = 27  # of a record; the last answer may wait for the next demand
BOUND = 64 * 1024 + 2 * READ_BYTES  # what may wait, and what one more read can add


class KeyUpdateFloodTests(RefusalTestCase):
    """An inbound listener; a client does not get that far without having been allowed."""

    async def let_in(self) -> tuple[Stranger, RecordKeys, Any, Outbox[Received]]:
        """A client with hand-made records, our leg to it, and what the application behind us received."""
        fate: Outbox[Received] = Outbox()
        self.inner = self.start_inbound(self.application(lambda connection: fate.put(receive(connection))))
        context = foreign_context(self.leaf())
        secrets = keep_secrets(context)
        stranger = self.stranger(self.inner.port("orders-in"), context)
        stranger.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        await in_thread(stranger.handshake)
        await self.inner.opened()
        [connection] = self.inner.live
        leg: Any = connection.src
        leg.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
        return stranger, RecordKeys(secrets[CLIENT]), leg, fate

    async def test_a_reader_of_its_answers_stays(self) -> None:
        """Any number of demands is fine while the answers are read."""
        stranger, keys, _leg, fate = await self.let_in()

        def converse() -> None:
            for _ in range(10):
                stranger.socket.sendall(b"".join(keys.key_update() for _ in range(500)))
                self.assertEqual(receive(stranger.socket, 499 * ANSWER_BYTES).length, 499 * ANSWER_BYTES)
            stranger.socket.sendall(keys.seal(APPLICATION_DATA, b"still here"))
            stranger.socket.shutdown(socket.SHUT_WR)

        await in_thread(converse)
        received = await fate.take()
        self.assertEqual((received.length, received.ending), (len(b"still here"), RESET))
        self.assertEqual((await self.inner.closed()).code, codes.TRUNCATED)

    async def flood(self, payload: bytes) -> None:
        """Send demands until somebody gives up, and read nothing."""
        stranger, keys, leg, fate = await self.let_in()

        def send() -> tuple[int, str]:
            most = 0
            for _ in range(1000):
                batch = b"".join(keys.key_update() for _ in range(500))
                if payload:
                    batch += keys.seal(APPLICATION_DATA, payload)
                error = push(stranger.socket, batch)
                if error:
                    return most, error
                most = max(most, leg.unsent)
            return most, ""

        most, error = await in_thread(send)
        record = await self.inner.closed()
        self.assertEqual((record.code, record.closed_by), (codes.UNREAD_ANSWERS, "src"), record.reason)
        self.assertIn("(KeyUpdate) were not read", record.reason)
        self.assertIn(error, ("ECONNRESET", "EPIPE"))
        self.assertTrue(most < BOUND, most)
        self.assertEqual((await fate.take()).ending, RESET)
        [(line, _fields)] = self.lines.take("orders-in")
        self.assertTrue("inbound connection broken: code=TM-L105 " in line, line)

    async def test_demands_alone(self) -> None:
        """Nothing but demands."""
        await self.flood(b"")

    async def test_demands_between_data(self) -> None:
        """A little payload in every read changes nothing."""
        await self.flood(b"x" * 100)
