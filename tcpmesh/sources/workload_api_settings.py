"""
What can be said of a source ``workload-api`` in the configuration.

Ring 3, beside the source.
"""

from __future__ import annotations

import attrs

from tcpmesh.addresses import Address
from tcpmesh.identity.workload_socket import parse_workload_socket

__all__ = ["WorkloadAPISettings", "WorkloadAPIWorkload", "local_socket"]


def local_socket(text: str) -> Address:
    """
    Read the address of a Workload API.

    :raises ValueError: for anything but a socket of this machine.
    """
    address = parse_workload_socket(text)
    if not address.is_loopback:
        raise ValueError(
            f"{address} is on another machine, and a Workload API hands out private keys in plain text; "
            "use the agent of this machine"
        )
    return address


def _check_socket(_instance: object, _attribute: object, value: str | None) -> None:
    if value is not None:
        local_socket(value)


@attrs.frozen
class WorkloadAPISettings:
    """``socket``: where the API answers; without it, the environment's ``SPIFFE_ENDPOINT_SOCKET`` says it."""

    socket: str | None = attrs.field(default=None, validator=_check_socket)


@attrs.frozen
class WorkloadAPIWorkload:
    """``hint``: which of several SVIDs with this workload's ID; without it, the first that has the ID."""

    hint: str | None = None
