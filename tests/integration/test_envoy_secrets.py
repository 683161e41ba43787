"""Envoy with certificates that change under live traffic: in files, and from an agent such as SPIRE's."""

from __future__ import annotations

import itertools
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography import x509
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from tcpmesh.codes import CLEAN, PEER_ALERT
from tcpmesh.identity.certificates import serial_text
from tests.integration.applications import Received, push, receive, whole
from tests.integration.envoy import RESOURCES, Change, in_place_of, with_agent, with_tls
from tests.integration.field import TRUST_DOMAIN, authority, stranger
from tests.integration.foreign_case import ForeignMixin, ForeignProgramTestCase, Hop, Serve
from tests.integration.foreign_programs import issued_files
from tests.integration.mesh import PATIENCE, in_thread, reactor
from tests.integration.processes import ROOT, TCPMESH
from tests.integration.sds_agent import Agent
from tests.integration.servers import run, temporary_directory
from tests.integration.snippets import fill

DOMAIN = f"spiffe://{TRUST_DOMAIN}"
HELLO = b"hello"
RENEWALS = 3


def echo(connection: socket.socket) -> None:
    """Send back what comes, up to the end."""
    while data := connection.recv(1024):
        connection.sendall(data)


def ask(client: socket.socket) -> Received:
    """Send something and get it back."""
    push(client, HELLO)
    return receive(client, len(HELLO))


class RenewalTests(ForeignMixin):
    """Three renewals under traffic, with Envoy at either side of ours."""

    async def begin(self, name: str, serve: Serve) -> Hop:
        """Start Envoy as web, who calls our orders, or as orders, whom our web calls."""
        raise NotImplementedError

    def renew(self, name: str) -> str:
        """Give Envoy another certificate; say its serial number. Blocks."""
        raise NotImplementedError

    def issue(self, name: str, directory: Path) -> str:
        """As ``tcpmesh ca issue --force`` does it; give the serial number."""
        identity = f"spiffe://{TRUST_DOMAIN}/{name}"
        state = authority().directory / "state"
        run(
            *TCPMESH, "ca", "issue", "--state", state, "--id", identity, "--out", directory, "--force",
            environment={"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        return serial_text(x509.load_pem_x509_certificate((directory / "certificate.pem").read_bytes()))

    async def check(self, name: str, serial_of: Callable[[Any], str]) -> None:
        hop = await self.begin(name, echo)
        lasting = hop.connect()
        self.assertEqual(await in_thread(ask, lasting), whole(HELLO))
        for _renewal in range(RENEWALS):
            await self.use_until(hop, deferToThread(self.renew, name), serial_of)
        records = hop.proxy.tap.close
        self.assertEqual({record.code for record in records}, {CLEAN})
        serials = [serial for serial, _records in itertools.groupby(map(serial_of, records))]
        self.assertEqual(len(serials), RENEWALS + 1)
        self.assertEqual(len(set(serials)), RENEWALS + 1, "it went back to an older one")

        self.assertEqual(await in_thread(ask, lasting), whole(HELLO))
        lasting.close()
        count = len(records)
        last = await hop.proxy.closed(count + 1)
        self.assertEqual((last.code, serial_of(last)), (CLEAN, serials[0]))

    async def use_until(self, hop: Hop, renewing: Deferred[str], serial_of: Callable[[Any], str]) -> None:
        """One connection after the other, while certificates are renewed and until the new one is shown."""
        renewed: list[str] = []
        renewing.addCallback(renewed.append)
        deadline = reactor.seconds() + PATIENCE
        while True:
            if reactor.seconds() > deadline:
                raise AssertionError(f"Envoy does not show {renewed}; it says {hop.peer.said}")

            def once() -> Received:
                with hop.connect() as client:
                    return ask(client)

            count = len(hop.proxy.tap.close)
            self.assertEqual(await in_thread(once), whole(HELLO))
            record = await hop.proxy.closed(count + 1)
            if renewed and serial_of(record) == renewed[0]:
                await renewing
                return

    async def test_client(self) -> None:
        """Envoy before our inbound proxy: no connection fails, and the one that lasts keeps its certificate."""
        await self.check("web", lambda record: record.src_serial)

    async def test_server(self) -> None:
        """Envoy behind our outbound proxy: the same."""
        await self.check("orders", lambda record: record.dst_serial)


class EnvoyCase(ForeignProgramTestCase):
    """Starts Envoy in one of the roles."""

    async def begin_as(self, name: str, serve: Serve, files: Path, change: Change) -> Hop:
        if name == "web":
            return await self.client_hop("envoy", "inbound", serve, files=files, change=change)
        return await self.server_hop("envoy", "service", serve, files=files, change=change)


class FilesTests(RenewalTests, EnvoyCase):
    """``tcpmesh ca issue --force`` in a directory that Envoy watches."""

    async def begin(self, name: str, serve: Serve) -> Hop:
        self.files = issued_files(self, name)
        resources = temporary_directory(self)
        for kind in ("identity", "bundle"):
            (resources / f"{kind}.yaml").write_text(fill(f"envoy-files-{kind}", files=self.files))
        here = in_place_of(RESOURCES, f"{resources}/")
        return await self.begin_as(
            name, serve, self.files, with_tls("envoy-files", server=name == "orders", change=here)
        )

    def renew(self, name: str) -> str:
        return self.issue(name, self.files)


class AgentTests(RenewalTests, EnvoyCase):
    """An agent that serves the names that SPIRE's serves."""

    async def begin(self, name: str, serve: Serve) -> Hop:
        self.files = temporary_directory(self)
        shutil.copy(authority().bundle, self.files / "bundle.pem")
        self.agent = await in_thread(Agent, self)
        self.agent.put_bundles(DOMAIN, {TRUST_DOMAIN: authority().bundle})
        self.agent.put_certificate(name, issued_files(self, name))
        return await self.begin_as(name, serve, self.files, with_agent(self.agent.socket, server=name == "orders"))

    def renew(self, name: str) -> str:
        serial = self.issue(name, self.files)
        self.agent.put_certificate(name, self.files)
        self.agent.send()
        return serial

    async def test_bundle_that_changes(self) -> None:
        """Without our authority Envoy refuses us at the next connection, and with it takes us again."""
        for name in ("web", "orders"):
            hop = await self.begin(name, echo)

            def once(hop: Hop = hop) -> Received:
                with hop.connect() as client:
                    return ask(client)

            for bundle, code in (
                (authority().bundle, CLEAN),
                (stranger().bundle, PEER_ALERT),
                (authority().bundle, CLEAN),
            ):
                self.agent.put_bundles(DOMAIN, {TRUST_DOMAIN: bundle})
                self.agent.send()
                deadline = reactor.seconds() + PATIENCE
                while True:
                    count = len(hop.proxy.tap.close)
                    await in_thread(once)
                    record = await hop.proxy.closed(count + 1)
                    if record.code is code:
                        break
                    self.assertLess(reactor.seconds(), deadline, record)
