"""
Envoy's secret discovery service on gRPC's own library, as SPIRE's agent serves it.

A program: ``python -m tests.integration.sds_server SOCKET DIRECTORY``. The directory has a file for each secret, under
the secret's name in percent-encoding. Says READY when it listens, and REFUSED when Envoy does not take a secret; sends
all of them anew for each line on its standard input. Who asks for a secret that is not there gets an error for all.
"""

from __future__ import annotations

import itertools
import queue
import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc

from tcpmesh.identity.protobuf import read_fields
from tests.integration.sds_messages import SECRET, any_message, response


class Stream:
    """One call: Envoy makes one for each secret, and asks again when it has taken an answer, or not."""

    def __init__(self, directory: Path, context: Any) -> None:
        self._directory = directory
        self._context = context
        self._names: list[str] = []
        self.events: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read(self, requests: Iterator[bytes]) -> None:
        """In a thread of its own, until Envoy is gone."""
        try:
            for request in requests:
                self._asked(request)
        except grpc.RpcError:
            self.events.put("gone")  # Envoy ended in the middle of it
        else:
            self.events.put("gone")

    def _asked(self, request: bytes) -> None:
        """A DiscoveryRequest: resource_names = 3, error_detail = 6."""
        fields = read_fields(request)
        names = [value.decode() for number, value in fields if number == 3 and value]
        for problem in [value for number, value in fields if number == 6]:
            say(f"REFUSED {names}: {problem!r}")
        if names != self._names:
            self._names = names
            self.events.put("send")

    def answers(self) -> Iterator[bytes]:
        """A DiscoveryResponse whenever there is something to say."""
        for version in itertools.count(1):
            if self.events.get() == "gone":
                return
            files = [self._directory / quote(name, safe="") for name in self._names]
            missing = [name for name, file in zip(self._names, files, strict=True) if not file.exists()]
            if missing:
                self._context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"not authorized for {missing}")
            yield response([any_message(SECRET, file.read_bytes()) for file in files], str(version))


class Service:
    """All streams that were opened."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.streams: list[Stream] = []

    def secrets(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        stream = Stream(self._directory, context)
        self.streams.append(stream)
        threading.Thread(target=stream.read, args=(requests,), daemon=True).start()
        return stream.answers()


def say(line: str) -> None:
    """Tell the test."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(socket: str, directory: str) -> None:
    service = Service(Path(directory))
    methods = {"StreamSecrets": grpc.stream_stream_rpc_method_handler(service.secrets)}
    server = grpc.server(
        futures.ThreadPoolExecutor(16),
        handlers=[grpc.method_handlers_generic_handler("envoy.service.secret.v3.SecretDiscoveryService", methods)],
    )
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    say("READY")
    for _line in sys.stdin:
        for stream in service.streams:
            stream.events.put("send")


if __name__ == "__main__":
    main(*sys.argv[1:])
