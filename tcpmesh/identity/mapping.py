"""
From foreign names to SPIFFE IDs: which mapping takes a name, and which ID it gives.

Ring 1. Each mapping gives IDs below a prefix of its own, and different names different ones; :func:`indistinct` is the
rule behind the second, checked when the configuration is loaded. What does not fit gets no ID: there are no defaults.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import attrs

from tcpmesh.addresses import shown
from tcpmesh.errors import Mark, TcpmeshError
from tcpmesh.identity.foreign import ATTRIBUTES, KINDS, VARIABLES, ForeignName, service_account_of
from tcpmesh.identity.spiffe import InvalidSpiffeId, SpiffeId, TrustDomain
from tcpmesh.identity.templates import Template, Variable, encode_segment, parse_prefix, parse_template
from tcpmesh.settings import MappingKind, MappingSettings

__all__ = ["Miss", "NameMapping", "Resolution", "UnmappedError", "compile_mappings", "indistinct", "listed", "resolve"]

_LISTED = 5
_Where = Mapping[str, Sequence[str]]


class UnmappedError(TcpmeshError):
    """
    A mapping does not take a name.

    :param step: how far it came: 0 another kind, 1 another issuer, 2 and more a condition, then a value.
    """

    def __init__(self, step: int, reason: str) -> None:
        self.step = step
        self.reason = reason
        super().__init__(reason)


def indistinct(kind: MappingKind, template: Template, where: _Where, subject: Sequence[str] = ()) -> tuple[str, ...]:
    """
    The variables of which two names may differ and yet get one SPIFFE ID; none when the mapping is injective.

    A variable tells names apart when it is in the template; one that may have a single text need not.

    :param subject: for claims, those that together say who it is.
    """
    settled = template.variables | {name for name, texts in where.items() if len(texts) == 1}
    return tuple(name for name in _naming(kind, template, where, subject) if name not in settled)


def _naming(kind: MappingKind, template: Template, where: _Where, subject: Sequence[str]) -> Sequence[str]:
    """The variables that together are the name."""
    if kind == "claims":
        return subject or ("sub",)
    if kind == "certificate":
        return _attributes(template, where) or ("subject",)
    return VARIABLES[kind]


def _attributes(template: Template, where: _Where) -> tuple[str, ...]:
    """What a subject must consist of, in this order; nothing when it counts as a whole."""
    if "subject" in template.variables or len(where.get("subject", ())) == 1:
        return ()
    return tuple(name for name in ATTRIBUTES if name in template.variables or name in where)


@attrs.frozen
class NameMapping:
    """One entry of ``identity.mapping``, ready for use."""

    name: str
    kind: MappingKind
    prefix: tuple[str, ...]
    template: Template
    issuer: str | None
    where: Mapping[str, tuple[str, ...]]
    escape: bool
    mark: Mark | None = attrs.field(default=None, eq=False)

    def apply(self, name: ForeignName, trust_domain: TrustDomain) -> SpiffeId:
        """
        Give a name its SPIFFE ID.

        :raises UnmappedError: when the name is not for this mapping, or has no ID.
        """
        name = self._taken(name)
        self._check_where(name)
        step = 3 + len(self.where)
        segments = []
        for segment in self.template.segments:
            if isinstance(segment, Variable):
                try:
                    segments.append(encode_segment(name.value(segment.name), escape=self.escape))
                except (LookupError, ValueError) as error:
                    raise UnmappedError(step, f"{_variable(name, segment.name)} {_words(error)}") from None
                step += 1
            else:
                segments.append(segment)
        try:
            return SpiffeId.from_segments(trust_domain, *self.prefix, *segments)
        except InvalidSpiffeId as error:  # too long; nothing else is left
            raise UnmappedError(step, str(error)) from None

    def _taken(self, name: ForeignName) -> ForeignName:
        """The name, in the variables of this mapping."""
        if name.kind != self.kind and not (self.kind == "kubernetes" and name.kind == "claims" and self.issuer):
            hint = "" if (self.kind, name.kind) != ("kubernetes", "claims") else ", unless it names their issuer"
            raise UnmappedError(0, f"it takes {KINDS[self.kind]} names, not {KINDS[name.kind]}{hint}")
        if self.issuer is not None and name.issuer is not None and name.issuer != self.issuer:
            raise UnmappedError(1, f"it is for names that {shown(self.issuer)} gives, not {shown(name.issuer)}")
        if name.kind != self.kind:
            try:
                return service_account_of(name)
            except ValueError as error:
                raise UnmappedError(2, str(error)) from None
        attributes = _attributes(self.template, self.where)
        if self.kind == "certificate" and attributes and name.attributes != attributes:
            raise UnmappedError(
                2,
                f"the subject has {', '.join(name.attributes)}; this mapping takes subjects of exactly "
                f"{', '.join(attributes)}, in this order, and only {{subject}} takes any",
            )
        return name

    def _check_where(self, name: ForeignName) -> None:
        met, failed = 0, ""
        for variable, texts in self.where.items():
            try:
                value = name.value(variable)
            except LookupError as error:
                failed = failed or f"{_variable(name, variable)} {_words(error)}"
                continue
            if value in texts:
                met += 1
            else:
                failed = failed or f"{_variable(name, variable)} is {shown(value)}, not {listed(texts)}"
        if failed:
            raise UnmappedError(2 + met, failed)

    def __str__(self) -> str:
        return f"identity.mapping.{self.name}"


def _variable(name: ForeignName, variable: str) -> str:
    return f"claim {shown(variable)}" if name.kind == "claims" else variable


def _words(error: Exception) -> str:
    return str(error.args[0])


def listed(texts: Sequence[str]) -> str:
    """The texts that a condition allows, in words."""
    more = f" and {len(texts) - _LISTED} more" if len(texts) > _LISTED else ""
    return " or ".join(shown(text) for text in texts[:_LISTED]) + more


def compile_mappings(settings: Mapping[str, MappingSettings]) -> tuple[NameMapping, ...]:
    """
    Read the templates of a configuration, which has been checked.

    :raises ValueError: for a template or a prefix that would not have passed the check.
    """
    return tuple(
        NameMapping(
            name,
            one.from_,
            parse_prefix(one.prefix),
            parse_template(one.template),
            one.issuer,
            one.where,
            one.characters == "escape",
            one.mark,
        )
        for name, one in settings.items()
    )


@attrs.frozen
class Miss:
    """A mapping that did not take a name, and why."""

    mapping: NameMapping
    reason: str
    step: int


@attrs.frozen
class Resolution:
    """
    What became of a name: the mappings that took it, and the others, the nearest first.

    The name has an ID only if there is exactly one in ``found``.
    """

    found: tuple[tuple[NameMapping, SpiffeId], ...]
    misses: tuple[Miss, ...]


def resolve(name: ForeignName, mappings: Iterable[NameMapping], trust_domain: TrustDomain) -> Resolution:
    """Ask every mapping for a name's ID."""
    found = []
    misses = []
    for mapping in mappings:
        try:
            found.append((mapping, mapping.apply(name, trust_domain)))
        except UnmappedError as error:
            misses.append(Miss(mapping, error.reason, error.step))
    return Resolution(tuple(found), tuple(sorted(misses, key=lambda miss: -miss.step)))
