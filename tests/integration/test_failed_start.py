"""Starts that fail, under the real twistd and ``tcpmesh run``: one line, status 1, nothing left."""

from __future__ import annotations

import os
import signal
import socket

from tests.integration.processes import TCPMESH, TWISTD, Running, accepts, free_port
from tests.integration.proxy_case import ProxyTestCase


class FailedStartTests(ProxyTestCase):
    """A start that fails says why in one line, ends with 1 and leaves nothing."""

    def assert_failed(self, running: Running, *words: str) -> None:
        self.assertEqual(running.wait(), 1, running.both())
        self.assertNotIn("Traceback", running.both())
        plain = [line for line in running.err.splitlines() if line.startswith("tcpmesh: TM-")]
        self.assertEqual(len(plain), 1, running.both())
        for word in words:
            self.assertIn(word, plain[0])
        self.assertEqual(running.err.count(plain[0].removeprefix("tcpmesh: ")), 1, running.err)
        self.assertFalse((self.directory / "twistd.pid").exists())

    def test_reports_a_bad_file_before_anything_else(self) -> None:
        """Every problem is shown on the terminal, also by the daemon; there is no log, no pid file, no state."""
        self.configure(more="unknown_key: 1\nadmim: {}\n")
        for command in (
            (*TWISTD, "-n", "tcpmesh", "-c", "tcpmesh.yaml"),
            (*TWISTD, "tcpmesh", "-c", "tcpmesh.yaml"),
            (*TCPMESH, "run", "tcpmesh.yaml"),
        ):
            running = self.start(*command, ready=False)
            self.assertEqual((running.wait(), running.out), (1, ""))
            lines = running.err.splitlines()
            self.assertEqual(len(lines), 2, running.err)
            self.assertTrue(lines[0].startswith(f"{self.file}:"), running.err)
            self.assertIn("unknown_key", lines[0])
            self.assertIn("admim", lines[1])
            self.assertEqual(os.listdir(self.directory), ["tcpmesh.yaml"])

    def test_reports_a_missing_file(self) -> None:
        """A file that is not there is named."""
        for command in ((*TWISTD, "-n", "tcpmesh"), (*TWISTD, "tcpmesh"), (*TCPMESH, "run")):
            running = self.start(*command, ready=False)
            self.assertEqual((running.wait(), running.out), (1, ""))
            self.assertEqual(len(running.err.splitlines()), 1, running.err)
            self.assertIn(str(self.file), running.err)
            self.assertNotIn("Traceback", running.err)

    def test_names_a_busy_port_and_frees_the_rest(self) -> None:
        """In every mode the port is named, the others are free again, and there is no pid file."""
        self.configure()
        busy = socket.create_server(("127.0.0.1", self.inbound))
        self.addCleanup(busy.close)
        for command in ((*TWISTD, "-n", "tcpmesh"), (*TWISTD, "tcpmesh"), (*TCPMESH, "run")):
            running = self.start(*command, ready=False)
            self.assert_failed(
                running, f"TM-C102 orders-in: cannot listen on 127.0.0.1:{self.inbound}: Address already"
            )
            self.assertFalse(accepts(self.outbound))
            self.assertFalse(accepts(self.metrics))
            self.assertFalse((self.directory / "state").exists())

    def test_a_daemon_that_failed_says_why_in_its_log(self) -> None:
        """Who starts it from a script finds the reason later."""
        self.configure()
        busy = socket.create_server(("127.0.0.1", self.inbound))
        self.addCleanup(busy.close)
        running = self.start(*TWISTD, "--logfile", "mesh.log", "tcpmesh", ready=False)
        self.assert_failed(running, "TM-C102")
        log = (self.directory / "mesh.log").read_text()
        self.assertIn(f"127.0.0.1:{self.inbound}", log)
        self.assertNotIn("Traceback", log)

    def test_refuses_a_state_that_is_in_use(self) -> None:
        """A second process on the same state is told so; the first goes on."""
        self.configure()
        first = self.foreground()
        self.outbound, self.inbound, self.metrics = free_port(), free_port(), free_port()
        self.file = self.directory / "second.yaml"
        self.configure()
        for command in (
            (*TWISTD, "-n", "--pidfile", "second.pid", "tcpmesh", "-c", "second.yaml"),
            (*TWISTD, "--pidfile", "second.pid", "tcpmesh", "-c", "second.yaml"),
            (*TCPMESH, "run", "second.yaml"),
        ):
            running = self.start(*command, ready=False)
            self.assertEqual(running.wait(), 1, running.both())
            self.assertNotIn("Traceback", running.both())
            self.assertEqual(running.err.count("tcpmesh: TM-C103 "), 1, running.err)
            self.assertIn(str(self.directory / "state"), running.err)
            self.assertFalse((self.directory / "second.pid").exists())
            self.assert_everything_is_free()
        self.assertIsNone(first.process.poll())
        first.signal(signal.SIGTERM)
        self.assertEqual(first.wait(), 0, first.both())

    def test_a_daemon_has_no_standard_output_for_records(self) -> None:
        """log.access "-" is refused on the terminal, with what to write instead; in the foreground it is good."""
        self.configure(access="-")
        running = self.start(*TWISTD, "tcpmesh", ready=False)
        self.assertEqual((running.wait(), running.out), (1, ""))
        self.assertIn('log.access is "-"', running.err)
        self.assertIn('access: "/var/log/tcpmesh/access.log"', running.err)
        self.assertEqual(os.listdir(self.directory), ["tcpmesh.yaml"])
