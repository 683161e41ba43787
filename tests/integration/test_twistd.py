"""The real twistd and ``tcpmesh run``: users, directories, log files, signals and exit status."""

from __future__ import annotations

import os
import pwd
import signal
import stat
from pathlib import Path

from tests.integration import skip_or_fail
from tests.integration.processes import TCPMESH, TWISTD, accepts, wait_until
from tests.integration.proxy_case import ProxyTestCase


class ForegroundTests(ProxyTestCase):
    """``twistd -n tcpmesh`` and ``tcpmesh run``."""

    def commands(self) -> list[tuple[str, ...]]:
        return [(*TWISTD, "-n", "tcpmesh", "--config", "tcpmesh.yaml"), (*TCPMESH, "run", "tcpmesh.yaml")]

    def test_carries_a_connection_and_ends_with_0(self) -> None:
        """A connection passes both hops; after its end SIGTERM ends the process with status 0, not by a signal."""
        self.configure()
        for command in self.commands():
            running = self.start(*command)
            client, server = self.connect()
            client.close()
            self.assertEqual(server.recv(100), b"")
            server.close()
            running.signal(signal.SIGTERM)
            self.assertEqual(running.wait(), 0, running.both())
            self.assertNotIn("Traceback", running.both())
            self.assert_everything_is_free()
            self.assertFalse((self.directory / "twistd.pid").exists())

    def test_ends_with_0_after_an_interrupt(self) -> None:
        """Ctrl-C is a SIGINT and ends as SIGTERM does."""
        self.configure()
        for command in self.commands():
            running = self.start(*command)
            running.signal(signal.SIGINT)
            self.assertEqual(running.wait(), 0, running.both())
            self.assertNotIn("Traceback", running.both())

    def test_lets_a_connection_finish(self) -> None:
        """After SIGTERM nothing new is accepted, what is open goes on to its own end, and the status is 0."""
        self.configure()
        for command in self.commands():
            running = self.start(*command)
            client, server = self.connect()
            running.signal(signal.SIGTERM)
            running.wait_until(lambda: not accepts(self.outbound), "still accepts")
            client.sendall(b"more\n")
            self.assertEqual(server.recv(100), b"more\n")
            self.assertIsNone(running.process.poll())
            client.close()
            self.assertEqual(server.recv(100), b"")
            server.close()
            self.assertEqual(running.wait(), 0, running.both())

    def test_cuts_what_does_not_finish(self) -> None:
        """When timeouts.shutdown is over, the rest is reset and recorded, and the status is 1."""
        self.configure(shutdown="200ms")
        for command in self.commands():
            running = self.start(*command)
            client, server = self.connect()
            running.signal(signal.SIGTERM)
            self.assertEqual(running.wait(), 1, running.both())
            self.assertRaises(ConnectionResetError, client.recv, 100)
            self.assertRaises(ConnectionResetError, server.recv, 100)
            self.assertNotIn("Traceback", running.both())
            records = (self.directory / "access.log").read_text()
            self.assertIn('"code":"TM-O101"', records)
            (self.directory / "access.log").unlink()

    def test_ends_at_once_at_a_second_signal(self) -> None:
        """A second signal does not wait for timeouts.shutdown: what is open is reset, the status is 1."""
        self.configure(shutdown="1h")
        for command in self.commands():
            running = self.start(*command)
            client, _ = self.connect()
            running.signal(signal.SIGTERM)
            running.wait_until(lambda: not accepts(self.outbound), "still accepts")
            running.signal(signal.SIGTERM)
            self.assertEqual(running.wait(), 1, running.both())
            self.assertRaises(ConnectionResetError, client.recv, 100)

    def test_survives_sighup(self) -> None:
        """SIGHUP says that the configuration is not reloaded, and kills nothing."""
        self.configure()
        for command in self.commands():
            running = self.start(*command)
            client, server = self.connect()
            running.signal(signal.SIGHUP)
            running.wait_until(lambda: "stays as it was read" in running.err, "no answer to SIGHUP")  # noqa: B023
            client.sendall(b"more\n")
            self.assertEqual(server.recv(100), b"more\n")
            running.kill()
            (self.directory / "twistd.pid").unlink(missing_ok=True)

    def test_takes_the_file_from_the_environment(self) -> None:
        """TCPMESH_CONFIG names the file when no option does."""
        self.configure()
        self.file.rename(self.directory / "other.yaml")
        for command in ((*TWISTD, "-n", "tcpmesh"), (*TCPMESH, "run")):
            running = self.start(*command, environment={"TCPMESH_CONFIG": "other.yaml"})
            running.signal(signal.SIGTERM)
            self.assertEqual(running.wait(), 0, running.both())

    def test_separates_log_from_records(self) -> None:
        """Log lines go to standard error, records to standard output, so that a program can read them."""
        self.configure(access="-")
        for command in self.commands():
            running = self.start(*command)
            client, server = self.connect()
            client.close()
            server.close()
            running.wait_until(lambda: running.out.count('"event":"close"') == 2, "no records")  # noqa: B023
            self.assertTrue(all(line.startswith('{"v":1') for line in running.out.splitlines()), running.out)
            self.assertNotIn('"event":', running.err)
            running.signal(signal.SIGTERM)
            self.assertEqual(running.wait(), 0, running.both())


class DaemonTests(ProxyTestCase):
    """``twistd tcpmesh``."""

    def test_serves_and_ends_with_0(self) -> None:
        """The pid file holds the daemon's pid and goes with it; log and records are where the options say."""
        self.configure()
        daemon = self.daemon("--pidfile", "mesh.pid", "--logfile", "mesh.log", pidfile="mesh.pid")
        client, server = self.connect()
        client.close()
        self.assertEqual(server.recv(100), b"")
        server.close()
        daemon.signal(signal.SIGTERM)
        self.assertEqual(daemon.wait(), 0, (self.directory / "mesh.log").read_text())
        self.assertFalse((self.directory / "mesh.pid").exists())
        self.assertIn("SIGTERM", (self.directory / "mesh.log").read_text())
        self.assertEqual((self.directory / "access.log").read_text().count('"event":"close"'), 2)
        self.assert_everything_is_free()

    def test_logs_to_twistd_log_by_default_in_our_format(self) -> None:
        """Without --logfile it is twistd.log as always; a file is no terminal, so the format is JSON."""
        self.configure()
        daemon = self.daemon()
        daemon.signal(signal.SIGTERM)
        daemon.wait()
        lines = (self.directory / "twistd.log").read_text().splitlines()
        self.assertTrue(lines)
        self.assertTrue(all(line.startswith("{") and line.endswith("}") for line in lines), lines)

    def test_rotates_its_log_at_sigusr1(self) -> None:
        """As every twistd."""
        self.configure()
        daemon = self.daemon("--logfile", "mesh.log")
        daemon.signal(signal.SIGUSR1)
        wait_until(lambda: (self.directory / "mesh.log.1").exists(), "not rotated")
        daemon.signal(signal.SIGHUP)
        wait_until(lambda: "SIGHUP" in (self.directory / "mesh.log").read_text(), "nothing in the new file")
        daemon.signal(signal.SIGTERM)
        self.assertEqual(daemon.wait(), 0)

    def test_cuts_what_does_not_finish(self) -> None:
        """The exit status 1 is the daemon's too, and the pid file goes."""
        self.configure(shutdown="200ms")
        daemon = self.daemon()
        client, _ = self.connect()
        daemon.signal(signal.SIGTERM)
        self.assertEqual(daemon.wait(), 1)
        self.assertRaises(ConnectionResetError, client.recv, 100)
        self.assertFalse((self.directory / "twistd.pid").exists())

    def test_ends_at_once_at_a_second_signal(self) -> None:
        """A second signal does not wait for timeouts.shutdown."""
        self.configure(shutdown="1h")
        daemon = self.daemon()
        client, _ = self.connect()
        daemon.signal(signal.SIGTERM)
        wait_until(lambda: not accepts(self.outbound), "still accepts")
        daemon.signal(signal.SIGTERM)
        self.assertEqual(daemon.wait(), 1)
        self.assertRaises(ConnectionResetError, client.recv, 100)
        self.assertFalse((self.directory / "twistd.pid").exists())

    def test_keeps_relative_paths_when_it_changes_directory(self) -> None:
        """With --rundir, paths of the command line are the shell's and paths of the file are the file's."""
        self.configure()
        rundir = self.directory / "run"
        rundir.mkdir()
        daemon = self.daemon("--rundir", "run", "--logfile", "mesh.log")
        self.assertEqual(os.readlink(f"/proc/{daemon.pid}/cwd"), str(rundir))
        daemon.signal(signal.SIGTERM)
        self.assertEqual(daemon.wait(), 0)
        self.assertEqual(sorted(os.listdir(self.directory)), ["access.log", "mesh.log", "run", "state", "tcpmesh.yaml"])
        self.assertEqual(os.listdir(rundir), [])

    def test_gives_everything_to_the_target_user(self) -> None:
        """With --uid and --gid, state and records are the target user's and private, at the second start as well."""
        if os.geteuid() != 0:
            skip_or_fail("only root can change to another user")
        nobody = pwd.getpwnam("nobody")
        os.chown(self.directory, nobody.pw_uid, nobody.pw_gid)
        self.configure()
        for _ in range(2):
            daemon = self.daemon("--uid", "nobody", "--gid", str(nobody.pw_gid))
            status = Path(f"/proc/{daemon.pid}/status").read_text()
            self.assertIn(f"Uid:\t{nobody.pw_uid}\t{nobody.pw_uid}\t", status)
            self.assertIn(f"Gid:\t{nobody.pw_gid}\t{nobody.pw_gid}\t", status)
            client, server = self.connect()
            client.close()
            server.close()
            daemon.signal(signal.SIGTERM)
            self.assertEqual(daemon.wait(), 0, (self.directory / "twistd.log").read_text())
            self.assertFalse((self.directory / "twistd.pid").exists())
            for path in [self.directory / "state", *(self.directory / "state").rglob("*")]:
                found = path.stat()
                self.assertEqual((found.st_uid, found.st_gid), (nobody.pw_uid, nobody.pw_gid), path)
                self.assertEqual(stat.S_IMODE(found.st_mode) & 0o077, 0, path)
            self.assertEqual((self.directory / "access.log").stat().st_uid, nobody.pw_uid)

    def test_binds_low_ports_before_it_gives_up_root(self) -> None:
        """A port below 1024 is root's to bind, and the target user serves it."""
        if os.geteuid() != 0:
            skip_or_fail("only root can bind a low port and change to another user")
        nobody = pwd.getpwnam("nobody")
        os.chown(self.directory, nobody.pw_uid, nobody.pw_gid)
        self.outbound = next(port for port in range(1023, 512, -1) if not accepts(port))
        self.configure()
        daemon = self.daemon("--uid", "nobody", "--gid", str(nobody.pw_gid))
        client, server = self.connect()
        client.close()
        server.close()
        daemon.signal(signal.SIGTERM)
        self.assertEqual(daemon.wait(), 0)
