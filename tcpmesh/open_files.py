"""
How many connections the process's limit of open files allows.

Ring 0. Imports nothing of tcpmesh.
"""

from __future__ import annotations

import resource

import attrs

# Two sockets a connection; beside them listeners, log files, the admin interface, identity sources and what plugins
# open. The kernel counts all of them alike (RLIMIT_NOFILE, getrlimit(2)).
PER_CONNECTION = 2
RESERVED = 64


@attrs.frozen
class Fit:
    """
    How many connections there can be; ``warning`` is empty when it is as many as were asked for.

    ``sockets`` is how many descriptors there are for them, None for no limit.
    """

    connections: int
    warning: str = ""
    sockets: int | None = None


def fit_connections(wanted: int, most: int | None = None, ports: int = 0) -> Fit:
    """
    Compare the wanted number of connections with the hard limit, up to which the soft one can be raised.

    :param most: how many files the reactor can watch; None for as many as there are.
    :param ports: how many sockets listen because of ranges of ports.
    """
    reserved = RESERVED + ports
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = f"the hard limit of open files is {hard}"
    remedy = f"raise it (LimitNOFILE=, ulimit -Hn) to {wanted * PER_CONNECTION + reserved}"
    if most is not None and _is_below(most, hard):
        hard, limit, remedy = most, f"the reactor can watch {most} files", "choose another reactor"
    if hard == resource.RLIM_INFINITY:
        return Fit(wanted)
    sockets = max(PER_CONNECTION, hard - reserved)
    possible = sockets // PER_CONNECTION
    if possible >= wanted:
        return Fit(wanted, sockets=sockets)
    return Fit(
        possible,
        f"limits.connections {wanted} does not fit: {limit}, which is enough for {possible} connections; {remedy}",
        sockets,
    )


def set_soft_limit(connections: int, most: int | None = None, ports: int = 0) -> None:
    """
    Raise the soft limit of open files to the hard one; without a hard one to what so many connections need.

    :param ports: as for :func:`fit_connections`.
    :param most: how many files the reactor can watch: a file beyond that must not be had at all.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most is not None and _is_below(most, hard):
        wanted = most
    elif hard != resource.RLIM_INFINITY:
        wanted = hard
    elif soft != resource.RLIM_INFINITY:
        wanted = max(soft, connections * PER_CONNECTION + RESERVED + ports)
    else:
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _is_below(most: int, limit: int) -> bool:
    return limit == resource.RLIM_INFINITY or most < limit
