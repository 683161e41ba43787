"""PROXY headers with those who made the protocol known: HAProxy, nginx and Envoy, in front of us and behind us."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from unittest import SkipTest

from tcpmesh.codes import CLEAN, NO_BYTE
from tests.integration import program
from tests.integration.applications import until
from tests.integration.balancers import envoy, haproxy, nginx
from tests.integration.foreign import ForeignTestCase, ForeignTLS, foreign_context, hello
from tests.integration.mesh import MeshTestCase, Proxy, echo, in_thread
from tests.integration.processes import free_port
from tests.integration.servers import Server, run
from tests.integration.strangers import FailureLines

WEB = "spiffe://mesh.test/web"
ACCEPT = ", proxy_protocol: {accept_from: [127.0.0.1]}"


def name_of(connection: socket.socket) -> str:
    host, port = connection.getsockname()
    return f"{host}:{port}"


def ask(client: socket.socket) -> bytes:
    """A word and its answer, then the end."""
    client.sendall(b"hello")
    answer = receive_exactly(client, 5)
    client.close()
    return answer


def receive_exactly(client: socket.socket, count: int) -> bytes:
    """So many bytes, or what came before the end."""
    answer = b""
    while len(answer) < count and (data := client.recv(count - len(answer))):
        answer += data
    return answer


class InFrontTests(ForeignTestCase):
    """A load balancer that passes TLS on to our inbound listener, with a header before it."""

    async def through(self, start: Callable[[int, int], Server]) -> None:
        """The record has the client's own address, and the balancer's as src.via."""
        inner = self.start_inbound(self.application(echo), more=ACCEPT)
        front = free_port()
        await in_thread(start, front, inner.port("orders-in"))
        client = ForeignTLS(self.connect(front), foreign_context(self.pki, "web"), server=False)
        self.assertEqual(await in_thread(hello, client), b"hello")
        await until(lambda: [each for each in inner.tap.close if each.code is not NO_BYTE], "it ended")
        [record] = [each for each in inner.tap.close if each.code is not NO_BYTE]
        self.assertEqual((record.src_addr, record.src_identity), (name_of(client.socket), WEB))
        self.assertRegex(record.src_via, r"\A127\.0\.0\.1:\d+\Z")
        self.assertNotEqual(record.src_via, record.src_addr)
        self.assertEqual((record.bytes_sent, record.bytes_recv), (5, 5))

    async def test_haproxy(self) -> None:
        """Both versions, and version 2 with everything that it can add."""
        for options in (
            "send-proxy",
            "send-proxy-v2",
            "send-proxy-v2 proxy-v2-options crc32c,unique-id,authority,ssl,cert-cn,ssl-cipher",
            "send-proxy-v2-ssl-cn",
        ):
            await self.through(
                lambda front, inner, options=options: haproxy(  # type: ignore[misc]
                    self,
                    f"frontend in\nbind 127.0.0.1:{front}\nunique-id-format %cp-%rt\ndefault_backend out\n"
                    f"backend out\nserver mesh 127.0.0.1:{inner} {options}\n",
                    front,
                )
            )

    async def test_nginx(self) -> None:
        """It sends version 1."""
        await self.through(
            lambda front, inner: nginx(
                self,
                f"server {{ listen 127.0.0.1:{front}; proxy_protocol on; proxy_pass 127.0.0.1:{inner}; }}\n",
                front,
            )
        )

    async def test_haproxy_that_ends_tls_itself(self) -> None:
        """Its own certificate is who comes, whatever it says in the header of who came to it."""
        inner = self.start_inbound(self.application(echo), more=ACCEPT)
        front = free_port()
        pem = {}
        for name in ("web", "orders"):
            pem[name] = self.directory.absolute() / f"{name}-combined.pem"
            pem[name].write_bytes(
                b"".join((self.pki.directory / f"{name}.{end}").read_bytes() for end in ("pem", "key"))
            )
        bundle = self.pki.bundle.absolute()
        await in_thread(
            haproxy,
            self,
            f"frontend in\nbind 127.0.0.1:{front} ssl crt {pem['orders']} ca-file {bundle} verify required\n"
            "default_backend out\nbackend out\n"
            f"server mesh 127.0.0.1:{inner.port('orders-in')} ssl crt {pem['web']} ca-file {bundle} verify required "
            "send-proxy-v2-ssl-cn\n",
            front,
        )
        client = ForeignTLS(self.connect(front), foreign_context(self.pki, "intruder"), server=False)

        def talk() -> bytes:
            client.handshake()
            client.sendall(b"hello")
            return client.recv(100)

        self.assertEqual(await in_thread(talk), b"hello")
        record = await inner.opened()
        self.assertEqual((record.src_addr, record.src_identity), (name_of(client.socket), WEB))

    async def test_health_checks_of_haproxy(self) -> None:
        """The server is up, each check is a record, and none is a warning."""
        for options in ("send-proxy-v2 check", "send-proxy check", "check check-send-proxy send-proxy-v2"):
            lines = FailureLines(self)
            inner = self.start_inbound(self.application(echo), more=ACCEPT)
            front = free_port()
            server = await in_thread(
                haproxy,
                self,
                f"frontend in\nbind 127.0.0.1:{front}\ndefault_backend out\nbackend out\noption log-health-checks\n"
                f"server mesh 127.0.0.1:{inner.port('orders-in')} {options} inter 50ms\n",
                front,
            )
            await inner.closed(3)
            self.assertEqual({record.code for record in inner.tap.close}, {NO_BYTE}, options)
            self.assertEqual(lines.take("orders-in"), [])
            self.assertNotIn("DOWN", server.both())
            await in_thread(server.kill)


class BehindTests(ForeignTestCase):
    """A program that reads our header, as the application of an inbound listener."""

    async def logged(self, send: str, start: Callable[[int, int], Server], pattern: str) -> tuple[re.Match[str], Proxy]:
        """What the program logged of one connection of web over two hops."""
        port = free_port()
        server = await in_thread(start, port, self.application(echo))
        outer, inner, client_port = self.start_two_hops(port, more=f", proxy_protocol: {{send: {send}}}")
        client = self.connect(client_port)
        self.assertEqual(await in_thread(ask, client), b"hello")
        record = await inner.closed()
        self.assertEqual((record.code, record.bytes_sent, record.bytes_recv), (CLEAN, 5, 5))
        await in_thread(server.wait_until, lambda: re.search(pattern, server.both()), "it logs no connection")
        found = re.search(pattern, server.both())
        assert found is not None
        del outer
        return found, inner

    async def test_haproxy(self) -> None:
        """accept-proxy: the client's address, where it connected to, and the connection's id."""
        for send in ("v1", "v2"):
            found, inner = await self.logged(
                send,
                lambda port, application: haproxy(
                    self,
                    f"frontend in\nbind 127.0.0.1:{port} accept-proxy\n"
                    'log-format "from=%ci:%cp to=%fi:%fp id=%[fc_pp_unique_id]"\ndefault_backend out\n'
                    f"backend out\nserver app 127.0.0.1:{application}\n",
                    port,
                ),
                r"from=(\S+) to=(\S+) id=(\S+)",
            )
            [record] = inner.tap.close
            expected = (record.src_addr, record.local_addr, record.conn if send == "v2" else "-")
            self.assertEqual(found.groups(), expected)

    async def test_nginx(self) -> None:
        """listen … proxy_protocol; before 1.23.3 it takes no header of more than 107 bytes, which TLVs make."""
        for send in ("v1", "v2"):
            if send == "v2" and await in_thread(_nginx_version) < (1, 23, 3):
                continue
            found, inner = await self.logged(
                send,
                lambda port, application: nginx(
                    self,
                    "log_format seen 'from=$proxy_protocol_addr:$proxy_protocol_port "
                    "to=$proxy_protocol_server_addr:$proxy_protocol_server_port';\n"
                    f"server {{ listen 127.0.0.1:{port} proxy_protocol; access_log /dev/stderr seen; "
                    f"proxy_pass 127.0.0.1:{application}; }}\n",
                    port,
                ),
                r"from=(127\S+) to=(\S+)",
            )
            [record] = inner.tap.close
            self.assertEqual(found.groups(), (record.src_addr, record.local_addr))

    async def test_nginx_that_takes_short_headers_only(self) -> None:
        """Before 1.23.3 it refuses version 2, and says so."""
        if await in_thread(_nginx_version) >= (1, 23, 3):
            raise SkipTest("this nginx takes longer headers; Debian 12 has one that does not")
        port = free_port()
        block = f"server {{ listen 127.0.0.1:{port} proxy_protocol; proxy_pass 127.0.0.1:{self.application(echo)}; }}\n"
        server = await in_thread(nginx, self, block, port)
        _, inner, client_port = self.start_two_hops(port, more=", proxy_protocol: {send: v2}")
        client = self.connect(client_port)
        client.sendall(b"hello")
        said = "header is too large while reading PROXY protocol"
        await in_thread(server.wait_until, lambda: said in server.both(), f"it does not say: {said}")
        self.assertEqual((await inner.closed()).bytes_recv, 0)

    async def test_envoy(self) -> None:
        """Its filter reads TLVs: the SPIFFE ID, the protocol and the connection's id are in its log."""
        found, inner = await self.logged(
            "v2", lambda port, application: envoy(self, _envoy(port, application), port), _SEEN
        )
        [record] = inner.tap.close
        self.assertEqual(found.groups(), (record.src_addr, WEB, "tcpmesh/1", record.conn))

    async def test_haproxy_reads_the_name_that_was_asked_for(self) -> None:
        """fc_pp_authority."""
        port = free_port()
        server = await in_thread(
            haproxy,
            self,
            f'frontend in\nbind 127.0.0.1:{port} accept-proxy\nlog-format "name=%[fc_pp_authority]"\n'
            f"default_backend out\nbackend out\nserver app 127.0.0.1:{self.application(echo)}\n",
            port,
        )
        inner = self.start_inbound(port, more=", proxy_protocol: {send: v2}")
        client = ForeignTLS(self.connect(inner.port("orders-in")), foreign_context(self.pki, "web"), server=False)
        client.tls.set_tlsext_host_name(b"orders.example.com")
        self.assertEqual(await in_thread(hello, client), b"hello")
        await in_thread(server.wait_until, lambda: "name=orders.example.com" in server.both(), "it logs no name")


class ServiceTests(MeshTestCase):
    """A service's proxy_protocol, with a server that wants a header before TLS."""

    async def test_haproxy(self) -> None:
        """accept-proxy ssl: it sees the local program's address, and our certificate."""
        pem = self.directory.absolute() / "combined.pem"
        pem.write_bytes(b"".join((self.pki.directory / f"orders.{end}").read_bytes() for end in ("pem", "key")))
        for version in ("v1", "v2"):
            port = free_port()
            server = await in_thread(
                haproxy,
                self,
                f"frontend in\nbind 127.0.0.1:{port} accept-proxy ssl crt {pem} ca-file {self.pki.bundle.absolute()} "
                'verify required\nlog-format "from=%ci:%cp to=%fi:%fp used=%[ssl_c_used] verified=%[ssl_c_verify]"\n'
                f"default_backend out\nbackend out\nserver app 127.0.0.1:{self.application(echo)}\n",
                port,
            )
            outer = self.start_outbound(port, service=f", proxy_protocol: {version}, truncation: eof")
            client = self.connect(outer.port("to-orders"))
            name = name_of(client)
            self.assertEqual(await in_thread(ask, client), b"hello", outer.tap.close)
            line = f"from={name} to=127.0.0.1:{outer.port('to-orders')} used=1 verified=0"
            await in_thread(server.wait_until, lambda server=server, line=line: line in server.both(), f"no {line}")

    async def test_nginx(self) -> None:
        """listen … ssl proxy_protocol."""
        port = free_port()
        files = self.pki.directory.absolute()
        server = await in_thread(
            nginx,
            self,
            "log_format seen 'from=$proxy_protocol_addr:$proxy_protocol_port verified=$ssl_client_verify';\n"
            f"server {{ listen 127.0.0.1:{port} ssl proxy_protocol; access_log /dev/stderr seen;\n"
            f"ssl_certificate {files}/orders.pem; ssl_certificate_key {files}/orders.key;\n"
            f"ssl_client_certificate {self.pki.bundle.absolute()}; ssl_verify_client on; ssl_verify_depth 3;\n"
            "ssl_protocols TLSv1.3;\n"
            f"proxy_pass 127.0.0.1:{self.application(echo)}; }}\n",
            port,
        )
        outer = self.start_outbound(port, service=", proxy_protocol: v2, truncation: eof, preface: never")
        client = self.connect(outer.port("to-orders"))
        name = name_of(client)
        self.assertEqual(await in_thread(ask, client), b"hello")
        line = f"from={name} verified=SUCCESS"
        await in_thread(server.wait_until, lambda: line in server.both(), f"no {line}")


def _nginx_version() -> tuple[int, ...]:
    said = run(program("nginx", "libnginx-mod-stream"), "-v").stderr.decode()
    found = re.search(r"nginx/(\d+)\.(\d+)\.(\d+)", said)
    assert found is not None, said
    return tuple(map(int, found.groups()))


_SEEN = r"from=(\S+) spiffe=(\S+) alpn=(\S+) id=(\S+)"


def _envoy(port: int, application: int) -> str:
    """A TCP proxy behind the PROXY protocol's filter, which keeps three TLVs."""
    place = "envoy.filters.listener.proxy_protocol"
    shown = " ".join(f"{key}=%DYNAMIC_METADATA({place}:{key})%" for key in ("spiffe", "alpn", "id"))
    rules = "\n".join(
        f"          - {{tlv_type: {kind}, on_tlv_present: {{key: {key}}}}}"
        for kind, key in ((0xE0, "spiffe"), (0x01, "alpn"), (0x05, "id"))
    )
    return f"""\
static_resources:
  listeners:
  - name: in
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    listener_filters:
    - name: {place}
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol
        rules:
{rules}
    filter_chains:
    - filters:
      - name: tcp
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: tcp
          cluster: app
          access_log:
          - name: stderr
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StderrAccessLog
              log_format:
                text_format_source: {{inline_string: "from=%DOWNSTREAM_REMOTE_ADDRESS% {shown}\\n"}}
  clusters:
  - name: app
    type: STATIC
    load_assignment:
      cluster_name: app
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {application}}}}}}}
"""
