"""
Key exchange groups and cipher suites by name: which there are, and which of them are good enough.

Ring 0. What is not in these tables cannot be configured. Everything in them is forward secret, has at least 128 bits of
strength and is of present use: groups on elliptic curves and their hybrids with ML-KEM, suites with authenticated
encryption (RFC 9325 section 4.2). Whether the TLS library at hand knows them is found out where contexts are made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NewType

import attrs

__all__ = ["GROUPS", "SUITES", "CipherSuite", "GroupFacts", "SuiteFacts", "TLSGroup"]

TLSGroup = NewType("TLSGroup", str)  # a key of GROUPS
CipherSuite = NewType("CipherSuite", str)  # a key of SUITES


@attrs.frozen
class GroupFacts:
    """
    One group.

    :param number: in the registry "TLS Supported Groups" (IANA).
    :param post_quantum: a hybrid with ML-KEM, which only TLS 1.3 knows.
    :param aliases: what the registry or OpenSSL calls it besides; case does not count.
    """

    number: int
    post_quantum: bool = False
    aliases: tuple[str, ...] = ()


@attrs.frozen
class SuiteFacts:
    """
    One cipher suite.

    :param version: the only version of TLS that uses it.
    :param openssl: what OpenSSL calls it, and so do records.
    """

    version: Literal["1.2", "1.3"]
    openssl: str


# By the name that OpenSSL's commands take.
GROUPS: Mapping[TLSGroup, GroupFacts] = {
    TLSGroup("X25519MLKEM768"): GroupFacts(0x11EC, post_quantum=True),
    TLSGroup("SecP256r1MLKEM768"): GroupFacts(0x11EB, post_quantum=True),
    TLSGroup("SecP384r1MLKEM1024"): GroupFacts(0x11ED, post_quantum=True),
    TLSGroup("X25519"): GroupFacts(0x001D),
    TLSGroup("X448"): GroupFacts(0x001E),
    TLSGroup("P-256"): GroupFacts(0x0017, aliases=("secp256r1", "prime256v1")),
    TLSGroup("P-384"): GroupFacts(0x0018, aliases=("secp384r1",)),
    TLSGroup("P-521"): GroupFacts(0x0019, aliases=("secp521r1",)),
}

# By the name of the registry "TLS Cipher Suites" (IANA).
SUITES: Mapping[CipherSuite, SuiteFacts] = {
    **{
        CipherSuite(name): SuiteFacts("1.3", name)
        for name in ("TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256")
    },
    **{
        CipherSuite(f"TLS_ECDHE_{key}_WITH_{name}"): SuiteFacts("1.2", f"ECDHE-{key}-{openssl}")
        for name, openssl in (
            ("AES_256_GCM_SHA384", "AES256-GCM-SHA384"),
            ("AES_128_GCM_SHA256", "AES128-GCM-SHA256"),
            ("CHACHA20_POLY1305_SHA256", "CHACHA20-POLY1305"),
        )
        for key in ("ECDSA", "RSA")
    },
}
