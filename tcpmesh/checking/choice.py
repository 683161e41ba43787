"""
Which pairs of a workload and an endpoint are looked at.

Ring 3, pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import attrs

from tcpmesh.checking.findings import Pair
from tcpmesh.settings import Settings
from tcpmesh.values import Address, Endpoint, parse_address

__all__ = ["Choice", "WrongChoiceError", "choose"]


class WrongChoiceError(ValueError):
    """What is asked for is not there, or not said clearly."""


@attrs.frozen
class Choice:
    """
    What somebody wants to know.

    :ivar services: only these; none for all.
    :ivar peer: only this address, whether a service lists it or not.
    :ivar workload: as whom, where the configuration does not say.
    """

    services: Sequence[str] = ()
    peer: Address | None = None
    workload: str | None = None

    @classmethod
    def of(cls, services: Sequence[str], peer: str | None, workload: str | None) -> Choice:
        """
        Read it from texts.

        :raises WrongChoiceError: when they contradict each other, or name no address.
        """
        if services and peer is not None:
            raise WrongChoiceError("name services or a peer, not both")
        try:
            return cls(services, parse_address(peer) if peer is not None else None, workload)
        except ValueError as error:
            raise WrongChoiceError(f"--peer: {error}") from None


def choose(settings: Settings, endpoints: Mapping[str, Sequence[Endpoint]], choice: Choice) -> list[Pair]:
    """
    As each listener would reach each endpoint; then the workloads that reach nobody, unless one is asked for.

    :param endpoints: by service, as far as they are known here.
    :raises WrongChoiceError: naming what there is.
    """
    services, peer, workload = list(dict.fromkeys(choice.services)), choice.peer, choice.workload
    _known(settings, "service", services, settings.services)
    _known(settings, "workload", (workload,) if workload is not None else (), settings.identity.workloads)
    found: list[Pair] = []
    for service in services or settings.services:
        known = endpoints.get(service, ())
        wanted = [endpoint for endpoint in known if peer is None or endpoint.address == peer]
        if peer is not None and not wanted:
            continue
        if not settings.services[service].expect:
            why = f"nobody is expected of service {service}: TLS of applications is passed through to it"
            found.append(Pair(next(iter(settings.identity.workloads)), service, unclear=why))
            continue
        ways: dict[str, str] = {str(one.workload): one.name for one in settings.outbound if service in one.services}
        if workload is not None:
            ways = {workload: ways.get(workload, "")}
        elif not ways:
            why = f"no outbound listener leads to service {service}"
            if not services and peer is None and len(settings.identity.workloads) > 1:
                # Nobody asked for this one: it does not keep the others from being looked at.
                found.append(Pair(next(iter(settings.identity.workloads)), service, unclear=_as_whom(settings, why)))
                continue
            ways = {_only_workload(settings, why): ""}
        for name, listener in ways.items():
            if not known:
                found.append(Pair(name, service, None, listener))
            found += [Pair(name, service, endpoint, listener) for endpoint in wanted]
    if peer is not None and not found:
        name = workload or _only_workload(settings, f"no service lists {peer}")
        found.append(Pair(name, None, Endpoint(peer)))
    if not services and peer is None:
        reaching = {pair.workload for pair in found}
        found += [
            Pair(name) for name in settings.identity.workloads if name not in reaching and workload in (None, name)
        ]
    return found


def _known(settings: Settings, what: str, names: Sequence[str], known: Mapping[str, Any]) -> None:
    for name in names:
        if name not in known:
            close = get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has: {', '.join(known) or 'none'}"
            raise WrongChoiceError(f"{settings.file} has no {what} {name!r}; {hint}")


def _only_workload(settings: Settings, why: str) -> str:
    names = list(settings.identity.workloads)
    if len(names) != 1:
        raise WrongChoiceError(_as_whom(settings, why))
    return names[0]


def _as_whom(settings: Settings, why: str) -> str:
    return f"{why}; say as whom: --workload {'|'.join(list(settings.identity.workloads)[:5])}"
