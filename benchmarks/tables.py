"""Results as tables: neither Markdown nor terminal yet."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from attrs import field, frozen

from benchmarks.cases import CASES, Case, Metric, Share
from benchmarks.peers.base import DIRECT, OURS
from benchmarks.results import NO_GROUP, Entry, Results, Spread, paired_ratio

SUSPECT = 0.9  # of one processor: a client or application as busy as this may be what was measured
CROWDED = 0.1  # processors that others used


@frozen
class Cell:
    """What stands in the table, and in brackets where there is room."""

    text: str
    aside: str = ""

    def __str__(self) -> str:
        return f"{self.text} ({self.aside})" if self.aside else self.text


@frozen
class Gap:
    """A row without figures."""

    name: str
    reason: str


@frozen
class Column:
    """A heading, and the same where there is little room."""

    title: str
    brief: str = ""


@frozen
class Table:
    """A title, columns, rows of the same length, and remarks below."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...] | Gap, ...]
    remarks: tuple[str, ...] = field(default=())


def number(value: float, digits: int) -> str:
    """With thousands set apart."""
    return f"{value:,.{digits}f}"


def spread(values: Spread, digits: int) -> Cell:
    """The median, and in brackets from where to where."""
    if values.least == values.most:
        return Cell(number(values.median, digits))
    return Cell(number(values.median, digits), f"{number(values.least, digits)} to {number(values.most, digits)}")


def peers_table(results: Results) -> Table:
    """Who was measured, and who was not and why."""
    rows: list[tuple[Cell, ...] | Gap] = []
    for peer in results.peers:
        if peer.missing:
            rows.append(Gap(peer.name, f"not measured: {peer.missing}"))
        else:
            rows.append((Cell(peer.name), Cell(peer.version), Cell(peer.tls_library), Cell(", ".join(peer.groups))))
    heads = ("peer", "version", "TLS library", "key agreement")
    return Table("Peers", tuple(Column(head) for head in heads), tuple(rows))


def case_tables(results: Results) -> Iterator[Table]:
    """One for each case and group."""
    for group in results.groups:
        for case in CASES:
            entries = results.entries(group)
            if any(results.of(case.key, entry) for entry in entries if entry.peer != DIRECT):
                yield _case_table(results, case, group)


def _case_table(results: Results, case: Case, group: str) -> Table:
    heads = [Column("peer (TLS library)", "peer")]
    for metric in case.metrics:
        heads += [
            Column(metric.in_words(results.effort), metric.in_short(results.effort)),
            Column(f"{OURS} / peer", "ratio"),
        ]
    timed = any(results.shares(case.key, entry) for entry in results.entries(group))
    if timed:
        heads += [
            Column("client, application busy", "cli, app"),
            Column("generator of all CPU", "gen"),
            Column("others busy", "others"),
        ]
    rows: list[tuple[Cell, ...] | Gap] = []
    remarks = []
    ours = Entry(OURS, group)
    for facts in results.peers:
        if facts.name == DIRECT and case.needs_hops:
            continue
        entry = Entry(facts.name, NO_GROUP if facts.name == DIRECT else group)
        title = f"{facts.name} {facts.version}".strip() + (f" ({facts.tls_library})" if facts.tls_library else "")
        gap = _gap(results, case, entry)
        if gap:
            rows.append(Gap(title, gap))
            continue
        cells = [Cell(facts.name, f"{facts.version}, {facts.tls_library}".strip(", "))]
        for metric in case.metrics:
            cells += _value_and_ratio(results, case, metric, entry, ours)
        if timed:
            shares = results.shares(case.key, entry)
            cells += _share_cells(shares)
            if facts.name != DIRECT and max(_busy(shares)) > SUSPECT:
                remarks.append(f"{facts.name}: the load generator was busy all the time; this may be its own bound.")
        rows.append(tuple(cells))
        remarks += [f"{facts.name}: {note}" for note in results.notes(case.key, entry)]
        if errors := results.errors(case.key, entry):
            remarks.append(f"{facts.name} failed in some rounds: {'; '.join(errors)}")
    return Table(f"{case.title}: {group}", tuple(heads), tuple(rows), tuple(remarks))


def _gap(results: Results, case: Case, entry: Entry) -> str:
    """Why there is no row."""
    facts = results.facts(entry.peer)
    if facts.missing:
        return "not measured: see Peers"
    if entry.group and entry.group not in facts.groups:
        return f"has no {entry.group}"
    samples = results.of(case.key, entry)
    if not samples:
        return "not measured: interrupted before"
    if all(one.error for one in samples):
        return f"failed: {'; '.join(results.errors(case.key, entry))}"
    return ""


def _value_and_ratio(results: Results, case: Case, metric: Metric, entry: Entry, ours: Entry) -> list[Cell]:
    values = results.values(case.key, entry, metric.key)
    ratio = None
    if entry != ours:
        ratio = paired_ratio(results.values(case.key, ours, metric.key), values)
    return [
        spread(Spread.of(list(values.values())), metric.digits),
        spread(ratio, 2) if ratio else Cell(""),
    ]


def _busy(shares: list[Share]) -> tuple[float, float]:
    """How much of one processor client and application used."""
    return (
        median(share.client / share.seconds for share in shares),
        median(share.application / share.seconds for share in shares),
    )


def _share_cells(shares: list[Share]) -> list[Cell]:
    client, application = _busy(shares)
    generator = median(
        (share.client + share.application) / max(share.client + share.application + share.proxies, 1e-9)
        for share in shares
    )
    others = median(share.others / share.seconds for share in shares)
    return [Cell(f"{client:.0%}, {application:.0%}"), Cell(f"{generator:.0%}"), Cell(f"{others:.0%}")]


def crowded(results: Results) -> str:
    """A sentence if somebody else used the machine meanwhile, else nothing."""
    shares = [one.share for one in results.measured if one.share]
    if not shares:
        return ""
    busy = [share.others / share.seconds for share in shares]
    count = sum(1 for one in busy if one > CROWDED)
    if not count:
        return ""
    return (
        f"Others used the machine: more than {CROWDED:.0%} of a processor in {count} of {len(busy)} measurements, "
        f"{max(busy):.0%} at most. The ratios are paired, but repeat this on a quiet machine before you trust them."
    )
