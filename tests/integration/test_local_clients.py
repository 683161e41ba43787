"""``outbound.clients``: which local users may use an identity, over loopback TCP and over a unix socket."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tcpmesh.codes import CLEAN, CLIENT_NOT_ALLOWED
from tcpmesh.net.local_client import identify_local_client
from tests.integration.applications import RESET, exchange, receive, reset, whole
from tests.integration.endings import EndingTestCase
from tests.integration.mesh import PATIENCE, Proxy, echo, in_thread
from tests.integration.strangers import Target
from tests.integration.test_bytes import has_ipv6
from tests.integration.unix import UnixTestCase

NOBODY = 65534
A_GROUP = 54321  # of which the system knows no member
BROKEN = ("ECONNRESET", "EPIPE", "ENOTCONN")  # of send, of a later send, of shutdown
# Becomes somebody else only when everything is loaded, which that somebody might not be allowed to read.
CLIENT = """
import errno, os, socket, sys
uid, gid, address = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
unix = socket.socket(socket.AF_UNIX)
os.setgroups([]); os.setresgid(gid, gid, gid); os.setresuid(uid, uid, uid)
client = unix if address.startswith("/") else socket.socket()
client.settimeout(20)
try:
    client.connect(address if address.startswith("/") else ("127.0.0.1", int(address)))
    client.sendall(b"hello")
    client.shutdown(socket.SHUT_WR)
    print(client.recv(100).decode())
except OSError as problem:
    print(errno.errorcode[problem.errno])
"""


class OwnerTests(SynchronousTestCase):
    """Who owns the other end of a loopback connection, in each state that it can be in when somebody looks."""

    ADDRESSES = ("127.0.0.1", "::1")

    def connection(self, host: str) -> tuple[socket.socket, socket.socket]:
        """A client, and what was accepted of it."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        if family == socket.AF_INET6 and not has_ipv6():
            raise SkipTest("there is no ::1")
        with socket.create_server((host, 0), family=family) as listener:
            client = socket.create_connection(listener.getsockname()[:2])
            accepted, _ = listener.accept()
        self.addCleanup(client.close)
        self.addCleanup(accepted.close)
        return client, accepted

    def test_a_client_that_is_there_is_identified(self) -> None:
        """Open, with data on its way, and half-closed."""
        for host in self.ADDRESSES:
            client, accepted = self.connection(host)
            for change in (lambda: None, lambda: client.sendall(b"hello"), lambda: client.shutdown(socket.SHUT_WR)):  # noqa: B023
                change()
                found = identify_local_client(accepted)
                assert found is not None, host
                self.assertEqual(found.uid, os.getuid(), host)

    def test_a_client_that_has_closed_is_nobody(self) -> None:
        """Its socket lives on in the kernel without an owner, which looks like root: with unread data or without."""
        for host in self.ADDRESSES:
            for data in (b"", b"payload"):
                client, accepted = self.connection(host)
                client.sendall(data)
                client.close()
                self.assertIsNone(identify_local_client(accepted), (host, data))

    def test_a_client_that_has_reset_is_nobody(self) -> None:
        """There is nothing left to look for."""
        for host in self.ADDRESSES:
            client, accepted = self.connection(host)
            reset(client)
            self.assertIsNone(identify_local_client(accepted), host)


class LocalClientTests(UnixTestCase, EndingTestCase):
    def start_hops(self, clients: str, listen: str = "127.0.0.1:0") -> Proxy:
        """Two hops whose first one serves these clients only."""
        inner = self.start_inbound(self.application(echo))
        return self.start_outbound(inner.port("orders-in"), more=f", clients: {clients}", listen=listen)

    def ask_as(self, uid: int, gid: int, address: str) -> str:
        """What a process of that user sees: the echo, or an error."""
        command = [sys.executable, "-E", "-S", "-c", CLIENT, str(uid), str(gid), address]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE).stdout.strip()

    @staticmethod
    def needs_root() -> None:
        if os.geteuid() != 0:
            raise SkipTest("only root can start a client as another user")

    def open_path(self) -> str:
        """A path for a unix socket that every user reaches."""
        self.sockets.chmod(0o755)
        return self.unix_path("entry")

    async def test_serves_the_user_who_is_named(self) -> None:
        """By uid, over TCP."""
        outer = self.start_hops(f"{{uids: [{os.getuid()}]}}")
        client = self.connect(outer.port("to-orders"))
        self.assertEqual(await in_thread(exchange, client, b"hello"), whole(b"hello"))
        await self.assert_ends(outer, CLEAN, "src")

    async def test_refuses_everybody_else(self) -> None:
        """The application sees a reset, the record says who it was and who may; nothing is dialled."""
        outer = self.start_hops("{uids: [54320], gids: [54321]}")
        received = await in_thread(receive, self.connect(outer.port("to-orders")))
        self.assertEqual((received.length, received.ending), (0, RESET))
        await self.assert_ends(outer, CLIENT_NOT_ALLOWED, "proxy")
        record = outer.tap.close[0]
        self.assertIn(f"uid {os.getuid()} may not use 'to-orders'", record.reason)
        self.assertIn("54320", record.reason)
        self.assertIn("54321", record.reason)
        self.assertEqual((record.attempts, record.dst_addr, outer.tap.open), (0, "", []))

    async def test_refuses_who_is_gone_before_it_can_be_told_who_that_was(self) -> None:
        """Whoever it was, it looks like root, which may: no connection is made for it, and no byte of it leaves."""
        for host in ("127.0.0.1", "::1"):
            if ":" in host and not has_ipv6():
                continue
            target = Target(self)
            listen = f"[{host}]:0" if ":" in host else f"{host}:0"
            outer = self.start_outbound(target.port, more=", clients: {uids: [0]}", listen=listen)
            # The kernel makes the connection; the proxy, in whose thread this runs, looks when all of it is over.
            with socket.create_connection((host, outer.port("to-orders"))) as client:
                client.sendall(b"payload")
            await self.assert_ends(outer, CLIENT_NOT_ALLOWED, "proxy")
            record = outer.tap.close[0]
            self.assertIn("an unknown user may not use 'to-orders'", record.reason)
            self.assertEqual((record.attempts, record.bytes_sent, outer.tap.open), (0, 0, []))
            self.assertFalse(target.was_dialled)

    async def test_tells_users_apart_over_tcp(self) -> None:
        """The owner of the peer's socket counts, not that of the listener."""
        self.needs_root()
        outer = self.start_hops(f"{{uids: [{NOBODY}]}}")
        port = str(outer.port("to-orders"))
        self.assertEqual(await in_thread(self.ask_as, NOBODY, NOBODY, port), "hello")
        await self.assert_ends(outer, CLEAN, "src")
        self.assertIn(await in_thread(self.ask_as, 0, 0, port), BROKEN)
        self.assertIs((await outer.closed(2)).code, CLIENT_NOT_ALLOWED)
        self.assertIn("uid 0 ", outer.tap.close[1].reason)

    async def test_knows_the_groups_of_a_user_over_tcp(self) -> None:
        """The kernel tells the user only, so the user's own groups count; a process's borrowed group does not."""
        self.needs_root()
        nobody = pwd.getpwuid(NOBODY)
        outer = self.start_hops(f"{{gids: [{nobody.pw_gid}, {A_GROUP}]}}")
        port = str(outer.port("to-orders"))
        self.assertEqual(await in_thread(self.ask_as, NOBODY, A_GROUP, port), "hello")
        self.assertIn(await in_thread(self.ask_as, 54320, A_GROUP, port), BROKEN)
        await outer.closed(2)
        self.assertEqual([record.code for record in outer.tap.close], [CLEAN, CLIENT_NOT_ALLOWED])

    async def test_tells_users_apart_over_a_unix_socket(self) -> None:
        """SO_PEERCRED; a refused client sees the connection end or break, as unix sockets have it."""
        self.needs_root()
        path = self.open_path()
        outer = self.start_hops(f"{{uids: [{NOBODY}]}}", listen=f"unix:{path}")
        self.assertEqual(Path(path).stat().st_mode & 0o777, 0o600)
        Path(path).chmod(0o666)
        self.assertEqual(await in_thread(self.ask_as, NOBODY, NOBODY, path), "hello")
        await self.assert_ends(outer, CLEAN, "src")
        self.assertIn(await in_thread(self.ask_as, 0, 0, path), ("", *BROKEN))
        self.assertIs((await outer.closed(2)).code, CLIENT_NOT_ALLOWED)
        self.assertIn("uid 0 ", outer.tap.close[1].reason)

    async def test_knows_the_group_of_a_process_over_a_unix_socket(self) -> None:
        """Here the kernel tells the process's own group, whatever the user's are."""
        self.needs_root()
        path = self.open_path()
        outer = self.start_hops(f"{{gids: [{A_GROUP}]}}", listen=f"unix:{path}")
        Path(path).chmod(0o666)
        self.assertEqual(await in_thread(self.ask_as, 54320, A_GROUP, path), "hello")
        self.assertIn(await in_thread(self.ask_as, 54320, A_GROUP + 1, path), ("", *BROKEN))
        await outer.closed(2)
        self.assertEqual([record.code for record in outer.tap.close], [CLEAN, CLIENT_NOT_ALLOWED])
