"""
The policy language: what can be written below ``policies``, as values.

Ring 1. docs/policy.md is the description for users. A key that is absent says nothing; one that is there and empty
would mean nobody or nothing, and is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs

from tcpmesh.addresses import shown
from tcpmesh.dns_patterns import DnsPattern
from tcpmesh.errors import Mark
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.policy.identities import IdPattern, IdPrefix
from tcpmesh.policy.limit_language import LimitSettings
from tcpmesh.policy.networks import Network
from tcpmesh.policy.times import Conditions
from tcpmesh.values import Duration, InboundName, ServiceName

__all__ = ["Excluded", "Policy", "PolicyFile", "Principals", "RulesSettings", "Targets", "check_names"]

MAX_ALPN = 255  # bytes of one protocol's name, RFC 7301 section 3.1


def _not_empty(_instance: object, _attribute: object, value: Any) -> None:
    # A deny rule about nobody, or about no listener, would silently protect nothing.
    if value is not None and not value:
        raise ValueError(
            "the list is empty, so that the policy would mean nobody; leave the key out if it says nothing"
        )


def _check_ports(_instance: object, _attribute: object, value: Any) -> None:
    _not_empty(_instance, _attribute, value)
    for port in value or ():
        if not 1 <= port <= 65535:
            raise ValueError(f"{port} is no port that an application can have; ports are 1 to 65535")


def _check_alpn(_instance: object, _attribute: object, value: Any) -> None:
    _not_empty(_instance, _attribute, value)
    for name in value or ():
        if not (name.isascii() and name.isprintable() and 0 < len(name) <= MAX_ALPN):
            raise ValueError(f"{shown(name)} names no protocol; expected 1 to {MAX_ALPN} printable ASCII characters")


@attrs.frozen
class Excluded:
    """Whom an entry of ``except`` leaves out: who fits every key that is given, by any value of each."""

    ids: list[IdPattern] | None = attrs.field(default=None, validator=_not_empty)
    prefixes: list[IdPrefix] | None = attrs.field(default=None, validator=_not_empty)
    trust_domains: list[TrustDomain] | None = attrs.field(default=None, validator=_not_empty)
    dns: list[DnsPattern] | None = attrs.field(default=None, validator=_not_empty)
    networks: list[Network] | None = attrs.field(default=None, validator=_not_empty)
    any: Literal["authenticated"] | None = None
    mark: Mark | None = attrs.field(default=None, eq=False)  # not a key

    def __attrs_post_init__(self) -> None:
        """Refuse what means nobody, or says one thing in two ways."""
        names = [key for key in ("ids", "prefixes", "trust_domains") if getattr(self, key) is not None]
        if self.any == "authenticated" and (names or self.dns is not None):
            raise ValueError(f"any: {self.any} is every peer, whatever else is named; remove one of the two")
        if names and self.dns is not None:
            raise ValueError(
                f"no peer has both a SPIFFE ID ({names[0]}) and a DNS name (dns): all keys of an entry must fit, so "
                "make it two entries"
            )
        if self.any is None and not names and self.dns is None and self.networks is None:
            raise ValueError(
                "nobody is named; give ids, prefixes, trust_domains, dns or networks, or any: authenticated for every "
                "peer"
            )
        self._check_overlap()

    def _check_overlap(self) -> None:
        """Refuse keys about IDs that exclude each other: each must fit."""
        fields = [patterns for patterns in self.id_patterns().values() if patterns]
        for first, second in ((one, two) for one in fields for two in fields if one is not two):
            if not any(_meet(one, two) for one in first for two in second):
                raise ValueError(
                    f"no ID is both of {first[0]} and of {second[0]}: all keys of an entry must fit, so make it two "
                    "entries"
                )

    def id_patterns(self) -> dict[str, list[IdPattern]]:
        """By key: the IDs that are meant, for the keys that are about IDs and are given."""
        return {
            "ids": list(self.ids or ()),
            "prefixes": list(self.prefixes or ()),
            "trust_domains": [IdPattern.below(domain) for domain in self.trust_domains or ()],
        }


def _meet(one: IdPattern, other: IdPattern) -> bool:
    """Whether an ID can be of both."""
    for left, right in zip(one.segments, other.segments, strict=False):
        if left != right and "*" not in (left, right):
            return False
    short, long = sorted((one, other), key=lambda pattern: len(pattern.segments))
    if len(short.segments) < len(long.segments):
        return short.deep
    return short.deep is long.deep


@attrs.frozen
class Principals(Excluded):
    """Whom an entry of ``from`` means: who fits every key that is given, by any value of each, and no exception."""

    any: Literal["authenticated", "unauthenticated"] | None = None  # type: ignore[assignment]
    except_: list[Excluded] | None = attrs.field(default=None, validator=_not_empty, kw_only=True)

    def __attrs_post_init__(self) -> None:
        """Refuse, besides, what nobody without an identity can fit, and exceptions that leave nobody out."""
        super().__attrs_post_init__()
        names = [key for key in ("ids", "prefixes", "trust_domains", "dns") if getattr(self, key) is not None]
        if self.any == "unauthenticated" and names:
            raise ValueError(
                f"any: unauthenticated is whoever has no identity, and {names[0]} names those who have one; make it "
                "two entries"
            )
        for left_out in (self.except_ or ()) if self.any == "unauthenticated" else ():
            if left_out.any is not None or left_out.dns is not None or any(left_out.id_patterns().values()):
                raise ValueError("who has no identity can be left out by networks only")


@attrs.frozen
class Targets:
    """What a policy is about: connections that fit every key that is given, by any value of each."""

    inbound: list[InboundName] | None = attrs.field(default=None, validator=_not_empty)
    ports: list[int] | None = attrs.field(default=None, validator=_check_ports)
    sni: list[DnsPattern] | None = attrs.field(default=None, validator=_not_empty)
    alpn: list[str] | None = attrs.field(default=None, validator=_check_alpn)
    services: list[ServiceName] | None = attrs.field(default=None, validator=_not_empty)

    def __attrs_post_init__(self) -> None:
        """Refuse what is about nothing, or about both directions."""
        inbound = [key for key in ("inbound", "ports", "sni", "alpn") if getattr(self, key) is not None]
        if not inbound and self.services is None:
            raise ValueError("nothing is named; name a listener, or leave out 'to' for every inbound listener")
        if inbound and self.services is not None:
            raise ValueError(
                f"services are where outbound connections go, and {inbound[0]} is about inbound ones; no connection is "
                "both, so make it two policies"
            )


def _check_name(_instance: object, _attribute: object, value: str) -> None:
    if not value:
        raise ValueError("the name is empty; records name the policy")
    if len(value) > 128 or not value.isprintable():
        raise ValueError(f"{shown(value)} is no name for records: expected up to 128 printable characters")


@attrs.frozen
class Policy:
    """One entry of ``policies``: allow, deny, note or limit these peers, at every inbound listener without ``to``."""

    name: str = attrs.field(validator=_check_name)
    action: Literal["allow", "deny", "audit", "limit"]
    from_: list[Principals] = attrs.field(validator=_not_empty)  # the key "from", a Python keyword
    to: Targets | None = None
    when: Conditions | None = None
    mode: Literal["enforce", "dry-run"] = "enforce"
    limit: LimitSettings | None = None
    mark: Mark | None = attrs.field(default=None, eq=False)  # not a key

    def __attrs_post_init__(self) -> None:
        """Refuse a trial of what decides nothing, and limits that are none."""
        if self.action == "audit" and self.mode == "dry-run":
            raise ValueError("action: audit decides nothing, so there is nothing to try; remove mode: dry-run")
        if self.action == "limit" and self.limit is None:
            raise ValueError("action: limit needs the key limit, with connections, rate or both")
        if any(entry.any == "unauthenticated" for entry in self.from_):
            if self.services:
                raise ValueError(
                    "any: unauthenticated means peers that come in without an identity; services are asked for by "
                    "workloads of this proxy, which have one"
                )
            if self.when is not None and self.when.certificate is not None:
                raise ValueError(
                    "any: unauthenticated means peers without a certificate, and when.certificate asks for one; make "
                    "it two policies"
                )
        if self.action != "limit" and self.limit is not None:
            raise ValueError(
                f"action: {self.action} has no limit; write it as a policy of its own, with action: limit, which holds "
                "for whomever the others allow"
            )

    @property
    def decides(self) -> bool:
        """Whether a connection can be allowed or denied by it."""
        return self.action in ("allow", "deny") and self.mode == "enforce"

    @property
    def notes(self) -> bool:
        """Whether it only adds a note to a record."""
        return self.action != "limit" and not self.decides

    @property
    def says(self) -> str:
        """What its note in a record says, if it does not decide."""
        return "audit" if self.action == "audit" else f"would-{self.action}"

    @property
    def services(self) -> Sequence[ServiceName]:
        """The services that it is about; none for a policy about inbound connections."""
        return (self.to and self.to.services) or ()


def check_names(policies: Sequence[Policy]) -> None:
    """
    Make sure that a name means one policy.

    :raises ValueError: naming the first that does not, with its places.
    """
    for name, count in Counter(policy.name for policy in policies).items():
        if count > 1:
            marks = ", ".join(str(policy.mark) for policy in policies if policy.name == name and policy.mark)
            where = f" ({marks})" if marks else ""
            raise ValueError(
                f"{count} policies are named {shown(name)}{where}; records name the policy, so each needs its own"
            )


def _check_policies(_instance: object, _attribute: object, value: Any) -> None:
    check_names(value or ())


@attrs.frozen
class PolicyFile:
    """One file of policies."""

    policies: list[Policy] = attrs.field(validator=_check_policies)


@attrs.frozen
class RulesSettings:
    """``policies`` here, in ``files`` and in the ``.yaml`` files of ``directory``; together they are one list."""

    policies: list[Policy] | None = attrs.field(default=None, validator=_check_policies)
    files: list[Path] | None = attrs.field(default=None, validator=_not_empty)
    directory: Path | None = None
    interval: Duration = attrs.field(default=Duration(5.0))  # seconds between two looks at the files

    @interval.validator
    def _check_interval(self, _attribute: object, value: float) -> None:
        if not 0.1 <= value <= 60:
            raise ValueError("files are looked at every 100ms to 1m")

    def __attrs_post_init__(self) -> None:
        """Refuse to decide by nothing."""
        if self.policies is None and self.files is None and self.directory is None:
            raise ValueError("there are no policies; give policies, files or directory")

    @property
    def inline(self) -> Sequence[Policy]:
        """The policies that stand in the configuration itself."""
        return self.policies or ()

    def paths(self) -> Iterator[Path]:
        """What is looked at for the others."""
        yield from self.files or ()
        if self.directory is not None:
            yield self.directory
