"""The benchmark's procedure and report: pairs are pairs, and nothing that is missing goes unmentioned."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from benchmarks import measuring, report, results
from benchmarks.cases import CASES, Effort, Share
from benchmarks.generator import build, compiler
from benchmarks.measuring import plan
from benchmarks.peers.base import CLASSICAL, DIRECT, GROUPS, OURS, POST_QUANTUM, STOCK, Found, Missing, Run, Running
from benchmarks.peers.direct import Direct
from benchmarks.results import NO_GROUP, Entry, Measured, PeerFacts, Results, Spread, paired_ratio
from benchmarks.tables import Gap, Table, case_tables, crowded, peers_table
from benchmarks.targets import targets_table

ROUNDS = 3
PEERS = (
    PeerFacts(DIRECT, "", "none", GROUPS),
    PeerFacts(OURS, "1.0", "OpenSSL 4", GROUPS),
    PeerFacts("swift", "2.0", "OpenSSL 3", (CLASSICAL,)),
    PeerFacts("slow", "3.0", "BoringSSL", GROUPS),
    PeerFacts("absent", missing="apt-get install absent"),
    PeerFacts(STOCK, "26", "OpenSSL 4", GROUPS),
)
QUIET = Share(seconds=1.0, client=0.3, application=0.2, proxies=1.5, others=0.0)


def of(case: str, rates: Mapping[str, list[float]], group: str = CLASSICAL, share: Share = QUIET) -> list[Measured]:
    """Samples of one case, whose figures are all the same number, round by round."""
    keys = [metric.key for metric in next(one for one in CASES if one.key == case).metrics]
    return [
        Measured(number, case, peer, NO_GROUP if peer == DIRECT else group, dict.fromkeys(keys, value), share)
        for peer, values in rates.items()
        for number, value in enumerate(values, start=1)
    ]


def made(measured: list[Measured], groups: tuple[str, ...] = (CLASSICAL,)) -> Results:
    """The results of a run with these samples."""
    cases = tuple(dict.fromkeys(one.case for one in measured))
    return Results("2030-01-01T00:00:00+00:00", {"kernel": "Linux"}, Effort(ROUNDS), groups, cases, PEERS, measured)


def verdicts(table: Table) -> dict[tuple[str, str], str]:
    """The last column by case, without the metric, and bound."""
    found = {}
    for row in table.rows:
        assert not isinstance(row, Gap)
        found[row[0].text, row[6].text] = str(row[7])
    return found


class PlanTests(SynchronousTestCase):
    def steps(self, effort: Effort, groups: tuple[str, ...] = GROUPS) -> list[tuple[int, str, Entry]]:
        run = evolve(made([], groups), effort=effort)
        return [(step.round, step.case.key, step.entry) for step in plan(run, CASES)]

    def test_measures_all_entries_of_a_case_in_a_row(self) -> None:
        """What is compared was measured within seconds; each round has every entry once."""
        steps = self.steps(Effort(ROUNDS))
        cases = [step[:2] for step in steps]
        self.assertEqual(
            len(set(cases)), sum(1 for one, other in zip(cases, [None, *cases], strict=False) if one != other)
        )
        entries = [entry for number, case, entry in steps if (number, case) == (2, "bulk-1")]
        self.assertEqual(len(entries), len(set(entries)))
        expected = {Entry(DIRECT, NO_GROUP), Entry("swift", CLASSICAL)}
        expected |= {Entry(name, group) for name in (OURS, "slow", STOCK) for group in GROUPS}
        self.assertEqual(set(entries), expected)

    def test_begins_each_round_with_another_entry(self) -> None:
        """Nobody always comes first, or always after the same one's rest."""
        steps = self.steps(Effort(ROUNDS))
        firsts = [next(entry for number, case, entry in steps if (number, case) == (n, "bulk-1")) for n in (1, 2, 3)]
        self.assertEqual(len(set(firsts)), ROUNDS)

    def test_measures_long_cases_once_and_direct_only_where_it_means_something(self) -> None:
        """There are no idle hops to weigh without hops."""
        steps = self.steps(Effort(ROUNDS))
        self.assertEqual({number for number, case, _entry in steps if case == "idle"}, {1})
        self.assertEqual({number for number, case, _entry in steps if case == "connect"}, {1, 2, 3})
        self.assertNotIn(Entry(DIRECT, NO_GROUP), [entry for _number, case, entry in steps if case == "idle"])

    def test_spares_the_second_group_where_it_makes_no_difference(self) -> None:
        """Only if asked to hurry; handshakes and memory are measured with both."""
        steps = self.steps(Effort(ROUNDS, groupless_once=True))
        groups = {case.key: {entry.group for _number, key, entry in steps if key == case.key} for case in CASES}
        self.assertEqual(groups["bulk-1"], {CLASSICAL, NO_GROUP})
        self.assertEqual(groups["idle"], set(GROUPS))
        self.assertEqual(groups["connect"], {*GROUPS, NO_GROUP})


class RatioTests(SynchronousTestCase):
    def test_is_the_median_of_the_rounds_and_not_of_the_figures(self) -> None:
        """A machine that slows down for both changes nothing."""
        ours, theirs = {1: 100.0, 2: 50.0, 3: 10.0}, {1: 200.0, 2: 100.0, 3: 40.0}
        self.assertEqual(paired_ratio(ours, theirs), Spread(median=0.5, least=0.25, most=0.5))

    def test_uses_only_rounds_with_both(self) -> None:
        """A failure on one side spoils the round."""
        self.assertEqual(paired_ratio({1: 1.0, 2: 3.0}, {2: 2.0, 3: 9.0}), Spread(1.5, 1.5, 1.5))
        self.assertIsNone(paired_ratio({1: 1.0}, {2: 1.0}))
        self.assertIsNone(paired_ratio({1: 1.0}, {1: 0.0}))


class TargetTests(SynchronousTestCase):
    def test_compares_with_the_peer_beside_which_we_look_worst(self) -> None:
        """Neither stock Twisted nor the bare machine counts as one."""
        rates = {DIRECT: [9000.0], OURS: [100.0], "swift": [110.0], "slow": [50.0], STOCK: [49.0]}
        table = targets_table(made(of("bulk-1", rates)))
        [best] = [row for row in table.rows if not isinstance(row, Gap) and row[6].text == "≥ 1 x"]
        self.assertEqual([cell.text for cell in best[2:6]], ["100", "swift", "110", "0.91"])
        found = verdicts(table)
        self.assertEqual(found["bulk, 1 connection: MB/s", "≥ 1 x"], "missed (by 9%)")
        self.assertEqual(found["bulk, 1 connection: MB/s", "≥ 2 x"], "met")
        # Of CPU, the same number is twice what "slow" uses.
        self.assertEqual(found["bulk, 1 connection: s/GB", "≤ 1.2 x"], "missed (by 67%)")

    def test_takes_absolute_bounds_by_group(self) -> None:
        """75 KB are enough with one group and too many with the other."""
        measured = of("idle", {OURS: [75.0]}, POST_QUANTUM) + of("idle", {OURS: [75.0]}, CLASSICAL)
        found = verdicts(targets_table(made(measured, GROUPS)))
        self.assertEqual(found["idle connections: KB at 9,000", "≤ 80 KB"], "met")
        self.assertEqual(found["idle connections: KB at 9,000", "≤ 70 KB"], "missed (by 7%)")

    def test_a_single_failed_operation_under_renewals_is_a_miss(self) -> None:
        """The bound is none."""
        for failed, verdict in ((0.0, "met"), (1.0, "missed")):
            found = verdicts(targets_table(made(of("renewals", {OURS: [failed]}))))
            self.assertEqual(found["three renewals under load: failed", "≤ 0"], verdict)

    def test_says_why_a_target_is_open(self) -> None:
        """Our own failure, and the want of anybody to compare with."""
        failed = targets_table(made([Measured(1, "connect", OURS, CLASSICAL, error="3 failed")]))
        self.assertEqual(list(verdicts(failed).values()), ["open"])
        [remark] = failed.remarks
        self.assertTrue(remark.endswith(f"with {CLASSICAL}: 3 failed"), remark)
        alone = targets_table(made(of("echo-64-32", {OURS: [1.0]})))
        self.assertEqual(list(verdicts(alone).values()), ["open", "open"])
        reasons = [remark.rpartition(": ")[2] for remark in alone.remarks]
        self.assertEqual(reasons, ["no figures of a peer", f"no figures of {STOCK}"])


class TableTests(SynchronousTestCase):
    def table(self, measured: list[Measured], group: str = CLASSICAL) -> Table:
        [table] = list(case_tables(made(measured, (group,))))
        return table

    def gaps(self, table: Table) -> dict[str, str]:
        return {row.name: row.reason for row in table.rows if isinstance(row, Gap)}

    def test_names_every_gap(self) -> None:
        """Not installed, without the group, failed, and interrupted are different things."""
        measured = of("connect", {DIRECT: [1.0], OURS: [2.0]}, POST_QUANTUM)
        measured.append(Measured(1, "connect", "slow", POST_QUANTUM, error="it crashed"))
        self.assertEqual(
            self.gaps(self.table(measured, POST_QUANTUM)),
            {
                "swift 2.0 (OpenSSL 3)": f"has no {POST_QUANTUM}",
                "slow 3.0 (BoringSSL)": "failed: it crashed",
                "absent": "not measured: see Peers",
                f"{STOCK} 26 (OpenSSL 4)": "not measured: interrupted before",
            },
        )
        self.assertEqual(self.gaps(peers_table(made(measured))), {"absent": "not measured: apt-get install absent"})

    def test_tells_of_rounds_that_failed(self) -> None:
        """Figures of the others are shown, with a remark."""
        measured = [
            *of("bulk-1", {OURS: [1.0, 2.0], "slow": [1.0]}),
            Measured(2, "bulk-1", "slow", CLASSICAL, error="oh"),
        ]
        self.assertEqual(self.table(measured).remarks, ("slow failed in some rounds: oh",))

    def test_tells_what_a_sample_notes(self) -> None:
        """Once, though every round may say it."""
        measured = [evolve(one, note="the first failure: reset") for one in of("renewals", {OURS: [1.0, 1.0]})]
        self.assertEqual(self.table(measured).remarks, (f"{OURS}: the first failure: reset",))

    def test_tells_of_a_generator_that_may_be_the_bound(self) -> None:
        """Not for the bare machine, where it always is."""
        busy = Share(seconds=1.0, client=0.5, application=0.95, proxies=0.5, others=0.0)
        table = self.table(of("bulk-1", {DIRECT: [9.0], OURS: [1.0]}, share=busy))
        self.assertEqual(len(table.remarks), 1)
        self.assertIn(f"{OURS}: the load generator was busy", table.remarks[0])

    def test_warns_of_others_on_the_machine(self) -> None:
        """A figure that somebody else has spoilt is not believed."""
        self.assertEqual(crowded(made(of("bulk-1", {OURS: [1.0]}))), "")
        shared = Share(seconds=2.0, client=0.5, application=0.5, proxies=0.5, others=1.0)
        self.assertIn("50% at most", crowded(made(of("bulk-1", {OURS: [1.0]}, share=shared))))


class FileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.made = made(of("bulk-1", {DIRECT: [9.0], OURS: [3.0, 2.0, 1.0], "swift": [2.0, 2.0, 2.0]}))
        self.made.measured.append(Measured(1, "bulk-1", "slow", CLASSICAL, error="a | b\nc"))

    def test_reads_back_what_it_has_written(self) -> None:
        """So that a report can be made again."""
        path = self.directory / "results.json"
        self.made.save(path)
        self.assertEqual(results.load(path), self.made)
        self.assertEqual(len(json.loads(path.read_text())["measured"]), 8)

    def test_writes_markdown_that_holds_together(self) -> None:
        """Medians with their spread; no line break or bar of an error message ends a row."""
        text = report.markdown(self.made, ["a remark"])
        self.assertIn("| 2 (1 to 3) |", text)
        self.assertIn("| slow 3.0 (BoringSSL) | failed: a \\| b c |", text)
        self.assertIn("**a remark**", text)


class Broken:
    """A peer that is there, and cannot be started."""

    name = "slow"

    def find(self) -> Found | Missing:
        return Found("3.0", "BoringSSL", frozenset(GROUPS))

    @contextmanager
    def running(self, run: Run) -> Iterator[Running]:
        (run.directory / "first-hop.log").write_text("what it said last")
        raise RuntimeError(f"{self.name}, first hop ended with status 1")
        yield


class RunTests(SynchronousTestCase):
    """With the bare machine and a peer that fails."""

    if compiler() is None:
        skip = "no C compiler (on Debian: apt-get install gcc libc6-dev)"

    def test_goes_on_after_a_failure(self) -> None:
        """The failure is a measurement without figures; its logs are kept; all others are there."""
        program, place = build(Path("load-generator").absolute()), Path(self.mktemp())
        effort = Effort(rounds=2, seconds=0.05, bulk_bytes=10**6)
        run = evolve(made([]), effort=effort, peers=(PEERS[0], PEERS[3]))
        steps = plan(run, [case for case in CASES if not case.needs_hops])
        outcomes = [measured for _step, measured in measuring.run(run, steps, (Direct(), Broken()), program, place)]
        self.assertEqual(run.measured, outcomes)
        self.assertEqual([(one.round, one.case) for one in outcomes], [(step.round, step.case.key) for step in steps])
        for one in outcomes:
            if one.peer == DIRECT:
                self.assertGreater(one.values["rate"], 0, one)
                self.assertEqual((one.values["cpu"], one.error), (0.0, ""))
            else:
                logs = f"failed-{one.round}-{one.case}-slow-{CLASSICAL}"
                self.assertEqual(one.values, {})
                self.assertEqual(one.error, f"slow, first hop ended with status 1 (logs in {logs})")
                self.assertEqual((place / logs / "first-hop.log").read_text(), "what it said last")

    def test_estimates_the_rest(self) -> None:
        """By what has been done so far."""
        self.assertEqual(measuring.seconds_left(10.0, 2, 6, 20.0), 20.0)
        self.assertEqual(measuring.seconds_left(10.0, 0, 6, 20.0), 0.0)
