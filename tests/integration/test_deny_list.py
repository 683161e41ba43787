"""A proxy with a deny-list in a file: edited while it runs, by command, by signal and by itself."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
from typing import Any

from tests.integration.processes import TCPMESH, Running
from tests.integration.proxy_case import ProxyTestCase

WEB = "spiffe://example.test/web"


class DenyListTests(ProxyTestCase):
    """Both hops in one process: whoever denies ``web`` denies the proxy's own certificate as well as its peer's."""

    def setUp(self) -> None:
        super().setUp()
        self.list = self.directory / "denied.yaml"
        self.list.write_text("entries: []\n")

    def proxy(self, *, ready: bool = True) -> Running:
        self.configure()
        text = self.file.read_text()
        for old, new in (
            ("  workloads:\n", "  deny_list: {file: denied.yaml}\n  workloads:\n"),
            ("admin: {", 'admin: {listen: "unix:admin.sock", '),
        ):
            self.assertEqual(text.count(old), 1, old)
            text = text.replace(old, new)
        self.file.write_text(text)
        return self.start(*TCPMESH, "run", "tcpmesh.yaml", ready=ready)

    def command(self, *arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [*TCPMESH, *arguments, "--config", "tcpmesh.yaml"],
            cwd=self.directory, capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        self.assertEqual(done.stderr if arguments[0] != "check" else b"", b"")
        return done.returncode, (done.stdout + done.stderr).decode()

    def metrics_text(self) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.metrics, timeout=60)
        self.addCleanup(connection.close)
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()

    def records(self) -> list[dict[str, Any]]:
        lines = (self.directory / "access.log").read_text().splitlines()
        return [record for line in lines if (record := json.loads(line))["event"] == "close"]

    def test_ends_and_refuses_whom_the_file_names(self) -> None:
        """Noticed without being asked; told in the record, the log, the metrics and identity show."""
        running = self.proxy()
        client, server = self.connect()
        self.list.write_text(f'entries:\n  - {{id: "{WEB}", reason: key stolen}}\n')
        for each in (client, server):
            self.assertRaises(ConnectionResetError, each.recv, 1)
        running.wait_until(lambda: len(self.records()) == 2, "the ends are not recorded")
        self.assertEqual({record["code"] for record in self.records()} - {"TM-I105", "TM-I606", "TM-D101"}, set())
        running.wait_until(lambda: "no longer allowed were ended" in running.err, "the line is missing")
        for words in ("TM-I105 workload 'web': its own certificate may not be used", "key stolen", "denied.yaml:2:5"):
            self.assertIn(words, running.err)
        status, shown = self.command("identity", "show")
        self.assertEqual(status, 1)
        self.assertIn(f"denied    id {WEB}, because: key stolen", shown)
        self.assertIn("PROBLEM   denied", shown)
        metrics = self.metrics_text()
        self.assertIn("tcpmesh_deny_list_entries 1.0", metrics)
        self.assertRegex(metrics, r'tcpmesh_review_ended_total\{code="TM-I(105|606)"\} [12]\.0')
        self.list.write_text("entries: []\n")
        running.signal(signal.SIGHUP)
        running.wait_until(lambda: "is no longer denied" in running.err, "the list is not read")
        self.connect()
        self.assertEqual(self.command("identity", "show")[0], 0)

    def test_a_bad_file_changes_nothing_and_is_told_everywhere(self) -> None:
        """The command's status, the log with line and column, the metric; and the proxy does not start with one."""
        running = self.proxy()
        client, server = self.connect()
        self.list.write_text('entries:\n  - {serial: "0x12"}\n')
        status, told = self.command("identity", "reload")
        self.assertEqual(status, 1)
        self.assertIn("deny-list: it cannot be used, what it said before goes on: ", told)
        self.assertIn("denied.yaml:2:14: entries[0].serial: '0x12': write the hex digits", running.err)
        self.assertIn("tcpmesh_deny_list_failing 1.0", self.metrics_text())
        status, told = self.command("identity", "show")
        self.assertEqual(status, 1)
        self.assertIn("PROBLEM   the file cannot be used", told)
        client.sendall(b"still here\n")
        self.assertEqual(server.recv(100), b"still here\n")
        status, told = self.command("check")
        self.assertEqual(status, 1)
        self.assertIn("denied.yaml:2:14", told)
        running.signal(signal.SIGTERM)
        client.close()
        server.close()
        self.assertEqual(running.wait(), 0)
        second = self.proxy(ready=False)
        self.assertEqual(second.wait(), 1)
        self.assertIn("denied.yaml:2:14", second.err)
        self.list.unlink()
        third = self.proxy(ready=False)
        self.assertEqual(third.wait(), 1)
        self.assertIn("denied.yaml: there is no such file", third.err)
