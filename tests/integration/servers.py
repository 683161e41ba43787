"""
The servers that Debian packages: started on free loopback ports in directories of their own, and always stopped.

Those that refuse to run as root run as the user that their package made for them.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.integration import program
from tests.integration.processes import PATIENCE, Running, accepts, free_port

__all__ = ["MariaDB", "PostgreSQL", "Redis", "Server", "as_user", "run", "temporary_directory"]


def as_user(name: str) -> tuple[str, ...]:
    """What to put in front of a command so that root runs it as another user; nothing for anybody else."""
    if os.geteuid() != 0:
        return ()
    return (program("setpriv", "util-linux"), f"--reuid={name}", f"--regid={name}", "--init-groups", "--")


def temporary_directory(test: SynchronousTestCase, owner: str | None = None) -> Path:
    """
    Make a directory that is removed after the test.

    In /tmp, not in trial's own: the path of a unix socket must be short, and another user must be able to get there.
    """
    holder = tempfile.TemporaryDirectory(prefix="tcpmesh-")  # removes itself when a run is interrupted, too
    test.addCleanup(holder.cleanup)
    directory = Path(holder.name)
    if owner is not None and os.geteuid() == 0:
        shutil.chown(directory, owner, owner)
    return directory


def run(
    *arguments: str | Path,
    feed: bytes = b"",
    status: int | None = 0,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """
    Run a command to its end, within a bound.

    :param feed: its standard input.
    :param status: the exit status that it must have; None for any.
    :raises AssertionError: with everything that it wrote, when it has another.
    """
    shown = " ".join(map(str, arguments))
    try:
        ended = subprocess.run(
            list(map(str, arguments)),
            input=feed,
            capture_output=True,
            env={**os.environ, "LC_ALL": "C", **(environment or {})},
            cwd=directory,
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired as problem:
        raise AssertionError(f"{shown}: did not end; it wrote {problem.stdout!r}, {problem.stderr!r}") from None
    if status is not None and ended.returncode != status:
        raise AssertionError(
            f"{shown}: exit status {ended.returncode} instead of {status}\n"
            f"standard output: {ended.stdout[-2000:]!r}\nstandard error: {ended.stderr[-2000:]!r}"
        )
    return ended


class Server(Running):
    """A process that is asked to stop, and whose whole process group is killed if it does not."""

    def __init__(
        self,
        test: SynchronousTestCase,
        arguments: Sequence[str | Path],
        *,
        directory: Path,
        environment: Mapping[str, str] | None = None,
        stop: int = signal.SIGTERM,
        standard_io: socket.socket | None = None,
    ) -> None:
        self._stop_signal = stop
        super().__init__(
            test,
            [str(argument) for argument in arguments],
            directory=directory,
            environment=environment,
            standard_io=standard_io,
        )
        atexit.register(self.kill)  # an interrupted run does no clean-up

    def kill(self) -> None:
        """Stop it, if it has not ended."""
        atexit.unregister(self.kill)
        if self.process.poll() is None:
            self.signal(self._stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(PATIENCE / 2)
        # Started as the leader of its own session: the group holds it and what it forked.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class PostgreSQL:
    """
    A PostgreSQL with an empty database; ``postgres`` may do everything from loopback without a password.

    :param tls: a directory of ``tcpmesh ca issue`` whose certificate it offers to clients, as Debian's offers its own.
    :param follows: the server that it is a hot standby of, instead: with its data, and then with what happens there.
    :param settings: more of its own, by name.
    """

    def __init__(
        self,
        test: SynchronousTestCase,
        *,
        tls: Path | None = None,
        follows: PostgreSQL | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._test = test
        self._user = as_user("postgres")
        self._postgres = program("postgres", "postgresql")
        self._is_ready = program("pg_isready", "postgresql")
        self.directory = temporary_directory(test, "postgres")
        self.port = free_port()
        self._data = self.directory / "data"
        if follows is None:
            run(
                *self._user, program("initdb", "postgresql"), "--no-sync", "--auth=trust", "--username=postgres",
                "--no-locale", "--encoding=UTF8", "-D", self._data, directory=self.directory,
            )  # fmt: skip
        else:
            where = f"host={follows.directory} port={follows.port} user=postgres application_name=standby"
            run(
                *self._user, program("pg_basebackup", "postgresql"), "--no-sync", "--checkpoint=fast",
                "--wal-method=stream", "--write-recovery-conf", "-D", self._data, "-d", where,
                directory=self.directory,
            )  # fmt: skip
        self._settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.directory),
            "fsync": "off",
            "max_wal_size": "1GB",
            "synchronize_seqscans": "off",  # so that a table comes out in the order in which it went in
            **(settings or {}),
        }
        if tls is not None:
            for name in ("certificate.pem", "key.pem"):
                shutil.copy(tls / name, self.directory)
                if os.geteuid() == 0:
                    shutil.chown(self.directory / name, "postgres", "postgres")
            self._settings |= {
                "ssl": "on",
                "ssl_cert_file": str(self.directory / "certificate.pem"),
                "ssl_key_file": str(self.directory / "key.pem"),
            }
        self.server = self.start()

    def start(self) -> Server:
        """Start it, on the same port and with the same data each time."""
        options = [f"--{name}={value}" for name, value in self._settings.items()]
        # SIGINT is its fast shutdown: sessions are ended and everything is written.
        self.server = Server(
            self._test,
            [*self._user, self._postgres, "-D", self._data, *options],
            directory=self.directory,
            stop=signal.SIGINT,
        )
        asked = [self._is_ready, "-q", "-h", str(self.directory), "-p", str(self.port)]
        self.server.wait_until(lambda: run(*asked, status=None).returncode == 0, "PostgreSQL is not ready")
        return self.server

    def crash(self) -> None:
        """End it as a crash would: sessions break where they are, nothing is written (its immediate shutdown)."""
        self.server.signal(signal.SIGQUIT)
        self.server.wait()

    def told(self, statement: str) -> str:
        """What it answers past the mesh."""
        place = f"host={self.directory} port={self.port} user=postgres dbname=postgres"
        psql = program("psql", "postgresql")
        return run(psql, "-X", "-q", "-A", "-t", "-d", place, "-c", statement).stdout.decode().strip()


class Redis:
    """
    A Redis that keeps nothing on the disk.

    :param durable: whether it does all the same, each command before it answers.
    """

    def __init__(self, test: SynchronousTestCase, *, durable: bool = False) -> None:
        self._test = test
        self.port = free_port()
        self.cli = program("redis-cli", "redis-server")
        self._program = program("redis-server", "redis-server")
        self._directory = temporary_directory(test)
        self._keeping = ("--appendonly", "yes", "--appendfsync", "always") if durable else ("--appendonly", "no")
        self.server = self.start()

    def start(self) -> Server:
        """Start it, on the same port and with what it kept."""
        options = f"--port {self.port} --bind 127.0.0.1 --daemonize no --dir {self._directory}".split()
        arguments = [self._program, *options, *self._keeping, "--save", ""]
        self.server = Server(self._test, arguments, directory=self._directory)
        self.server.wait_until(lambda: self.answers("PING") == b"PONG\n", "Redis is not ready")
        return self.server

    def answers(self, *words: str) -> bytes:
        """Ask it directly, past the mesh."""
        return run(self.cli, "-h", "127.0.0.1", "-p", str(self.port), *words, status=None).stdout


class MariaDB:
    """A MariaDB without data; ``root`` may do everything without a password."""

    def __init__(self, test: SynchronousTestCase) -> None:
        user = as_user("mysql")
        install, server = program("mariadb-install-db", "mariadb-server"), program("mariadbd", "mariadb-server")
        self.client = program("mariadb", "mariadb-server")
        directory = temporary_directory(test, "mysql")
        self.port = free_port()
        self.socket = directory / "sql.sock"
        run(
            *user, install, "--no-defaults", f"--datadir={directory}/data", "--auth-root-authentication-method=normal",
            "--skip-test-db", directory=directory,
        )  # fmt: skip
        self.server = Server(
            test,
            [
                *user, server, "--no-defaults", f"--datadir={directory}/data", f"--socket={self.socket}",
                "--bind-address=127.0.0.1", f"--port={self.port}", f"--pid-file={directory}/pid",
                "--skip-name-resolve", "--innodb-flush-log-at-trx-commit=0", "--innodb-log-file-size=32M",
            ],
            directory=directory,
        )  # fmt: skip
        self.server.wait_until(
            lambda: self.socket.exists() and self.query("SELECT 1").returncode == 0 and accepts(self.port),
            "MariaDB is not ready",
        )

    def query(self, statement: str) -> subprocess.CompletedProcess[bytes]:
        """Ask it directly, past the mesh; give the rows without a heading."""
        return run(
            self.client, "--no-defaults", f"--socket={self.socket}", "-u", "root", "-BNe", statement, status=None
        )
