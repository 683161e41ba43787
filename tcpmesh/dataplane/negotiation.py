"""
What we offer a peer in a handshake, whether our TLS library can do it, and what to say when nothing is in common.

Ring 2: pyOpenSSL, no I/O.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import attrs
from OpenSSL import SSL

from tcpmesh.dataplane.client_hello import supported_groups
from tcpmesh.dataplane.openssl_private import GROUP_SETTER, GroupSetter, UnsupportedError, set_groups
from tcpmesh.settings import TLSSettings, TLSVersion
from tcpmesh.tls_names import GROUPS, SUITES, SuiteFacts, TLSGroup

__all__ = ["Offer", "complaints", "default_groups", "effective_groups", "knows", "negotiate", "nothing_in_common"]

_VERSIONS: dict[TLSVersion, int] = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}
# As Go and the browsers have it: 128 bits are enough (RFC 8446 section 9.1 makes it the one suite that everybody has),
# and a bulk stream costs a tenth less than with 256.
_TLS13_SUITES = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
# TLS 1.2 only for foreign peers that ask for it: forward secret AEAD suites and nothing else (RFC 9325 section 4.2).
_TLS12_CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20"
_NAMES = {facts.number: name for name, facts in GROUPS.items()}
# What a library may offer by itself besides; for people to read.
_OTHERS = {0x0029: "curveSM2", 0x11EE: "curveSM2MLKEM768", 0x0100: "ffdhe2048", 0x0101: "ffdhe3072"}
_FIRST = TLSGroup("X25519MLKEM768")
_LISTED = 6  # names in a line

# What OpenSSL says at the side that finds it out (it is the server who chooses).
_NO_GROUP = ("no suitable key share", "no suitable groups", "no shared group")
_NO_SUITE = ("no shared cipher", "no ciphers available")
# The alerts by which the other side is told (RFC 8446 section 6.2).
_NO_DEAL = ("alert handshake failure", "alert insufficient security")


@attrs.frozen
class Offer:
    """What a context negotiates, for whoever has to explain a failure; kept as the context's app data."""

    groups: tuple[str, ...]  # in order
    tls12: bool


def negotiate(
    context: SSL.Context, tls: TLSSettings, *, server: bool, setter: GroupSetter | None = GROUP_SETTER
) -> None:
    """
    Set versions, groups and cipher suites of a context.

    Without configured groups the library's own order holds, which has a post-quantum group first where it knows any.

    :raises UnsupportedError: when the groups cannot be set.
    :raises SSL.Error: when OpenSSL does not know the suites.
    """
    context.set_min_proto_version(_VERSIONS[tls.min_version])
    context.set_max_proto_version(_VERSIONS[tls.max_version])
    groups = tls.groups or default_groups(_library_groups("1.3"), setter)
    if groups:
        set_groups(context, groups, setter)
    context.set_tls13_ciphersuites(_suites(tls, "1.3") or _TLS13_SUITES)
    context.set_cipher_list(_suites(tls, "1.2") or _TLS12_CIPHERS)
    if server and (tls.groups or tls.ciphers):
        # Else the client's order holds, and ours would be of no use.
        context.set_options(SSL.OP_CIPHER_SERVER_PREFERENCE)
    context.set_app_data(Offer(effective_groups(tls, setter), tls12=tls.min_version == "1.2"))


def _suites(tls: TLSSettings, version: str) -> bytes:
    named = [SUITES[suite] for suite in tls.ciphers]
    return ":".join(suite.openssl for suite in named if suite.version == version).encode("ascii")


# --- what the library does by itself


def default_groups(library: Sequence[int], setter: GroupSetter | None = GROUP_SETTER) -> tuple[TLSGroup, ...]:
    """
    What to set when nothing is configured; nothing, where the library's own order is as we want it.

    :param library: the numbers of what it offers by itself.
    """
    if library[:1] == (GROUPS[_FIRST].number,) or setter is None:
        return ()
    wanted = (_FIRST, *(_NAMES[number] for number in library if number in _NAMES and _NAMES[number] != _FIRST))
    try:
        set_groups(SSL.Context(SSL.TLS_METHOD), wanted, setter)
    except UnsupportedError:
        return ()  # before OpenSSL 3.5: X25519 and P-256 come first then
    return wanted


def effective_groups(tls: TLSSettings, setter: GroupSetter | None = GROUP_SETTER) -> tuple[str, ...]:
    """What is offered with these settings, in order: as configured, else as the library has it."""
    names = tls.groups or default_groups(_library_groups("1.3"), setter)
    return names or tuple(map(_name, _library_groups(tls.max_version)))


@cache
def _library_groups(max_version: TLSVersion) -> tuple[int, ...]:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_max_proto_version(_VERSIONS[max_version])
    return _offered(context)


def _offered(context: SSL.Context) -> tuple[int, ...]:
    """The groups that a client with this context really offers."""
    client = SSL.Connection(context, None)
    client.set_connect_state()
    try:
        client.do_handshake()
    except SSL.WantReadError:
        return supported_groups(client.bio_read(65536))
    raise AssertionError("a handshake without a peer")


# --- whether it can do what is configured


def complaints(tls: TLSSettings, setter: GroupSetter | None = GROUP_SETTER) -> Iterator[str]:
    """
    Why these settings cannot be used here; nothing when they can. For the start, before anything is bound.

    Asks the library by doing it: what a context would really offer is compared with what is configured.
    """
    if tls.groups:
        reason = _refused_groups(attrs.evolve(tls, ciphers=()), setter)
        if reason:
            yield f"groups: {reason}"
    unknown = [suite for suite in tls.ciphers if not knows(SUITES[suite])]
    if unknown:
        yield f"ciphers: the TLS library does not know {', '.join(unknown)}"


def _refused_groups(tls: TLSSettings, setter: GroupSetter | None) -> str:
    context = SSL.Context(SSL.TLS_METHOD)
    try:
        negotiate(context, tls, server=False, setter=setter)
        offered = _offered(context)
    except UnsupportedError as error:
        return str(error)
    except SSL.Error:  # none of them can be used for a handshake
        offered = ()
    if tuple(GROUPS[group].number for group in tls.groups) == offered:
        return ""
    really = ", ".join(_name(number) for number in offered) or "nothing"
    return f"the TLS library was asked for {', '.join(tls.groups)} and offers {really}"


def knows(suite: SuiteFacts) -> bool:
    """Whether the library can use a cipher suite. Among others it would pass over one that it does not know."""
    context = SSL.Context(SSL.TLS_METHOD)
    set_suites = context.set_tls13_ciphersuites if suite.version == "1.3" else context.set_cipher_list
    try:
        set_suites(suite.openssl.encode("ascii"))
    except SSL.Error:
        return False
    return suite.openssl in SSL.Connection(context, None).get_cipher_list()


# --- when nothing is in common


def nothing_in_common(connection: SSL.Connection, reasons: Sequence[str]) -> str:
    """
    Continue OpenSSL's words about a failed handshake, when the cause is or may be that no offer suits both sides.

    :param reasons: the reason of each entry of the error queue.
    :return: what we offer, to be put after them; empty for other failures.
    """
    offer = connection.get_context().get_app_data()
    if not isinstance(offer, Offer) or connection.get_cipher_name() is not None:
        return ""  # the hellos have agreed
    text = "; ".join(reasons)
    groups = _listed(offer.groups)
    suites = _listed([name for name in connection.get_cipher_list() if offer.tls12 or name.startswith("TLS_")])
    if any(phrase in text for phrase in _NO_GROUP):
        return f"; no key exchange group in common: we take {groups}"
    if any(phrase in text for phrase in _NO_SUITE):
        # Before TLS 1.3 a suite fits only with a group, and an ECDSA certificate only with its own curve among them.
        also = f", with groups {groups}" if offer.tls12 else ""
        return f"; no cipher suite in common: we take {suites}{also}"
    if any(phrase in text for phrase in _NO_DEAL):
        return f"; perhaps nothing in common: we offer groups {groups} and cipher suites {suites}"
    return ""


def _name(number: int) -> str:
    return _NAMES.get(number) or _OTHERS.get(number, f"0x{number:04x}")


def _listed(names: Sequence[str]) -> str:
    text = ", ".join(names[:_LISTED])
    return text if len(names) <= _LISTED else f"{text} and {len(names) - _LISTED} more"
