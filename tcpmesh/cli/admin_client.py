"""
Asking a running proxy over its admin socket.

Ring 4. Blocking, for commands; the other side is ``tcpmesh.observe.admin``.
"""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

import click

from tcpmesh.observe.text import printable
from tcpmesh.values import UnixAddress, format_duration

__all__ = ["AdminError", "NotRunningError", "admin_address", "ask"]

TIMEOUT = 10.0  # seconds without a byte
MAX_ANSWER = 1 << 28  # bytes; 9,000 connections take some 6 MB


class AdminError(click.ClickException):
    """The proxy could not be asked; the message says why and what to do."""

    exit_code = 2


class NotRunningError(AdminError):
    """Nobody is there to be asked."""


def admin_address(admin: str | None, config: Path) -> UnixAddress:
    """
    Find the admin socket: what ``--admin`` says, else what the configuration has in ``admin.listen``.

    :raises click.UsageError: when ``--admin`` is not the address of a unix socket.
    :raises ConfigurationError: when the configuration cannot be used.
    :raises AdminError: when it has no admin socket.
    """
    if admin is not None:
        from tcpmesh.values import parse_address

        try:
            address = parse_address(admin)
        except ValueError as error:
            raise click.UsageError(f"--admin: {error}") from None
        if not isinstance(address, UnixAddress):
            raise click.UsageError(f"--admin: {address} is not a unix socket; write --admin unix:PATH")
        return address
    from tcpmesh.config import load
    from tcpmesh.plugins import PluginRegistry

    settings = load(config.absolute(), PluginRegistry())
    listen = settings.admin.listen
    if not isinstance(listen, UnixAddress):
        raise NotRunningError(
            f'{settings.file} has no admin socket: write admin: {{listen: "unix:PATH"}} there, or use --admin unix:PATH'
        )
    return listen


def ask(
    address: UnixAddress, path: str, *, method: str = "GET", timeout: float = TIMEOUT, limit: int = MAX_ANSWER
) -> Any:
    """
    Get one JSON answer.

    :param method: POST for what changes something.
    :param timeout: seconds without a byte.
    :param limit: bytes.

    :raises AdminError: when nobody answers, or not what a tcpmesh proxy would.
    """
    shown = printable(str(address))
    connection = _Connection(address, timeout)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        body = response.read(limit + 1)
    except FileNotFoundError:
        raise NotRunningError(f"no proxy is running: {shown} does not exist") from None
    except ConnectionRefusedError:
        raise NotRunningError(f"no proxy is running: nobody listens on {shown} any longer") from None
    except PermissionError:
        raise AdminError(f"{shown} may not be used by this user: {_owner(address)}") from None
    except TimeoutError:
        raise AdminError(
            f"the proxy on {shown} did not answer within {format_duration(timeout)}: is it stopped or overloaded?"
        ) from None
    except http.client.HTTPException as error:
        raise AdminError(f"what answers on {shown} is not tcpmesh: {printable(repr(error))}") from None
    except OSError as error:
        raise AdminError(f"{shown}: {error.strerror or error}") from None
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise AdminError(f"what answers on {shown} has no {path}: {response.status} {printable(response.reason)}")
    if len(body) > limit:
        raise AdminError(f"the answer of {shown} is longer than {limit} bytes")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise AdminError(f"what answers on {shown} is not tcpmesh: its answer to {path} is no JSON") from None


class _Connection(http.client.HTTPConnection):
    """An HTTP connection over a unix socket."""

    def __init__(self, address: UnixAddress, timeout: float) -> None:
        super().__init__("tcpmesh", timeout=timeout)
        self._path = address.path

    def connect(self) -> None:
        """(HTTPConnection)."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _owner(address: UnixAddress) -> str:
    try:
        return f"it belongs to {Path(address.path).owner()}"
    except (OSError, KeyError):
        return "ask for it as the user that runs the proxy"
