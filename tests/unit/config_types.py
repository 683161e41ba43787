"""Settings classes as a plugin author may write them, and a test case that loads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NewType

import attrs

from tcpmesh.errors import Mark
from tcpmesh.identity.spiffe import SpiffeId, TrustDomain
from tcpmesh.interfaces import DISCOVERY
from tcpmesh.settings import PluginChoice, RetryChoice, not_a_key
from tcpmesh.values import (
    Address,
    DNSName,
    Duration,
    ExpectedIdentity,
    InboundName,
    OutboundName,
    ServiceName,
    Size,
    SourceName,
    TCPAddress,
    UnixAddress,
    WorkloadName,
)
from tests.unit.config_samples import PLUGINS, ConfigTestCase, FakeFactory, variant

Label = NewType("Label", str)


def _is_even(_instance: Any, _attribute: Any, value: int) -> None:
    if value % 2:
        raise ValueError(f"{value} is odd")


@attrs.frozen
class Inner:
    """A mapping inside of a mapping."""

    size: Size = Size(0)
    mark: Mark | None = None


@attrs.frozen
class Everything:
    """Every type that a key may have."""

    text: str = ""
    label: Label = Label("")
    whole: int = 0
    share: float = 0.0
    flag: bool = False
    word: Literal["one", "two", 3] = "one"
    wait: Duration = Duration(0.0)
    size: Size = Size(0)
    address: Address | None = None
    tcp: TCPAddress | None = None
    unix: UnixAddress | None = None
    id: SpiffeId | None = None
    domain: TrustDomain | None = None
    name: DNSName | None = None
    peer: ExpectedIdentity | None = None
    path: Path | None = None
    place: Literal["here"] | Path = "here"
    class_: str = ""
    one_or_more: str | list[str] = ""
    texts: list[str] = attrs.field(factory=list)
    pair: tuple[int, ...] = ()
    row: Sequence[int] = ()
    once: frozenset[str] = frozenset()
    table: dict[str, int] = attrs.field(factory=dict)
    domains: Mapping[TrustDomain, Path] = attrs.field(factory=dict)
    hosts: dict[DNSName, int] = attrs.field(factory=dict)
    inner: Inner = attrs.field(factory=Inner)
    inners: list[Inner] = attrs.field(factory=list)
    mixed: list[Address | Inner] = attrs.field(factory=list)
    noted: Annotated[int, "not for us"] = 0
    fallback: RetryChoice | None = None
    repeat: RetryChoice = attrs.field(factory=lambda: PluginChoice("exponential", None))
    even: int = attrs.field(default=0, validator=_is_even)
    short: str = attrs.field(default="", validator=attrs.validators.max_len(3))
    upper: str = attrs.field(default="", converter=str.upper)
    number: int = attrs.field(default=0, converter=attrs.converters.optional(int))
    scaled: int = attrs.field(
        default=0, converter=attrs.Converter(lambda value, self: value * (self.even + 1), takes_self=True)
    )
    secret: str = attrs.field(default="", repr=False, validator=attrs.validators.max_len(8))
    later: str = attrs.field(default="", init=False)
    cache: object = not_a_key()
    mark: Mark | None = attrs.field(default=None, eq=False)

    def __attrs_post_init__(self) -> None:
        if self.flag and self.whole > 100:
            raise ValueError("flag and whole contradict each other")


@attrs.frozen
class References:
    """Names of everything that has one."""

    inbound: InboundName | None = None
    outbound: list[OutboundName] = attrs.field(factory=list)
    service: ServiceName | None = None
    workloads: dict[WorkloadName, int] = attrs.field(factory=dict)
    source: SourceName | Literal["any"] = "any"


class PluginTestCase(ConfigTestCase):
    """Loads the sample with a foreign discovery plugin, ``foreign``."""

    settings: Any = Everything

    def setUp(self) -> None:
        self.plugins = PLUGINS.with_plugin(DISCOVERY, "foreign", FakeFactory(self.settings))

    def with_settings(self, text: str) -> str:
        """The sample with these settings of ``foreign``, from line 11, column 7 on."""
        lines = "".join(f"\n      {line}" for line in text.splitlines())
        return variant(
            'discovery: {plugin: static, endpoints: ["127.0.0.1:4143"]}', f"discovery:\n      plugin: foreign{lines}"
        )

    def check(self, text: str, *messages: str) -> None:
        self.check_problems(self.with_settings(text), *messages)

    def settings_of(self, text: str) -> Any:
        choice = self.load(self.with_settings(text)).services["orders"].discovery
        self.assertEqual(choice.plugin, "foreign")
        return choice.settings
