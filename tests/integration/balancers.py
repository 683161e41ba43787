"""HAProxy, nginx and Envoy with configurations that a test writes, in front of a proxy of ours or behind it."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.integration import program, skip_or_fail
from tests.integration.envoy import OPTIONS, envoy_program
from tests.integration.processes import accepts
from tests.integration.servers import Server, temporary_directory

__all__ = ["envoy", "haproxy", "nginx"]

_STREAM = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


def haproxy(test: SynchronousTestCase, text: str, port: int | None = None) -> Server:
    """HAProxy in TCP mode; its log is its standard error. It has started when it listens on the port."""
    directory = temporary_directory(test)
    file = directory / "haproxy.cfg"
    times = "timeout connect 5s\ntimeout client 1m\ntimeout server 1m\n"
    file.write_text(f"global\nlog stderr format raw local0\ndefaults\nmode tcp\nlog global\n{times}{text}")
    return _started(Server(test, [program("haproxy", "haproxy"), "-db", "-f", file], directory=directory), port)


def nginx(test: SynchronousTestCase, text: str, port: int) -> Server:
    """nginx with this content of ``stream``; its access log goes to standard error."""
    if not _STREAM.exists():
        skip_or_fail("nginx's stream module is not installed (Debian: apt install libnginx-mod-stream)")
    directory = temporary_directory(test)
    file = directory / "nginx.conf"
    frame = f"daemon off;\nmaster_process off;\npid {directory}/pid;\nerror_log stderr info;\nevents {{}}\n"
    file.write_text(f"load_module {_STREAM};\n{frame}stream {{\n{text}}}\n")
    command = [program("nginx", "libnginx-mod-stream"), "-e", "stderr", "-c", file]
    return _started(Server(test, command, directory=directory), port)


def envoy(test: SynchronousTestCase, text: str, port: int) -> Server:
    """Envoy with this configuration."""
    directory = temporary_directory(test)
    file = directory / "envoy.yaml"
    file.write_text(text)
    return _started(Server(test, [envoy_program(), *OPTIONS, "-c", file], directory=directory), port)


def _started(server: Server, port: int | None) -> Server:
    if port is not None:
        server.wait_until(lambda: accepts(port), "it does not listen")
    return server
