"""
Linkerd's authorizations as policies of the plugin ``rules``, for those who leave Linkerd's resources behind.

Ring 1. What comes out admits whom the plugin ``linkerd`` admits. One thing is wider: where service accounts are meant
by the end of their names, any text stands for a segment of the SPIFFE ID, also one that no service account can have.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tcpmesh.addresses import shown
from tcpmesh.errors import ConfigurationError, Problem
from tcpmesh.policy.linkerd import Authorization, Clients, LinkerdPolicy, Range
from tcpmesh.policy.linkerd_names import ServiceAccountNames
from tcpmesh.policy.networks import Network

__all__ = ["as_rules", "rules_yaml"]

_MAX_NAME = 128  # characters of a policy's name


def as_rules(policy: LinkerdPolicy, before: int = 0) -> list[dict[str, Any]]:
    """
    Turn everything that admits somebody into policies that allow, in the form that a file of policies has.

    :param before: how many stand before them in the file; names begin with a number, so that all differ.
    :raises ConfigurationError: naming each authorization that cannot be said so.
    """
    found: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for listener, port in policy.ports.items():
        for one in port.authorizations:
            try:
                from_ = list(_entries(one, policy.names))
            except ValueError as error:
                problems.append(Problem(f"{one.decision.rule}: {one.decision.policy} at {listener}: {error}"))
                continue
            if from_:
                name = f"linkerd {before + len(found) + 1}: {one.decision.policy} at {listener}"[:_MAX_NAME]
                found.append({"name": name, "action": "allow", "from": from_, "to": {"inbound": [listener]}})
    if problems:
        raise ConfigurationError(problems)
    return found


def rules_yaml(policies: Sequence[Mapping[str, Any]]) -> str:
    """Write policies as a file that ``files`` or ``directory`` of the plugin ``rules`` reads."""
    if not policies:
        return "policies: []\n"
    lines = ["policies:"]
    for policy in policies:
        lines += [f"  - name: {_flow(policy['name'])}", f"    action: {policy['action']}", "    from:"]
        lines += [f"      - {_flow(entry)}" for entry in policy["from"]]
        lines.append(f"    to: {_flow(policy['to'])}")
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    """JSON is YAML in its flow form, and texts are quoted in it."""
    return json.dumps(value)


def _entries(one: Authorization, names: ServiceAccountNames) -> Iterator[dict[str, Any]]:
    """Entries of ``from``: one for each sort of name and each network, as the keys of an entry must all fit."""
    for who in [*_who(one.clients, names), *([{"any": "unauthenticated"}] if one.strangers else [])]:
        if one.networks is None:
            yield who
        for network in one.networks or ():
            yield {**who, **_where(network)}


def _who(clients: Clients | None, names: ServiceAccountNames) -> Iterator[dict[str, Any]]:
    if clients is None:
        yield {"any": "authenticated"}
        return
    ids, dns = [], []
    for identity in sorted(clients.identities):
        account = names.account_of(identity)
        if identity.startswith("spiffe://"):
            ids.append(identity)
        elif account is not None:
            ids.append(names.spiffe_id(*account))
        else:
            dns.append(identity)
    for suffix in clients.suffixes:
        accounts = names.suffix("")[1:]  # how all names of service accounts end, behind their namespace
        if not suffix or accounts.endswith(suffix):
            ids.append(names.spiffe_id("*", "*"))
            dns += [f"**{suffix}"] if suffix else []
        elif suffix.endswith(accounts):
            namespace = suffix.removesuffix(accounts).removeprefix(".")
            if "." in namespace:
                raise ValueError(f"'*{suffix}' means a part of the name of a service account; name the accounts")
            ids.append(names.spiffe_id(namespace, "*"))
        else:
            dns.append(f"**{suffix}")
    if ids:
        yield {"ids": list(dict.fromkeys(ids))}
    if dns:
        yield {"dns": list(dict.fromkeys(dns))}


def _where(place: Range) -> dict[str, Any]:
    found: dict[str, Any] = {"networks": [_network(place.network)]}
    if place.except_:
        found["except"] = [{"networks": [_network(part) for part in place.except_]}]
    return found


def _network(network: Network) -> str:
    """Without the bits behind the prefix, which Linkerd does not mind and rules refuse."""
    try:
        return str(ipaddress.ip_network(network.text, strict=False))
    except ValueError:
        raise ValueError(f"{shown(network.text)} is not a network") from None
