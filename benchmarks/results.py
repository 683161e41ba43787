"""What a run leaves behind: every raw sample, the machine, and the peers; as objects and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from attrs import asdict, field, frozen

from benchmarks.cases import Effort, Share
from benchmarks.peers.base import DIRECT, OURS, STOCK

NO_GROUP = ""  # of `direct`


@frozen
class Entry:
    """A row of the table: a peer with one group."""

    peer: str
    group: str

    @property
    def title(self) -> str:
        """As it is called while it runs."""
        return f"{self.peer} ({self.group})" if self.group else self.peer

    @property
    def name(self) -> str:
        """As a part of a file name."""
        return f"{self.peer}-{self.group}" if self.group else self.peer


@frozen
class PeerFacts:
    """What is known of a peer; `missing` says why it was not measured."""

    name: str
    version: str = ""
    tls_library: str = ""
    groups: tuple[str, ...] = ()
    missing: str = ""

    @property
    def is_rival(self) -> bool:
        """Whether it is a proxy that somebody would choose instead."""
        return self.name not in (OURS, DIRECT, STOCK)


@frozen
class Measured:
    """One case, one entry, one round; `error` says why there are no values."""

    round: int
    case: str
    peer: str
    group: str
    values: Mapping[str, float] = field(factory=dict)
    share: Share | None = None
    note: str = ""
    error: str = ""


@frozen
class Results:
    """All of a run."""

    started: str  # ISO 8601, local time
    machine: Mapping[str, str]
    effort: Effort
    groups: tuple[str, ...]
    cases: tuple[str, ...]
    peers: tuple[PeerFacts, ...]
    measured: list[Measured] = field(factory=list)

    def of(self, case: str, entry: Entry) -> list[Measured]:
        """The samples of an entry, round by round."""
        return [one for one in self.measured if (one.case, one.peer, one.group) == (case, entry.peer, entry.group)]

    def values(self, case: str, entry: Entry, metric: str) -> dict[int, float]:
        """The values of a metric by round."""
        return {one.round: one.values[metric] for one in self.of(case, entry) if metric in one.values}

    def errors(self, case: str, entry: Entry) -> list[str]:
        """Why there are samples without values; each reason once."""
        return list(dict.fromkeys(one.error for one in self.of(case, entry) if one.error))

    def notes(self, case: str, entry: Entry) -> list[str]:
        """What has to be known of the values; each once."""
        return list(dict.fromkeys(one.note for one in self.of(case, entry) if one.note))

    def shares(self, case: str, entry: Entry) -> list[Share]:
        """Who used the processors."""
        return [one.share for one in self.of(case, entry) if one.share]

    def entries(self, group: str) -> list[Entry]:
        """The rows of the set of a group: `direct`, and every peer that has it."""
        return [
            Entry(peer.name, NO_GROUP if peer.name == DIRECT else group)
            for peer in self.peers
            if peer.name == DIRECT or group in peer.groups
        ]

    def facts(self, peer: str) -> PeerFacts:
        """What is known of a peer."""
        return next(facts for facts in self.peers if facts.name == peer)

    def save(self, path: Path) -> None:
        """Write JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


@frozen
class Spread:
    """A median with what it lies between."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Of at least one value."""
        return cls(median(values), min(values), max(values))


def paired_ratio(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Spread | None:
    """Ours over theirs, round by round; None if there is no round with both."""
    ratios = [ours[number] / theirs[number] for number in ours if theirs.get(number)]
    return Spread.of(ratios) if ratios else None


def load(path: Path) -> Results:
    """Read what `Results.save` has written."""
    told: dict[str, Any] = json.loads(path.read_text())
    told["effort"] = Effort(**{**told["effort"], "idle": tuple(told["effort"]["idle"])})
    for key in ("groups", "cases"):
        told[key] = tuple(told[key])
    told["peers"] = tuple(PeerFacts(**{**peer, "groups": tuple(peer["groups"])}) for peer in told["peers"])
    told["measured"] = [
        Measured(**{**one, "share": Share(**one["share"]) if one["share"] else None}) for one in told["measured"]
    ]
    return Results(**told)
