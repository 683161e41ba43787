"""The policy plugin opa against HTTP servers on loopback, most of which are not what they should be."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL
from twisted.internet import reactor as _reactor  # noqa: TID251  trial installed it
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, TestCase
from zope.interface import implementer

from tcpmesh.codes import POLICY_FAILED, POLICY_TIMED_OUT
from tcpmesh.errors import Refusal
from tcpmesh.mesh_state import NamedPolicy
from tcpmesh.policy.decision_cache import LaterAnswers
from tcpmesh.policy.evaluate import Verdict, decide
from tcpmesh.policy.opa_exchange import MAX_ANSWER_BYTES
from tcpmesh.sources.opa import OpaFactory, OpaPolicy, OpaSettings
from tcpmesh.sources.opa_place import OpaPlace
from tcpmesh.testing import FakePolicyObserver, TestAuthority, authorization_request, plugin_context
from tcpmesh.values import Duration, UnixAddress
from tcpmesh.wall_clock import wall_clock
from tests.integration.bundle_server import Answer, raw, response
from tests.integration.servers import temporary_directory

reactor: Any = _reactor
_LENGTH = re.compile(rb"\r\nContent-Length: (\d+)\r\n", re.IGNORECASE)


def said(document: object, status: bytes = b"200 OK", *headers: bytes) -> Answer:
    """An ordinary answer, after which the connection stays open."""
    return response(json.dumps(document).encode(), status, *headers)


def nothing(_transport: Any) -> None:
    """No answer, ever."""


class Conversation(Protocol):
    """Reads one request after the other, and answers as the test says."""

    factory: Agent

    def __init__(self) -> None:
        self._buffer = b""
        self.gone: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self.factory.conversations.append(self)

    def dataReceived(self, data: bytes) -> None:
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            head, _, rest = self._buffer.partition(b"\r\n\r\n")
            length = _LENGTH.search(head + b"\r\n")
            assert length is not None, head
            if len(rest) < int(length[1]):
                return
            self._buffer = rest[int(length[1]) :]
            self.factory.requests.append((head, json.loads(rest[: int(length[1])])))
            self.factory.answer(self.transport)

    def connectionLost(self, reason: Failure = Failure(ConnectionError())) -> None:  # noqa: B008
        self.gone.callback(None)


class Agent(Factory):
    """What stands for Open Policy Agent."""

    noisy = False
    protocol = Conversation

    def __init__(self) -> None:
        self.answer: Answer = said({"result": True})
        self.requests: list[tuple[bytes, Any]] = []
        self.conversations: list[Conversation] = []

    def gone(self) -> Deferred[Any]:
        """Fires when every client that came is gone."""
        return gatherResults([conversation.gone for conversation in self.conversations])


class OpaCase(TestCase):
    """A server on a unix socket, which is as good as any for HTTP, and a policy that asks it."""

    timeout = 60
    budget = 30.0  # seconds: nothing waits for it unless it hangs on purpose

    def setUp(self) -> None:
        self.directory = temporary_directory(self)
        self.agent = Agent()
        self.path = str(self.directory / "opa.sock")
        self.port: Any = None
        self.listen()
        self.addCleanup(self.close)
        self.policy = self.start()

    def listen(self) -> None:
        self.port = reactor.listenUNIX(self.path, self.agent)

    async def close(self) -> None:
        if self.port is None:
            return
        await maybeDeferred(self.port.stopListening)
        await self.agent.gone()

    def start(self, **settings: Any) -> OpaPolicy:
        where = {"url": "http://opa/v1/data/tcpmesh/allow", "socket": UnixAddress(self.path)}
        policy = OpaFactory().create(OpaSettings(**{**where, **settings}), plugin_context(clock=reactor))
        policy.start(FakePolicyObserver())
        self.addCleanup(policy.stop)
        self.answers = LaterAnswers(reactor)
        return policy

    async def ask(self, spiffe_id: str = "spiffe://example.test/web", budget: float | None = None) -> Verdict:
        request = authorization_request(spiffe_id)
        named = NamedPolicy("opa", self.policy, self.answers)
        verdict = decide([named], request, reactor, Logger(), self.budget if budget is None else budget)
        return await verdict if isinstance(verdict, Deferred) else verdict

    async def denied(self, answer: Answer, word: str, *, budget: float | None = None) -> Verdict:
        """With TM-P103 and these words; and the next question is answered."""
        self.agent.answer = answer
        verdict = await self.ask(budget=budget)
        self.assertFalse(verdict.allowed)
        self.assertEqual(verdict.code, POLICY_FAILED)
        self.assertIn(word, verdict.decision.reason)
        self.assertTrue(verdict.decision.reason.isprintable())
        self.agent.answer = said({"result": {"allow": True, "valid_for": 0}})
        self.assertTrue((await self.ask()).allowed)
        return verdict


class AnswerTests(OpaCase):
    async def test_asks_once_per_peer_over_one_connection(self) -> None:
        """Answers are remembered, and a connection serves one question after the other."""
        for number in range(5):
            for _ in range(3):
                self.assertTrue((await self.ask(f"spiffe://example.test/{number}")).allowed)
        self.assertEqual((len(self.agent.requests), len(self.agent.conversations)), (5, 1))
        head, body = self.agent.requests[0]
        line, *headers = head.split(b"\r\n")
        self.assertEqual(line, b"POST /v1/data/tcpmesh/allow HTTP/1.1")
        names = {header.partition(b":")[0].lower() for header in headers}
        self.assertTrue(names <= {b"host", b"accept", b"content-type", b"content-length", b"user-agent", b"connection"})
        self.assertEqual(body["input"]["source"]["spiffe_id"], "spiffe://example.test/0")

    async def test_an_answer_is_remembered_as_long_as_it_says(self) -> None:
        """Or as long as is configured."""
        self.policy = self.start(valid_for=Duration(0.0))
        for _ in range(3):
            await self.ask()
        self.assertEqual(len(self.agent.requests), 3)
        self.agent.answer = said({"result": {"allow": False, "reason": "no", "valid_for": 3600}})
        for _ in range(3):
            self.assertEqual((await self.ask()).decision.reason, "no")
        self.assertEqual(len(self.agent.requests), 4)

    async def test_shows_its_token(self) -> None:
        """As OPA's token authentication reads it."""
        token = self.directory / "token"
        token.write_text("s3cret\n")
        self.policy = self.start(token=token)
        await self.ask()
        self.assertIn(b"Authorization: Bearer s3cret", self.agent.requests[0][0].split(b"\r\n"))

    async def test_a_kept_connection_that_was_given_up_costs_nobody(self) -> None:
        """The server closes after its answer, or just when the next question comes: it is asked once more."""
        self.agent.answer = lambda transport: (
            said({"result": {"allow": True, "valid_for": 0}})(transport),
            transport.loseConnection(),
        )
        for _ in range(3):
            self.assertTrue((await self.ask()).allowed)
        kept = self.agent.answer = said({"result": {"allow": True, "valid_for": 0}})
        self.assertTrue((await self.ask()).allowed)

        def hang_up_once(transport: Any) -> None:
            self.agent.answer = kept
            transport.abortConnection()

        self.agent.answer = hang_up_once
        self.assertTrue((await self.ask()).allowed)
        self.assertEqual(len(self.agent.requests), 6)

    async def test_comes_back_when_the_agent_does(self) -> None:
        """While nobody listens every question is refused at once; nothing is remembered of that."""
        await self.close()
        verdict = await self.ask()
        self.assertEqual((verdict.allowed, verdict.code), (False, POLICY_FAILED))
        self.assertIn("Open Policy Agent at unix:", verdict.decision.reason)
        self.assertIn("gave no answer", verdict.decision.reason)
        self.agent.conversations.clear()
        self.listen()
        self.assertTrue((await self.ask()).allowed)


class TCPTests(OpaCase):
    """On loopback without TLS, by both families."""

    host = "127.0.0.1"

    def listen(self) -> None:
        try:
            self.port = reactor.listenTCP(0, self.agent, interface=self.host)
        except CannotListenError as error:
            raise SkipTest(f"this machine has no {self.host}: {error}") from None

    def start(self, **settings: Any) -> OpaPolicy:
        host = f"[{self.host}]" if ":" in self.host else self.host
        url = f"http://{host}:{self.port.getHost().port}/v1/data/tcpmesh/allow"
        return super().start(**{"url": url, "socket": None, **settings})

    async def test_is_asked(self) -> None:
        """The request names the host."""
        self.assertTrue((await self.ask()).allowed)
        host = f"Host: [{self.host}]:" if ":" in self.host else f"Host: {self.host}:"
        self.assertIn(host.encode(), self.agent.requests[0][0])

    async def test_a_port_that_refuses_is_told(self) -> None:
        """With the system's reason, and without waiting for further addresses, of which an address has none."""
        await self.close()
        verdict = await self.ask()
        self.assertEqual(verdict.code, POLICY_FAILED)
        self.assertIn("Connection refused", verdict.decision.reason)
        self.assertNotIsInstance(OpaPlace(False, self.host, 1, "/").endpoint(reactor), HostnameEndpoint)
        self.assertIsInstance(OpaPlace(False, "opa.test", 1, "/").endpoint(reactor), HostnameEndpoint)


class TCP6Tests(TCPTests):
    host = "::1"


class BadAnswerTests(OpaCase):
    """Every one denies with TM-P103, and is forgotten."""

    async def test_other_statuses(self) -> None:
        """Errors, redirects, and no content; 100 Continue alone is no answer."""
        for status in (b"500 Internal Server Error", b"404 Not Found", b"302 Found", b"204 No Content", b"401 No"):
            await self.denied(said({"result": True}, status), f"answered with status {status[:3].decode()}")

    async def test_nonsense(self) -> None:
        """No JSON, no HTTP, a content coding, an answer that is cut off."""
        await self.denied(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes"), "something that is not JSON")
        await self.denied(raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", close=True), "gave no answer")
        await self.denied(said({"result": True}, b"200 OK", b"Content-Encoding: gzip"), "content coding")
        await self.denied(
            raw(b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"result": true}', close=True), "gave no answer"
        )
        await self.denied(raw(b'HTTP/1.1 200 OK\r\n\r\n{"result": true}', close=True), "gave no answer")
        await self.denied(raw(b"", close=True), "gave no answer")

    async def test_too_much(self) -> None:
        """A body, headers, chunks, without end: cut at the bound."""
        large = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n" + b" " * 2 * MAX_ANSWER_BYTES
        chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * MAX_ANSWER_BYTES
        headers = b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * MAX_ANSWER_BYTES
        for data in (large, chunks, headers):
            await self.denied(raw(data), f"sends more than the {MAX_ANSWER_BYTES} bytes of an answer")


class HangingTests(OpaCase):
    """An agent that does not answer; the budget is the proxy's."""

    async def test_silence_denies_and_closes(self) -> None:
        """A thousand connections wait for no longer than the budget; no request, connection or timer is left."""
        self.agent.answer = nothing
        self.policy = self.start(connections=4)
        asked = [Deferred.fromCoroutine(self.ask(f"spiffe://example.test/{n}", 0.3)) for n in range(1000)]
        verdicts = await gatherResults(asked)
        self.assertEqual({verdict.code for verdict in verdicts}, {POLICY_TIMED_OUT})
        client: Any = self.policy._client
        self.assertEqual((client.waiting, self.answers.asking, len(self.answers)), (0, 0, 0))
        await self.agent.gone()
        self.agent.answer = said({"result": True})
        self.assertTrue((await self.ask()).allowed)

    async def test_half_an_answer_is_none(self) -> None:
        """Headers and then silence, or half of the body."""
        for data in (b"HTTP/1.1 200 OK\r\n", b'HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{"result": tru'):
            self.agent.answer = raw(data)
            self.assertEqual((await self.ask(budget=0.1)).code, POLICY_TIMED_OUT)
        await self.agent.gone()

    async def test_connections_and_queue_are_bounded(self) -> None:
        """What is more than both is refused at once, and the rest is answered over as many connections as allowed."""
        self.policy = self.start(connections=3, waiting=5)
        held: list[Any] = []
        self.agent.answer = held.append
        asked = [Deferred.fromCoroutine(self.ask(f"spiffe://example.test/{n}")) for n in range(20)]
        refused = [self.successResultOf(each) for each in asked[8:]]
        self.assertEqual({verdict.code for verdict in refused}, {POLICY_FAILED})
        self.assertIn("5 questions wait for Open Policy Agent already", refused[0].decision.reason)
        while len(held) < 3:
            await self.turn()
        self.agent.answer = said({"result": True})
        for transport in held:
            self.agent.answer(transport)
        self.assertTrue(all(verdict.allowed for verdict in await gatherResults(asked[:8])))
        self.assertEqual((len(self.agent.conversations), len(self.agent.requests)), (3, 8))

    def turn(self) -> Deferred[None]:
        """Let the reactor run once."""
        done: Deferred[None] = Deferred()
        reactor.callLater(0, done.callback, None)
        return done

    async def test_stop_ends_what_is_under_way(self) -> None:
        """Questions that run and that wait fail; nothing is asked any more."""
        self.policy = self.start(connections=1)
        self.agent.answer = nothing
        asked = [Deferred.fromCoroutine(self.ask(f"spiffe://example.test/{n}")) for n in range(3)]
        while not self.agent.requests:
            await self.turn()
        await self.policy.stop()
        self.assertFalse(any(verdict.allowed for verdict in await gatherResults(asked)))
        self.assertFalse((await self.ask()).allowed)
        self.assertEqual(len(self.agent.requests), 1)
        for failure in self.flushLoggedErrors():
            self.assertNotIsInstance(failure.value, Refusal)


@implementer(IOpenSSLServerConnectionCreator)
class Presented:
    """TLS with a certificate."""

    def __init__(self, svid: Any) -> None:
        self._context = SSL.Context(SSL.TLS_SERVER_METHOD)
        self._context.use_certificate(svid.leaf)
        for intermediate in svid.chain[1:]:
            self._context.add_extra_chain_cert(intermediate)
        self._context.use_privatekey(svid.private_key)

    def serverConnectionForTLS(self, _protocol: Any) -> SSL.Connection:
        return SSL.Connection(self._context, None)


class SecureTests(OpaCase):
    """Over TLS, to a server that is who it should be, or not."""

    def setUp(self) -> None:
        self.authority = TestAuthority("opa.test", now=wall_clock() - 7200)
        self.name = "localhost"
        super().setUp()

    def listen(self) -> None:
        svid = self.authority.svid("/opa", now=wall_clock(), dns=[self.name])
        self.port = reactor.listenSSL(0, self.agent, Presented(svid), interface="127.0.0.1")

    def start(self, **settings: Any) -> OpaPolicy:
        trust = self.directory / "authorities.pem"
        trust.write_bytes(self.authority.root.certificate.public_bytes(Encoding.PEM))
        url = f"https://localhost:{self.port.getHost().port}/v1/data/tcpmesh/allow"
        return super().start(**{"url": url, "socket": None, "trust": trust, **settings})

    async def test_is_verified(self) -> None:
        """By the authorities of the file and the name in the URL."""
        self.assertTrue((await self.ask()).allowed)

    async def test_an_impostor_is_not_asked(self) -> None:
        """Of another authority, or of another name: no question leaves."""
        other: Path = self.directory / "other.pem"
        other.write_bytes(TestAuthority("x.test", now=wall_clock()).root.certificate.public_bytes(Encoding.PEM))
        for change in ({"trust": other}, {"trust": "system"}):
            self.policy = self.start(**change)
            self.assertEqual((await self.ask()).code, POLICY_FAILED)
        await self.close()
        self.name = "elsewhere.test"
        self.listen()
        self.policy = self.start()
        self.assertEqual((await self.ask()).code, POLICY_FAILED)
        self.assertEqual(self.agent.requests, [])


class UnstartedTests(TestCase):
    def test_denies(self) -> None:
        """Nobody is asked before the start."""
        policy = OpaFactory().create(OpaSettings("http://127.0.0.1/v1/data/a"), plugin_context(clock=Clock()))
        verdict = decide([NamedPolicy("opa", policy)], authorization_request(), Clock(), Logger())
        assert isinstance(verdict, Verdict)
        self.assertFalse(verdict.allowed)
