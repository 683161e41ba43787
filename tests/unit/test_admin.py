"""The admin interface: what is served where, and how little one can do to it."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError, ConnectionDone
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tcpmesh import codes
from tcpmesh.errors import StartError
from tcpmesh.mesh_state import MeshStateCell
from tcpmesh.observe import admin
from tcpmesh.observe.live import LiveConnections
from tcpmesh.observe.metrics import Metrics
from tcpmesh.values import TCPAddress, UnixAddress
from tests.documents import ROOT
from tests.unit.record_samples import HOSTILE, a_record


class FakeStatus:
    """A proxy that is as it is told."""

    def __init__(self) -> None:
        self.is_ready = (True, "")
        self.reloads = 0
        self.changes: list[dict[str, str]] = []
        self.failure: Exception | None = None
        self.checks: list[dict[str, list[str]]] = []
        self.checking: Deferred[dict[str, Any]] = Deferred()
        self.cancelled: list[bool] = []

    def ready(self) -> tuple[bool, str]:
        """(IProxyStatus)."""
        return self.is_ready

    def status(self) -> dict[str, Any]:
        """(IProxyStatus)."""
        if self.failure is not None:
            raise self.failure
        return {"version": "0.1.0", "workloads": [{"name": "web", "state": "ready"}]}

    def identities(self) -> dict[str, Any]:
        """(IProxyStatus)."""
        return {"generation": 3, "workloads": [], "trust_domains": []}

    def check_identities(self, arguments: Mapping[str, Sequence[str]]) -> Deferred[dict[str, Any]]:
        """(IProxyStatus)."""
        self.checks.append({name: list(values) for name, values in arguments.items()})
        self.checking = Deferred(lambda _: self.cancelled.append(True))
        return self.checking

    def explain_decisions(self, arguments: Mapping[str, Sequence[str]]) -> Deferred[dict[str, Any]]:
        """(IProxyStatus)."""
        return succeed({"asked": {name: list(values) for name, values in arguments.items()}})

    def policy_notes(self) -> dict[str, Any]:
        """(IProxyStatus)."""
        return {"notes": [], "left_out": 0}

    def change_authority(self, arguments: Mapping[str, str]) -> dict[str, Any]:
        """(IProxyStatus)."""
        self.changes.append(dict(arguments))
        return {"done": True}

    def reload_identities(self) -> dict[str, Any]:
        """(IProxyStatus)."""
        self.reloads += 1
        return {"sources": [{"name": "disk", "state": "ready"}]}

    def reload_policies(self) -> Deferred[dict[str, Any]]:
        """(IProxyStatus)."""
        self.reloads += 1
        return succeed({"policies": []})


class Transport(StringTransport):
    """A transport that can be aborted, and tells when it is closed."""

    closed = ""

    def loseConnection(self) -> None:
        """Note it."""
        self.closed = self.closed or "lost"

    def abortConnection(self) -> None:
        """Note it."""
        self.closed = self.closed or "aborted"


class Answer:
    """One HTTP answer, taken apart."""

    def __init__(self, data: bytes) -> None:
        head, _, body = data.partition(b"\r\n\r\n")
        status, *headers = head.split(b"\r\n")
        self.status = status
        self.headers = {
            name.lower().decode(): value.decode() for name, _, value in (h.partition(b": ") for h in headers)
        }
        if self.headers.get("transfer-encoding") == "chunked":
            whole = b""
            while body:
                size, _, body = body.partition(b"\r\n")
                whole, body = whole + body[: int(size, 16)], body[int(size, 16) + 2 :]
            body = whole
        self.body = body


class Turns(Clock):
    """A clock on which work that is put off until the next turn waits for it."""

    def turn(self) -> None:
        """Run what is due now, but not what that puts off."""
        for call in [call for call in self.getDelayedCalls() if call.getTime() <= self.seconds()]:
            run = partial(call.func, *call.args, **call.kw)
            call.cancel()
            run()


class SiteCase(SynchronousTestCase):
    """Both sites, asked through transports in memory."""

    def setUp(self) -> None:
        self.clock = Turns()
        self.status = FakeStatus()
        self.live = LiveConnections()
        self.metrics = Metrics(MeshStateCell(), lambda: 5.0, {})
        self.tcp = admin.tcp_site(self.metrics, self.status, self.clock)
        self.unix = admin.unix_site(self.metrics, self.status, self.live, self.clock, lambda: 5.0)

    def connect(self, site: Factory) -> tuple[Any, Transport]:
        """A new connection."""
        protocol = site.buildProtocol(UNIXAddress("client"))
        transport = Transport()
        transport.protocol = protocol
        protocol.makeConnection(transport)
        return protocol, transport

    def ask(self, site: Factory, target: str, method: str = "GET", headers: str = "", body: bytes = b"") -> Answer:
        """One request and its complete answer, after which the connection closes."""
        protocol, transport = self.connect(site)
        protocol.dataReceived(f"{method} {target} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode() + body)
        self.clock.advance(0)
        self.assertEqual(transport.closed, "lost")
        protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        return Answer(transport.value())


class TCPSiteTests(SiteCase):
    """What anybody may ask."""

    def test_says_that_it_lives(self) -> None:
        """Whatever else is wrong."""
        self.status.is_ready = (False, "no identity")
        answer = self.ask(self.tcp, "/live")
        self.assertEqual((answer.status, answer.body), (b"HTTP/1.1 200 OK", b"live\n"))
        self.assertEqual(answer.headers["content-type"], "text/plain; charset=utf-8")
        self.assertEqual(answer.headers["content-length"], "5")
        self.assertNotIn("server", answer.headers)

    def test_says_whether_it_is_ready(self) -> None:
        """And if not, why, on one line."""
        self.assertEqual(self.ask(self.tcp, "/ready").body, b"ready\n")
        self.status.is_ready = (False, "no identity for web\n\x1b[2J")
        answer = self.ask(self.tcp, "/ready")
        self.assertEqual(answer.status, b"HTTP/1.1 503 Service Unavailable")
        self.assertEqual(answer.body, b"not ready: no identity for web\\n\\x1b[2J\n")

    def test_serves_metrics(self) -> None:
        """In the form that the scraper accepts."""
        answer = self.ask(self.tcp, "/metrics")
        self.assertIn(b"\ntcpmesh_generation 0.0\n", answer.body)
        self.assertTrue(answer.headers["content-type"].startswith("text/plain"))
        answer = self.ask(self.tcp, "/metrics", headers="Accept: application/openmetrics-text\r\n")
        self.assertTrue(answer.headers["content-type"].startswith("application/openmetrics-text"))

    def test_serves_nothing_else(self) -> None:
        """Not the unix socket's pages, no tree, no listing, no matter how the path is written."""
        for target in (
            "/connections",
            "/identity",
            "/status",
            "/",
            "x",
            "/metrics/",
            "/live/..",
            "//live",
            "/%6cive",
            "/a/b",
        ):
            answer = self.ask(self.tcp, target)
            self.assertEqual(answer.status, b"HTTP/1.1 404 Not Found", target)
            self.assertEqual(answer.body, b"not found; here are /live /metrics /ready\n")
            self.assertEqual(answer.headers["content-type"], "text/plain; charset=utf-8")

    def test_has_no_page_for_the_whole_server(self) -> None:
        """The asterisk form (RFC 9112 section 3.2.4) finds nothing either."""
        for method in ("GET", "OPTIONS"):
            answer = self.ask(self.tcp, "*", method)
            self.assertEqual(answer.status, b"HTTP/1.1 404 Not Found")
            self.assertEqual(answer.body, b"not found; here are /live /metrics /ready\n")
            self.assertNotIn("server", answer.headers)

    def test_ignores_query_and_host(self) -> None:
        """Neither selects anything."""
        self.assertEqual(self.ask(self.tcp, "/live?x=1", headers="Host: evil.example\r\n").body, b"live\n")

    def test_takes_only_questions(self) -> None:
        """GET and HEAD; everything else is refused, its body unread."""
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "BREW"):
            answer = self.ask(self.tcp, "/live", method)
            self.assertEqual(answer.status, b"HTTP/1.1 405 Method Not Allowed")
            self.assertEqual(answer.headers["allow"], "GET, HEAD")
            self.assertEqual(answer.body, b"only GET and HEAD\n")
        form = "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 9\r\n"
        self.assertEqual(self.ask(self.tcp, "/live", "POST", form, b"shutdown=").status[9:12], b"405")

    def test_answers_head_without_a_body(self) -> None:
        """The same headers."""
        for site, target in ((self.tcp, "/metrics"), (self.unix, "/connections")):
            answer = self.ask(site, target, "HEAD")
            self.assertEqual((answer.status, answer.body), (b"HTTP/1.1 200 OK", b""))
        self.assertEqual(self.ask(self.tcp, "/live", "HEAD").headers["content-length"], "5")

    def test_describes_identities_on_the_unix_socket(self) -> None:
        """And nowhere else."""
        self.assertEqual(json.loads(self.ask(self.unix, "/identity").body), self.status.identities())
        self.assertEqual(self.ask(self.tcp, "/identity").status, b"HTTP/1.1 404 Not Found")

    def test_shows_no_traceback(self) -> None:
        """A failure is 500 and in the log."""
        self.status.failure = ValueError("a secret")
        answer = self.ask(self.unix, "/status")
        self.assertEqual(answer.status, b"HTTP/1.1 500 Internal Server Error")
        self.assertNotIn(b"secret", answer.body)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)


class CostTests(SynchronousTestCase):
    """What serving a few pages costs every proxy."""

    def test_imports_no_web_server(self) -> None:
        """Twisted's has sessions, templates and remote pages, two megabytes of them."""
        program = (
            "import sys, tcpmesh.observe.admin;"
            "print([name for name in sys.modules if name in ('twisted.web.server', 'twisted.spread.pb')])"
        )
        ended = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
        )
        self.assertEqual(ended.stdout, "[]\n")


class CheckTests(SiteCase):
    """A question that takes its time."""

    def begin(self, target: str = "/identity/check?service=a&service=b&workload=web") -> tuple[Any, Transport]:
        protocol, transport = self.connect(self.unix)
        protocol.dataReceived(f"POST {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        self.clock.advance(1)
        self.assertEqual((transport.value(), transport.closed), (b"", ""))
        return protocol, transport

    def test_is_answered_when_it_is_answered(self) -> None:
        """With what was asked for passed on; of some names there may be several."""
        protocol, transport = self.begin()
        self.assertEqual(self.status.checks, [{"service": ["a", "b"], "workload": ["web"]}])
        self.status.checking.callback({"checks": []})
        answer = Answer(transport.value())
        self.assertEqual((answer.status, json.loads(answer.body)), (b"HTTP/1.1 200 OK", {"checks": []}))
        self.assertEqual(answer.headers["content-type"], "application/json")
        self.assertEqual((transport.closed, self.status.cancelled), ("lost", []))
        protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_ends_when_nobody_waits_for_it(self) -> None:
        """It is cancelled, and that is no failure."""
        protocol, transport = self.begin()
        protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual((self.status.cancelled, transport.value()), ([True], b""))

    def test_says_that_it_was_given_up(self) -> None:
        """When the proxy stops, which is no failure either."""
        _, transport = self.begin()
        self.status.checking.cancel()
        self.assertTrue(transport.value().startswith(b"HTTP/1.1 503 "))

    def test_says_that_it_failed(self) -> None:
        """With the traceback in the log and not in the answer."""
        _, transport = self.begin()
        self.status.checking.errback(ValueError("a secret"))
        self.assertTrue(transport.value().startswith(b"HTTP/1.1 500 "))
        self.assertNotIn(b"secret", transport.value())
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_is_an_action(self) -> None:
        """It opens connections: nobody does that by following a link."""
        self.assertEqual(self.ask(self.unix, "/identity/check").status[9:12], b"405")
        self.assertEqual(self.ask(self.tcp, "/identity/check", "POST").status[9:12], b"404")
        self.assertEqual(self.status.checks, [])


class LimitTests(SiteCase):
    """What a client can do to it."""

    def test_answers_one_request_per_connection(self) -> None:
        """A pipeline is cut after the first."""
        protocol, transport = self.connect(self.tcp)
        protocol.dataReceived(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        self.assertEqual(transport.value().count(b"200 OK"), 1)
        self.assertEqual(transport.closed, "lost")

    def test_keeps_no_body(self) -> None:
        """However much is sent."""
        protocol, transport = self.connect(self.tcp)
        protocol.dataReceived(b"POST /live HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
        for _ in range(100):
            protocol.dataReceived(b"x" * 65536)
        [request] = protocol.wrappedProtocol._channel.requests
        self.assertEqual(request.content.getbuffer().nbytes, 0)
        self.assertEqual(transport.closed, "")

    def test_ends_a_connection_at_its_deadline(self) -> None:
        """Also when bytes keep dribbling in."""
        protocol, transport = self.connect(self.tcp)
        for _ in range(3):
            protocol.dataReceived(b"G")
            self.clock.advance(admin.DEADLINE / 3 + 0.001)
        self.assertEqual(transport.closed, "aborted")

    def test_takes_only_so_many_connections(self) -> None:
        """More are not served, and a place that is given back is."""
        connections = [self.connect(self.tcp) for _ in range(admin.CONNECTIONS)]
        self.assertIsNone(self.tcp.buildProtocol(UNIXAddress("client")))
        connections[0][0].connectionLost(Failure(ConnectionDone()))
        self.assertIsNotNone(self.tcp.buildProtocol(UNIXAddress("client")))

    def test_refuses_huge_headers(self) -> None:
        """16 KiB is enough."""
        protocol, transport = self.connect(self.tcp)
        protocol.dataReceived(b"GET /live HTTP/1.1\r\n" + b"X: y\r\n" * 4000)
        self.assertTrue(transport.value().startswith(b"HTTP/1.1 400 Bad Request"))
        self.assertEqual(transport.closed, "lost")


class UnixSiteTests(SiteCase):
    """What only whoever can open the socket may ask."""

    def test_serves_what_tcp_serves(self) -> None:
        """And says what there is."""
        self.assertEqual(self.ask(self.unix, "/live").body, b"live\n")
        self.assertEqual(
            self.ask(self.unix, "/x").body,
            b"not found; here are /authority /connections /decisions /endpoints /identity /identity/check "
            b"/identity/reload /live /metrics /policy/notes /policy/reload /ready /status\n",
        )

    def test_explains_decisions(self) -> None:
        """As soon as they are explained, with what is asked for."""
        answer = self.ask(self.unix, "/decisions?last_denied=3&connection=a&connection=b")
        self.assertEqual(json.loads(answer.body), {"asked": {"last_denied": ["3"], "connection": ["a", "b"]}})

    def test_shows_what_policies_noted(self) -> None:
        """As JSON."""
        self.assertEqual(json.loads(self.ask(self.unix, "/policy/notes").body), {"notes": [], "left_out": 0})

    def test_shows_the_status(self) -> None:
        """As JSON."""
        answer = self.ask(self.unix, "/status")
        self.assertEqual(answer.headers["content-type"], "application/json")
        self.assertEqual(json.loads(answer.body), self.status.status())

    def test_lists_connections(self) -> None:
        """All of them, whatever they are called, as one JSON object."""
        for number in range(250):
            self.live.add(a_record(id=number, src_identity=HOSTILE[number % len(HOSTILE)], bytes_sent=number))
        answer = self.ask(self.unix, "/connections")
        self.assertTrue(answer.body.isascii())
        listing = json.loads(answer.body)
        self.assertEqual((listing["v"], listing["count"], listing["time"]), (1, 250, "1970-01-01T00:00:05.000Z"))
        self.assertEqual([entry["bytes_sent"] for entry in listing["connections"]], list(range(250)))
        self.assertEqual(self.ask(self.unix, "/connections").headers["content-type"], "application/json")

    def test_lists_none(self) -> None:
        """An empty list is a good answer."""
        listing = json.loads(self.ask(self.unix, "/connections").body)
        self.assertEqual((listing["count"], listing["connections"]), (0, []))

    def test_does_not_list_all_in_one_turn(self) -> None:
        """The data path has its turns in between, and a client that does not read stops the listing."""
        for number in range(250):
            self.live.add(a_record(id=number))
        protocol, transport = self.connect(self.unix)
        protocol.dataReceived(b"GET /connections HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertEqual(transport.value().count(b'"id":'), 0)
        self.clock.turn()
        self.clock.turn()
        self.assertEqual(transport.value().count(b'"id":'), 100)
        transport.producer.pauseProducing()
        for _ in range(5):
            self.clock.turn()
        self.assertEqual(transport.value().count(b'"id":'), 100)
        transport.producer.resumeProducing()
        for _ in range(5):
            self.clock.turn()
        self.assertEqual(transport.value().count(b'"id":'), 250)
        self.assertEqual(transport.closed, "lost")

    def test_lets_authorities_be_changed(self) -> None:
        """By POST with what stands behind the question mark, and only on the unix socket."""
        answer = self.ask(self.unix, "/authority?step=revoke&slot=2&force=key%20%C3%BC&slot=3", "POST")
        self.assertEqual(json.loads(answer.body), {"done": True})
        self.assertEqual(self.status.changes, [{"step": "revoke", "slot": "3", "force": "key ü"}])
        self.assertEqual(self.ask(self.unix, "/authority?step=revoke").status[9:12], b"405")
        self.assertEqual(self.ask(self.tcp, "/authority?step=revoke", "POST").status[9:12], b"404")
        self.assertEqual(len(self.status.changes), 1)

    def test_lets_identities_be_reloaded(self) -> None:
        """By POST on the unix socket, and there alone."""
        answer = self.ask(self.unix, "/identity/reload", "POST")
        self.assertEqual((answer.status, answer.headers["content-type"]), (b"HTTP/1.1 200 OK", "application/json"))
        self.assertEqual(json.loads(answer.body), {"sources": [{"name": "disk", "state": "ready"}]})
        self.assertEqual(self.status.reloads, 1)
        for method in ("GET", "HEAD", "PUT", "DELETE"):
            answer = self.ask(self.unix, "/identity/reload", method)
            self.assertEqual((answer.status[9:12], answer.headers["allow"]), (b"405", "POST"))
        self.assertEqual(self.ask(self.unix, "/status", "POST").headers["allow"], "GET, HEAD")
        self.assertEqual(self.ask(self.tcp, "/identity/reload", "POST").status[9:12], b"404")
        self.assertEqual(self.status.reloads, 1)

    def test_lets_policies_be_reloaded(self) -> None:
        """By POST on the unix socket, and there alone."""
        answer = self.ask(self.unix, "/policy/reload", "POST")
        self.assertEqual((answer.status, json.loads(answer.body)), (b"HTTP/1.1 200 OK", {"policies": []}))
        self.assertEqual(self.ask(self.unix, "/policy/reload").status[9:12], b"405")
        self.assertEqual(self.ask(self.tcp, "/policy/reload", "POST").status[9:12], b"404")
        self.assertEqual(self.status.reloads, 1)

    def test_stops_listing_when_the_client_leaves(self) -> None:
        """Nothing is written to nobody, and no timer stays."""
        for number in range(250):
            self.live.add(a_record(id=number))
        protocol, transport = self.connect(self.unix)
        protocol.dataReceived(b"GET /connections HTTP/1.1\r\nHost: x\r\n\r\n")
        self.clock.turn()
        written = len(transport.value())
        protocol.connectionLost(Failure(ConnectionDone()))
        self.clock.advance(1)
        self.assertEqual(len(transport.value()), written)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class ListenTests(TestCase):
    """Binding, on the real reactor; nothing is sent."""

    def setUp(self) -> None:
        from twisted.internet import reactor  # noqa: TID251  # a test that binds

        self.reactor: Any = reactor
        # A short name: a unix socket's path has little room, and trial's directory may be deep.
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir(parents=True)
        self.path = f"/proc/self/fd/{os.open(self.directory, os.O_DIRECTORY)}/a.sock"
        self.addCleanup(os.close, int(self.path.split("/")[4]))
        self.site = admin.tcp_site(Metrics(MeshStateCell(), lambda: 5.0, {}), FakeStatus(), self.reactor)

    def listen(self) -> Any:
        """Listen on the unix path until the test ends."""
        port = admin.listen(self.reactor, UnixAddress(self.path), self.site)
        self.addCleanup(port.stopListening)
        return port

    def test_makes_a_private_socket(self) -> None:
        """Mode 0600 from its first moment, whatever the umask was, and the umask stays."""
        modes: list[int] = []

        class Watching:
            """A reactor that looks at the umask while it binds."""

            def listenUNIX(self, *_args: Any, **_options: Any) -> Any:
                """Note the umask."""
                modes.append(os.umask(0o177))
                os.umask(modes[-1])
                return object()

        self.addCleanup(os.umask, os.umask(0))
        admin.listen(Watching(), UnixAddress(self.path), self.site)
        self.assertEqual(modes, [0o177])
        self.listen()
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o600)
        self.assertEqual(os.umask(0), 0)

    def test_replaces_a_socket_that_nobody_answers_on(self) -> None:
        """What a killed proxy left behind does not keep the next from starting."""
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(self.path)
        self.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.path)

    def test_leaves_a_socket_that_is_answered_alone(self) -> None:
        """Another proxy is running there."""
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(self.path)
            other.listen()
            failure = self.assertRaises(StartError, self.listen)
            self.assertIs(failure.code, codes.CANNOT_LISTEN)
            self.assertIn(f"unix:{self.path}", failure.reason)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(self.path)

    def test_says_which_tcp_address_is_busy(self) -> None:
        """With the system's reason."""
        with socket.create_server(("127.0.0.1", 0)) as other:
            address = TCPAddress("127.0.0.1", other.getsockname()[1])
            failure = self.assertRaises(StartError, admin.listen, self.reactor, address, self.site)
        self.assertIs(failure.code, codes.CANNOT_LISTEN)
        self.assertEqual(failure.reason, f"admin: cannot listen on {address}: Address already in use")

    def test_listens_on_tcp(self) -> None:
        """On the interface that was named."""
        reactor = MemoryReactorClock()
        admin.listen(reactor, TCPAddress("127.0.0.1", 4191), self.site)
        [(port, factory, _backlog, interface)] = reactor.tcpServers
        self.assertEqual((port, factory, interface), (4191, self.site, "127.0.0.1"))

    def test_says_why_a_socket_cannot_be_made(self) -> None:
        """A directory that is not there."""
        address = UnixAddress(self.path.replace("a.sock", "absent/a.sock"))
        failure = self.assertRaises(StartError, admin.listen, self.reactor, address, self.site)
        self.assertEqual(failure.reason, f"admin: cannot listen on {address}: No such file or directory")
        self.assertIsInstance(failure.__cause__, CannotListenError)
