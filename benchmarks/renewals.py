"""Renews the certificates of a running peer three times under load, and counts what fails."""

from __future__ import annotations

import socket
import struct
import time
from pathlib import Path
from typing import Any, Final

from OpenSSL import SSL

from benchmarks import processes
from benchmarks.generator import Generator, LoadError, generating
from benchmarks.peers.base import Running

RENEWALS: Final = 3
_PAUSE: Final = 1.5  # seconds of load before each renewal and after the last one
_SHOWN_WITHIN: Final = 20.0  # seconds
_FOR_EVER: Final = 3600.0


def renewals(running: Running, program: Path) -> tuple[dict[str, float], str]:
    """Give the number of failed operations, of all, and the longest time in seconds until a new certificate was shown.

    Beside these figures, it gives the reason of the first failure.

    :raises LoadError: when the peer cannot renew, or goes on to show the old certificate.
    """
    if running.renew is None:
        raise LoadError("takes new certificates only with a restart")
    slowest = 0.0
    options = {"port": running.port, "connections": 4, "seconds": _FOR_EVER, "keep_going": 1}
    with generating(program, "echo", **options) as lasting, generating(program, "connect", **options) as fresh:
        for generator in (lasting, fresh):
            generator.hear(30)
            generator.say("go")
        for _number in range(RENEWALS):
            time.sleep(_PAUSE)
            before = _shown_serial_numbers(running)
            started = time.monotonic()
            running.renew()
            _wait_for_another(running, before, started + _SHOWN_WITHIN)
            slowest = max(slowest, time.monotonic() - started)
        time.sleep(_PAUSE)
        results = [_stop(generator) for generator in (lasting, fresh)]
    values = {
        "failed": sum(float(result["failures"]) for result in results),
        "operations": sum(float(result["operations"]) for result in results),
        "shown": slowest,
    }
    return values, next((result["first_failure"] for result in results if result["failures"]), "")


def _stop(generator: Generator) -> dict[str, Any]:
    generator.say("stop")
    return generator.hear(60)


def _wait_for_another(running: Running, before: set[int], deadline: float) -> None:
    while not (shown := _shown_serial_numbers(running)) - before:
        if time.monotonic() > deadline:
            what = "still the old certificate" if shown else "no certificate"
            raise LoadError(f"the second hop shows {what} {_SHOWN_WITHIN:.0f} s after a renewal")
        time.sleep(0.1)


def _shown_serial_numbers(running: Running) -> set[int]:
    """Of the certificates with which the peer's own listeners answer a TLS client."""
    ports = set(processes.listening_ports(running.pids)) - {running.port}
    return {number for port in ports if (number := _serial_number(port)) is not None}


def _serial_number(port: int) -> int | None:
    """Of the certificate that is shown at this port; whom it names does not matter here. None: it speaks no TLS."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
            plain.settimeout(None)  # pyOpenSSL wants a blocking socket; the kernel keeps the time
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 5, 0))
            connection = SSL.Connection(context, plain)
            connection.set_connect_state()
            connection.do_handshake()
            certificate = connection.get_peer_certificate(as_cryptography=True)
    except (OSError, SSL.Error):
        return None
    return certificate.serial_number if certificate else None
