"""What an inbound proxy may say instead of "ok": each kind of preface over a real wire, from a malicious server."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from tcpmesh import codes
from tcpmesh.codes import Code
from tcpmesh.dataplane.preface import ALPN, MAX_PREFACE_BYTES, OK, Preface
from tcpmesh.interfaces import IAuthorizationPolicy
from tcpmesh.mesh_state import NamedPolicy
from tcpmesh.values import AuthorizationRequest
from tests.integration.applications import END, RESET, Outbox, receive, reset
from tests.integration.endings import ControlledTime
from tests.integration.mesh import in_thread, receive_all
from tests.integration.refusals import ORDERS, RefusalTestCase
from tests.integration.strangers import Seen, Stranger
from tests.unit.crafted import uri


@implementer(IAuthorizationPolicy)
class Undecided:
    """A policy that never answers; how long that may take is the clock's business, which stands still."""

    def decide(self, _request: AuthorizationRequest) -> Deferred[Any]:
        return Deferred()

    def describe(self) -> Sequence[str]:
        return ()


class PrefaceTests(RefusalTestCase):
    """An outbound listener whose server negotiated ``tcpmesh/1``."""

    def speaker(self, then: Callable[[Stranger], Any]) -> tuple[int, Outbox[Seen]]:
        return self.strange_server(self.leaf(uri(ORDERS)), alpn=ALPN, then=then)

    async def refused(self, then: Callable[[Stranger], Any], code: Code, *words: str, seen: Seen, **values: Any) -> str:
        """The application is reset; the server sees this and no payload; record and line name the verified peer."""
        port, outbox = self.speaker(then)
        outer = self.start_outbound(port)
        await self.assert_reset(outer)
        self.assertEqual(await outbox.take(), seen)
        there = await outer.closed()
        self.assert_record(
            there, code, "proxy", *words,
            dst_identity=ORDERS, presented="", expected="", alpn="tcpmesh/1", decision="", **values,
        )  # fmt: skip
        self.assert_line("to-orders", there)
        return str(there.reason)

    @staticmethod
    def saying(data: bytes) -> Callable[[Stranger], Any]:
        return lambda stranger: stranger.sendall(data)

    async def test_a_refusal(self) -> None:
        """A known code is recorded as it is, with the peer's words; the server sees an orderly end."""
        for code in (codes.NO_RULE_ALLOWS, codes.TARGET_FAILED, codes.STOPPING):
            reason = await self.refused(
                self.saying(Preface(ok=False, code=code.id, text="because").encode()),
                code, "refused by the peer: because", seen=Seen(secured=True, notified=True, ending=END),
            )  # fmt: skip
            self.assertEqual(reason, "refused by the peer: because")

    async def test_a_code_that_nobody_knows(self) -> None:
        """Of a later version, or of no version at all."""
        for code in ("TM-X999", "", "x" * 400):
            await self.refused(
                self.saying(Preface(ok=False, code=code, text="because").encode()),
                codes.REFUSED_BY_PEER, repr(code), "'because'",
                seen=Seen(secured=True, notified=True, ending=END),
            )  # fmt: skip
        self.assert_documented("outbound", "preface, close_notify, FIN", outbound=codes.REFUSED_BY_PEER)

    async def test_a_code_that_is_not_the_peer_s_to_say(self) -> None:
        """What only we can know, or what says that all is well: taken for a code that nobody knows, and no advice."""
        for code in (
            codes.CLEAN, codes.RESET, codes.NO_BYTE, codes.OWN_EXPIRED, codes.CONNECT_REFUSED, codes.BALANCER_FAILED,
            codes.HANDSHAKE_TIMEOUT, codes.CONNECTION_LIMIT, codes.OUT_OF_DESCRIPTORS, codes.SHUTDOWN, codes.ID_DIFFERS,
        ):  # fmt: skip
            await self.refused(
                self.saying(Preface(ok=False, code=code.id, text="evil\nline \x1b[31m").encode()),
                codes.REFUSED_BY_PEER, f"the peer refused with '{code.id}': 'evil\\nline \\x1b[31m'",
                seen=Seen(secured=True, notified=True, ending=END),
            )  # fmt: skip

    async def test_a_malformed_preface(self) -> None:
        """Another version, another status, too long, cut inside: FIN without a word."""
        for data, words in (
            (b"\x00\x02\x02\x00", "version 2"),
            (b"\x00\x02\x01\x07", "unknown status 7"),
            (b"\xff\xff", "claims 65535 bytes"),
            (b"\x00\x04\x01\x01\x01\x00", "ends inside a field"),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", "claims 18516 bytes"),
        ):
            await self.refused(self.saying(data), codes.PREFACE_MALFORMED, words, seen=Seen(secured=True, ending=END))

        self.assert_documented("outbound", "FIN", outbound=codes.PREFACE_MALFORMED)

    async def test_the_end_instead_of_a_preface(self) -> None:
        """close_notify, a bare FIN, also after half a preface."""
        for data in (b"", OK[:3]):
            for end in (Stranger.close_notify, Stranger.fin):

                def leave(stranger: Stranger, data: bytes = data, end: Callable[[Stranger], Any] = end) -> None:
                    if data:
                        stranger.sendall(data)
                    end(stranger)

                await self.refused(
                    leave, codes.CLOSED_BEFORE_OK, "the peer closed", seen=Seen(secured=True, ending=END)
                )

        self.assert_documented("outbound", "FIN", outbound=codes.CLOSED_BEFORE_OK)

    async def test_a_reset_instead_of_a_preface(self) -> None:
        """The system's word is in the record."""
        port, _seen = self.speaker(lambda stranger: reset(stranger.socket))
        outer = self.start_outbound(port)
        await self.assert_reset(outer)
        there = await outer.closed()
        self.assert_record(
            there, codes.CLOSED_BEFORE_OK, "proxy", "before the peer accepted", dst_identity=ORDERS, errno="ECONNRESET"
        )
        self.assert_line("to-orders", there)

    async def test_a_damaged_record_instead_of_a_preface(self) -> None:
        """The server hears of it by an alert. (An alert of its own instead of a preface is in test_refusals.)"""
        port, outbox = self.speaker(lambda stranger: stranger.socket.sendall(b"\x17\x03\x03\x00\x20" + bytes(32)))
        outer = self.start_outbound(port)
        await self.assert_reset(outer)
        self.assertEqual(await outbox.take(), Seen(secured=True, error="bad record mac", ending=END))
        there = await outer.closed()
        self.assert_record(there, codes.TLS_BROKEN, "proxy", "bad record mac", dst_identity=ORDERS)
        self.assert_line("to-orders", there)

    async def test_silence(self) -> None:
        """No preface within timeouts.preface: reset on both sides, not a moment before."""
        secured: Outbox[bool] = Outbox()
        port, outbox = self.speaker(lambda _stranger: secured.put(True))
        outer = self.start_outbound(port)
        time = ControlledTime(outer)
        application = in_thread(receive_all, self.connect(outer.port("to-orders")))
        await secured.take()
        time.pass_by(9)
        self.assertEqual(outer.tap.close, [])
        time.pass_by(1)
        with self.assertRaises(ConnectionResetError):
            await application
        self.assertEqual(await outbox.take(), Seen(secured=True, ending=RESET))
        there = await outer.closed()
        self.assert_record(
            there, codes.PREFACE_TIMEOUT, "proxy", "did not say whether it accepts within 10 s", dst_identity=ORDERS
        )
        self.assert_line("to-orders", there)

    async def test_a_proxy_that_does_not_decide(self) -> None:
        """Behind two proxies of ours: the outer one gives up and resets, the inner one records that its client left."""
        inner = self.start_inbound(self.target.port)
        inner.service.composition.state.swap(policies=(NamedPolicy("slow", Undecided()),))
        outer = self.start_outbound(inner.port("orders-in"))
        ControlledTime(inner)
        time = ControlledTime(outer)
        application = in_thread(receive, self.connect(outer.port("to-orders")))
        await self.until_secured(inner)
        await self.until_secured(outer)
        time.pass_by(10)
        self.assertEqual((await application).ending, RESET)
        there, here = await outer.closed(), await inner.closed()
        self.assert_record(there, codes.PREFACE_TIMEOUT, "proxy", dst_identity=ORDERS)
        self.assert_record(here, codes.CANCELLED, "src", "the client went away", decision="", errno="ECONNRESET")
        self.assert_line("to-orders", there)
        self.assertEqual(self.lines.take("orders-in"), [])
        self.assertFalse(self.target.was_dialled)
        self.assert_documented("outbound", "RST", outbound=codes.PREFACE_TIMEOUT, inbound="TM-D104 DEBUG")

    async def test_an_ok_in_any_pieces(self) -> None:
        """The apparatus can say yes: byte by byte, with payload in the same record, and the payload is whole."""

        def accept(stranger: Stranger) -> None:
            stranger.sendall(OK[:1])
            stranger.sendall(OK[1:3])
            stranger.sendall(OK[3:] + b"welcome")
            stranger.close_notify()

        port, outbox = self.speaker(accept)
        outer = self.start_outbound(port)
        application = self.connect(outer.port("to-orders"))
        application.sendall(b"hello")
        application.shutdown(socket.SHUT_WR)
        self.assertEqual(await in_thread(receive_all, application), b"welcome")
        self.assertEqual(await outbox.take(), Seen(secured=True, data=b"hello", notified=True, ending=END))
        self.assertEqual((await outer.closed()).code, codes.CLEAN)
        self.assertEqual(self.lines.take("to-orders"), [])

    async def test_the_longest_preface(self) -> None:
        """512 bytes are taken, whatever is in them that this version does not know."""
        body = b"\x01\x00" + b"\x63" + (MAX_PREFACE_BYTES - 7).to_bytes(2, "big") + bytes(MAX_PREFACE_BYTES - 7)
        port, _outbox = self.speaker(self.saying(len(body).to_bytes(2, "big") + body))
        outer = self.start_outbound(port)
        application = self.connect(outer.port("to-orders"))
        record = await outer.opened()
        self.assertEqual(record.dst_identity, ORDERS)
        application.close()
