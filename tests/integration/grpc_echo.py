"""
gRPC's own library with TLS of its own, as a program: no proxy, no mesh.

``python -m tests.integration.grpc_echo serve CERTIFICATE KEY`` listens on a port of 127.0.0.1 and says ``READY PORT``.
``… ask PORT NAME AUTHORITIES COUNT`` asks it by that name so many times over one channel, among it for a stream, and
says what it heard.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc

ECHO, COUNT = "/test.Echo/Echo", "/test.Echo/Count"


def echo(request: bytes, _context: Any) -> bytes:
    return request


def count(request: bytes, _context: Any) -> Iterator[bytes]:
    for number in range(int(request)):
        yield str(number).encode()


def serve(certificate: str, key: str) -> None:
    methods = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "Count": grpc.unary_stream_rpc_method_handler(count),
    }
    server = grpc.server(
        futures.ThreadPoolExecutor(4), handlers=[grpc.method_handlers_generic_handler("test.Echo", methods)]
    )
    credentials = grpc.ssl_server_credentials([(Path(key).read_bytes(), Path(certificate).read_bytes())])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    print(f"READY {port}", flush=True)
    server.wait_for_termination()


def ask(port: str, name: str, authorities: str, times: str) -> None:
    credentials = grpc.ssl_channel_credentials(Path(authorities).read_bytes())
    options = [("grpc.ssl_target_name_override", name)]
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        unary, stream = channel.unary_unary(ECHO), channel.unary_stream(COUNT)
        for number in range(int(times)):
            message = f"{number} ".encode() * 10_000
            assert unary(message, timeout=20) == message
        numbers = [int(part) for part in stream(b"100", timeout=20)]
        assert numbers == list(range(100)), numbers
    print(f"HEARD {times} answers and a stream from {name}")


if __name__ == "__main__":
    {"serve": serve, "ask": ask}[sys.argv[1]](*sys.argv[2:])
