"""
Requests to Vault's HTTP API, within limits: one connection each, no redirects, no proxies, the server verified.

Blocking, for a thread. Nothing here keeps, logs or shows a token.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl  # noqa: TID251  a client of a third party's server, not the data path
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

__all__ = ["MAX_ANSWER", "Budget", "VaultClient", "VaultError"]

MAX_ANSWER = 1 << 18  # bytes of an answer's body
_DEFAULT_PORTS = {"https": 443, "http": 80}


class VaultError(Exception):
    """
    What went wrong, for people; no token is in it.

    :ivar status: of the HTTP answer; 0 when there was none.
    :ivar details: Vault's own words, escaped.
    :ivar next_step: what to do.
    """

    def __init__(self, reason: str, *, status: int = 0, details: str = "", next_step: str = "") -> None:
        super().__init__(reason)
        self.status = status
        self.details = details
        self.next_step = next_step


class Budget:
    """The time that is left for some requests together."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """
        Seconds.

        :raises VaultError: when there are none.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise VaultError(
                f"no answer within {self._seconds:g} s", next_step="see whether Vault is overloaded; or raise 'timeout'"
            )
        return left


class VaultClient:
    """Asks one server, for one namespace."""

    def __init__(self, address: str, namespace: str = "", ca: Path | None = None) -> None:
        url = urlsplit(address)
        self._is_tls = url.scheme == "https"
        self._host = url.hostname or ""
        self._port = url.port or _DEFAULT_PORTS[url.scheme]
        self._namespace = namespace
        self._ca = ca
        self.where = url.netloc

    def ask(
        self, budget: Budget, method: str, path: str, *, token: str | None = None, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """
        Make one request and give the JSON object that is the answer.

        :param path: below ``/v1/``.
        :raises VaultError: for everything but a whole answer with status 200.
        """
        status, data = self._exchange(budget, method, path, token, body)
        answer = _json_object(data)
        if status != 200:
            raise VaultError(f"HTTP {status} for {path}", status=status, details=_errors_of(answer))
        if answer is None:
            raise VaultError(
                f"the answer for {path} is no JSON object", next_step=f"see whether {self.where} is Vault and no proxy"
            )
        return answer

    def _exchange(
        self, budget: Budget, method: str, path: str, token: str | None, body: Mapping[str, Any] | None
    ) -> tuple[int, bytes]:
        headers = {"X-Vault-Request": "true", "Accept": "application/json", "Connection": "close"}
        if self._namespace:
            headers["X-Vault-Namespace"] = self._namespace
        if token is not None:
            headers["X-Vault-Token"] = token
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        tls = self._tls()
        with self._said(), self._connected(budget, tls) as connection:
            try:
                connection.request(method, f"/v1/{path}", data, headers)
                response = connection.getresponse()
                answer = response.read(MAX_ANSWER + 1)
            except (OSError, http.client.HTTPException):
                budget.left()  # the guard ended it: say so instead
                raise
            budget.left()
        if len(answer) > MAX_ANSWER:
            raise VaultError(f"the answer for {path} is larger than {MAX_ANSWER} bytes")
        return response.status, answer

    @contextmanager
    def _connected(self, budget: Budget, tls: ssl.SSLContext | None) -> Iterator[http.client.HTTPConnection]:
        """A connection whose socket is shut, from a thread of its own, when the time is over."""
        plain = socket.create_connection((self._host, self._port), timeout=budget.left())
        with plain, plain.dup() as other:
            guard = threading.Timer(budget.left(), _shut, [other])
            guard.daemon = True
            guard.start()
            try:
                connection = http.client.HTTPConnection(self._host, self._port)
                try:
                    connection.sock = tls.wrap_socket(plain, server_hostname=self._host) if tls else plain
                except OSError:
                    budget.left()
                    raise
                try:
                    yield connection
                finally:
                    connection.close()
            finally:
                guard.cancel()
                guard.join()  # so that it never shuts a descriptor that is somebody else's by then

    def _tls(self) -> ssl.SSLContext | None:
        """How to verify the server: read anew each time, since the file may be renewed."""
        if not self._is_tls:
            return None
        try:
            context = ssl.create_default_context(cafile=None if self._ca is None else str(self._ca))
        except OSError as error:  # also when there is no certificate in it
            why = "holds no PEM certificate" if isinstance(error, ssl.SSLError) else error.strerror
            raise VaultError(f"'ca' {self._ca}: {why}", next_step="name a PEM file with 'ca'") from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    @contextmanager
    def _said(self) -> Iterator[None]:
        """Say what went wrong below HTTP in words for people."""
        try:
            yield
        except ssl.SSLCertVerificationError as error:
            by = "the system's authorities" if self._ca is None else str(self._ca)
            raise VaultError(
                f"the certificate of {self.where} is not good: {error.verify_message}",
                next_step=f"name the authority of Vault's certificate with 'ca'; it was verified by {by}",
            ) from None
        except ssl.SSLError as error:
            raise VaultError(
                f"no TLS with {self.where}: {error.reason or 'the connection ended'}",
                next_step="see whether it speaks TLS at this port",
            ) from None
        except http.client.HTTPException as error:
            raise VaultError(
                f"{self.where} does not speak HTTP as Vault does: {type(error).__name__}",
                next_step="see what listens at 'address'",
            ) from None
        except OSError as error:
            raise VaultError(
                f"{self.where} cannot be reached: {error.strerror or error}",
                next_step="see whether Vault runs, and whether a firewall is between",
            ) from None


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it has ended by itself


def _json_object(data: bytes) -> dict[str, Any] | None:
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None


def _errors_of(answer: dict[str, Any] | None) -> str:
    """Vault's own words, as one escaped line; empty without any."""
    errors = (answer or {}).get("errors")
    words = [each for each in errors if isinstance(each, str)] if isinstance(errors, list) else []
    return ascii("; ".join(words)[:500])[1:-1]
