"""tcpmesh itself, as its users run it: ``twistd -n tcpmesh``, configured as in etc/, access records into a file.

The records cost it time that peers without a log do not spend; its users have them. The second hop authorizes the
client's SPIFFE ID, the first one expects the server's.
"""

from __future__ import annotations

import sys
from pathlib import Path

from OpenSSL import SSL

import tcpmesh
from benchmarks.peers.base import CLIENT_ID, OURS, SERVER_ID, Found, Missing, Run
from benchmarks.peers.hops import HOST, Hop, Ports, TwoHops
from tcpmesh.identity.spiffe import SpiffeId


class Tcpmesh(TwoHops):
    """One twistd for each hop, from the environment that runs the benchmark."""

    name = OURS

    def locate(self) -> Found | Missing:
        """It is what this repository holds."""
        return Found(tcpmesh.__version__, bundled_openssl(), frozenset())

    def hops(self, run: Run, ports: Ports) -> tuple[Hop, Hop]:
        """An ``outbound`` and an ``inbound`` listener with identities from files."""
        client, server = SpiffeId.parse(CLIENT_ID), SpiffeId.parse(SERVER_ID)
        credentials = {"client": run.certificates.client, "server": run.certificates.server}

        def common(name: str, spiffe_id: SpiffeId) -> str:
            return (
                f"version: 1\ntrust_domain: {spiffe_id.trust_domain}\n"
                "identity:\n"
                "  sources:\n"
                f"    disk: {{plugin: files, bundles: {{{spiffe_id.trust_domain}: '{run.certificates.bundle}'}}}}\n"
                "  workloads:\n"
                f"    {name}: {{id: '{spiffe_id}', certificate: '{credentials[name].certificate}', "
                f"key: '{credentials[name].key}'}}\n"
                # No limit shall be met before those of the load.
                f"limits: {{connections: {run.max_connections}, handshakes: {run.max_connections}}}\n"
                f"log: {{access: {name}.records}}\n"
            )

        (run.directory / "first.yaml").write_text(
            common("client", client)
            + f"services: {{application: {{expect: ['{server}'], tls: {{groups: [{run.group}]}}, "
            f"discovery: {{plugin: static, endpoints: ['{HOST}:{ports.dial}']}}}}}}\n"
            f"outbound: [{{name: out, listen: '{HOST}:{ports.entry}', service: application, workload: client}}]\n"
        )
        (run.directory / "second.yaml").write_text(
            common("server", server) + f"inbound: [{{name: in, listen: '{HOST}:{ports.tls}', "
            f"target: '{HOST}:{run.target_port}', workload: server, tls: {{groups: [{run.group}]}}}}]\n"
            "authorization: [{plugin: rules, policies: "
            f"[{{name: the-client, action: allow, from: [{{ids: ['{client}']}}]}}]}}]\n"
        )
        command = (str(Path(sys.executable).with_name("twistd")), "-n", "--pidfile=", "tcpmesh", "--config")
        return (
            Hop((*command, str(run.directory / "first.yaml")), ports.entry),
            Hop((*command, str(run.directory / "second.yaml")), ports.tls),
        )

    # renewal: the files source reads once, at the start, and two processes cannot own one authority of the embedded
    # source, so that certificates of both hops cannot be renewed without a stop yet.


def bundled_openssl() -> str:
    """The OpenSSL of the ``cryptography`` wheel, which every Python peer uses: "OpenSSL 4.0.3"."""
    return " ".join(SSL.OpenSSL_version(SSL.OPENSSL_VERSION).decode().split()[:2])
