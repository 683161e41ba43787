"""
Chains that a peer may present as an X.509-SVID, and what must be said of each.

The cases of the suites of the Go, Python and Java libraries, every MUST of X509-SVID.md, and what strangers try.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID as Purpose

from tcpmesh import codes
from tcpmesh.codes import Code
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.identity.verify import MAX_CHAIN_LENGTH
from tcpmesh.values import TrustBundle
from tests.unit.crafted import (
    DAY,
    MD5_HASH,
    NOW,
    SHA1_HASH,
    Extension,
    Issuer,
    Leaf,
    authority,
    bundles,
    dns,
    extension,
    key_usage,
    leaf,
    rsa_key,
    uri,
)
from tests.unit.crafted_handshakes import Held

__all__ = ["VECTORS", "Vector", "World"]

WEB = uri("spiffe://a.test/web")
LONGEST = "spiffe://a.test/" + "x" * (2048 - len("spiffe://a.test/"))
UNKNOWN = Extension("1.3.6.1.4.1.55555.1", True, b"\x05\x00")
HOUR = 3600.0


class World:
    """Two trust domains, each with a root; an intermediate of the first."""

    def __init__(self) -> None:
        self.a = authority("root of a.test")
        self.b = authority("root of b.test")
        self.server = leaf(self.a, uri("spiffe://a.test/server"))

    @cached_property
    def issuing(self) -> Issuer:
        return authority("issuing of a.test", self.a, path_length=0)

    @cached_property
    def rsa(self) -> Issuer:
        return authority("RSA root of a.test", key=rsa_key(2048))

    def below(self, parent: Issuer | None = None, **fields: Any) -> Leaf:
        """A leaf below an intermediate of these fields."""
        return leaf(authority("between", parent or self.a, **fields))

    def levels(self, count: int) -> Leaf:
        """A leaf with so many certificates in its chain, root and leaf included."""
        above = self.a
        for number in range(count - 2):
            above = authority(f"level {number}", above)
        return leaf(above)

    def confined(self, constraint: x509.NameConstraints, *names: bytes) -> Leaf:
        """A leaf below an intermediate with name constraints."""
        more = [extension(constraint, critical=True)]
        return leaf(authority("confined", self.a, more=more), *(names or (WEB,)))

    def held(self) -> Held:
        """The bundles of both."""
        return bundles(a=self.a, b=self.b)


@attrs.frozen
class Vector:
    """
    One chain, and the verdict on it: no code means that it is accepted.

    ``words`` are parts of the explanation. ``held`` are the bundles, those of both trust domains by default.
    """

    name: str
    make: Callable[[World], Leaf]
    code: Code | None = None
    words: Sequence[str] = ()
    held: Callable[[World], Held] = World.held
    now: float = NOW


def _names(*names: bytes) -> Callable[[World], Leaf]:
    return lambda world: leaf(world.a, *names)


def _leaf(**fields: Any) -> Callable[[World], Leaf]:
    return lambda world: leaf(world.a, **fields)


def _changed(**changes: Extension | None) -> Callable[[World], Leaf]:
    return _leaf(changes=changes)


def _usage(*bits: str, critical: bool = True) -> Extension:
    return extension(key_usage(*bits), critical=critical)


def _purposes(*purposes: x509.ObjectIdentifier) -> Extension:
    return extension(x509.ExtendedKeyUsage(purposes))


def _ca(value: bool) -> Extension:
    return extension(x509.BasicConstraints(ca=value, path_length=None), critical=True)


def _of_domain(name: str, trust_domain: str) -> Vector:
    """A good leaf of a trust domain that is called so, and has the authority of a.test."""
    domain = TrustDomain(trust_domain)
    return Vector(
        name,
        _names(uri(f"spiffe://{trust_domain}/web")),
        held=lambda world: {domain: TrustBundle(domain, (world.a.certificate,))},
    )


def _permitted(kind: type[x509.GeneralName], value: str) -> x509.NameConstraints:
    return x509.NameConstraints([kind(value)], None)


def _two_roots_of_one_name(world: World) -> Held:
    twin = authority("root of a.test", serial=0x99)
    domain = TrustDomain("a.test")
    return {domain: TrustBundle(domain, (twin.certificate, world.a.certificate))}


def _empty(_world: World) -> Held:
    return {TrustDomain("a.test"): TrustBundle(TrustDomain("a.test"), ())}


TRUST = [
    Vector("signed by the root", lambda world: leaf(world.a)),
    Vector("signed by an intermediate", lambda world: leaf(world.issuing)),
    Vector("the anchor is an intermediate", lambda world: leaf(world.issuing), held=lambda w: bundles(a=w.issuing)),
    Vector("of another trust domain with a bundle", lambda world: leaf(world.b, uri("spiffe://b.test/web"))),
    Vector(
        "of a, signed by the authority of b",
        lambda world: leaf(world.b),
        codes.WRONG_ANCHOR,
        ["presents spiffe://a.test/web, but its authority", "root of b.test", "would verify under trust domain b.test"],
    ),
    Vector(
        "of a, signed by an intermediate of b",
        lambda world: world.below(world.b),
        codes.WRONG_ANCHOR,
        ["would verify under trust domain b.test"],
    ),
    Vector(
        "of a, signed by b, whose bundle is the only one",
        lambda world: leaf(world.b),
        codes.NO_BUNDLE,
        ["no trust bundle for a.test", "belongs to b.test"],
        held=lambda w: bundles(b=w.b),
    ),
    Vector(
        "the roots of b are filed under a",
        lambda world: leaf(world.a),
        codes.UNKNOWN_AUTHORITY,
        ["its issuer is 'CN=root of a.test'"],
        held=lambda w: bundles(a=w.b),
    ),
    Vector(
        "no bundle at all",
        lambda world: leaf(world.a),
        codes.NO_BUNDLE,
        ["no trust bundle for a.test", "bundles held: none"],
        held=lambda _w: {},
    ),
    Vector(
        "a bundle without roots", lambda w: leaf(w.a), codes.NO_BUNDLE, ["of that trust domain is revoked"], held=_empty
    ),
    Vector(
        "only the bundle of another trust domain",
        lambda world: leaf(world.a),
        codes.NO_BUNDLE,
        ["no trust bundle for a.test"],
        held=lambda w: bundles(b=w.b),
    ),
    Vector("two roots of one name", lambda world: leaf(world.a), held=_two_roots_of_one_name),
    Vector(
        "a root of the right name and another key",
        lambda _world: leaf(authority("root of a.test")),
        codes.UNKNOWN_AUTHORITY,
        ["has an authority of that name with another key", "imitates it"],
    ),
    Vector(
        "an authority that nobody knows",
        lambda _world: leaf(authority("stranger")),
        codes.UNKNOWN_AUTHORITY,
        ["nobody in any trust bundle signed the chain of spiffe://a.test/web", "its issuer is CN=stranger"],
    ),
]

NAMES = [
    Vector("a DNS name beside the ID", _names(dns("web.a.test"), WEB)),
    Vector("no names", _changed(names=None), codes.NO_SPIFFE_ID, ["has no URI name"]),
    Vector(
        "the ID as common name only",
        _leaf(subject="spiffe://a.test/web", changes={"names": None}),
        codes.NO_SPIFFE_ID,
        ["has no URI name, only subject CN=spiffe://a.test/web"],
    ),
    Vector(
        "the ID as DNS name only", _names(dns("spiffe://a.test/web")), codes.NO_SPIFFE_ID, ["dns:spiffe://a.test/web"]
    ),
    Vector(
        "two SPIFFE IDs",
        _names(WEB, uri("spiffe://a.test/db")),
        codes.SEVERAL_IDS,
        ["2 URI names", "spiffe://a.test/db"],
    ),
    Vector("one SPIFFE ID twice", _names(WEB, WEB), codes.SEVERAL_IDS, ["2 URI names"]),
    Vector(
        "two URIs, one a SPIFFE ID", _names(WEB, uri("https://a.test/")), codes.SEVERAL_IDS, ["2 URI names", "https:"]
    ),
    Vector("a URI of another kind", _names(uri("https://a.test/web")), codes.NO_SPIFFE_ID, ["is not a SPIFFE ID"]),
    Vector("the scheme sparfe", _names(uri("sparfe://a.test/web")), codes.NO_SPIFFE_ID, ["sparfe://a.test/web"]),
    Vector("an empty URI", _names(uri("")), codes.NO_SPIFFE_ID, ["is not a SPIFFE ID"]),
    Vector("no path", _names(uri("spiffe://a.test")), codes.PROFILE, ["spiffe://a.test has no path"]),
    Vector("the scheme in capitals", _names(uri("SPIFFE://a.test/web")), codes.INVALID_ID, ["did you mean"]),
    Vector("the trust domain in capitals", _names(uri("spiffe://A.TEST/web")), codes.INVALID_ID, ["not lower case"]),
    Vector("a path in capitals", _names(uri("spiffe://a.test/WEB"))),
    Vector("a final slash", _names(uri("spiffe://a.test/web/")), codes.INVALID_ID, ["has an empty path segment"]),
    Vector("two slashes", _names(uri("spiffe://a.test//web")), codes.INVALID_ID, ["has an empty path segment"]),
    Vector("a dot segment", _names(uri("spiffe://a.test/../web")), codes.INVALID_ID, ["has the dot segment"]),
    Vector("a port", _names(uri("spiffe://a.test:443/web")), codes.INVALID_ID, ["has user information or a port"]),
    Vector("a user", _names(uri("spiffe://root@a.test/web")), codes.INVALID_ID, ["has user information or a port"]),
    Vector("a query", _names(uri("spiffe://a.test/web?x=1")), codes.INVALID_ID, ["has a query or a fragment"]),
    Vector("a fragment", _names(uri("spiffe://a.test/web#x")), codes.INVALID_ID, ["has a query or a fragment"]),
    Vector("percent-encoding", _names(uri("spiffe://a.test/w%65b")), codes.INVALID_ID, ["is percent-encoded"]),
    Vector("a NUL in the path", _names(uri("spiffe://a.test/web\0.b")), codes.INVALID_ID, [r"'web\x00.b'"]),
    Vector("a NUL in the trust domain", _names(uri("spiffe://a.test\0/web")), codes.INVALID_ID, [r"\x00"]),
    Vector("a final line feed", _names(uri("spiffe://a.test/web\n")), codes.INVALID_ID, [r"\n"]),
    Vector("UTF-8 in the path", _names(uri("spiffe://a.test/w\u00e9b")), codes.INVALID_ID, [r"'w\xe9b' may only hold"]),
    Vector(
        "UTF-8 in the trust domain", _names(uri("spiffe://\u212a.test/web")), codes.INVALID_ID, ["may only hold a-z"]
    ),
    Vector("a NUL in a DNS name beside it", _names(WEB, dns("a\0.test")), codes.MALFORMED_CERTIFICATE, ["has a NUL"]),
    Vector("an ID of 2048 bytes", _names(uri(LONGEST))),
    Vector(
        "an ID of 2049 bytes", _names(uri(LONGEST + "x")), codes.INVALID_ID, ["has 2049 characters, more than 2048"]
    ),
    _of_domain("a trust domain of 255 bytes", "a" * 255),
    Vector(
        "a trust domain of 256 bytes",
        _names(uri(f"spiffe://{'a' * 256}/web")),
        codes.INVALID_ID,
        ["has 256 characters, more than 255"],
    ),
    _of_domain("a trust domain that is an IPv4 address", "1.2.3.4"),
    _of_domain("a trust domain that no DNS name may be", "-a_..b."),
    Vector("an IPv6 address", _names(uri("spiffe://[::1]/web")), codes.INVALID_ID, ["has user information or a port"]),
    Vector(
        "an empty subject and names that are not critical",
        _leaf(subject=""),
        codes.PROFILE,
        ["neither a subject nor critical subject alternative names"],
    ),
]

USAGE = [
    Vector("no basic constraints", _changed(constraints=None)),
    Vector("an authority as leaf", _changed(constraints=_ca(True)), codes.PROFILE, ["cA"]),
    Vector("no key usage", _changed(usage=None), codes.PROFILE, ["has no key usage"]),
    Vector(
        "a key usage that is not critical",
        _changed(usage=_usage("digital_signature", critical=False)),
        codes.PROFILE,
        ["is not critical"],
    ),
    Vector("no digitalSignature", _changed(usage=_usage("key_encipherment")), codes.PROFILE, ["digitalSignature"]),
    Vector(
        "keyCertSign", _changed(usage=_usage("digital_signature", "key_cert_sign")), codes.PROFILE, ["has keyCertSign"]
    ),
    Vector("cRLSign", _changed(usage=_usage("digital_signature", "crl_sign")), codes.PROFILE, ["has cRLSign"]),
    Vector(
        "digitalSignature among others",
        _changed(usage=_usage("digital_signature", "key_encipherment", "key_agreement")),
    ),
    Vector("no extended key usage", _changed(extended=None)),
    Vector("serverAuth only", _changed(extended=_purposes(Purpose.SERVER_AUTH)), codes.PROFILE, ["extended key usage"]),
    Vector("clientAuth only", _changed(extended=_purposes(Purpose.CLIENT_AUTH)), codes.PROFILE, ["extended key usage"]),
    Vector(
        "any purpose only",
        _changed(extended=_purposes(Purpose.ANY_EXTENDED_KEY_USAGE)),
        codes.PROFILE,
        ["extended key usage"],
    ),
    Vector(
        "neither of both", _changed(extended=_purposes(Purpose.CODE_SIGNING)), codes.PROFILE, ["extended key usage"]
    ),
    Vector(
        "both among others",
        _changed(extended=_purposes(Purpose.SERVER_AUTH, Purpose.CLIENT_AUTH, Purpose.CODE_SIGNING)),
    ),
    Vector("an unknown critical extension", _leaf(more=[UNKNOWN]), codes.PROFILE, ["a critical extension"]),
    Vector("an unknown extension", _leaf(more=[attrs.evolve(UNKNOWN, critical=False)])),
    Vector(
        "an unknown critical extension in an intermediate",
        lambda world: world.below(more=[UNKNOWN]),
        codes.PROFILE,
        ["the intermediate CN=between", "a critical extension"],
    ),
    Vector("version 1", _leaf(version=1), codes.PROFILE, ["version 1, not 3"]),
]

CHAINS = [
    Vector(
        "an intermediate without cA",
        lambda world: world.below(ca=False),
        codes.PROFILE,
        ["the intermediate CN=between", "cA is not true"],
    ),
    Vector(
        "an intermediate without basic constraints",
        lambda world: world.below(drop=["2.5.29.19"]),
        codes.PROFILE,
        ["the intermediate CN=between", "cA is not true"],
    ),
    Vector(
        "an intermediate without keyCertSign",
        lambda world: world.below(usage=key_usage("crl_sign")),
        codes.PROFILE,
        ["the key usage of the intermediate CN=between", "lacks keyCertSign", "the chain of spiffe://a.test/web"],
    ),
    Vector(
        "an intermediate without key usage",
        lambda world: world.below(drop=["2.5.29.15"]),
        codes.PROFILE,
        ["the intermediate CN=between", "has no key usage"],
    ),
    Vector(
        "an intermediate with the ID of a workload",
        lambda world: world.below(
            more=[extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://a.test/ca")]))]
        ),
        codes.PROFILE,
        ["the intermediate CN=between", "makes it a workload's"],
    ),
    Vector(
        "an intermediate with the ID of its trust domain",
        lambda world: world.below(
            more=[extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://a.test")]))]
        ),
    ),
    Vector(
        "more intermediates than the path length allows",
        lambda world: world.below(world.issuing),
        codes.PROFILE,
        ["exceeds the path length"],
    ),
    Vector(
        "an intermediate that was left out",
        lambda world: Leaf(
            (made := leaf(world.issuing)).certificate, made.key, (made.certificate, world.a.certificate)
        ),
        codes.UNKNOWN_AUTHORITY,
        ["its issuer is 'CN=issuing of a.test'"],
    ),
    Vector("the longest chain", lambda world: world.levels(MAX_CHAIN_LENGTH)),
    Vector(
        "one certificate more",
        lambda w: w.levels(MAX_CHAIN_LENGTH + 1),
        codes.CERTIFICATE_TOO_LARGE,
        ["9 certificates, more than 8"],
    ),
    Vector(
        "names outside of a constraint",
        lambda world: world.confined(_permitted(x509.UniformResourceIdentifier, "b.test")),
        codes.CHAIN_INVALID,
        ["spiffe://a.test/web", "name constraints"],
    ),
    Vector(
        "names inside of a constraint",
        lambda world: world.confined(_permitted(x509.UniformResourceIdentifier, "a.test")),
    ),
    Vector(
        "a DNS name outside of a constraint",
        lambda world: world.confined(_permitted(x509.DNSName, "a.test"), WEB, dns("www.b.test")),
        codes.CHAIN_INVALID,
        ["name constraints"],
    ),
    Vector("RSA of 1024 bits", _leaf(key=rsa_key(1024)), codes.PROFILE, ["key"]),
    Vector("the curve P-521", _leaf(key=ec.generate_private_key(ec.SECP521R1())), codes.PROFILE, ["secp521r1"]),
    Vector("signed with SHA-1", _leaf(hash_algorithm=SHA1_HASH), codes.PROFILE, ["SHA-256 or longer"]),
    Vector(
        "signed with MD5",
        lambda world: leaf(world.rsa, hash_algorithm=MD5_HASH),
        codes.PROFILE,
        ["SHA-256 or longer"],
        held=lambda world: bundles(a=world.rsa),
    ),
]

TIMES = [
    Vector("in its last second", _leaf(not_after=NOW)),
    Vector("expired by a second", _leaf(not_after=NOW - 1), codes.EXPIRED, ["expired 1 s ago", "by this clock"]),
    Vector("in its first second", _leaf(not_before=NOW)),
    Vector("not yet valid by a second", _leaf(not_before=NOW + 1), codes.NOT_YET_VALID, ["1 s from now"]),
    Vector(
        "a clock two hours back",
        _leaf(),
        codes.NOT_YET_VALID,
        ["119 min from now", "it is 2027-01-15T06:00:00Z by this clock: one of the two clocks is wrong"],
        now=NOW - 2 * HOUR,
    ),
    Vector(
        "a clock two days forward",
        _leaf(),
        codes.EXPIRED,
        ["expired 47 h ago, at 2027-01-15T09:00:00Z", "it is 2027-01-17T08:00:00Z by this clock"],
        now=NOW + 2 * DAY,
    ),
    Vector(
        "an expired intermediate",
        lambda world: world.below(not_after=NOW - 2 * HOUR),
        codes.CHAIN_INVALID,
        ["the intermediate CN=between in the chain of spiffe://a.test/web expired 2 h ago"],
    ),
    Vector(
        "an intermediate of the future",
        lambda world: world.below(not_before=NOW + HOUR),
        codes.CHAIN_INVALID,
        ["the intermediate CN=between in the chain of spiffe://a.test/web is valid only from", "60 min from now"],
    ),
    Vector("a leaf that will outlive its issuer", lambda world: leaf(world.issuing, not_after=NOW + 99 * DAY)),
    Vector(
        "a leaf that has outlived its issuer",
        lambda world: leaf(world.issuing, not_after=NOW + 99 * DAY),
        codes.CHAIN_INVALID,
        ["expired 10 d ago"],
        now=NOW + 40 * DAY,
    ),
]

VECTORS = [*TRUST, *NAMES, *USAGE, *CHAINS, *TIMES]
