"""A peer that does not read stops its sender, not the proxy: memory stays bounded, and nothing is lost."""

from __future__ import annotations

import hashlib
import socket
import threading
from typing import Any

from twisted.internet.task import LoopingCall

from tcpmesh.codes import CLEAN
from tcpmesh.net.tcp import READ_BYTES
from tests.integration.applications import MIB, Outbox, Received, exchange, receive, stream, until, whole
from tests.integration.endings import EndingTestCase
from tests.integration.flood import Flood, jammed
from tests.integration.mesh import PATIENCE, Proxy, in_thread, reactor

# One read of the socket, encrypted: a record of 16 KiB grows by 22 bytes, and one record may have waited for its rest.
A_LITTLE_OVER_ONE_READ = READ_BYTES + 20 * 1024
ACCEPTED_AT_MOST = 32 * MIB


class QueuePeak:
    """The most that any leg of these proxies ever held in this process, looked at once per turn or nearly."""

    def __init__(self, test: EndingTestCase, *proxies: Proxy) -> None:
        self.bytes = 0
        self._proxies = proxies
        self._looks = LoopingCall(self._look)
        self._looks.clock = reactor
        self._looks.start(0.001, now=False)
        test.addCleanup(self._looks.stop)

    def _look(self) -> None:
        for proxy in self._proxies:
            for connection in proxy.live:
                for leg in (connection.src, connection.dst):
                    self.bytes = max(self.bytes, leg.unsent if leg is not None else 0)


class FloodTests(EndingTestCase):
    async def test_a_server_that_does_not_read_pauses_the_client(self) -> None:
        """What the client can send is bounded; once the server wakes up it gets every byte."""
        wake, at_server = threading.Event(), Outbox[Received]()

        def serve(connection: socket.socket) -> None:
            wake.wait(PATIENCE)
            at_server.put(receive(connection))

        outer, inner, port = self.start_two_hops(self.application(serve))
        peak = QueuePeak(self, outer, inner)
        client, flood = self.connect(port), Flood()
        sender = in_thread(flood, client)
        await jammed(outer, inner, "src")
        flood.stop()
        self.assertEqual(await sender, "")
        self.assertLess(flood.sent, ACCEPTED_AT_MOST)
        self.assertTrue(0 < peak.bytes <= A_LITTLE_OVER_ONE_READ, peak.bytes)
        wake.set()
        client.shutdown(socket.SHUT_WR)
        self.assertEqual(await at_server.take(), flood.as_received())
        for proxy in (outer, inner):
            await self.assert_ends(proxy, CLEAN, "src")
            self.assertEqual(proxy.tap.close[0].bytes_sent, flood.sent)
        self.assertLessEqual(peak.bytes, A_LITTLE_OVER_ONE_READ)

    async def test_a_client_that_does_not_read_pauses_the_server(self) -> None:
        """The same the other way."""
        flood, stopped = Flood(), Outbox[str]()

        def serve(connection: socket.socket) -> None:
            stopped.put(flood(connection))

        outer, inner, port = self.start_two_hops(self.application(serve))
        peak = QueuePeak(self, outer, inner)
        client = self.connect(port)
        await jammed(outer, inner, "dst")
        flood.stop()
        self.assertEqual(await stopped.take(), "")
        self.assertLess(flood.sent, ACCEPTED_AT_MOST)
        self.assertTrue(0 < peak.bytes <= A_LITTLE_OVER_ONE_READ, peak.bytes)
        self.assertEqual(await in_thread(receive, client), flood.as_received())
        client.close()
        for proxy in (outer, inner):
            await self.assert_ends(proxy, CLEAN, "dst")
            self.assertEqual(proxy.tap.close[0].bytes_recv, flood.sent)

    async def test_one_direction_stands_still_while_the_other_flows(self) -> None:
        """A client that is not read from still gets its download, whole and unhurried."""
        data = stream(16 * MIB)
        wake, at_server = threading.Event(), Outbox[Received]()

        def serve(connection: socket.socket) -> None:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            wake.wait(PATIENCE)
            at_server.put(receive(connection))

        outer, inner, port = self.start_two_hops(self.application(serve))
        client, flood = self.connect(port), Flood()
        sending = client.dup()
        self.addCleanup(sending.close)
        sender = in_thread(flood, sending)
        await jammed(outer, inner, "src")
        download = await in_thread(receive, client)
        self.assertEqual(download, whole(data))
        flood.stop()
        self.assertEqual(await sender, "")
        wake.set()
        client.shutdown(socket.SHUT_WR)
        self.assertEqual(await at_server.take(), flood.as_received())
        for proxy in (outer, inner):
            await self.assert_ends(proxy, CLEAN, "dst")

    async def test_both_directions_jammed_at_once_come_loose_again(self) -> None:
        """Two programs that write before they read stand still, as they would without us; when both read, all flows."""
        there, back = stream(48 * MIB, 1), stream(48 * MIB, 2)
        read, at_server = threading.Event(), Outbox[Received]()

        def serve(connection: socket.socket) -> None:
            at_server.put(self.write_first(connection, back, read))

        outer, inner, port = self.start_two_hops(self.application(serve))
        peak = QueuePeak(self, outer, inner)
        at_client = in_thread(self.write_first, self.connect(port), there, read)
        await jammed(outer, inner, "src")
        await jammed(outer, inner, "dst")
        self.assertLessEqual(peak.bytes, A_LITTLE_OVER_ONE_READ)
        read.set()
        self.assertEqual(await at_client, whole(back))
        self.assertEqual(await at_server.take(), whole(there))
        for record in (await outer.closed(), await inner.closed()):
            self.assertIs(record.code, CLEAN)
            self.assertEqual((record.bytes_sent, record.bytes_recv), (len(there), len(back)))

    async def test_a_reader_that_stops_again_and_again_gets_everything(self) -> None:
        """Pauses and resumptions lose nothing and never queue more."""
        data = stream(48 * MIB)
        outer, inner, port = self.start_two_hops(self.application(lambda c: exchange(c, data)))
        peak = QueuePeak(self, outer, inner)
        client, digest = self.connect(port), hashlib.sha256()

        def sip(size: int) -> None:
            while size:
                taken = client.recv(min(size, 2000))
                assert taken, "ended too early"
                digest.update(taken)
                size -= len(taken)

        for _sip in range(8):
            await until(lambda: outer.live and outer.live[0].src and outer.live[0].src.unsent, "the client is full")
            await in_thread(sip, 3 * MIB)
        await in_thread(sip, len(data) - 24 * MIB)
        self.assertEqual(digest.hexdigest(), whole(data).sha256)
        self.assertEqual(await in_thread(receive, client), whole(b""))
        client.close()
        self.assertTrue(0 < peak.bytes <= A_LITTLE_OVER_ONE_READ, peak.bytes)
        for proxy in (outer, inner):
            await self.assert_ends(proxy, CLEAN, "dst")

    @staticmethod
    def write_first(connection: socket.socket, data: bytes, read: threading.Event) -> Received:
        """Write everything and end; read only when told to."""

        def send() -> None:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        read.wait(PATIENCE)
        received = receive(connection)
        sender.join(PATIENCE)
        return received


class QueuePeakTests(EndingTestCase):
    async def test_the_peak_is_seen(self) -> None:
        """A leg that holds a megabyte is noticed within a few turns: else the limits above would mean nothing."""
        outer, inner, port = self.start_two_hops(self.application(lambda c: c.recv(1) and None))
        peak: Any = QueuePeak(self, outer, inner)
        self.connect(port)
        await outer.opened()
        await until(lambda: outer.live[0].relay is not None, "the relay runs")
        outer.live[0].dst.transport._tempDataLen += MIB
        await until(lambda: peak.bytes >= MIB, "the peak is noticed")
        outer.live[0].dst.transport._tempDataLen -= MIB
