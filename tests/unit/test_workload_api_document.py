"""docs/identity.md: its section about the Workload API says what is so."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.config import loads
from tcpmesh.identity import workload_messages
from tcpmesh.plugins import PluginRegistry
from tcpmesh.sources import grpc_stream, workload_api
from tcpmesh.sources.grpc_wire import MAX_MESSAGE, Status, status_text
from tests.documents import ROOT, blocks, section

SECTION = section((ROOT / "docs" / "identity.md").read_text(encoding="utf-8"), "Identities from a Workload API")


def row(beginning: str) -> str:
    """The row of a table that begins so."""
    (found,) = [line for line in SECTION.splitlines() if line.startswith(f"| {beginning}")]
    return found


class WorkloadAPIDocumentTests(SynchronousTestCase):
    def test_the_configuration_loads(self) -> None:
        """As it stands."""
        (block,) = [block for block in blocks(SECTION) if block.language == "yaml"]
        settings = loads(block.text.encode(), Path("/etc/mesh/tcpmesh.yaml"), PluginRegistry())
        self.assertEqual(settings.identity.sources["agent"].settings.socket, "unix:///run/spire/agent.sock")

    def test_statuses(self) -> None:
        """With the times until the next call."""
        self.assertEqual(
            (workload_api.FIRST_RETRY, workload_api.LAST_RETRY, workload_api.SLOW_RETRY), (1.0, 30.0, 300.0)
        )
        denied, pointless = row("`PermissionDenied`"), row("`InvalidArgument`, `Unimplemented`")
        self.assertEqual(status_text(Status.PERMISSION_DENIED), "PermissionDenied")
        self.assertIn("`REVOKED` | after 1 s, doubling to 30 s |", denied)
        self.assertIn("| after 5 min |", pointless)
        for beginning in ("any other status", "no connection"):
            self.assertIn("| after 1 s, doubling to 30 s |", row(beginning))

    def test_limits(self) -> None:
        """Those that the code has."""
        messages = workload_messages
        self.assertIn(
            f"{MAX_MESSAGE >> 20} MiB, {messages.MAX_SVIDS} SVIDs, {messages.MAX_BUNDLES} bundles, "
            f"{messages.MAX_CERTIFICATES} certificates each",
            row("a message | 4"),
        )
        self.assertIn(f"| {grpc_stream.ANSWER_TIME:g} s |", row("time to the first message"))
        silence = f"{grpc_stream.KEEPALIVE:g} s, then a PING, which must be answered within {grpc_stream.PONG_TIME:g} s"
        self.assertIn(silence, row("silence"))
        self.assertIn(f"| {grpc_stream.MAX_FRAMES} a minute |", row("frames that carry no part"))
