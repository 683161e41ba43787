"""Stands for a registry."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone


def instance(number: int, **service: Any) -> dict[str, Any]:
    """One, as Consul lists it; ``service`` changes what it says."""
    return {
        "Node": {"Node": f"n{number}", "Address": f"192.0.2.{number}"},
        "Service": {"ID": f"db-{number}", "Address": "", "Port": 5432, "Weights": {"Passing": number}, **service},
    }


class Response:
    """What an Agent gives."""

    def __init__(self, body: bytes, code: int) -> None:
        self.code = code
        self._body = body

    def deliverBody(self, protocol: Any) -> None:  # noqa: N802  Twisted's name
        """All of it, and the end."""
        protocol.dataReceived(self._body)
        protocol.connectionLost(Failure(ResponseDone()))


class FakeRegistry:
    """
    An Agent whose requests are answered with what is set here.

    :ivar body: JSON of these instances, or bytes as they are; None for no answer.
    """

    def __init__(self, *instances: dict[str, Any]) -> None:
        self.body: Any = list(instances)
        self.code = 200
        self.requests: list[bytes] = []
        self.cancelled = 0

    def request(self, method: bytes, uri: bytes) -> Deferred[Any]:
        """Answer at once, or never."""
        self.requests.append(method + b" " + uri)
        answer: Deferred[Any] = Deferred(self._cancelled)
        if self.body is not None:
            body = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
            answer.callback(Response(body, self.code))
        return answer

    def _cancelled(self, _answer: Deferred[Any]) -> None:
        self.cancelled += 1
