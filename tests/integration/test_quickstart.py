"""``make run``: the quick start's two processes, what they say, and that they end together."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.processes import PATIENCE, ROOT, Running, accepts, free_port

SHIPPED = ROOT / "etc" / "quickstart.yaml"
QUICKSTART = (sys.executable, str(ROOT / "examples" / "quickstart.py"))


class QuickStartTests(SynchronousTestCase):
    """The shipped configuration, on ports that are free here."""

    def setUp(self) -> None:
        # In /tmp, not in trial's directory: the path of a unix socket must be short.
        self.directory = Path(tempfile.mkdtemp(prefix="tcpmesh"))
        self.addCleanup(shutil.rmtree, self.directory)
        (self.directory / "etc").mkdir()
        self.file = self.directory / "etc" / "quickstart.yaml"
        self.ports: dict[int, int] = {}

        def another(match: re.Match[str]) -> str:
            return f"127.0.0.1:{self.ports.setdefault(int(match[1]), free_port())}"

        self.file.write_text(re.sub(r"127\.0\.0\.1:(\d+)", another, SHIPPED.read_text()))

    def start(self) -> Running:
        return Running(self, [*QUICKSTART, str(self.file)], directory=self.directory)

    def connect(self, shipped: int) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.ports[shipped]), timeout=PATIENCE)
        self.addCleanup(client.close)
        return client

    def assert_everything_is_free(self) -> None:
        for shipped, port in self.ports.items():
            self.assertFalse(accepts(port), shipped)

    def test_uses_the_documented_ports(self) -> None:
        """The README and the configuration agree on where to type."""
        self.assertEqual(sorted(self.ports), [4143, 4191, 5000, 15000, 15001])

    def test_lets_one_in_and_refuses_the_other(self) -> None:
        """15000 echoes, 15001 is reset before the service hears of it; both are recorded, the refusal explained."""
        running = self.start()
        running.wait_until(lambda: "Ctrl-C ends everything" in running.out, "no word on what to type")
        for shipped in (15000, 15001):
            self.assertIn(f"nc 127.0.0.1 {self.ports[shipped]}\n", running.out)
            self.assertIn(f'create_connection(("127.0.0.1", {self.ports[shipped]}))', running.out)

        allowed = self.connect(15000)
        allowed.sendall(b"hello\n")
        self.assertEqual(allowed.recv(100), b"hello\n")
        allowed.close()
        running.wait_until(lambda: running.out.count('"event":"close"') == 2, "no records")
        self.assertEqual(running.out.count('"event":"open"'), 2)
        self.assertIn('"src.identity":"spiffe://quickstart.test/web"', running.out)

        refused = self.connect(15001)
        with self.assertRaises(ConnectionResetError):
            refused.sendall(b"hello\n")
            refused.recv(100)
        running.wait_until(lambda: running.out.count('"event":"close"') == 4, "the refusal is not recorded twice")
        refusals = [json.loads(line) for line in running.out.splitlines() if '"TM-P102"' in line]
        self.assertEqual([record["code"] for record in refusals], ["TM-P102"] * 2)
        running.wait_until(
            lambda: "TM-P102" in running.err and "spiffe://quickstart.test/intruder" in running.err,
            "the refusal is not explained",
        )

        running.signal(signal.SIGINT)
        self.assertEqual(running.wait(), 0, running.both())
        self.assertNotIn("Traceback", running.both())
        self.assert_everything_is_free()

    def test_what_it_says_can_be_typed(self) -> None:
        """The Python one-liner, word for word, prints what came back."""
        running = self.start()
        running.wait_until(lambda: "Ctrl-C ends everything" in running.out, "no word on what to type")
        typed = [line.strip() for line in running.out.splitlines() if line.strip().startswith("python3 -c ")]
        self.assertEqual(len(typed), 2, running.out)
        allowed = Running(self, ["sh", "-c", typed[0]], directory=self.directory)
        self.assertEqual((allowed.wait(), allowed.out), (0, "b'hello\\n'\n"))
        refused = Running(self, ["sh", "-c", typed[1]], directory=self.directory)
        self.assertEqual((refused.wait(), refused.out), (1, ""))
        self.assertIn("ConnectionResetError", refused.err)
        running.signal(signal.SIGTERM)
        self.assertEqual(running.wait(), 0, running.both())

    def test_a_second_interrupt_cuts_an_open_connection(self) -> None:
        """The first Ctrl-C waits for whoever is connected; the second does not, and the status says so."""
        running = self.start()
        running.wait_until(lambda: "Ctrl-C ends everything" in running.out, "no word on what to type")
        client = self.connect(15000)
        client.sendall(b"hello\n")
        self.assertEqual(client.recv(100), b"hello\n")
        running.signal(signal.SIGINT)
        running.wait_until(lambda: not accepts(self.ports[15000]), "still accepts")
        client.sendall(b"still there?\n")
        self.assertEqual(client.recv(100), b"still there?\n")
        running.signal(signal.SIGINT)
        self.assertEqual(running.wait(), 1, running.both())
        self.assertRaises(ConnectionResetError, client.recv, 100)
        self.assert_everything_is_free()

    def test_names_a_busy_port_of_the_service(self) -> None:
        """When port 5000 is taken, that is said, and the proxy is not started."""
        busy = socket.create_server(("127.0.0.1", self.ports[5000]))
        self.addCleanup(busy.close)
        running = self.start()
        self.assertEqual(running.wait(), 1, running.both())
        self.assertEqual(
            running.err, f"line_echo: cannot listen on 127.0.0.1:{self.ports[5000]}: Address already in use\n"
        )
        busy.close()
        self.assert_everything_is_free()

    def test_names_a_busy_port_of_the_proxy(self) -> None:
        """When one of the proxy's ports is taken, that is said, and the service ends as well."""
        busy = socket.create_server(("127.0.0.1", self.ports[15001]))
        self.addCleanup(busy.close)
        running = self.start()
        self.assertEqual(running.wait(), 1, running.both())
        self.assertIn("TM-C102 ", running.err)
        self.assertIn(f"127.0.0.1:{self.ports[15001]}", running.err)
        self.assertNotIn("Traceback", running.both())
        self.assertNotIn("Ctrl-C ends everything", running.out)
        busy.close()
        self.assert_everything_is_free()
