"""tcpmesh itself, as its users run it: ``twistd -n tcpmesh``, configured as in etc/, access records into a file.

The records cost it time that peers without a log do not spend; its users have them. The second hop authorizes the
client's SPIFFE ID, the first one expects the server's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from attrs import frozen
from OpenSSL import SSL

import tcpmesh
from benchmarks.peers.base import CLIENT_ID, OURS, SERVER_ID, Credentials, Found, Missing, Run
from benchmarks.peers.hops import HOST, Hop, Ports, TwoHops, program_output
from tcpmesh.identity.spiffe import SpiffeId

_SHORTEST_LIFE: Final = "10s"  # of a certificate of the embedded source, which renews it at half


class Tcpmesh(TwoHops):
    """One twistd for each hop, from the environment that runs the benchmark."""

    name = OURS

    def locate(self) -> Found | Missing:
        """It is what this repository holds."""
        return Found(tcpmesh.__version__, bundled_openssl(), frozenset())

    def hops(self, run: Run, ports: Ports) -> tuple[Hop, Hop]:
        """An ``outbound`` and an ``inbound`` listener."""
        client, server = _issued_by_themselves(run) if run.renewing else _from_files(run)
        # No limit shall be met before those of the load.
        limits = f"limits: {{connections: {run.max_connections}, handshakes: {run.max_connections}}}\n"
        (run.directory / "first.yaml").write_text(
            f"{client.configuration}{limits}log: {{access: client.records}}\n"
            f"services: {{application: {{expect: ['{server.id}'], tls: {{groups: [{run.group}]}}, "
            f"discovery: {{plugin: static, endpoints: ['{HOST}:{ports.dial}']}}}}}}\n"
            f"outbound: [{{name: out, listen: '{HOST}:{ports.entry}', service: application, workload: client}}]\n"
        )
        (run.directory / "second.yaml").write_text(
            f"{server.configuration}{limits}log: {{access: server.records}}\n"
            f"inbound: [{{name: in, listen: '{HOST}:{ports.tls}', "
            f"target: '{HOST}:{run.target_port}', workload: server, tls: {{groups: [{run.group}]}}}}]\n"
            "authorization: [{plugin: rules, policies: "
            f"[{{name: the-client, action: allow, from: [{{ids: ['{client.id}']}}]}}]}}]\n"
        )
        command = (str(Path(sys.executable).with_name("twistd")), "-n", "--pidfile=", "tcpmesh", "--config")
        return (
            Hop((*command, str(run.directory / "first.yaml")), ports.entry),
            Hop((*command, str(run.directory / "second.yaml")), ports.tls),
        )

    def renewal(self, run: Run, pids: tuple[int, ...]) -> Callable[[], None] | None:
        """The files source reads once, at the start; the embedded one renews by itself."""
        return _wait if run.renewing else None


@frozen
class _Identity:
    """Whom a hop may act as, and the part of its configuration that says so."""

    id: SpiffeId
    configuration: str


def _from_files(run: Run) -> tuple[_Identity, _Identity]:
    def identity(name: str, spiffe_id: SpiffeId, credentials: Credentials) -> _Identity:
        return _Identity(
            spiffe_id,
            f"version: 1\ntrust_domain: {spiffe_id.trust_domain}\n"
            "identity:\n"
            "  sources:\n"
            f"    disk: {{plugin: files, bundles: {{{spiffe_id.trust_domain}: '{run.certificates.bundle}'}}}}\n"
            "  workloads:\n"
            f"    {name}: {{id: '{spiffe_id}', certificate: '{credentials.certificate}', "
            f"key: '{credentials.key}'}}\n",
        )

    certificates = run.certificates
    return (
        identity("client", SpiffeId.parse(CLIENT_ID), certificates.client),
        identity("server", SpiffeId.parse(SERVER_ID), certificates.server),
    )


def _issued_by_themselves(run: Run) -> tuple[_Identity, _Identity]:
    """Two processes cannot own one authority: each hop has its own, in a trust domain that the other trusts."""
    domains = {name: f"{name}.test" for name in ("client", "server")}
    for name, domain in domains.items():
        state = ("--state", str(run.directory / name), "--trust-domain", domain)
        program_output(sys.executable, "-m", "tcpmesh", "ca", "init", *state)

    def identity(name: str) -> _Identity:
        spiffe_id = SpiffeId.parse(f"spiffe://{domains[name]}/{name}")
        bundles = ", ".join(f"{domain}: '{run.directory / of / 'bundle.pem'}'" for of, domain in domains.items())
        return _Identity(
            spiffe_id,
            f"version: 1\ntrust_domain: {domains[name]}\n"
            "identity:\n"
            "  sources:\n"
            f"    own: {{plugin: embedded, state: '{run.directory / name}', ttl: {_SHORTEST_LIFE}}}\n"
            f"    other: {{plugin: files, bundles: {{{bundles}}}}}\n"
            "  workloads:\n"
            f"    {name}: {{id: '{spiffe_id}', source: own}}\n",
        )

    return identity("client"), identity("server")


def _wait() -> None:
    """Nothing has to be done for a renewal."""


def bundled_openssl() -> str:
    """The OpenSSL of the ``cryptography`` wheel, which every Python peer uses: "OpenSSL 4.0.3"."""
    return " ".join(SSL.OpenSSL_version(SSL.OPENSSL_VERSION).decode().split()[:2])
