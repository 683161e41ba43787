"""
The only place that reaches below pyOpenSSL's public interface, to the functions of OpenSSL that it binds.

Ring 2, no I/O. Nothing here is promised by pyOpenSSL, so nothing here is relied on: what is missing is found out on
import, and then the public interface serves, or the configuration is refused at the start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import metadata
from itertools import pairwise

from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL

from tcpmesh.errors import TcpmeshError
from tcpmesh.tls_names import GROUPS, TLSGroup

__all__ = ["GROUP_SETTER", "GroupSetter", "UnsupportedError", "set_groups"]

# Sets the groups of a context from a list in OpenSSL's notation; false when OpenSSL does not take it.
GroupSetter = Callable[[SSL.Context, bytes], bool]

# What the public interface can set: one curve of these, alone.
_PUBLIC_CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}


class UnsupportedError(TcpmeshError):
    """What is configured is beyond the TLS library, or beyond what pyOpenSSL lets us ask of it."""


def _find_group_setter() -> GroupSetter | None:
    try:
        from OpenSSL._util import lib

        set_list, clear_errors = lib.SSL_CTX_set1_curves_list, lib.ERR_clear_error  # since cryptography 47
        SSL.Context(SSL.TLS_METHOD)._context  # noqa: B018  is it there?
    except (ImportError, AttributeError):
        return None

    def set_groups_list(context: SSL.Context, names: bytes) -> bool:
        taken: bool = set_list(context._context, names) == 1
        if not taken:
            clear_errors()  # else the next call on any connection would take them for its own failure
        return taken

    return set_groups_list


GROUP_SETTER = _find_group_setter()


def set_groups(context: SSL.Context, groups: Sequence[TLSGroup], setter: GroupSetter | None = GROUP_SETTER) -> None:
    """
    Restrict the key exchange to these groups, in this order of preference.

    :param setter: how; None for what the public interface can do, which is what happens where the other is missing.
    :raises UnsupportedError: when that cannot be done. No other group is ever set instead.
    """
    if setter is None:
        _set_publicly(context, groups)
    elif not setter(context, _notation(groups)):
        unknown = [group for group in groups if not setter(SSL.Context(SSL.TLS_METHOD), group.encode("ascii"))]
        since = ", which came with OpenSSL 3.5" if any(GROUPS[group].post_quantum for group in unknown) else ""
        raise UnsupportedError(f"{_library()} does not know {', '.join(unknown or groups)}{since}")


def _set_publicly(context: SSL.Context, groups: Sequence[TLSGroup]) -> None:
    curve = _PUBLIC_CURVES.get(groups[0]) if len(groups) == 1 else None
    if curve is None:
        installed = " and ".join(f"{name} {metadata.version(name)}" for name in ("pyopenssl", "cryptography"))
        raise UnsupportedError(
            f"tcpmesh cannot set {', '.join(groups)} with {installed}, only one of {', '.join(_PUBLIC_CURVES)} alone; "
            "leave the key out, or use cryptography 47 or newer"
        )
    context.set_tmp_ecdh(curve)


def _notation(groups: Sequence[TLSGroup]) -> bytes:
    """
    Write the list for OpenSSL.

    Where post-quantum and classical groups meet stands ``/`` (since OpenSSL 3.5, as those groups): a server then rather
    asks a client for another share, for one round trip, than take the lesser kind. Within one kind it takes what came.
    """
    text = str(groups[0])
    for before, group in pairwise(groups):
        text += ("/" if GROUPS[before].post_quantum != GROUPS[group].post_quantum else ":") + group
    return text.encode("ascii")


def _library() -> str:
    return " ".join(SSL.OpenSSL_version(SSL.OPENSSL_VERSION).decode("ascii", "replace").split()[:2])
