"""
Reads the names of key exchange groups and cipher suites, and says what is wrong with those that are refused.

Ring 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from tcpmesh.addresses import shown
from tcpmesh.config.problems import did_you_mean
from tcpmesh.tls_names import GROUPS, SUITES, CipherSuite, TLSGroup

__all__ = ["parse_cipher_suite", "parse_group"]

_GROUPS = {spelling.lower(): name for name, facts in GROUPS.items() for spelling in (name, *facts.aliases)}
_SUITES = {spelling.lower(): name for name, facts in SUITES.items() for spelling in (name, facts.openssl)}

# Why a name that OpenSSL may well know is not taken; the first that fits is said.
_WEAK_GROUPS = (
    (r"p-?(192|224)|(secp|prime)(160|192|224|239)\w*|sect\w+|brainpoolp(160|192|224)\w*", "has less than 128 bits"),
    (r"ffdhe2048", "has less than 128 bits"),
    (r"ffdhe\d+", "makes each handshake many times as expensive as a curve does"),
    (r"mlkem\d+", "has no classical half to fall back on"),
    (r"brainpool\w+|secp256k1|curvesm2\w*|gc\d+\w*", "is not in common use"),
)
# By a word of its name.
_WEAK_SUITES = (
    ({"null"}, "does not encrypt"),
    ({"anon", "adh", "aecdh"}, "authenticates nobody"),
    ({"psk", "srp", "krb5"}, "asks for no certificate, so that nobody would be identified"),
    ({"rc4", "rc2", "des", "3des", "cbc3", "idea", "seed", "md5", "export"}, "is broken"),
    ({"ccm8", "8"}, "has a tag of 8 bytes only"),
    ({"cbc"}, "has no authenticated encryption"),
    ({"ccm", "ccm8", "camellia", "aria", "sm4", "aegis"}, "is not in common use"),
    ({"dhe", "edh"}, "makes each handshake many times as expensive as ECDHE does"),
)


def parse_group(text: str) -> TLSGroup:
    """
    Read the name of a key exchange group: OpenSSL's or the registry's, in upper or lower case.

    :raises ValueError: for what is no group, or none that is good enough.
    """
    known = _GROUPS.get(text.lower())
    if known is not None:
        return known
    for pattern, reason in _WEAK_GROUPS:
        if re.fullmatch(pattern, text, re.IGNORECASE):
            raise ValueError(f"{shown(text)} {reason}{_instead(GROUPS)}")
    raise ValueError(_unknown(text, "key exchange group", GROUPS))


def parse_cipher_suite(text: str) -> CipherSuite:
    """
    Read the name of a cipher suite: the registry's or OpenSSL's, in upper or lower case.

    :raises ValueError: for what is no suite, or none that is good enough.
    """
    known = _SUITES.get(text.lower())
    if known is not None:
        return known
    reason = _weakness(text)
    if reason:
        raise ValueError(f"{shown(text)} {reason}{_instead(SUITES)}")
    raise ValueError(_unknown(text, "cipher suite", SUITES))


def _weakness(name: str) -> str:
    words = set(re.split("[-_]", name[:64].lower()))
    for weak, reason in _WEAK_SUITES:
        if words & weak:
            return reason
    if {"tls", "sha256", "sha384"} >= words:  # TLS_SHA256_SHA256 (RFC 9150)
        return "does not encrypt"
    if words & {"sha", "sha1"} or (
        "ecdhe" in words and not words & {"gcm", "chacha20"} and words & {"sha256", "sha384"}
    ):
        return "has no authenticated encryption"
    return "is not forward secret" if "with" in words and "ecdhe" not in words else ""


def _instead(names: Iterable[str]) -> str:
    return f"; use one of {', '.join(names)}"


def _unknown(text: str, what: str, names: Iterable[str]) -> str:
    if any(sign in text for sign in ":,/+! "):
        return f"{shown(text)} is no {what}; write each as an entry of its own: [{', '.join(list(names)[:2])}]"
    return f"{shown(text)} is no {what} that tcpmesh knows{did_you_mean(text, names, 'known')}"
