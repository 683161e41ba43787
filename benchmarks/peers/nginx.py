"""nginx's stream module, as Debian packages it (libnginx-mod-stream).

One worker, and a master, which idles. Buffers, and all that is not set here, are the defaults: there is no access log
in them. The second hop demands a certificate of the bundle, the first one also the name in it.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path

from benchmarks.peers.base import SERVER_NAME, Found, Missing, Run
from benchmarks.peers.hops import FOREVER, HOST, Hop, Ports, TwoHops, installed, program_output, signal_all

_SPARE_CONNECTIONS = 32  # that nginx needs for itself, listening sockets among them


class Nginx(TwoHops):
    """Two nginx with ``worker_processes 1``."""

    name = "nginx"

    def locate(self) -> Found | Missing:
        """Ask ``nginx -V``, and look for the module."""
        program = installed("nginx")
        if program is None:
            return Missing("nginx is not installed: apt-get install nginx-light libnginx-mod-stream")
        output = program_output(program, "-V")
        version = re.search(r"nginx version: \S+/(\S+)", output)
        library = re.search(r"running with (\S+ \S+?)\b(?= |\))", output) or re.search(r"built with (\S+ \S+)", output)
        if version is None or library is None:
            return Missing(f"{program} -V names no version or TLS library; an nginx with OpenSSL is needed")
        if "--with-stream" not in output or "--with-stream_ssl_module" not in output:
            return Missing(f"{program} is built without the stream module or its TLS")
        module = _module(output)
        if module is not None and not module.exists():
            return Missing(f"nginx has no {module.name}: apt-get install libnginx-mod-stream")
        return Found(version[1], library[1], frozenset())

    def hops(self, run: Run, ports: Ports) -> tuple[Hop, Hop]:
        """One ``server`` each."""
        certificates = run.certificates
        program = installed("nginx") or "nginx"
        module = _module(program_output(program, "-V"))
        connections = 2 * run.max_connections + _SPARE_CONNECTIONS  # both sides are counted

        def hop(name: str, port: int, server: str) -> Hop:
            configuration = run.directory / f"{name}.conf"
            configuration.write_text(
                (f"load_module {module};\n" if module else "")
                + f"daemon off;\npid {name}.pid;\nerror_log stderr warn;\nworker_processes 1;\n"
                + f"worker_rlimit_nofile {connections + _SPARE_CONNECTIONS};\n"
                + f"events {{ worker_connections {connections}; }}\n"
                + f"stream {{\n  proxy_connect_timeout 10s;\n  proxy_timeout {FOREVER};\n"
                # As all the other peers do: what one side has ended goes on in the other direction.
                + f"  proxy_half_close on;\n  server {{\n{server}  }}\n}}\n"
            )
            return Hop((program, "-e", "stderr", "-p", str(run.directory), "-c", str(configuration)), port)

        first = hop(
            "first",
            ports.entry,
            f"    listen {HOST}:{ports.entry} backlog=4096;\n"
            f"    proxy_pass {HOST}:{ports.dial};\n"
            "    proxy_ssl on;\n    proxy_ssl_protocols TLSv1.3;\n    proxy_ssl_session_reuse off;\n"
            f"    proxy_ssl_conf_command Groups {run.group};\n"
            f"    proxy_ssl_certificate '{certificates.client.certificate}';\n"
            f"    proxy_ssl_certificate_key '{certificates.client.key}';\n"
            f"    proxy_ssl_trusted_certificate '{certificates.bundle}';\n"
            f"    proxy_ssl_verify on;\n    proxy_ssl_verify_depth 3;\n    proxy_ssl_name {SERVER_NAME};\n",
        )
        second = hop(
            "second",
            ports.tls,
            f"    listen {HOST}:{ports.tls} ssl backlog=4096;\n"
            f"    proxy_pass {HOST}:{run.target_port};\n"
            "    ssl_protocols TLSv1.3;\n    ssl_session_cache off;\n    ssl_session_tickets off;\n"
            f"    ssl_ecdh_curve {run.group};\n"
            f"    ssl_certificate '{certificates.server.certificate}';\n"
            f"    ssl_certificate_key '{certificates.server.key}';\n"
            f"    ssl_client_certificate '{certificates.bundle}';\n"
            "    ssl_verify_client on;\n    ssl_verify_depth 3;\n",
        )
        return first, second

    def renewal(self, run: Run, pids: tuple[int, ...]) -> Callable[[], None]:
        """A reload: the master starts a new worker with the sockets it holds, the old one finishes its connections."""

        def renew() -> None:
            run.certificates.reissue()
            signal_all(pids, signal.SIGHUP)

        return renew


def _module(version_output: str) -> Path | None:
    """Where the stream module is, unless it is built in."""
    if "--with-stream=dynamic" not in version_output:
        return None
    place = re.search(r"--modules-path=(\S+)", version_output)
    return Path(place[1] if place else "modules", "ngx_stream_module.so")
