"""tcpmesh connections: asks over a real unix socket, shows or says why not."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet.address import UNIXAddress
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from tcpmesh.cli.admin_client import AdminError, ask
from tcpmesh.cli.connections import _age, _size
from tcpmesh.mesh_state import MeshStateCell
from tcpmesh.observe.admin import unix_site
from tcpmesh.observe.live import LiveConnections
from tcpmesh.observe.metrics import Metrics
from tcpmesh.values import UnixAddress
from tests.unit.admin_sockets import AdminSocketCase
from tests.unit.record_samples import HOSTILE, a_record


def answer_of(live: LiveConnections, request: bytes) -> bytes:
    """What the admin interface of a proxy with these connections answers."""
    clock = Clock()
    site = unix_site(Metrics(MeshStateCell(), lambda: 5.0, {}), None, live, clock, lambda: 1_700_000_061.0)  # type: ignore[arg-type]
    protocol: Any = site.buildProtocol(UNIXAddress("client"))
    transport = StringTransport()
    protocol.makeConnection(transport)
    protocol.dataReceived(request)
    clock.advance(0)
    return transport.value()


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Claim it."""
        return True


class ConnectionsCase(AdminSocketCase):
    """Runs the command against a socket at a short path."""

    def setUp(self) -> None:
        super().setUp()
        self.live = LiveConnections()

    def serve(self, answer: bytes | None = None) -> None:
        """Answer one request on the socket: as the proxy, or as told."""
        self.answer(lambda request: answer_of(self.live, request) if answer is None else answer)

    def ask(self, *arguments: str, out: io.StringIO | None = None) -> tuple[Any, str, str]:
        """The command's exit status, standard output and error."""
        return self.command("connections", *arguments, out=out)


class ShowTests(ConnectionsCase):
    """What is shown."""

    def test_shows_a_table(self) -> None:
        """One line per connection, nothing cut where there is no terminal."""
        identity = "spiffe://a.test/" + "x" * 200
        self.live.add(a_record(src_identity=identity, dst_addr="127.0.0.1:5000", established=True, bytes_sent=2048))
        self.live.add(a_record(id=8, direction="outbound", listener="out", dst_service="orders"))
        self.serve()
        status, out, err = self.ask(*self.admin())
        self.assertEqual((status, err), (0, ""))
        rows = [line.split() for line in out.splitlines()]
        self.assertEqual(
            rows,
            [
                ["ID", "DIRECTION", "LISTENER", "SOURCE", "DESTINATION", "AGE", "SENT", "RECEIVED", "STATE"],
                f"7 inbound orders-in {identity} 10.0.0.7:40000 127.0.0.1:5000 1m 1s 2.0 KiB 0 B open".split(),
                ["8", "outbound", "out", "10.0.0.7:40000", "orders", "1m", "1s", "0", "B", "0", "B", "pending"],
            ],
        )

    def test_shows_hostile_names_as_they_are_written(self) -> None:
        """No markup, no terminal sequence, no additional line."""
        for text in (*HOSTILE, "[bold red]x[/]", "[link=https://evil.example]x[/link]"):
            self.setUp()
            self.live.add(a_record(src_identity=text, established=True))
            self.serve()
            status, out, _ = self.ask(*self.admin())
            self.assertEqual((status, len(out.splitlines())), (0, 2))
            self.assertTrue(out.isascii() and out.replace("\n", "").isprintable(), out)
            if text.startswith("["):
                self.assertIn(text, out)

    def test_says_that_there_are_none(self) -> None:
        """An empty table would look like a failure."""
        self.serve()
        self.assertEqual(self.ask(*self.admin()), (0, "no connections\n", ""))

    def test_writes_json_for_programs(self) -> None:
        """What the proxy said, none among it."""
        self.live.add(a_record(src_identity=HOSTILE[0]))
        self.serve()
        status, out, _ = self.ask("--json", *self.admin())
        self.assertEqual(status, 0)
        self.assertTrue(out.isascii())
        listing = json.loads(out)
        self.assertEqual((listing["v"], listing["count"]), (1, 1))
        self.assertEqual(listing["connections"][0]["src.identity"], HOSTILE[0])

    def add_several(self) -> None:
        web, batch = "spiffe://a.test/web", "spiffe://a.test/batch"
        for number, (identity, source, fields) in enumerate(
            (
                (web, "10.0.0.7:1", {"bytes_sent": 1024}),
                (batch, "10.0.0.7:2", {"bytes_recv": 3}),
                (batch, "[fd00::1]:1", {"bytes_sent": 1024}),
                (batch, "10.0.0.7:3", {"listener": "other-in"}),
                ("", "10.0.0.9:1", {}),
                (web, "unix:/run/app:1", {"direction": "outbound", "listener": "out"}),
            )
        ):
            self.live.add(a_record(id=number, src_identity=identity, src_addr=source, **fields))

    def test_counts_by_who_it_is(self) -> None:
        """The most first, with what they carried; inbound and outbound apart."""
        columns = "CONNECTIONS DIRECTION {} SENT RECEIVED"
        for part, rows in (
            (
                "identity",
                (
                    "3 inbound spiffe://a.test/batch 1.0 KiB 3 B",
                    "1 inbound - 0 B 0 B",
                    "1 inbound spiffe://a.test/web 1.0 KiB 0 B",
                    "1 outbound spiffe://a.test/web 0 B 0 B",
                ),
            ),
            (
                "source",
                (
                    "3 inbound 10.0.0.7 1.0 KiB 3 B",
                    "1 inbound 10.0.0.9 0 B 0 B",
                    "1 inbound [fd00::1] 1.0 KiB 0 B",
                    "1 outbound unix:/run/app:1 0 B 0 B",
                ),
            ),
            (
                "listener",
                ("4 inbound orders-in 2.0 KiB 3 B", "1 inbound other-in 0 B 0 B", "1 outbound out 0 B 0 B"),
            ),
        ):
            self.setUp()
            self.add_several()
            self.serve()
            status, out, err = self.ask("--by", part, *self.admin())
            self.assertEqual((status, err), (0, ""))
            found = [" ".join(line.split()) for line in out.splitlines()]
            self.assertEqual(found, [columns.format(part.upper()), *rows])

    def test_counts_for_programs(self) -> None:
        """As JSON, and none as none."""
        self.add_several()
        self.serve()
        counted = json.loads(self.ask("--json", "--by", "identity", *self.admin())[1])
        self.assertEqual((counted["by"], counted["count"], len(counted["groups"])), ("identity", 6, 4))
        most = {"name": "spiffe://a.test/batch", "direction": "inbound", "connections": 3, "sent": 1024, "received": 3}
        self.assertEqual(counted["groups"][0], most)
        self.setUp()
        self.serve()
        self.assertEqual(self.ask("--by", "source", *self.admin()), (0, "no connections\n", ""))

    def test_counts_hostile_names_as_they_are_written(self) -> None:
        """No markup, no terminal sequence, no additional line."""
        for text in (*HOSTILE, "[bold red]x[/]"):
            self.setUp()
            self.live.add(a_record(src_identity=text, established=True))
            self.serve()
            out = self.ask("--by", "identity", *self.admin())[1]
            self.assertEqual(len(out.splitlines()), 2)
            self.assertTrue(out.isascii() and out.replace("\n", "").isprintable(), out)

    def test_fits_a_terminal(self) -> None:
        """No line is longer than the terminal is wide."""
        before = dict(os.environ)
        self.addCleanup(os.environ.update, before)
        self.addCleanup(os.environ.clear)
        os.environ.update(COLUMNS="80", TERM="dumb")  # rich keeps the mapping that it saw first
        self.live.add(a_record(src_identity="spiffe://a.test/" + "x" * 200))
        self.serve()
        status, out, _ = self.ask(*self.admin(), out=Terminal())
        self.assertEqual(status, 0)
        self.assertLessEqual(max(map(len, out.splitlines())), 80)
        self.assertEqual(out.count("x"), 200, out)  # broken over lines, and nothing is left out

    def test_writes_ages_and_sizes_for_people(self) -> None:
        """Two units of time, one of size; what is no number is left out."""
        ages = [_age(value) for value in (None, -5, 999, 61_000, 3_600_000, 90_061_000)]
        self.assertEqual(ages, ["", "0s", "0s", "1m 1s", "1h 0m", "1d 1h"])
        sizes = [_size(value) for value in ("x", 0, 1023, 1024, 1536 * 1024, 5 * 2**30, 3 * 2**40)]
        self.assertEqual(sizes, ["", "0 B", "1023 B", "1.0 KiB", "1.5 MiB", "5.0 GiB", "3.0 TiB"])


class FailureTests(ConnectionsCase):
    """Why it cannot be shown, and the exit status."""

    def assert_could_not_tell(self, why: str, *arguments: str) -> None:
        """Status 2, nothing on standard output, the reason on standard error."""
        status, out, err = self.ask(*(arguments or self.admin()))
        self.assertEqual((status, out, err), (2, "", f"tcpmesh: {why}\n"))

    def test_no_socket(self) -> None:
        """The proxy is not running, or the path is another."""
        self.assert_could_not_tell(f"no proxy is running: unix:{self.path} does not exist")

    def test_a_socket_left_behind(self) -> None:
        """The proxy was killed."""
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(self.path)
        self.assert_could_not_tell(f"no proxy is running: nobody listens on unix:{self.path} any longer")

    def test_a_socket_of_another_user(self) -> None:
        """Who may use it is said."""
        directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, directory)
        os.chmod(directory, 0o755)
        path = Path(directory) / "a.sock"
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
            path.chmod(0)
            if os.geteuid() == 0:  # whom no mode keeps out
                self.addCleanup(os.seteuid, 0)
                os.seteuid(65534)
            self.assert_could_not_tell(
                f"unix:{path} may not be used by this user: it belongs to {path.owner()}", "--admin", f"unix:{path}"
            )

    def test_not_a_socket(self) -> None:
        """A file at that path."""
        Path(self.path).write_text("x")
        self.assert_could_not_tell(f"no proxy is running: nobody listens on unix:{self.path} any longer")

    def test_something_that_speaks_no_http(self) -> None:
        """Its words are escaped."""
        self.serve(b"\x1b[2Jhello\n")
        self.assert_could_not_tell(
            f"what answers on unix:{self.path} is not tcpmesh: BadStatusLine('\\x1b[2Jhello\\n')"
        )

    def test_another_http_server(self) -> None:
        """It knows no such page, or gives no JSON, or other JSON."""
        self.serve(b"HTTP/1.1 404 \x1b[2JNot Found\r\nContent-Length: 0\r\n\r\n")
        self.assert_could_not_tell(f"what answers on unix:{self.path} has no /connections: 404 \\x1b[2JNot Found")
        for body, why in (
            (b"<html>", "is not tcpmesh: its answer to /connections is no JSON"),
            (b"[]", "lists no connections as tcpmesh does"),
            (b'{"connections":{}}', "lists no connections as tcpmesh does"),
            (b'{"connections":[1]}', "lists no connections as tcpmesh does"),
        ):
            Path(self.path).unlink()
            self.serve(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body)
            self.assert_could_not_tell(f"what answers on unix:{self.path} {why}")

    def test_a_proxy_that_does_not_answer(self) -> None:
        """A stopped process still has its socket."""
        with socket.socket(socket.AF_UNIX) as silent:
            silent.bind(self.path)
            silent.listen()
            failure = self.assertRaises(AdminError, ask, UnixAddress(self.path), "/connections", timeout=0.01)
        self.assertEqual(
            failure.message, f"the proxy on unix:{self.path} did not answer within 10ms: is it stopped or overloaded?"
        )

    def test_an_answer_without_end(self) -> None:
        """It is not kept beyond a bound."""
        self.serve(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"x" * 100)
        failure = self.assertRaises(AdminError, ask, UnixAddress(self.path), "/connections", limit=10)
        self.assertEqual(failure.message, f"the answer of unix:{self.path} is longer than 10 bytes")

    def test_wrong_usage(self) -> None:
        """Status 64 for an address that can be none."""
        for address, why in (
            ("/run/admin.sock", "write unix:/run/admin.sock"),
            ("127.0.0.1:4191", "--admin: 127.0.0.1:4191 is not a unix socket; write --admin unix:PATH"),
        ):
            status, out, err = self.ask("--admin", address)
            self.assertEqual((status, out), (64, ""))
            self.assertIn(why, err)


class ConfigurationTests(ConnectionsCase):
    """The socket's address from the configuration."""

    TEXT = """\
version: 1
trust_domain: a.test
identity:
  sources: {local: {plugin: embedded, state: state}}
  workloads: {orders: {id: "spiffe://a.test/orders"}}
inbound:
  - {name: orders-in, listen: "127.0.0.1:4143", target: "127.0.0.1:5000", workload: orders}
"""

    def write(self, text: str) -> str:
        """A configuration file beside the socket."""
        path = self.directory / "mesh.yaml"
        path.write_text(self.TEXT + text)
        return str(path)

    def test_is_found(self) -> None:
        """admin.listen, here an absolute path."""
        self.serve()
        path = self.write(f'admin: {{listen: "unix:{self.path}"}}\n')
        self.assertEqual(self.ask("--config", path), (0, "no connections\n", ""))

    def test_is_missing(self) -> None:
        """The message says what to write."""
        path = self.write("")
        status, out, err = self.ask("--config", path)
        self.assertEqual((status, out), (2, ""))
        self.assertEqual(
            err,
            f'tcpmesh: {path} has no admin socket: write admin: {{listen: "unix:PATH"}} there, '
            "or use --admin unix:PATH\n",
        )

    def test_is_in_a_file_that_cannot_be_used(self) -> None:
        """Status 1 and the file's problems."""
        status, out, err = self.ask("--config", self.write("nonsense: 1\n"))
        self.assertEqual((status, out), (1, ""))
        self.assertIn("mesh.yaml:8:1", err)
