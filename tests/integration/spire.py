"""
A SPIRE server and its agent, as processes on loopback with their state in a short-lived directory.

Both are told to look for news once a second, not every five; all else is as SPIRE does it by itself. Nothing is sent
anywhere: telemetry and health checks are off by default, and no plugin that is used here reaches out.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.integration import go_program
from tests.integration.processes import free_port
from tests.integration.servers import Server, run, temporary_directory

__all__ = ["SpireAgent", "SpireServer", "needs_spire"]

NODE = "/node"  # the path of what every entry has as its parent: the agent

_SERVER = """\
server {{
    bind_address = "127.0.0.1"
    bind_port = "{port}"
    socket_path = "{directory}/api.sock"
    trust_domain = "{trust_domain}"
    data_dir = "{directory}"
    log_level = "INFO"
    experimental {{ cache_reload_interval = "1s" }}
    federation {{
        bundle_endpoint {{
            address = "127.0.0.1"
            port = {bundle_port}
            profile {profile}
        }}
    }}
}}
plugins {{
    DataStore "sql" {{
        plugin_data {{
            database_type = "sqlite3"
            connection_string = "{directory}/datastore.sqlite3"
        }}
    }}
    NodeAttestor "join_token" {{ plugin_data {{}} }}
    KeyManager "disk" {{ plugin_data {{ keys_path = "{directory}/keys.json" }} }}
    {plugins}
}}
"""

_AGENT = """\
agent {{
    data_dir = "{directory}"
    server_address = "127.0.0.1"
    server_port = "{port}"
    socket_path = "{socket}"
    trust_bundle_path = "{directory}/bootstrap.pem"
    trust_domain = "{trust_domain}"
    log_level = "INFO"
    experimental {{ sync_interval = "1s" }}
}}
plugins {{
    NodeAttestor "join_token" {{ plugin_data {{}} }}
    KeyManager "disk" {{ plugin_data {{ directory = "{directory}" }} }}
    WorkloadAttestor "unix" {{ plugin_data {{ discover_workload_path = true }} }}
}}
"""


def needs_spire() -> None:
    """Leave the test where there is no SPIRE."""
    for name in ("spire-server", "spire-agent"):
        go_program(name)


class SpireServer:
    """
    ``spire-server run`` for one trust domain, with a bundle endpoint.

    :param profile: of the bundle endpoint, in SPIRE's words.
    :param plugins: further ones, in SPIRE's words.
    """

    def __init__(
        self,
        test: SynchronousTestCase,
        trust_domain: str,
        *,
        profile: str = '"https_spiffe" {}',
        plugins: str = "",
    ) -> None:
        self.trust_domain = trust_domain
        self.id = f"spiffe://{trust_domain}/spire/server"
        self.port, self.bundle_port = free_port(), free_port()
        self._program = go_program("spire-server")
        self._directory = temporary_directory(test)
        configuration = self._directory / "server.conf"
        configuration.write_text(
            _SERVER.format(
                port=self.port,
                bundle_port=self.bundle_port,
                trust_domain=trust_domain,
                directory=self._directory,
                profile=profile,
                plugins=plugins,
            )
        )
        command = [self._program, "run", "-config", configuration]
        self.process = Server(test, command, directory=self._directory)
        self.process.wait_until(lambda: self._say("healthcheck", status=None).returncode == 0, "SPIRE is not healthy")

    def _say(self, *words: str | Path, status: int | None = 0) -> Any:
        return run(self._program, *words, "-socketPath", self._directory / "api.sock", status=status)

    def ask(self, *words: str | Path) -> Any:
        """Give a command of ``spire-server``; its answer."""
        return json.loads(self._say(*words, "-output", "json").stdout)

    def bundle(self, form: str = "pem") -> bytes:
        """The trust domain's bundle: ``pem``, or ``spiffe``, a bundle document."""
        said: bytes = self._say("bundle", "show", "-format", form).stdout
        return said

    def register(self, path: str, *options: str, ttl: int = 3600, program: str = sys.executable) -> str:
        """
        Make an entry for the processes of a program; give its ID.

        :param options: further ones of ``spire-server entry create``.
        :param ttl: seconds that its SVIDs last.
        :param program: its file; by default our proxies'.
        """
        ids = ["-parentID", f"spiffe://{self.trust_domain}{NODE}", "-spiffeID", f"spiffe://{self.trust_domain}{path}"]
        terms = ["-selector", f"unix:path:{Path(program).resolve()}", "-x509SVIDTTL", str(ttl)]
        (result,) = self.ask("entry", "create", *ids, *terms, *options)["results"]
        return str(result["entry"]["id"])

    def delete(self, entry: str) -> None:
        """Delete an entry."""
        self.ask("entry", "delete", "-entryID", entry)

    def authorities(self) -> dict[str, str]:
        """The IDs of the X.509 authorities by their state: active, prepared, old."""
        slots = self.ask("localauthority", "x509", "show")
        return {state: slot["authority_id"] for state, slot in slots.items()}

    def step(self, name: str, authority: str = "") -> None:
        """Do one of ``prepare``, ``activate``, ``taint``, ``revoke`` to an X.509 authority."""
        which = ("-authorityID", authority) if authority else ()
        self.ask("localauthority", "x509", name, *which)

    def token(self) -> str:
        """A word by which one agent may join."""
        return str(self.ask("token", "generate", "-spiffeID", f"spiffe://{self.trust_domain}{NODE}")["value"])


class SpireAgent:
    """``spire-agent run`` of a server; the Workload API is on ``socket``."""

    def __init__(self, test: SynchronousTestCase, server: SpireServer) -> None:
        self._test = test
        self._program = go_program("spire-agent")
        self._directory = temporary_directory(test)
        self.socket = self._directory / "agent.sock"
        self._configuration = self._directory / "agent.conf"
        self._configuration.write_text(
            _AGENT.format(
                port=server.port, trust_domain=server.trust_domain, directory=self._directory, socket=self.socket
            )
        )
        self.join(server)

    def join(self, server: SpireServer) -> None:
        """Start it as an agent that the server has never seen."""
        for name in ("agent-data.json", "keys.json"):
            (self._directory / name).unlink(missing_ok=True)
        (self._directory / "bootstrap.pem").write_bytes(server.bundle())
        self.start("-joinToken", server.token())

    def start(self, *options: str) -> None:
        """Start it; the second time it knows who it is."""
        command = [self._program, "run", "-config", self._configuration, *options]
        self.process = Server(self._test, command, directory=self._directory)
        check = [self._program, "healthcheck", "-socketPath", self.socket]
        self.process.wait_until(lambda: run(*check, status=None).returncode == 0, "SPIRE's agent is not healthy")

    def stop(self, number: signal.Signals) -> None:
        """End it with this signal, and wait until it is gone."""
        self.process.signal(number)
        self.process.wait()
