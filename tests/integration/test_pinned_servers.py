"""Servers without a name that could be verified, known by their key: ``expect: ["spki:sha256:..."]``."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import sys
from pathlib import Path

from tcpmesh.cli import main
from tcpmesh.codes import KEY_DIFFERS
from tcpmesh.observe.records import ConnectionRecord
from tests import refusal_matrix
from tests.integration import program
from tests.integration.applications import RESET, Received, receive, whole
from tests.integration.field import TRUST_DOMAIN
from tests.integration.foreign_case import REPLY, ForeignProgramTestCase
from tests.integration.foreign_programs import issued_files
from tests.integration.mesh import Proxy, in_thread
from tests.integration.servers import run, temporary_directory
from tests.integration.test_foreign_names import greet

SERVICE = """\
services:
  orders:
    expect: [{pins}]
    discovery: {{plugin: static, endpoints: ["127.0.0.1:{port}"]}}
outbound:
  - {{name: to-orders, listen: "127.0.0.1:0", service: orders, workload: web}}
"""
OTHER = "spki:sha256:" + base64.b64encode(bytes(32)).decode()


class PinnedServerTests(ForeignProgramTestCase):
    """``openssl s_server`` with a certificate that it signed itself."""

    def self_signed(self) -> tuple[Path, str]:
        """The server's files, and its key's pin as openssl(1) computes it (RFC 7469 appendix A)."""
        files, openssl = issued_files(self, "orders"), program("openssl", "openssl")
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", files / "key.pem")
        subject = ("-subj", "/CN=appliance", "-days", "1", "-out", files / "certificate.pem")
        run(openssl, "req", "-x509", *key, *subject, directory=files)
        der = temporary_directory(self) / "key.der"
        run(openssl, "pkey", "-in", files / "key.pem", "-pubout", "-outform", "DER", "-out", der, directory=files)
        return files, f"spki:sha256:{base64.b64encode(hashlib.sha256(der.read_bytes()).digest()).decode()}"

    def start_block_outbound(self, block: str, endpoint: int, *, files: Path | None = None) -> Proxy:
        """Our outbound proxy, with the pins as its expectation."""
        text = self.acting_as("web") + SERVICE.format(pins=block, port=endpoint)
        return self.start(text, trust_domain=TRUST_DOMAIN)

    async def ask(self, files: Path, *pins: str) -> tuple[Received, ConnectionRecord]:
        """What the application got from the server behind our outbound proxy, and the proxy's record."""
        listed = ", ".join(f'"{pin}"' for pin in pins)
        hop = await self.server_hop("openssl", listed, greet, files=files)

        def wait() -> Received:
            with hop.connect() as client:
                return receive(client, len(REPLY))

        answer = await in_thread(wait)
        return answer, await hop.proxy.closed()

    async def test_the_key_is_who_the_server_is(self) -> None:
        """Self-signed, without names: its pin is its identity in the record; one of several is enough."""
        files, pin = self.self_signed()
        answer, record = await self.ask(files, OTHER, pin)
        self.assertEqual(answer, whole(REPLY), record)
        self.assertTrue(record.established)
        self.assertEqual((record.dst_identity, record.sni), (pin, ""))

    async def test_another_key(self) -> None:
        """TM-I704 with both pins; the application sees a reset and no byte of the server's."""
        files, pin = self.self_signed()
        answer, record = await self.ask(files, OTHER)
        self.assertEqual((answer.length, answer.ending), (0, RESET))
        self.assertEqual((record.code, record.dst_identity, record.established), (KEY_DIFFERS, "", False))
        self.assertIn(f"expected {OTHER}; the key of subject CN=appliance is {pin}", record.reason)
        self.assertEqual((record.presented, record.expected), ("subject CN=appliance", OTHER))
        documented = [row for row in refusal_matrix.rows() if row.outbound_log == KEY_DIFFERS.id]
        self.assertEqual([(row.application, row.wire) for row in documented], [("RST", "alert, FIN")])

    async def test_a_certificate_of_the_mesh_is_no_substitute(self) -> None:
        """Whoever vouches for another key: it is not the pinned one."""
        _, record = await self.ask(issued_files(self, "orders"), OTHER)
        self.assertEqual((record.code, record.presented), (KEY_DIFFERS, f"spiffe://{TRUST_DOMAIN}/orders"))

    def test_inspect_shows_the_pin(self) -> None:
        """The one that openssl(1) computes, as it is to be written; for people and for programs."""
        files, pin = self.self_signed()
        certificate = str(files / "certificate.pem")
        self.assertIn(f"            pin     {pin}\n", self.inspect(certificate))
        answer = json.loads(self.inspect(certificate, "--json"))
        self.assertEqual([each["pin"] for each in answer["certificates"]], [pin])

    def inspect(self, *arguments: str) -> str:
        """What the command writes."""
        out = io.StringIO()
        self.patch(sys, "stdout", out)
        self.assertRaises(SystemExit, main, ["svid", "inspect", *arguments])
        return out.getvalue()
