"""
Which rule would have decided otherwise about a connection, and what of it does not fit.

Ring 1. For explanations only: every policy is looked at, and every key of an entry compared by itself, so that what is
wrong can be named. A key is told by the value of it that comes nearest.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Sequence

import attrs

from tcpmesh.addresses import shown
from tcpmesh.policy.entries import guard_of, means, selectors
from tcpmesh.policy.identities import DnsPattern, IdPattern
from tcpmesh.policy.language import Excluded, Policy, Principals, Targets
from tcpmesh.policy.networks import Network, source_number
from tcpmesh.policy.ruling import rule_place
from tcpmesh.policy.tables import Selector
from tcpmesh.policy.times import CertificateTimes, Conditions, Schedule, Window
from tcpmesh.policy_interfaces import NearRule
from tcpmesh.values import AuthorizationRequest, Effect, TCPAddress, format_duration

__all__ = ["near_rules"]

_SCHEME = "spiffe://"
_COMPARED = 1000  # values of one key, of which the nearest is told: a proxy that carries connections may be asked


@attrs.frozen
class _Miss:
    """A key that does not fit: what is told of it, and from 0 (nearly) to 1 (not at all) how far off it is."""

    text: str
    distance: float


def near_rules(
    policies: Sequence[Policy], request: AuthorizationRequest, effect: Effect, now: float
) -> Iterator[NearRule]:
    """
    Every rule with that effect that is about connections of that direction, one for each entry of ``from``.

    :param now: seconds since the epoch.
    """
    for number, policy in enumerate(policies):
        if policy.action != effect.value or bool(policy.services) != bool(request.service):
            continue
        about = [*_targets(policy.to, request), *_when(policy.when, request, now), *_mode(policy)]
        for position, entry in enumerate(policy.from_):
            place, who = _principals(entry, request)
            misses = [*about, *_population(policy, entry, request), *who]
            mark = entry.mark or policy.mark
            yield NearRule(
                policy=policy.name,
                rule=rule_place(policy, number, position, place),
                place=str(mark or ""),
                effect=effect,
                misses=tuple(miss.text for miss in misses),
                distance=sum(miss.distance for miss in misses),
            )


def _population(policy: Policy, entry: Principals, request: AuthorizationRequest) -> Iterator[_Miss]:
    """Whether an entry can mean peers such as this one, with or without an identity."""
    stranger = not request.peer.is_authenticated and not request.service
    if means(policy, entry, strangers=stranger):
        return
    if not stranger:
        yield _Miss("is for peers without an identity (any: unauthenticated)", 0.5)
    elif entry.any is not None or not any(entry.id_patterns().values()):  # else what it names tells it
        yield _Miss("is for peers with an identity; others need any: unauthenticated", 0.5)


def _mode(policy: Policy) -> Iterator[_Miss]:
    if policy.mode == "dry-run":
        yield _Miss("is only tried (mode: dry-run)", 0.0)


# --- to


def _targets(to: Targets | None, request: AuthorizationRequest) -> Iterator[_Miss]:
    if to is None:
        return
    if to.inbound is not None and request.inbound not in to.inbound:
        yield _miss("inbound", to.inbound, request.inbound)
    if to.ports is not None and request.port not in to.ports:
        yield _miss("port", to.ports, str(request.port) if request.port else "", "a unix socket")
    if to.sni is not None and not any(name.matches(request.sni) for name in to.sni):
        yield _miss("SNI", to.sni, request.sni, "none")
    if to.alpn is not None and request.alpn not in to.alpn:
        yield _miss("ALPN", to.alpn, request.alpn, "none")
    if to.services is not None and request.service not in to.services:
        yield _miss("service", to.services, request.service)


def _miss(what: str, named: Sequence[object], own: str, absent: str = "") -> _Miss:
    """A key none of whose values is the connection's own."""
    distance, nearest = min(((_distance(str(value), own), str(value)) for value in named), key=lambda pair: pair[0])
    others = f" and {len(named) - 1} more" if len(named) > 1 else ""
    return _Miss(f"names {what} {nearest}{others}, not {_own(own) if own else absent}", distance)


def _own(text: str) -> str:
    """What a peer says of itself: quoted if it could be taken for something else."""
    return text if text.isascii() and text.isprintable() and " " not in text and len(text) <= 256 else shown(text)


def _distance(one: str, other: str) -> float:
    """
    From 0 to 1: how much two texts differ between what they begin and what they end with alike.

    Of two SPIFFE IDs of one trust domain only the paths count.
    """
    if one.startswith(_SCHEME) and other.startswith(_SCHEME):
        (here, _, one), (there, _, other) = (text.removeprefix(_SCHEME).partition("/") for text in (one, other))
        if here != there:
            return 1.0
    longest = max(len(one), len(other))
    if not longest or one == other:
        return 0.0
    short = min(len(one), len(other))
    begin = 0
    while begin < short and one[begin] == other[begin]:
        begin += 1
    end = 0
    while end < short - begin and one[-1 - end] == other[-1 - end]:
        end += 1
    return 1 - (begin + end) / longest


# --- from


def _principals(entry: Principals, request: AuthorizationRequest) -> tuple[str, list[_Miss]]:
    """The place in the entry that comes nearest, and what of the entry does not fit."""
    place = ""
    misses = []
    for number, (key, values) in enumerate(_keys(entry)):
        index, miss = _nearest(key, values, request)
        if number == 0:
            place = f"{key}[{index}]"
        if miss is not None:
            misses.append(miss)
    if entry.any is not None and not place:
        place = "any"
    for number, left_out in enumerate(entry.except_ or ()):
        if _holds(left_out, request):
            misses.append(_Miss(f"leaves it out ({_except_place(left_out, number)})", 0.3))
    return place, misses


def _keys(entry: Excluded) -> Iterator[tuple[str, Sequence[Selector]]]:
    for key, patterns in entry.id_patterns().items():
        if patterns:
            yield key, patterns
    if entry.dns is not None:
        yield "dns", entry.dns
    if entry.networks is not None:
        yield "networks", entry.networks


def _nearest(key: str, values: Sequence[Selector], request: AuthorizationRequest) -> tuple[int, _Miss | None]:
    for index, value in enumerate(values):
        if _fits(value, request):
            return index, None
    own = _compared(key, request)
    distance, index = min((_distance(_text(value, key), own), index) for index, value in enumerate(values[:_COMPARED]))
    others = f" and {len(values) - 1} more" if len(values) > 1 else ""
    absent = "a unix socket" if key == "networks" else f"{_own(str(request.peer))}"
    told = _own(own) if own else absent
    # A rule about the same peer elsewhere is nearer than one about another peer here.
    weight = distance if key == "networks" else 0.5 + distance / 2
    return index, _Miss(f"names {_WORDS[key]}{_text(values[index], key)}{others}, not {told}", weight)


_WORDS = {"ids": "", "prefixes": "prefix ", "trust_domains": "trust domain ", "dns": "dns:", "networks": "network "}


def _text(value: Selector, key: str) -> str:
    if key == "trust_domains" and isinstance(value, IdPattern):
        return value.segments[0]
    return str(value)


def _compared(key: str, request: AuthorizationRequest) -> str:
    """What of a connection a key is held against."""
    peer, source = request.peer, request.source
    if key == "networks":
        return source.host if isinstance(source, TCPAddress) else ""
    if key == "dns":
        return "" if peer.spiffe_id is not None else peer.dns_name
    if key == "trust_domains" and peer.spiffe_id is not None:
        return peer.spiffe_id.trust_domain.name
    return str(peer)


def _fits(selector: Selector, request: AuthorizationRequest) -> bool:
    peer = request.peer
    if selector is None:
        return True
    if isinstance(selector, Network):
        return selector.contains(source_number(request.source))
    if isinstance(selector, DnsPattern):
        return peer.spiffe_id is None and selector.matches(peer.dns_name)
    return peer.spiffe_id is not None and selector.matches(peer.spiffe_id)


def _holds(entry: Excluded, request: AuthorizationRequest) -> bool:
    if entry.any is not None and not request.peer.is_authenticated:
        return False
    guard = guard_of(entry)
    return (guard is None or guard(request)) and any(_fits(selector, request) for _, selector in selectors(entry))


def _except_place(entry: Excluded, number: int) -> str:
    return f"except[{number}]" + (f", {entry.mark}" if entry.mark else "")


# --- when


def _when(when: Conditions | None, request: AuthorizationRequest, now: float) -> Iterator[_Miss]:
    if when is None:
        return
    if when.windows is not None and not Schedule(Conditions(windows=when.windows)).at(request.peer, now)[0]:
        moment = datetime.datetime.fromtimestamp(now, datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        yield _Miss(f"holds {_spoken(when.windows)}, not at {moment}", 0.2)
    if when.certificate is not None and not request.peer.is_authenticated:
        yield _Miss("asks for a certificate, and there is none", 0.2)
    elif when.certificate is not None:
        start, end = when.certificate.span(request.peer)
        if not start <= now < end:
            age, left = now - request.peer.not_before, request.peer.not_after - now
            told = f"{_certificate(when.certificate)}, and this one is {_rough(age)} old and has {_rough(left)} left"
            yield _Miss(f"asks for a certificate with {told}", 0.2)


def _spoken(windows: Iterable[Window]) -> str:
    return " or ".join(
        " ".join(
            [
                ",".join(window.days) if window.days is not None else "every day",
                ",".join(str(hours) for hours in window.hours or ()) or "all day",
                str(window.timezone or "UTC"),
            ]
        )
        for window in windows
    )


def _certificate(times: CertificateTimes) -> str:
    return ", ".join(
        f"{name} {format_duration(value)}" for name, value in attrs.asdict(times).items() if value is not None
    )


def _rough(seconds: float) -> str:
    """A duration to the second; certificates of more than ten years have no shorter name."""
    return f"-{format_duration(float(-int(seconds)))}" if seconds <= -1 else format_duration(float(int(seconds)))
