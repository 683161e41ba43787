"""Policies in files, beside a proxy that runs: what check says, what a change does, what a bad one does not."""

from __future__ import annotations

import io
import subprocess
import sys

from tcpmesh.cli import main
from tcpmesh.codes import NO_RULE_ALLOWS
from tcpmesh.errors import ConfigurationError
from tests.integration.applications import RESET, receive, until
from tests.integration.mesh import MeshTestCase, Proxy, echo, in_thread
from tests.integration.servers import temporary_directory

ALLOW = (
    'policies: [{name: may, action: allow, from: [{ids: ["spiffe://mesh.test/web"]}], to: {inbound: [orders-in]}}]\n'
)
DENY = "{name: nobody, action: deny, from: [{any: authenticated}]}"


class PolicyFilesTests(MeshTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.policies = self.directory / "policies.d"
        self.policies.mkdir()
        self.file = self.policies / "10-web.yaml"
        self.file.write_text(ALLOW)

    def hops(self) -> tuple[Proxy, int]:
        """An inbound proxy with the policies, and the port of an outbound one in front of it."""
        top = "authorization: [{plugin: rules, directory: policies.d, interval: 100ms}]\n"
        inner = self.start_inbound(self.application(echo), allow=(), top=top)
        return inner, self.start_outbound(inner.port("orders-in")).port("to-orders")

    async def passes(self, port: int) -> bool:
        """Whether a connection gets through."""
        client = self.connect(port)
        client.sendall(b"hello")
        client.shutdown(1)
        received = await in_thread(receive, client)
        if received.length == 5:
            return True
        self.assertEqual(received.ending, RESET)
        return False

    async def test_a_change_is_taken_while_the_proxy_runs(self) -> None:
        """From one connection to the next; the record says by which rule of which file."""
        inner, port = self.hops()
        self.assertTrue(await self.passes(port))
        first = await inner.closed(1)
        self.assertRegex(first.rule, r"\Apolicies\[0\]\.from\[0\]\.ids\[0\] \(.*policies\.d/10-web\.yaml:1:\d+\)\Z")
        state = inner.service.composition.state
        before = state.current.policies
        self.file.write_text("policies: []\n")
        inner.service.reload_identities()
        await until(lambda: state.current.policies is not before, "the policies are others")
        self.assertFalse(await self.passes(port))
        refused = await inner.closed(2)
        self.assertIs(refused.code, NO_RULE_ALLOWS)
        self.assertGreater(refused.generation, first.generation)

    async def test_a_bad_change_changes_nothing(self) -> None:
        """The old policies go on to decide, and metric and log say why."""
        inner, port = self.hops()
        generation = inner.service.composition.state.current.generation
        (self.policies / "20-deny.yaml").write_text("policies: [{name: x, action: deny, from: [{any: authenticated}]}]")
        self.file.write_text(ALLOW.replace("orders-in", "order-in"))
        inner.service.reload_identities()
        await until(lambda: inner.service.composition.policies.failing, "the change is refused")
        self.assertTrue(await self.passes(port))
        self.assertEqual(inner.service.composition.state.current.generation, generation)
        (told,) = inner.service.composition.policies.failing.values()
        self.assertIn(f"{self.file.absolute()}:1:", told)
        self.assertIn("there is no inbound listener 'order-in'; did you mean 'orders-in'?", told)

    async def reload(self, admin: str) -> tuple[int, str]:
        """What ``tcpmesh policy reload`` says, and its exit status."""
        command = [sys.executable, "-m", "tcpmesh", "policy", "reload", "--admin", admin]
        done = await in_thread(lambda: subprocess.run(command, capture_output=True, text=True, timeout=60, check=False))
        return done.returncode, done.stdout + done.stderr

    async def test_reload_answers_when_the_files_were_read(self) -> None:
        """Its exit status is about what is there now, not about what was there before."""
        admin = f"unix:{temporary_directory(self)}/admin.sock"
        top = f"authorization: [{{plugin: rules, directory: policies.d, interval: 1m}}]\nadmin: {{listen: '{admin}'}}\n"
        self.start_inbound(self.application(echo), allow=(), top=top)
        self.file.write_text("policies: [{name: x}]")
        status, said = await self.reload(admin)
        self.assertEqual(status, 1, said)
        self.assertIn("10-web.yaml:1:12: key 'action' is missing in policies[0]", said)
        self.file.write_text(ALLOW)
        self.assertEqual(await self.reload(admin), (0, "authorization[0] rules: good\n"))

    async def test_a_proxy_does_not_start_with_a_bad_file(self) -> None:
        """There is nothing to go on with."""
        self.file.write_text("policies: [{name: x}]")
        failure = self.assertRaises(ConfigurationError, self.hops)
        self.assertIn(f"{self.file.absolute()}:1:12: key 'action' is missing in policies[0]", str(failure))

    def check(self) -> tuple[int, str]:
        """What ``tcpmesh check`` says."""
        text = "version: 1\ntrust_domain: mesh.test\n" + self.identity("orders")
        text += 'inbound: [{name: orders-in, listen: "127.0.0.1:0", target: "127.0.0.1:5000", workload: orders}]\n'
        text += "authorization: [{plugin: rules, directory: policies.d}]\n"
        path = self.directory / "tcpmesh.yaml"
        path.write_text(text)
        out, err = io.StringIO(), io.StringIO()
        self.patch(sys, "stdout", out)
        self.patch(sys, "stderr", err)
        status = self.assertRaises(SystemExit, main, ["check", str(path)]).code
        assert isinstance(status, int)
        return status, out.getvalue() + err.getvalue()

    def test_check_reads_the_files(self) -> None:
        """Exit status 0 with warnings about what will never decide, 1 with the place of what is wrong."""
        self.assertEqual(self.check()[0], 0)
        self.file.write_text(ALLOW.replace("[{name", f"[{DENY}, {{name"))
        status, output = self.check()
        self.assertEqual(status, 0, output)
        self.assertIn("policy 'may' can never allow spiffe://mesh.test/web (ids[0]): policy 'nobody'", output)
        self.file.write_text("policies: [{name: x}]")
        status, output = self.check()
        self.assertEqual(status, 1, output)
        self.assertIn("10-web.yaml:1:12: key 'action' is missing in policies[0]", output)
