"""
A Workload API on gRPC's own library, as a program: ``python -m tests.integration.grpc_server SOCKET MESSAGE-FILE``.

Says READY when it listens, answers every call with the message, and then does on all open ones what each line on its
standard input says: ``send FILE``, ``deny WORDS`` (and later ones too, up to the next send), ``end``; ``stop`` ends the
program in order, with a second of grace.
"""

from __future__ import annotations

import queue
import sys
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc


class Service:
    """Every open call has a queue of what to do next."""

    def __init__(self, message: bytes) -> None:
        self.message = message
        self.denial: str | None = None
        self.calls: list[queue.Queue[str]] = []

    def fetch(self, _request: bytes, context: Any) -> Iterator[bytes]:
        if dict(context.invocation_metadata()).get("workload.spiffe.io") != "true":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing from request")
        if self.denial is not None:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, self.denial)
        orders: queue.Queue[str] = queue.Queue()
        self.calls.append(orders)
        context.add_callback(lambda: orders.put("gone"))
        yield self.message
        while True:
            order, _, words = orders.get().partition(" ")
            if order == "send":
                yield self.message
            elif order == "deny":
                context.abort(grpc.StatusCode.PERMISSION_DENIED, words)
            else:
                return

    def order(self, line: str) -> None:
        order, _, words = line.partition(" ")
        if order in ("send", "deny"):
            self.denial = words if order == "deny" else None
        if order == "send":
            self.message = Path(words).read_bytes()
        for orders in self.calls:
            orders.put(line)


def main(socket: str, message: str) -> None:
    service = Service(Path(message).read_bytes())
    methods = {"FetchX509SVID": grpc.unary_stream_rpc_method_handler(service.fetch)}
    server = grpc.server(
        futures.ThreadPoolExecutor(16),
        handlers=[grpc.method_handlers_generic_handler("SpiffeWorkloadAPI", methods)],
        options=[("grpc.max_send_message_length", -1)],
    )
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    sys.stdout.write("READY\n")
    sys.stdout.flush()
    for line in sys.stdin:
        if line == "stop\n":
            server.stop(grace=1.0).wait()
            return
        service.order(line.removesuffix("\n"))


if __name__ == "__main__":
    main(*sys.argv[1:])
