"""A proxy whose files are replaced while it runs: noticed, or asked for, and never a connection lost."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
from pathlib import Path
from typing import Any

from tcpmesh.identity.certificates import pem_of, serial_text
from tcpmesh.testing import TestAuthority
from tcpmesh.values import Svid
from tests.integration.processes import TCPMESH, Running
from tests.integration.proxy_case import ProxyTestCase


class ReloadedFilesTests(ProxyTestCase):
    """Both hops in one process, their certificates in files."""

    def setUp(self) -> None:
        super().setUp()
        self.authority = TestAuthority()
        self.authority.write_bundle(self.directory / "bundle.pem")
        self.renew()

    def renew(self, directory: Path | None = None) -> dict[str, Svid]:
        """Write a new pair for each workload."""
        svids = {name: self.authority.svid(f"/{name}") for name in ("web", "orders")}
        for name, svid in svids.items():
            self.authority.write_svid(svid, directory or self.directory, name)
        return svids

    def proxy(self, interval: str, place: str = "") -> Running:
        self.configure()
        text = self.file.read_text()
        for old, new in (
            (
                "{plugin: embedded, state: state}",
                f"{{plugin: files, interval: {interval}, bundles: {{example.test: {place}bundle.pem}}}}",
            ),
            ('test/web"}', f'test/web", certificate: {place}web.pem, key: {place}web.key}}'),
            ('test/orders"}', f'test/orders", certificate: {place}orders.pem, key: {place}orders.key}}'),
            ("admin: {", 'admin: {listen: "unix:admin.sock", '),
        ):
            self.assertEqual(text.count(old), 1, old)
            text = text.replace(old, new)
        self.file.write_text(text)
        return self.start(*TCPMESH, "run", "tcpmesh.yaml")

    def reload(self) -> tuple[int, dict[str, Any]]:
        """Run the command; give its status and answer."""
        command = [*TCPMESH, "identity", "reload", "--json", "--config", "tcpmesh.yaml"]
        done = subprocess.run(command, cwd=self.directory, capture_output=True, timeout=60, check=False)
        self.assertEqual(done.stderr, b"")
        answer: dict[str, Any] = json.loads(done.stdout)
        return done.returncode, answer["sources"][0]

    def serials(self) -> list[str]:
        """Of the client of each inbound connection so far."""
        records = map(json.loads, (self.directory / "access.log").read_text().splitlines())
        return [
            record["src.serial"] for record in records if record["event"] == "open" and record["direction"] == "inbound"
        ]

    def metrics_text(self) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.metrics, timeout=60)
        self.addCleanup(connection.close)
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()

    def test_takes_new_files_when_it_is_asked(self) -> None:
        """By command and by SIGHUP; a connection that was open lives on, a new one shows the new certificate."""
        running = self.proxy("1m")
        client, server = self.connect()
        new = self.renew()
        self.assertEqual(self.reload()[0], 0)
        self.connect()
        self.assertEqual(self.serials()[1], serial_text(new["web"].leaf))
        newer = self.renew()
        running.signal(signal.SIGHUP)
        running.wait_until(lambda: serial_text(newer["orders"].leaf) in running.err, "the new files are not in use")
        self.connect()
        self.assertEqual(self.serials()[2], serial_text(newer["web"].leaf))
        self.assertEqual(len(set(self.serials())), 3)
        client.sendall(b"still here\n")
        self.assertEqual(server.recv(100), b"still here\n")

    def test_says_what_it_cannot_use_and_goes_on(self) -> None:
        """With the file and why, in the answer, the log and the metrics; good files end it."""
        running = self.proxy("1m")
        key = (self.directory / "web.key").read_bytes()
        (self.directory / "web.key").write_bytes(b"")
        status, source = self.reload()
        self.assertEqual((status, source["state"]), (1, "stale"))
        self.assertIn("/web.key is empty", source["reason"])
        self.assertIn("TM-I103 identity source 'local': READY -> STALE", running.err)
        shown = self.metrics_text()
        self.assertIn('tcpmesh_identity_source_state{source="local",state="stale"} 1.0', shown)
        self.assertIn('tcpmesh_identity_source_failures_total{source="local"} 1.0', shown)
        self.assertIn('tcpmesh_svid_age_seconds{source="local",workload="web"}', shown)
        self.connect()
        (self.directory / "web.key").write_bytes(key)
        status, source = self.reload()
        self.assertEqual((status, source["state"]), (0, "ready"))
        self.assertIn("identity source 'local': STALE -> READY", running.err)
        self.assertNotIn("PRIVATE KEY", running.err)

    def test_follows_a_directory_that_is_swapped(self) -> None:
        """As Kubernetes does it, without being asked; with another root half way, which both bundles hold."""
        first = self.directory / "v0"
        first.mkdir()
        self.write_version(first)
        (self.directory / "data").symlink_to("v0")
        running = self.proxy("100ms", "data/")
        self.connect()
        former = self.authority
        for number in range(1, 5):
            if number == 3:
                self.authority = TestAuthority()
            directory = self.directory / f"v{number}"
            directory.mkdir()
            svids = self.write_version(directory, former)
            (self.directory / "tmp").symlink_to(directory.name)
            (self.directory / "tmp").rename(self.directory / "data")
            serial = serial_text(svids["web"].leaf)
            running.wait_until(lambda: serial in running.err, f"version {number} is not in use")  # noqa: B023
            self.connect()
            self.assertEqual(self.serials()[-1], serial)
        self.assertNotIn("STALE", running.err)

    def write_version(self, directory: Path, former: TestAuthority | None = None) -> dict[str, Svid]:
        authorities = {each.root.certificate for each in (self.authority, former or self.authority)}
        (directory / "bundle.pem").write_bytes(pem_of(authorities))
        return self.renew(directory)
