"""tcpmesh endpoints: asks over a real unix socket, shows or says why not."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.address import UNIXAddress
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from tcpmesh.codes import CONNECT_REFUSED, CONNECT_TIMEOUT
from tcpmesh.endpoint_report import EndpointReport
from tcpmesh.mesh_state import MeshStateCell
from tcpmesh.observe.admin import unix_site
from tcpmesh.observe.live import LiveConnections
from tcpmesh.observe.metrics import Metrics
from tcpmesh.upstream_settings import CircuitSettings, EjectionSettings, HealthSettings, QueueSettings, ServiceLimits
from tcpmesh.values import Duration
from tests.unit.admin_sockets import AdminSocketCase
from tests.unit.record_samples import HOSTILE as HOSTILE_TEXTS
from tests.unit.upstreams import Fleet, endpoint

HOSTILE = "".join(HOSTILE_TEXTS[:-1])


class Status:
    """As much of a proxy's status as is asked here."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet

    def endpoints(self, arguments: Any) -> Any:
        fleet = self.fleet
        report = EndpointReport(fleet.upstreams, fleet.discoveries, fleet.clock, fleet.wall_clock)
        return report.pieces(arguments.get("service", ()))


class EndpointsTests(AdminSocketCase):
    """The command."""

    def setUp(self) -> None:
        super().setUp()
        self.fleet = Fleet()

    def respond(self, request: bytes) -> bytes:
        """What the admin interface of a proxy with these services answers."""
        clock = Clock()
        metrics = Metrics(MeshStateCell(), lambda: 5.0, {})
        site = unix_site(metrics, Status(self.fleet), LiveConnections(), clock, lambda: 5.0)  # type: ignore[arg-type]
        protocol: Any = site.buildProtocol(UNIXAddress("client"))
        transport = StringTransport()
        protocol.makeConnection(transport)
        protocol.dataReceived(request)
        clock.advance(0)
        for _ in range(50):
            if transport.producer is not None:
                transport.producer.resumeProducing()
        return transport.value()

    def ask(self, *arguments: str, change: Callable[[Any], None] | None = None) -> tuple[Any, str, str]:
        """Run it against a proxy with these services; ``change`` is what a strange one answers instead."""

        if change is None:
            self.respond_with(self.respond)
        else:
            answer = json.loads(b"".join(Status(self.fleet).endpoints({})))
            change(answer)
            self.respond_with(lambda _: b"HTTP/1.0 200 OK\r\n\r\n" + json.dumps(answer).encode())
        return self.command("endpoints", *arguments, *self.admin())

    def respond_with(self, answer: Callable[[bytes], bytes]) -> None:
        """Answer one request; a command may have asked before."""
        Path(self.path).unlink(missing_ok=True)
        self.answer(answer)

    def test_says_what_drains(self) -> None:
        """A service whose endpoints all have weight 0 cannot be tried, and the status says so."""
        self.fleet.add("orders", endpoint(1, weight=0), endpoint(2))
        status, out, _ = self.ask()
        self.assertEqual(status, 0)
        self.assertIn("orders: 2 endpoints (1 drain, 1 up)", out)
        self.fleet.discover("orders", endpoint(1, weight=0), endpoint(2, weight=0))
        self.assertEqual(self.ask()[0], 1)

    def test_shows_each_service_with_its_endpoints(self) -> None:
        """Only the columns that say something; two services are apart."""
        self.fleet.add("orders", endpoint(1, zone="eu-1a"), endpoint(2, priority=1, weight=3))
        self.fleet.add("cache", endpoint(3), ports=1)
        booking = self.fleet.book("orders")
        booking.established(0.01)
        status, out, err = self.ask()
        self.assertEqual((status, err), (0, ""))
        self.assertEqual(
            out.splitlines(),
            [
                "orders: 2 endpoints (2 up)",
                "  discovery  static, last said 2023-11-14T22:13:20.000Z, 1 change",
                "  traffic    1 open, 0 pending",
                "  balance    round-robin, retry none, retries: 0, 0 of 3 in the last 10 s",
                "ADDRESS         PRIO  ZONE   WEIGHT  STATE  OPEN  PENDING  ESTABLISHED  FAILED",
                "192.0.2.1:1001        eu-1a  1       up     1     0        1            0",
                "192.0.2.1:1002  1            3       up     0     0        0            0",
                "",
                "cache: 1 endpoint (1 up)",
                "  discovery  static, last said 2023-11-14T22:13:20.000Z, 1 change",
                "  traffic    0 open, 0 pending",
                "  balance    round-robin, retry none, retries: 0, 0 of 3 in the last 10 s",
                "NUMBER  ADDRESS         WEIGHT  STATE  OPEN  PENDING  ESTABLISHED  FAILED",
                "0       192.0.2.1:1003  1       up     0     0        0            0",
            ],
        )

    def test_shows_why_a_service_cannot_be_tried(self) -> None:
        """Status 1: every endpoint is ejected; with its failures by code, the last error, and the time that is left."""
        health = HealthSettings(ejection=EjectionSettings(failures=1, max_share=1.0, time=Duration(30.0)))
        self.fleet.add("orders", endpoint(1), health=health)
        self.fleet.fail("orders", CONNECT_TIMEOUT, "no answer")
        self.fleet.clock.advance(12)
        status, out, _ = self.ask("orders")
        self.assertEqual(status, 1)
        self.assertIn("orders: 1 endpoint (1 ejected)\n", out)
        row = next(line for line in out.splitlines() if line.startswith("192.0.2.1:1001"))
        self.assertIn("ejected, 18 s left", row)
        self.assertIn("TM-T101 1", row)
        self.assertIn("TM-T101 no answer, 12 s ago", row)

    def test_shows_an_open_circuit(self) -> None:
        """Status 1, although there are endpoints."""
        health = HealthSettings(
            ejection=EjectionSettings(failures=0), circuit=CircuitSettings(failures=1, time=Duration(5.0))
        )
        upstream = self.fleet.add("orders", endpoint(1), health=health)
        booking = self.fleet.fail("orders")
        upstream.pool.health.connection_failed(CONNECT_REFUSED, "nobody listens", 0.0, booking)
        self.fleet.clock.advance(1)
        status, out, _ = self.ask()
        self.assertEqual(status, 1)
        self.assertIn(
            "  PROBLEM    circuit open since 2023-11-14T22:13:20.000Z, for another 4 s, opened 1 time, connections "
            "that failed in a row: 1\n",
            out,
        )

    def test_shows_limits_and_queue(self) -> None:
        """How much of them is used, and what was refused."""
        upstream = self.fleet.add(
            "orders",
            endpoint(1),
            limits=ServiceLimits(connections=1, per_endpoint=1, pending=4),
            queue=QueueSettings(2),
        )
        self.fleet.book("orders")
        self.assertRaises(AssertionError, self.fleet.book, "orders")  # it waits
        upstream.pool.counts.refused[CONNECT_REFUSED] += 3
        upstream.pool.counts.unbudgeted += 2
        status, out, _ = self.ask()
        self.assertEqual(status, 0)
        self.assertIn("orders: 1 endpoint (1 full)\n", out)
        self.assertIn("  limits     connections 1 of 1, 1 per endpoint, pending 1 of 4, queue 1 of 2\n", out)
        self.assertIn("  traffic    0 open, 1 pending, 1 waiting for room (1 since the start)\n", out)
        self.assertIn("  refused    TM-U101 3\n", out)
        self.assertIn("; the budget was spent 2 times\n", out)

    def test_shows_a_service_without_endpoints(self) -> None:
        """Status 1; what its discovery complains of is there."""
        self.fleet.add("orders")

        def failing(answer: Any) -> None:
            answer["services"][0]["discovery"] |= {
                "said": None,
                "failing_since": "2023-11-14T22:13:20.000Z",
                "reason": f"no {HOSTILE}",
            }

        status, out, _ = self.ask(change=failing)
        self.assertEqual(status, 1)
        self.assertIn("orders: 0 endpoints\n", out)
        self.assertIn("  discovery  static, has said nothing yet, 1 change\n", out)
        self.assertIn("  PROBLEM    it fails since 2023-11-14T22:13:20.000Z: no ", out)
        self.assertTrue(out.replace("\n", "").isprintable())

        def said(answer: Any) -> None:
            answer["services"][0]["discovery"] |= {"reason": f"{HOSTILE} does not exist"}

        status, out, _ = self.ask(change=said)
        self.assertEqual(status, 1)
        self.assertIn("  PROBLEM    it says that there are no endpoints: ", out)
        self.assertTrue(out.replace("\n", "").isprintable())

    def test_lists_no_more_than_somebody_reads(self) -> None:
        """Of a large service among others the first fifty; all of one that is named, and the JSON has all anyway."""
        self.fleet.add("orders", *(endpoint(number) for number in range(60)))
        _, out, _ = self.ask()
        self.assertEqual(sum(line.startswith("192.0.2.1") for line in out.splitlines()), 50)
        self.assertTrue(out.endswith("and 10 more: tcpmesh endpoints orders\n"))
        _, out, _ = self.ask("orders")
        self.assertEqual(sum(line.startswith("192.0.2.1") for line in out.splitlines()), 60)
        self.assertNotIn("more:", out)

    def test_gives_json_to_programs(self) -> None:
        """What the proxy says, and the same status."""
        self.fleet.add("orders", endpoint(1))
        status, out, err = self.ask("--json")
        self.assertEqual((status, err), (0, ""))
        self.assertEqual(json.loads(out)["services"][0]["endpoints"][0]["address"], "192.0.2.1:1001")
        self.fleet.add("empty")
        self.assertEqual(self.ask("--json")[0], 1)

    def test_says_that_there_is_no_such_service(self) -> None:
        """Status 64, also when others that were named exist; escaped."""
        self.fleet.add("orders", endpoint(1))
        status, out, err = self.ask("orders", "nosuch", "\x1b[31m")
        self.assertEqual((status, out), (64, ""))
        self.assertIn("the proxy has no service nosuch, \\x1b[31m; tcpmesh endpoints lists all that it has", err)

    def test_says_that_there_are_no_services(self) -> None:
        """An inbound proxy has none, and that is fine."""
        self.assertEqual(self.ask(), (0, "no services\n", ""))

    def test_escapes_what_others_wrote(self) -> None:
        """Names, reasons, zones: nothing moves the cursor or imitates another line."""
        self.fleet.add("orders", endpoint(1))

        def hostile(answer: Any) -> None:
            service = answer["services"][0]
            service |= {"service": HOSTILE, "balance": HOSTILE, "retry": HOSTILE, "refused": {HOSTILE: 1}}
            service["gone"] = [{"address": HOSTILE, "open": 1, "pending": 0}]
            service["discovery"] |= {"plugin": HOSTILE, "said": HOSTILE}
            service["circuit"] = {"state": HOSTILE, "since": HOSTILE, "left_s": 1.0, "failures": 1, "opened": 1}
            service["endpoints"][0] |= {
                "address": HOSTILE,
                "zone": HOSTILE,
                "state": HOSTILE,
                "failed": {HOSTILE: 2},
                "error": {"code": HOSTILE, "reason": HOSTILE, "age_s": 1.0},
                "check": {"age_s": 1.0, "error": HOSTILE},
            }

        status, out, err = self.ask(change=hostile)
        self.assertEqual((status, err), (1, ""))
        self.assertTrue(out.replace("\n", "").isprintable())
        self.assertTrue(out.isascii())
        self.assertEqual(len(out.splitlines()), 9)

    def test_says_what_answers_strangely(self) -> None:
        """Status 2 for what is no answer of tcpmesh, unless it can be shown all the same; never a traceback."""
        self.fleet.add("orders", endpoint(1))
        good = json.loads(b"".join(Status(self.fleet).endpoints({})))
        strange: list[Any] = [[], {}, {"unknown": 1}, {"unknown": [], "services": [1]}, {"unknown": [], "services": 1}]
        for key in good["services"][0]:
            broken = copy.deepcopy(good)
            broken["services"][0][key] = object
            strange.append(broken)
        for key in ("state", "left_s", "open", "failed", "error", "priority"):
            broken = copy.deepcopy(good)
            del broken["services"][0]["endpoints"][0][key]
            strange.append(broken)
        for answer in strange:
            body = json.dumps(answer, default=lambda _: {"x": []}).encode()
            self.respond_with(lambda _request, body=body: b"HTTP/1.0 200 OK\r\n\r\n" + body)  # type: ignore[misc]
            status, _, err = self.command("endpoints", *self.admin())
            self.assertTrue((status == 2 and "tcpmesh does" in err) or (status in (0, 1) and not err), (body, err))

    def test_says_that_no_proxy_runs(self) -> None:
        """Status 2."""
        status, _, err = self.command("endpoints", "--admin", "unix:/no/such")
        self.assertEqual(status, 2)
        self.assertIn("no proxy is running: unix:/no/such does not exist", err)

    def test_says_that_an_older_proxy_cannot_tell(self) -> None:
        """Status 2."""
        self.answer(lambda _: b"HTTP/1.0 404 Not Found\r\n\r\nnot found")
        status, _, err = self.command("endpoints", *self.admin())
        self.assertEqual(status, 2)
        self.assertIn("has no /endpoints", err)
