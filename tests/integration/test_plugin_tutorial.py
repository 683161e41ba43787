"""docs/plugins.md, done as it says: its files, its commands, and what it promises to be shown."""

from __future__ import annotations

import re
import socket
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.environments import Environment, run, source_copy
from tests.integration.processes import PATIENCE, ROOT, Running, accepts, free_port, is_ready, wait_until

DOCUMENT = (ROOT / "docs" / "plugins.md").read_text()
PORTS = ("8800", "15000", "4143", "5000")  # those of the document; the test takes free ones


def files() -> dict[str, str]:
    """The files of the document by their names."""
    found = re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)
    return dict(found)


class TutorialTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.environment = Environment(Path(self.mktemp()))
        self.environment.install(source_copy())
        self.work = self.environment.work
        self.ports = {port: str(free_port()) for port in PORTS}

    def write(self, name: str) -> None:
        """Write one file of the document, on this test's ports."""
        text = files()[name]
        for port, free in self.ports.items():
            text = text.replace(port, free)
        (self.work / name).write_text(text)

    def said(self, text: str) -> str:
        """What was shown is what the document shows."""
        self.assertIn(text, DOCUMENT)
        return text

    def trial(self) -> str:
        result = run(self.environment.python, "-m", "twisted.trial", "tcpmesh_company", directory=self.work)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        return result.stdout

    def test_leads_to_a_working_identity_source(self) -> None:
        """Every step of the first part, in its order."""
        written = self.environment.module("tcpmesh", "plugins", "new", "identity", "company")
        for line in written.splitlines():
            self.said(line)
        self.environment.install(self.work / "tcpmesh-company", editable=True)
        self.assertIn(self.said("PASSED (successes=18)"), self.trial())
        line = "identity       company            tcpmesh-company 0.1.0  certificates and keys from a directory"
        self.assertIn(self.said(line), self.environment.module("tcpmesh", "plugins"))

        for name in files():
            self.write(name)
        self.assertIn(self.said("PASSED (successes=19)"), self.trial())

        authority = self.start("authority.py")
        wait_until(lambda: accepts(int(self.ports["8800"])), authority.both)
        mesh = self.work / "mesh.yaml"
        self.assertIn("OK ", self.environment.module("tcpmesh", "check", "mesh.yaml"))
        shown = self.environment.module("tcpmesh", "plugins", "test", "company", "--config", "mesh.yaml")
        self.assertEqual(shown.splitlines()[-1], self.said("identity plugin company: none of 18 points failed"))
        self.check_mistakes(mesh)

        self.start(str(ROOT / "examples" / "line_echo.py"), "127.0.0.1", self.ports["5000"])
        metrics = free_port()
        mesh.write_text(mesh.read_text().replace("10s", "1s") + f'\nadmin: {{metrics: "127.0.0.1:{metrics}"}}\n')
        proxy = self.start("-m", "tcpmesh", "run", "mesh.yaml")
        proxy.wait_until(lambda: is_ready(metrics), "the proxy is ready")
        proxy.wait_until(lambda: self.said("identity source 'authority': INIT -> READY") in proxy.err, "is told")
        self.assertEqual(self.ask(b"hello\n"), b"hello\n")
        authority.kill()
        stale = self.said("identity source 'authority': READY -> STALE (fetching failed: URLError: ")
        proxy.wait_until(lambda: stale in proxy.err, "the failure is told")
        self.assertIn('"code":"TM-I103"', proxy.err)
        self.assertEqual(self.ask(b"hello again\n"), b"hello again\n")

    def start(self, *arguments: str) -> Running:
        command = [self.environment.python, *arguments]
        return Running(self, command, directory=self.work, environment={"PYTHONPATH": ""})

    def check_mistakes(self, mesh: Path) -> None:
        """The document's two mistakes are reported with its words, at its places."""
        wrong = mesh.with_name("wrong.yaml")
        wrong.write_text(mesh.read_text().replace(self.ports["8800"], "8800").replace("http:", "htp:"))
        wrong.write_text(wrong.read_text().replace("interval:", "intervall:"))
        result = run(self.environment.python, "-m", "tcpmesh", "check", "wrong.yaml", directory=self.work)
        for line in result.stderr.splitlines():
            self.said(line[line.index(".yaml:") :])
        self.assertEqual(len(result.stderr.splitlines()), 2, result.stderr)

    def ask(self, data: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", int(self.ports["15000"])), timeout=PATIENCE) as client:
            client.sendall(data)
            return client.recv(100)


class ReferenceTests(SynchronousTestCase):
    def test_names_only_modules_and_names_that_exist(self) -> None:
        """Every ``tcpmesh.…`` in the text can be imported."""
        from twisted.python.reflect import namedAny

        names = {name.rstrip(".") for name in re.findall(r"`(tcpmesh(?:\.[A-Za-z_]+)+)`", DOCUMENT)}
        self.assertIn("tcpmesh.sources.polling.PollingIdentitySource", names)
        for name in names:
            self.assertIsNotNone(namedAny(name), name)

    def test_examples_it_mentions_exist(self) -> None:
        """The third party's plugins are called what the document calls them."""
        drop_in = (ROOT / "examples/third_party_plugin/twisted/plugins/acme_mesh_plugin.py").read_text()
        names = set(re.findall(r"Examples?: `(acme-[a-z-]+)`", DOCUMENT))
        self.assertEqual(len(names), 5)
        for name in names:
            self.assertIn(f'"{name}"', drop_in)
