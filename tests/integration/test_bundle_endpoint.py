"""The client of a bundle endpoint against real HTTPS servers on loopback, most of which are not what they should be."""

from __future__ import annotations

import gzip
from typing import Any

import attrs
from twisted.trial.unittest import TestCase

from tcpmesh.identity.bundle_document import MAX_BUNDLE_BYTES
from tcpmesh.identity.certificates import serial_text
from tcpmesh.identity.deny_list import NOBODY, DenyEntry, DenyList
from tcpmesh.identity.endpoint_url import parse_endpoint_url
from tcpmesh.identity.key_pin import key_pin
from tcpmesh.identity.spiffe import SpiffeId
from tcpmesh.sources.bundle_endpoint import EndpointError, EndpointTrust, fetch_bundle
from tcpmesh.testing import TestAuthority
from tcpmesh.values import DNSName, Svid, TrustBundle
from tcpmesh.wall_clock import wall_clock
from tests.integration.bundle_server import Answer, BundleServer, raw, reactor, response

BODY = b'{"keys": []}'
PATIENT = 60.0  # seconds: no test waits for it
IMPATIENT = 0.2


class EndpointTestCase(TestCase):
    """A server of the trust domain b.test, and a client that knows its authority."""

    timeout = 120

    def setUp(self) -> None:
        self.authority = TestAuthority("b.test", now=wall_clock() - 7200)
        self.svid = self.issue("/server", dns=["localhost"])
        self.spiffe = EndpointTrust(self.svid.id, {self.authority.trust_domain: self.authority.bundle})
        self.web = EndpointTrust(DNSName("localhost"), authorities=[self.authority.root.certificate])

    def issue(self, path: str, **more: Any) -> Svid:
        """A certificate that is valid now."""
        return self.authority.svid(path, now=wall_clock(), **more)

    def serve(self, answer: Answer, svid: Svid | None = None, *, plain: bool = False) -> BundleServer:
        """Start a server; it is stopped after the test."""
        server = BundleServer(None if plain else svid or self.svid, answer)
        self.addCleanup(server.stop)
        return server

    async def fetch(self, server: BundleServer, trust: EndpointTrust, *, deadline: float = PATIENT) -> bytes:
        """Ask the server: by its name for a DNS name, by its address for a SPIFFE ID."""
        host = "localhost" if isinstance(trust.expected, DNSName) else "127.0.0.1"
        url = parse_endpoint_url(f"https://{host}:{server.number}/bundle?x=1")
        found = await fetch_bundle(reactor, url, trust, wall_clock, deadline=deadline)
        await server.gone()
        return found

    async def refused(self, server: BundleServer, trust: EndpointTrust, word: str, **more: Any) -> None:
        """The fetch fails with a message in which this stands."""
        try:
            await self.fetch(server, trust, **more)
        except EndpointError as error:
            self.assertIn(word, str(error))
            self.assertTrue(str(error).isprintable())
        else:
            self.fail(f"it was not refused: {word}")


class DeniedTests(EndpointTestCase):
    """A server that was who it should be, until its key was stolen: what it says of a trust domain counts no longer."""

    def denied(self) -> list[tuple[EndpointTrust, DenyList]]:
        leaf = self.svid.leaf
        entries = [DenyEntry(serial=serial_text(leaf)), DenyEntry(spki=str(key_pin(leaf)))]
        return [
            *((self.web, DenyList([entry])) for entry in entries),
            *((self.spiffe, DenyList([entry])) for entry in (*entries, DenyEntry(id=self.svid.id))),
        ]

    async def test_a_server_that_is_denied(self) -> None:
        """By name, key and serial number; it hears of no request."""
        for trust, deny_list in self.denied():
            server = self.serve(response(BODY))
            trust = attrs.evolve(trust, deny_list=lambda deny_list=deny_list: deny_list)
            await self.refused(server, trust, "is not who it should be: TM-I606")
            self.assertEqual(server.requests, [])

    async def test_a_server_that_is_denied_while_it_answers(self) -> None:
        """Its answer is not taken."""
        for trust, deny_list in self.denied():
            current = [NOBODY]

            def answer(transport: Any) -> None:
                current[0] = deny_list  # noqa: B023
                response(BODY)(transport)

            trust = attrs.evolve(trust, deny_list=lambda current=current: current[0])
            await self.refused(self.serve(answer), trust, "is not who it should be: TM-I606")


class AnswerTests(EndpointTestCase):
    """A server that is who it should be."""

    async def test_gives_the_body(self) -> None:
        """Under both profiles; over one connection each, which is closed."""
        for trust in (self.spiffe, self.web):
            server = self.serve(response(BODY, b"200 OK", b"Content-Type: application/json"))
            self.assertEqual(await self.fetch(server, trust), BODY)
            self.assertEqual(server.connections, 1)

    async def test_asks_for_nothing_but_the_document(self) -> None:
        """No cookies, no compression, no credentials; again after an answer that set a cookie."""
        server = self.serve(response(BODY, b"200 OK", b"Set-Cookie: a=b"))
        for _ in range(2):
            await self.fetch(server, self.spiffe)
        for request in server.requests:
            line, *headers = request.rstrip().split(b"\r\n")
            self.assertEqual(line, b"GET /bundle?x=1 HTTP/1.1")
            names = {header.partition(b":")[0].lower() for header in headers}
            self.assertEqual(names, {b"host", b"connection", b"accept", b"user-agent"})

    async def test_reads_chunks(self) -> None:
        """In as many pieces as they come."""
        chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n"
        server = self.serve(raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks))
        self.assertEqual(await self.fetch(server, self.spiffe), BODY)

    async def test_reads_as_much_as_a_bundle_may_have(self) -> None:
        """To the byte."""
        body = b" " * MAX_BUNDLE_BYTES
        self.assertEqual(await self.fetch(self.serve(response(body)), self.spiffe), body)

    async def test_a_fetch_that_is_given_up_while_it_connects_asks_nobody(self) -> None:
        """By address and by name."""
        server = self.serve(response(BODY))
        for host, trust in (("127.0.0.1", self.spiffe), ("localhost", self.web)):
            url = parse_endpoint_url(f"https://{host}:{server.number}/")
            waiting = fetch_bundle(reactor, url, trust, wall_clock)
            waiting.cancel()
            with self.assertRaises(EndpointError):
                await waiting
        self.assertEqual(server.requests, [])

    async def test_a_fetch_that_is_given_up_leaves_no_connection(self) -> None:
        """While the answer is waited for."""
        server = self.serve(lambda transport: waiting.cancel())
        url = parse_endpoint_url(f"https://127.0.0.1:{server.number}/")
        waiting = fetch_bundle(reactor, url, self.spiffe, wall_clock)
        with self.assertRaises(EndpointError):
            await waiting
        await server.gone()


class StrangerTests(EndpointTestCase):
    """Servers that are not who they should be: no request is sent to them."""

    async def asked_nothing(self, server: BundleServer, trust: EndpointTrust, word: str) -> None:
        await self.refused(server, trust, word)
        self.assertEqual(server.requests, [])

    async def test_another_workload(self) -> None:
        """Of the same trust domain, and one whose name only begins alike."""
        for name in ("/other", "/server/a"):
            await self.asked_nothing(self.serve(response(BODY), self.issue(name)), self.spiffe, "TM-I701")

    async def test_a_certificate_that_has_expired(self) -> None:
        """Under both profiles."""
        old = self.authority.svid("/server", ttl=60, dns=["localhost"])
        for trust in (self.spiffe, self.web):
            await self.asked_nothing(self.serve(response(BODY), old), trust, "TM-I503")

    async def test_an_unknown_authority(self) -> None:
        """Another one of the same name, to a SPIFFE server; and the system's, to a web server."""
        imitated = TestAuthority("b.test").svid("/server", dns=["localhost"])
        await self.asked_nothing(self.serve(response(BODY), imitated), self.spiffe, "is not who it should be")
        await self.asked_nothing(self.serve(response(BODY), imitated), self.web, "is not who it should be")
        system = EndpointTrust(DNSName("localhost"))
        await self.asked_nothing(self.serve(response(BODY)), system, "is not who it should be")

    async def test_another_trust_domain(self) -> None:
        """Its authority is known here, and does not count for this one."""
        other = TestAuthority("c.test")
        bundles = {self.authority.trust_domain: self.authority.bundle, other.trust_domain: other.bundle}
        trust = EndpointTrust(self.svid.id, bundles)
        await self.asked_nothing(self.serve(response(BODY), other.svid("/server")), trust, "is not who it should be")

    async def test_another_dns_name(self) -> None:
        """The certificate is good, but for somebody else; a SPIFFE ID is no DNS name."""
        other = self.issue("/server", dns=["other.test"])
        await self.asked_nothing(self.serve(response(BODY), other), self.web, "TM-I703")
        await self.asked_nothing(self.serve(response(BODY), self.issue("/server")), self.web, "TM-I703")

    async def test_nothing_to_verify_with(self) -> None:
        """Not even a connection is made."""
        server = self.serve(response(BODY))
        domain = self.authority.trust_domain
        for bundles, word in (({}, "no trust bundle for b.test"), ({domain: TrustBundle(domain, ())}, "revoked")):
            await self.refused(server, EndpointTrust(self.svid.id, bundles), word)
        self.assertEqual(server.connections, 0)

    async def test_plain_http(self) -> None:
        """A server that waits for the rest of the request, and one that answers whatever comes."""
        server = self.serve(response(BODY), plain=True)
        await self.refused(server, self.spiffe, "gave no complete answer", deadline=IMPATIENT)
        self.assertEqual(server.requests, [])
        server.shout(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await self.asked_nothing(server, self.spiffe, "does not complete a TLS handshake")

    async def test_nobody(self) -> None:
        """A port on which nobody listens any more."""
        server = BundleServer(self.svid, response(BODY))
        await server.stop()
        for trust in (self.spiffe, self.web):
            await self.refused(server, trust, "cannot be reached")


class BadAnswerTests(EndpointTestCase):
    """A server that is who it should be, and answers something else than a document."""

    async def bad(self, answer: Answer, word: str, **more: Any) -> None:
        await self.refused(self.serve(answer), self.spiffe, word, **more)

    async def test_another_status(self) -> None:
        """Whatever it says beside; also those that are successes of another kind."""
        for status in (b"404 Not Found", b"500 x", b"204 No Content", b"206 Partial", b"201 Created"):
            await self.bad(response(BODY, status), f"status {status[:3].decode()}, not 200")

    async def test_a_redirect(self) -> None:
        """Not even to the same server."""
        server = self.serve(response(b"", b"302 Found", b"Location: /elsewhere"))
        await self.refused(server, self.spiffe, "redirects are not followed")
        self.assertEqual(server.connections, 1)

    async def test_no_answer(self) -> None:
        """Silence, half of the headers, half of a body."""
        for answer in (
            lambda transport: None,
            raw(b"HTTP/1.1 200 OK\r\n"),
            raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"),
        ):
            await self.bad(answer, "no complete answer within 0.2 s", deadline=IMPATIENT)

    async def test_an_answer_that_is_cut(self) -> None:
        """With an orderly end of TLS, wherever it comes."""
        for data in (
            b"",
            b"HTTP/1.1 200 OK\r\nContent-",
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
        ):
            await self.bad(raw(data, close=True), "gave no complete answer")

    async def test_an_answer_without_a_length(self) -> None:
        """Nobody could tell whether it is whole."""
        await self.bad(raw(b"HTTP/1.1 200 OK\r\n\r\n" + BODY, close=True), "does not say where its answer ends")

    async def test_too_much(self) -> None:
        """Announced, in chunks without end, in headers without end, in answers before the answer."""
        await self.bad(
            raw(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (MAX_BUNDLE_BYTES + 1)), "announces 1048577 bytes"
        )
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        await self.bad(raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 40), "sends more than")
        await self.bad(raw(b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 40_000), "sends more than")
        await self.bad(raw(b"HTTP/1.1 200 OK\r\nX-A: " + b"b" * 20_000), "gave no complete answer")
        await self.bad(raw(b"HTTP/1.1 100 Continue\r\n\r\n" * 2_000), "sends more than")

    async def test_compressed(self) -> None:
        """It is not unpacked: a few bytes could become many."""
        bomb = gzip.compress(b" " * MAX_BUNDLE_BYTES * 4)
        await self.bad(response(bomb, b"200 OK", b"Content-Encoding: gzip"), "content coding gzip")
        await self.bad(
            raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n" + bomb, close=True), "gave no complete answer"
        )

    async def test_something_else_than_http(self) -> None:
        """Over TLS."""
        for data in (b"SSH-2.0-x\r\n", b"\0" * 100 + b"\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/x 200\r\n\r\n"):
            await self.bad(raw(data, close=True), "gave no complete answer")

    async def test_lengths_that_contradict_each_other(self) -> None:
        """As smugglers send them."""
        await self.bad(
            raw(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 12\r\n\r\n" + BODY), "gave no complete answer"
        )


class IdentityTests(EndpointTestCase):
    """The trust that a fetch is given."""

    async def test_a_spiffe_id_needs_no_dns_name(self) -> None:
        """Nor does the server's host have to be anywhere in the certificate."""
        svid = self.issue("/spire/server")
        trust = EndpointTrust(SpiffeId.parse("spiffe://b.test/spire/server"), self.spiffe.bundles)
        self.assertEqual(await self.fetch(self.serve(response(BODY), svid), trust), BODY)
