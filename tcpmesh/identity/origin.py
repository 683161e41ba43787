"""
From SPIFFE IDs back to foreign names: which mapping gives an ID, and to whom.

Ring 1. Below a mapping's prefix nobody has an ID but by that mapping; one that it gives to no name is a mistake.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import attrs

from tcpmesh.addresses import shown
from tcpmesh.identity import foreign
from tcpmesh.identity.foreign import KINDS
from tcpmesh.identity.mapping import NameMapping, listed
from tcpmesh.identity.spiffe import SpiffeId, TrustDomain
from tcpmesh.identity.templates import Variable, decode_segment
from tcpmesh.settings import MappingKind

__all__ = ["Origin", "origin_of"]

_READERS: Mapping[MappingKind, Callable[[Mapping[str, str]], object]] = MappingProxyType(
    {
        "kubernetes": lambda values: foreign.service_account(f"{values['namespace']}/{values['service_account']}"),
        "aws": lambda values: foreign.aws_role(
            f"arn:{values['partition']}:iam::{values['account']}:role/{values['role']}"
        ),
        "dns": lambda values: foreign.dns_name(values["name"]),
    }
)


@attrs.frozen
class Origin:
    """
    The mapping below whose prefix an ID lies.

    :ivar name: who has the ID, in words; empty when nobody can have it.
    :ivar problem: why nobody can.
    """

    mapping: NameMapping
    name: str = ""
    problem: str = ""


def origin_of(identity: SpiffeId, mappings: Iterable[NameMapping], trust_domain: TrustDomain) -> Origin | None:
    """Find the mapping whose prefix an ID lies below; None when there is none."""
    if identity.trust_domain != trust_domain:
        return None
    path = identity.segments
    for mapping in mappings:
        count = len(mapping.prefix)
        if path[:count] == mapping.prefix:
            try:
                return Origin(mapping, _name(mapping, path[count:], count))
            except ValueError as error:
                return Origin(mapping, problem=str(error))
    return None


def _name(mapping: NameMapping, segments: tuple[str, ...], offset: int) -> str:
    """
    The name that the template gave these segments to.

    :raises ValueError: when there is no such name.
    """
    template = mapping.template.segments
    if len(segments) != len(template):
        raise ValueError(
            f"it has {len(segments)} segments below {shown('/' + '/'.join(mapping.prefix))}, and "
            f"{shown(str(mapping.template))} gives {len(template)}"
        )
    values = {variable: texts[0] for variable, texts in mapping.where.items() if len(texts) == 1}
    for number, (wanted, segment) in enumerate(zip(template, segments, strict=True), offset + 1):
        if isinstance(wanted, Variable):
            try:
                value = decode_segment(segment, escape=mapping.escape)
            except ValueError as error:
                raise ValueError(f"segment {number}, {shown(segment)}, {error}") from None
            before = values.setdefault(wanted.name, value)
            texts = mapping.where.get(wanted.name)
            if value != before or (texts is not None and value not in texts):
                expected = listed(texts) if texts is not None else shown(before)
                raise ValueError(f"segment {number}, {wanted.name}, is {shown(value)}, not {expected}")
        elif segment != wanted:
            raise ValueError(f"segment {number} is {shown(segment)}, not {shown(wanted)}")
    reader = _READERS.get(mapping.kind)
    if reader is not None:
        return str(reader(values))
    issuer = f" of {shown(mapping.issuer)}" if mapping.issuer is not None else ""
    return f"{KINDS[mapping.kind]}{issuer} with {', '.join(f'{name} {shown(text)}' for name, text in values.items())}"
