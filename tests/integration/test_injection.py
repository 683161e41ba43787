"""Whatever a peer calls itself, records stay one JSON object a line and nobody writes a line of ours into the log."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.logger import globalLogPublisher

from tcpmesh import codes
from tcpmesh.codes import Code
from tcpmesh.dataplane.preface import ALPN, Preface
from tcpmesh.observe.access_log import open_access_log
from tcpmesh.observe.log import observer_for
from tcpmesh.settings import LogSettings
from tcpmesh.wall_clock import wall_clock
from tests.integration.applications import receive
from tests.integration.mesh import PATIENCE, Proxy, in_thread, reactor
from tests.integration.refusals import ORDERS, WEB, RefusalTestCase
from tests.integration.strangers import Stranger
from tests.unit.crafted import Leaf, craft_der, dns, leaf_extensions, san, uri
from tests.unit.record_samples import HOSTILE
from tests.unit.tls_pairs import foreign_context

Format = Literal["json", "text"]
FORMATS: tuple[Format, ...] = ("json", "text")

# As bytes, since a certificate holds what its author wrote; the last ones are no text in any encoding.
NAMES = (
    *(text.encode("utf-8", "surrogatepass") for text in HOSTILE),
    b'spiffe://mesh.test/x"}\n{"v":1,"event":"open","src.identity":"spiffe://mesh.test/admin"}',
    b"spiffe://mesh.test/x\r\n2026-01-01T00:00:00.000Z INFO  all is well",
    b"spiffe://mesh.test/\xff\xfe\x80",
    b"\x1b]2;title\x07\x1b[31m",
)
TEXTS = (*HOSTILE[:3], *HOSTILE[4:], 'no"}\n{"v":1,"event":"open"}', "\r\n2026-01-01T00:00:00.000Z INFO  all is well")

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
RECORD = re.compile(TIME + r" (OPEN|CLOSE|REFUSE) +#\d+ (inbound|outbound) [a-z-]+ ")
WARNING = re.compile(TIME + r" WARN  (inbound connection refused|outbound connection failed): code=TM-[A-Z]\d{3} ")
PAIR = re.compile(r' ([a-z]+)=("(?:[^"\\]|\\.)*"|[^\s"]+)')


class InjectionTests(RefusalTestCase):
    """Real files, written by the real access log and the real observers."""

    def watch(self, proxy: Proxy, how: Format) -> None:
        """From now on the proxy's records go to a file, and so does the log."""
        self.how = how
        self.records = Path(self.mktemp()).absolute()
        self.log = Path(self.mktemp()).absolute()
        settings = LogSettings(format=how, access=self.records)
        sink: Any = proxy.tap._sink
        sink.access_log = open_access_log(settings, reactor)
        stream = self.log.open("w")
        observer = observer_for(settings, stream)
        globalLogPublisher.addObserver(observer)

        def unwatch() -> None:
            sink.access_log.close()
            globalLogPublisher.removeObserver(observer)
            stream.close()

        self.unwatch = unwatch
        self.addCleanup(unwatch)

    def lines_of(self, path: Path) -> list[str]:
        """The lines of a file; there is nothing in it but printable ASCII."""
        data = path.read_bytes()
        self.assertRegex(data, rb"\A(?:[\x20-\x7e]+\n)*\Z")
        return data.decode("ascii").splitlines()

    def assert_sound(self, records: int, warnings: int, *, event: str = "close") -> list[dict[str, Any]]:
        """So many records and warnings, each well formed; the last records of this event, if they are JSON."""
        self.unwatch()
        written, warned = self.lines_of(self.records), self.lines_of(self.log)
        self.assertEqual((len(written), len(warned)), (records, warnings), warned)
        if self.how == "json":
            for line in warned:
                self.assertEqual(json.loads(line)["level"], "warn")
            found = [json.loads(line) for line in written]
            for record in found:
                self.assertEqual(record["v"], 1)
                self.assertIn(record["listener"], ("orders-in", "to-orders"))
                self.assertNotIn("admin", record.get("src.identity", ""))
            return [record for record in found if record["event"] == event]
        for line in written:
            self.assertRegex(line, RECORD)
        for line in warned:
            match = WARNING.match(line)
            assert match is not None, line
            names = [name for name, _ in PAIR.findall(line)]
            self.assertEqual(len(names), len(set(names)), line)  # nobody adds a pair
            self.assertEqual(names[:3], ["code", "direction", "listener"])
        return []

    # --- inbound

    async def meet(self, inner: Proxy, number: int, made: Leaf, **hello: Any) -> None:
        """A stranger comes from an address of its own, so that each has a line of its own."""
        source = (f"127.0.1.{number + 1}", 0)
        port = inner.port("orders-in")
        connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE, source_address=source)
        self.addCleanup(connection.close)
        stranger = Stranger(connection, foreign_context(made), server=False)
        if "sni" in hello:
            stranger.tls.set_tlsext_host_name(hello["sni"])
        if "alpn" in hello:
            stranger.tls.set_alpn_protos(hello["alpn"])
        await in_thread(stranger.watch, Stranger.close_notify)
        await inner.closed(number + 1)

    async def refused_by_inbound(self, *certificates: Leaf) -> list[dict[str, Any]]:
        """All are refused, with one record and one warning each, in both formats."""
        found = []
        for how in FORMATS:
            inner = self.start_inbound(self.target.port)
            self.watch(inner, how)
            for number, made in enumerate(certificates):
                await self.meet(inner, number, made)
            found += self.assert_sound(len(certificates), len(certificates))
        self.assertFalse(self.target.was_dialled)
        return found

    async def test_uri_names(self) -> None:
        """As the only name, and as the second one."""
        first = [self.leaf(uri(name)) for name in NAMES]
        second = [self.leaf(uri(WEB), uri(name)) for name in NAMES]
        for record in await self.refused_by_inbound(*first, *second):
            self.assertIn(record["code"], ("TM-I501", "TM-I502", "TM-I507", "TM-I509"))
            self.assertNotIn("src.identity", record)
            self.assertTrue(len(record["presented"]) < 300, record)

    async def test_dns_names(self) -> None:
        """Instead of an ID."""
        for record in await self.refused_by_inbound(*(self.leaf(dns(name)) for name in NAMES)):
            self.assertIn(record["code"], ("TM-I501", "TM-I509"))

    async def test_subjects(self) -> None:
        """A subject is shown where there is no other name, an issuer where it is not known."""
        made = []
        for text in (*HOSTILE[:3], HOSTILE[4], HOSTILE[5], *TEXTS[-2:]):
            hostile = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, text, _validate=False)])
            made.append(self.titled(hostile, self.issuer.certificate.subject, names=None))
            made.append(self.titled(x509.Name([]), hostile))
        for record in await self.refused_by_inbound(*made):
            self.assertIn(record["code"], ("TM-I501", "TM-I604"))

    def titled(self, subject: x509.Name, issuer: x509.Name, **changes: Any) -> Leaf:
        """A certificate with these distinguished names."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = wall_clock()
        der = craft_der(
            public_key=key.public_key(),
            signing_key=self.issuer.key,
            subject=subject,
            issuer=issuer,
            extensions=leaf_extensions(san(uri(WEB)), self.issuer, key, **changes),
            not_before=now - 60,
            not_after=now + 3600,
        )
        certificate = x509.load_der_x509_certificate(der)
        return Leaf(certificate, key, (certificate, *self.issuer.chain))

    async def test_greetings(self) -> None:
        """What a plaintext client says is shown to the reader, not to the terminal."""
        for how in FORMATS:
            inner = self.start_inbound(self.target.port)
            self.watch(inner, how)
            client = self.connect(inner.port("orders-in"))
            client.sendall(b'\x1b[2J"}\n{"v":1}')
            await in_thread(receive, client)
            for record in self.assert_sound(1, 1):
                self.assertIn(r"\x1b[2J", record["reason"])

    async def test_server_names_and_protocols(self) -> None:
        """Of a client that is let in: its open record has them, escaped, and the rest is as ever."""
        names = [name for name in (*(text.encode("utf-8", "replace") for text in TEXTS), *NAMES) if b"\0" not in name]
        names = [name[:250] for name in names]
        for how in FORMATS:
            inner = self.start_inbound(self.application(lambda connection: connection.close()))
            self.watch(inner, how)
            for number, name in enumerate(names):
                await self.meet(inner, number, self.leaf(), sni=name, alpn=[name, b"\n\x1b[2J\xff", b"h2"])
            opened = self.assert_sound(2 * len(names), 0, event="open")
            self.assertEqual(len(opened), len(names) if how == "json" else 0)
            for name, record in zip(names, opened, strict=False):
                self.assertEqual(record["sni"], name.decode("ascii", "backslashreplace"))
                self.assertEqual((record["src.identity"], record.get("alpn", "")), (WEB, ""))

    # --- outbound

    async def refused_by_outbound(
        self, made: Leaf, code: Code, *, alpn: bytes = b"", then: Callable[[Stranger], Any] | None = None
    ) -> None:
        """One record and one warning, in both formats."""
        for how in FORMATS:
            port, seen = self.strange_server(made, alpn=alpn, then=then)
            outer = self.start_outbound(port)
            self.watch(outer, how)
            await self.assert_reset(outer)
            await seen.take()
            await outer.closed()
            for record in self.assert_sound(1, 1):
                self.assertEqual(record["code"], code.id)

    async def test_names_of_a_server(self) -> None:
        """A malicious server's certificate is written by an outbound proxy."""
        for name in NAMES[:2] + NAMES[-4:]:
            made = self.leaf(uri(ORDERS), dns(b"x"), uri(name))
            code = codes.SEVERAL_IDS if name.isascii() else codes.MALFORMED_CERTIFICATE
            await self.refused_by_outbound(made, code)

    async def test_texts_of_a_preface(self) -> None:
        """A malicious inbound proxy explains itself: with a known code, and with one that it made up."""
        for text in TEXTS:
            for code, recorded in (("TM-P102", codes.NO_RULE_ALLOWS), ('X"}\n{"v":1', codes.REFUSED_BY_PEER)):
                said = Preface(ok=False, code=code, text=text).encode()
                await self.refused_by_outbound(
                    self.leaf(uri(ORDERS)), recorded, alpn=ALPN,
                    then=lambda stranger, said=said: stranger.sendall(said),  # type: ignore[misc]
                )  # fmt: skip
