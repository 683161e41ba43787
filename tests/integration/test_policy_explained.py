"""docs/policy-explained.md, done with a proxy that runs; and a policy that answers later, asked without one."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests import documents
from tests.documents import ROOT, Block
from tests.integration.processes import PATIENCE, Running, free_port, is_ready, wait_until
from tests.integration.servers import run, temporary_directory

TEXT = (ROOT / "docs" / "policy-explained.md").read_text(encoding="utf-8")
DIRECTORY = "/etc/tcpmesh"
TCPMESH = [sys.executable, "-m", "tcpmesh"]
VARYING = (
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "TIME"),
    (r"connection \d+ \(conn [0-9a-f]{16}\)", "connection ID (conn CONN)"),
    (r"127\.0\.0\.1:\d+", "127.0.0.1:PORT"),
    (r"generation \d+", "generation N"),
)


class DocumentTests(SynchronousTestCase):
    """Everything in its order."""

    def setUp(self) -> None:
        self.directory = temporary_directory(self)
        named = dict.fromkeys(re.findall(r"127\.0\.0\.1:(\d+)", self.block("tcpmesh.yaml").text))
        self.ports = {port: free_port() for port in named}
        self.application = socket.create_server(("127.0.0.1", self.ports["5000"]))
        self.application.settimeout(PATIENCE)
        self.addCleanup(self.application.close)
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("TCPMESH_")}
        self.environment |= {"PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
        self.proxy: Running | None = None

    def block(self, name: str) -> Block:
        """The file of this name."""
        (found,) = (block for block in documents.blocks(TEXT) if block.comment == f"file: {name}")
        return found

    def ours(self, text: str) -> str:
        """The document's text with this test's ports."""
        return re.sub(r"\b127\.0\.0\.1:(\d+)", lambda match: f"127.0.0.1:{self.ports[match[1]]}", text)

    def shape(self, text: str) -> list[str]:
        """Lines, without what differs from run to run."""
        text = text.replace(str(self.directory), DIRECTORY)
        for pattern, word in VARYING:
            text = re.sub(pattern, word, text)
        return text.splitlines()

    def start(self) -> None:
        """Start the proxy."""
        self.proxy = Running(self, [*TCPMESH, "run", "tcpmesh.yaml"], directory=self.directory)
        self.proxy.wait_until(lambda: is_ready(self.ports["4191"]), "not ready")

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Let web be connected for a while."""
        with socket.create_connection(("127.0.0.1", self.ports["15000"]), PATIENCE) as client:
            client.sendall(b"hello")
            server, _ = self.application.accept()
            with server:
                server.settimeout(PATIENCE)
                self.assertEqual(server.recv(5), b"hello")
                yield

    def connect(self) -> None:
        """Let web connect twice and batch once."""
        for _ in range(2):
            with self.connected():
                pass
        with socket.create_connection(("127.0.0.1", self.ports["15001"]), PATIENCE) as client:
            self.assertRaises(ConnectionResetError, client.recv, 1)
        self.records(lambda found: sum(record["event"] == "close" for record in found) == 6)

    def records(self, met: object) -> list[dict[str, object]]:
        """The access log, as soon as it is as it should be."""
        log = self.directory / "access.log"
        found: list[dict[str, object]] = []

        def enough() -> bool:
            found[:] = [json.loads(line) for line in log.read_text().splitlines()]
            assert callable(met)
            return bool(met(found))

        wait_until(enough, lambda: f"the records are {found}")
        return found

    def denied(self) -> str:
        """What the record of the refusal is called on both hops."""
        (record,) = (r for r in self.records(bool) if r.get("decision") == "deny")
        return str(record["conn"])

    def files(self) -> None:
        """Write everything that the document has, as it is at its end."""
        for block in documents.blocks(TEXT):
            if block.comment.startswith("file: "):
                self.write(block)

    def reload(self) -> None:
        """Let the proxy read its policies again."""
        assert self.proxy is not None
        self.proxy.signal(signal.SIGHUP)
        self.proxy.wait_until(
            lambda: self.proxy is not None and self.proxy.both().count("a policy is in use") > 1, "nothing was read"
        )

    def write(self, block: Block) -> None:
        name, _, line = block.comment.removeprefix("file: ").partition(" line: ")
        file = self.directory / name
        if line:
            lines = file.read_text().splitlines()
            lines[int(line) - 1] = block.text.rstrip("\n")
            file.write_text("\n".join(lines) + "\n")
        else:
            file.write_text(self.ours(block.text))
        if name == "tcpmesh.yaml":
            (self.directory / "next.yaml").write_text(
                self.ours(block.text).replace("files: [policies.yaml]", "files: [next-policies.yaml]")
            )

    def test_does_what_it_says(self) -> None:
        """Every command shows what the document shows, and ends with its status."""
        shown = 0
        output: list[str] = []
        for block in documents.blocks(TEXT):
            if block.comment.startswith("file: "):
                self.write(block)
            elif block.language == "sh":
                words = block.text.split()
                self.assertEqual(words[0], "tcpmesh")
                if words[1:] == ["explain", "--last-denied"] and self.proxy is None:
                    self.start()
                    self.connect()
                if "connection" in block.words:
                    self.reload()
                    words = [self.denied() if word == "CONN" else word for word in words]
                status = int(block.words.get("status", "0"))
                ended = run(*TCPMESH, *words[1:], directory=self.directory, environment=self.environment, status=status)
                output = self.shape((ended.stdout + ended.stderr).decode())
            else:
                self.assertEqual(block.language, "console")
                self.assertEqual("\n".join(output), "\n".join(self.shape(block.text)), f"line {block.line}")
                shown += 1
        self.assertEqual(shown, 8)
        assert self.proxy is not None
        self.proxy.signal(signal.SIGTERM)
        self.assertEqual(self.proxy.wait(), 0, self.proxy.both())

    def test_tries_live_connections(self) -> None:
        """Those of both hops that the proxy carries at this moment; none afterwards."""
        self.files()
        self.start()
        command = (*TCPMESH, *["policy", "diff", "tcpmesh.yaml", "next.yaml", "--against", "connections", "--json"])

        def differ(status: int) -> dict[str, Any]:
            ended = run(*command, directory=self.directory, environment=self.environment, status=status)
            return dict(json.loads(ended.stdout))

        with self.connected():
            found = differ(1)
        (change,) = found["changes"]
        self.assertEqual(
            (found["connections"], change["effect"], change["identity"], change["where"], change["connections"]),
            (2, "cut_off", "spiffe://shop.example/web", "inbound orders-in", 1),
        )
        self.records(lambda records: sum(record["event"] == "close" for record in records) == 2)
        self.assertEqual(differ(0)["changes"], [])

    def test_explains_what_a_change_has_ended(self) -> None:
        """The connection was allowed by one policy, and ended by the next; both are remembered."""
        self.files()
        self.start()
        with self.connected():
            (self.directory / "next-policies.yaml").rename(self.directory / "policies.yaml")
            self.reload()
            records = self.records(lambda found: any(record.get("code") == "TM-P109" for record in found))
        (conn,) = {record["conn"] for record in records if record.get("code") == "TM-P109"}
        command = (*TCPMESH, "explain", str(conn), "--json")
        ended = run(*command, directory=self.directory, environment=self.environment, status=1)
        decisions = json.loads(ended.stdout)["decisions"]  # of both hops, which are one process here
        later, first = (one for one in decisions if one["then"]["direction"] == "inbound")
        self.assertEqual((first["then"]["decision"], first["then"]["policy"]), ("allow", "shop"))
        self.assertEqual((later["then"]["decision"], later["then"]["code"]), ("deny", "TM-P109"))
        self.assertEqual(later["now"]["nearest"]["misses"], ["names network 10.0.0.0/8, not 127.0.0.1"])


class LaterTests(SynchronousTestCase):
    """A policy that asks somebody over the network, asked without a proxy."""

    def explain(self, answer: bytes | None) -> tuple[int, str]:
        """What is said when the agent answers so; None: when it does not listen."""
        directory = temporary_directory(self)
        port = free_port()
        if answer is not None:

            class Agent(BaseHTTPRequestHandler):
                def do_POST(self) -> None:
                    self.rfile.read(int(self.headers["Content-Length"]))
                    self.send_response(200)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(answer)))
                    self.end_headers()
                    self.wfile.write(answer)

                def log_message(self, *_args: object) -> None:
                    pass

            server = HTTPServer(("127.0.0.1", 0), Agent)
            port = server.server_port
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            self.addCleanup(thread.join)
            self.addCleanup(server.server_close)
            self.addCleanup(server.shutdown)
        head = documents.blocks(TEXT)[0].text.partition("authorization:")[0]
        Path(directory / "tcpmesh.yaml").write_text(
            head + f'authorization: [{{plugin: opa, url: "http://127.0.0.1:{port}/v1/data/mesh/allow"}}]\n'
        )
        command = (*TCPMESH, "explain", "--from", "spiffe://shop.example/web", "--to", "orders-in", "--ip", "10.0.0.7")
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        ended = run(*command, directory=directory, environment=environment, status=None)
        return ended.returncode, ended.stdout.decode() + ended.stderr.decode()

    def test_waits_for_an_answer(self) -> None:
        """Within its budget; what it says is the decision."""
        status, output = self.explain(b'{"result": true}')
        self.assertEqual(status, 0, output)
        self.assertTrue(output.startswith("ALLOWED: "), output)
        status, output = self.explain(b'{"result": false}')
        self.assertEqual(status, 1, output)
        self.assertTrue(output.startswith("DENIED TM-P101: "), output)

    def test_cannot_tell_without_one(self) -> None:
        """That an agent is down says nothing of what it would have answered."""
        status, output = self.explain(None)
        self.assertEqual(status, 2, output)
        self.assertTrue(output.startswith("CANNOT TELL TM-P1"), output)


class FailingPluginTests(SynchronousTestCase):
    """A plugin that raises what a peer sent."""

    def test_its_traceback_is_shown_escaped(self) -> None:
        """A terminal gets nothing to act upon."""
        directory = temporary_directory(self)
        drop_ins = directory / "path" / "twisted" / "plugins"
        drop_ins.mkdir(parents=True)
        (drop_ins / "raising_drop_in.py").write_text(
            "from tcpmesh.descriptors import PluginDescriptor\n"
            "from tcpmesh.interfaces import AUTHORIZATION\n"
            'raising = PluginDescriptor(AUTHORIZATION, "raising", "raises", "raising:Factory")\n'
        )
        (directory / "path" / "raising.py").write_text(
            "import attrs\n"
            "from zope.interface import implementer\n"
            "from tcpmesh.interfaces import IAuthorizationPolicy, IAuthorizationPolicyFactory\n"
            "@attrs.frozen\n"
            "class Settings: pass\n"
            "@implementer(IAuthorizationPolicy)\n"
            "class Policy:\n"
            "    def decide(self, request): raise KeyError(Odd(request.alpn))\n"
            "    def describe(self): return []\n"
            "class Odd(str):\n"
            "    __repr__ = str.__str__\n"
            "@implementer(IAuthorizationPolicyFactory)\n"
            "class Factory:\n"
            "    name, description, settings = 'raising', 'raises', Settings\n"
            "    def create(self, settings, context): return Policy()\n"
        )
        head = documents.blocks(TEXT)[0].text.partition("authorization:")[0]
        Path(directory / "tcpmesh.yaml").write_text(f"{head}authorization: [{{plugin: raising}}]\n")
        command = (*TCPMESH, "explain", "--from", "spiffe://shop.example/web", "--to", "orders-in")
        environment = {**os.environ, "PYTHONPATH": f"{directory / 'path'}:{ROOT}"}
        ended = run(*command, "--alpn", "\x1b[7mred\u202e", directory=directory, environment=environment, status=None)
        self.assertEqual(ended.returncode, 2)
        self.assertIn(b"\n    builtins.KeyError: \\x1b[7mred\\u202e\n", ended.stderr)
        for line in (ended.stdout + ended.stderr).decode("ascii").splitlines():
            self.assertTrue(line.isprintable(), line)
