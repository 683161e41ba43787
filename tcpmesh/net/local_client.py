"""
Who on this machine is at the other end of a local connection.

Ring 3, Linux. Unix sockets carry the peer's credentials (unix(7), SO_PEERCRED). For loopback TCP the kernel's socket
diagnostics (sock_diag(7)) name the owner of the peer's socket, looked up by its exact address pair.
"""

from __future__ import annotations

import os
import pwd
import socket
import struct

import attrs
from twisted.logger import Logger

_log = Logger()

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2
_ALL_STATES = 0xFFFFFFFF
_NO_COOKIE = b"\xff" * 8
_HEADER = struct.Struct("=IHHII")  # nlmsghdr
_OWNER = struct.Struct("=II")  # idiag_uid, idiag_inode
_OWNER_OFFSET = 16 + 64  # behind nlmsghdr, within inet_diag_msg


@attrs.frozen
class LocalClient:
    """
    The user who owns the peer's socket.

    ``gids``: for a unix socket the process's own groups; for TCP, where the kernel knows the user only, the groups
    that the user is a member of.
    """

    uid: int
    gids: tuple[int, ...]


def identify_local_client(connection: socket.socket) -> LocalClient | None:
    """Find the user behind an accepted connection; None when it cannot be told, which must be taken for *nobody*."""
    try:
        if connection.family == socket.AF_UNIX:
            return _by_credentials(connection)
        uid = _owner_of_peer(connection)
    except OSError as problem:
        _log.warn("cannot tell who is connected: {problem}", problem=problem)
        return None
    return None if uid is None else LocalClient(uid, _groups_of(uid))


def _by_credentials(connection: socket.socket) -> LocalClient:
    _pid, uid, gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return LocalClient(uid, tuple({gid, *_groups_of(uid)}))


def _groups_of(uid: int) -> tuple[int, ...]:
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return ()
    return tuple(os.getgrouplist(user.pw_name, user.pw_gid))


def _owner_of_peer(connection: socket.socket) -> int | None:
    """Ask the kernel who owns the socket whose local address is our peer's, and whose peer is us."""
    family = connection.family
    us, peer = connection.getsockname(), connection.getpeername()
    # inet_diag_req_v2 with an exact inet_diag_sockid: source is the socket that we look for.
    request = (
        struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, _ALL_STATES)
        + struct.pack("!HH", peer[1], us[1])
        + _packed(family, peer[0])
        + _packed(family, us[0])
        + struct.pack("=I", 0)
        + _NO_COOKIE
    )
    header = _HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(1)
        kernel.send(header + request)
        answer = kernel.recv(4096)
    if len(answer) < _OWNER_OFFSET + _OWNER.size or _HEADER.unpack_from(answer)[1] == _NLMSG_ERROR:
        return None
    uid, inode = _OWNER.unpack_from(answer, _OWNER_OFFSET)
    # A socket that its process has closed lives on in the kernel for a while, without an inode and with uid 0: whose it
    # was cannot be told any more, and it was hardly root's.
    return uid if inode else None


def _packed(family: int, host: str) -> bytes:
    return socket.inet_pton(family, host.partition("%")[0]).ljust(16, b"\0")
