"""docs/upstream-retries.md: its examples load, its tables are those of the code, its reasons are what is said."""

from __future__ import annotations

import json
import re
import textwrap

import attrs

from tcpmesh import codes
from tcpmesh.net.arms_length import GuardedRetry
from tcpmesh.net.booking import ServiceCounts
from tcpmesh.net.retrying import Retries
from tcpmesh.observe.records import MAX_FAILURE_TEXT, MAX_FAILURES, as_mapping
from tcpmesh.retry.exponential import ExponentialSettings
from tcpmesh.retry.fixed import Fixed, FixedSettings
from tcpmesh.settings import PluginChoice, ServiceSettings, Timeouts
from tcpmesh.upstream_settings import QueueSettings, RetryBudgetSettings, ServiceLimits
from tcpmesh.values import AttemptFailure, Duration, RetryContext, format_duration
from tests.documents import ROOT, blocks
from tests.unit.config_samples import ConfigTestCase, variant
from tests.unit.pools import ONE_STRIKE, Caller, Service, endpoint
from tests.unit.record_samples import a_record

TEXT = (ROOT / "docs" / "upstream-retries.md").read_text(encoding="utf-8")
EXTRA = "    expect:"  # where a key of the service can be added
A, B = endpoint(1), endpoint(2)
SILENT = {"orders": "the resolver is silent"}


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    below = TEXT.split(f"\n## {heading}\n", 1)[1]
    lines = re.findall(r"^\|.*$", below.split("\n## ")[0], re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def block(comment: str) -> str:
    [found] = [one for one in blocks(TEXT) if one.comment == comment]
    return found.text.rstrip("\n")


class ConfigurationTests(ConfigTestCase):
    """What it says of keys."""

    def test_examples_load(self) -> None:
        """The one below a service is that of the defaults, where there are any."""
        [example] = [one for one in blocks(TEXT) if one.language == "yaml"]
        text = variant(EXTRA, textwrap.indent(example.text, "    ") + EXTRA)
        orders = self.load(text).services["orders"]
        self.assertEqual(orders.retry.settings, ExponentialSettings())
        self.assertEqual(orders.retry_budget, RetryBudgetSettings())
        self.assertEqual(orders.limits, ServiceLimits(200, 100, 50))
        self.assertEqual(orders.queue, QueueSettings(100))
        times, defaults = attrs.asdict(orders.timeouts), attrs.asdict(Timeouts())
        said = {name: value for name, value in times.items() if value is not None}
        self.assertEqual(said, {name: defaults[name] for name in said})

    def test_says_the_strategies_defaults(self) -> None:
        """In words."""
        for settings in (FixedSettings(), ExponentialSettings()):
            for name, value in attrs.asdict(settings).items():
                shown = value if isinstance(value, int) else format_duration(value)
                self.assertIn(f"`{name}` ({shown})", TEXT)

    def test_says_the_times_defaults_and_codes(self) -> None:
        """One row for each."""
        found = {name.strip("`"): (default, code) for name, default, _, _, code in rows("Times")}
        self.assertEqual(set(found), {"resolve", "queue", "connect", "handshake", "preface", "establish"})
        for name, (default, code) in found.items():
            self.assertEqual(default, format_duration(getattr(Timeouts(), name)))
            self.assertIn(f"timeouts.{name}", codes.by_id(code).next_step if codes.by_id(code) else "")


class RetriedTests(ConfigTestCase):
    def test_lists_what_is_retried(self) -> None:
        """Every code that says of itself that it is, and no other; OUT_OF_DESCRIPTORS is our own and goes unsaid."""
        below = TEXT.split("| kind | codes |", 1)[1].split("\n\n")[0]
        named = set()
        for first, last in re.findall(r"(TM-[A-Z]\d{3})(?: to (TM-[A-Z]\d{3}))?", below):
            named |= {
                code for code in codes.all_codes() if first <= code.id <= (last or first) and code.id[:5] == first[:5]
            }
        retried = {code for code in codes.all_codes() if code.retryable} - {codes.OUT_OF_DESCRIPTORS}
        self.assertEqual({code.id for code in named if code.retryable}, {code.id for code in retried})
        self.assertEqual(named - retried, {codes.BUNDLE_STALE} & named)

    def test_shows_what_the_budget_says(self) -> None:
        """Word for word."""
        settings = ServiceSettings(expect=[], discovery=PluginChoice("static", None))
        counts = ServiceCounts()
        retries = Retries(GuardedRetry("orders", "fixed", Fixed(FixedSettings(attempts=9))), settings, counts)
        contexts = [RetryContext("orders"), RetryContext("orders")]
        waits = [retries.begin(context) for context in contexts]
        for _ in contexts:
            retries.budget.connection(0.0)
        for _ in range(3):
            self.assertEqual(retries.next_wait(waits[0], 0.0, 30.0), 0.1)
        why = retries.next_wait(waits[1], 0.0, 30.0)
        self.assertEqual(block("reason budget"), f"connecting to {A.address}: Connection refused; no retry: {why}")
        self.assertEqual((counts.retries, counts.unbudgeted), (3, 1))


class ReasonTests(ConfigTestCase):
    """The sentences in the table of refusals."""

    def check(self, service: Service, caller: Caller) -> None:
        service.turn()
        refusal = caller.refusal
        assert refusal is not None
        said = dict(rows("Refused, and why"))
        self.assertEqual(said[refusal.code.id], f"`{refusal.reason}`")

    def test_no_endpoints(self) -> None:
        """TM-U103, TM-T108."""
        service = Service()
        service.cell.swap(discovery_failures=SILENT)
        caller = service.call()
        service.clock.advance(5.0)
        self.check(service, caller)
        service.discover()
        service.clock.advance(12.3)
        self.check(service, service.call())

    def test_none_that_can_be_used(self) -> None:
        """TM-U105."""
        service = Service(health=ONE_STRIKE)
        service.discover(A, B)
        for _ in range(2):
            booking = service.call().booking
            assert booking is not None
            booking.failed(AttemptFailure(codes.CONNECT_REFUSED, "nobody listens", booking.endpoint, 0.0))
        self.check(service, service.call())

    def test_no_room(self) -> None:
        """TM-T109, TM-L108 to TM-L111."""
        for limits, length in (
            (ServiceLimits(connections=1), 0),
            (ServiceLimits(per_endpoint=1), 0),
            (ServiceLimits(pending=1), 0),
            (ServiceLimits(connections=1), 1),
        ):
            service = Service(limits=limits, queue=length)
            service.discover(A)
            service.call()
            waiting = service.call() if length else None
            self.check(service, service.call())
            if waiting is not None:
                service.clock.advance(1.0)
                self.check(service, waiting)

    def test_names_every_code(self) -> None:
        """That was checked here."""
        self.assertEqual(
            [code for code, _ in rows("Refused, and why")],
            ["TM-U103", "TM-U105", "TM-T108", "TM-T109", "TM-L108", "TM-L109", "TM-L110", "TM-L111"],
        )


class RecordTests(ConfigTestCase):
    def test_shows_a_record_as_it_is_written(self) -> None:
        """The same fields in the same order, the same keys in a failure."""
        shown = json.loads(block("record"))
        record = a_record(direction="outbound", dst_addr="127.0.0.1:37143", dst_service="orders", attempts=2)
        record.connect_ms, record.handshake_ms = 0.938, 15.011
        record.note_wait(0.005021)
        record.note_failure(
            "127.0.0.1:37142", codes.CONNECT_REFUSED, "connecting to 127.0.0.1:37142: Connection refused", 0.000598
        )
        written = as_mapping(record, "open", 0.0)
        self.assertEqual({name: written[name] for name in shown}, shown)
        self.assertEqual([name for name in written if name in shown], list(shown))

    def test_names_its_bounds(self) -> None:
        """How many failures, and how long a reason."""
        words = {8: "eight"}
        self.assertIn(f"the first {words[MAX_FAILURES]} that failed", TEXT)
        self.assertIn(f"up to {MAX_FAILURE_TEXT} characters", TEXT)
        self.assertIn("queue_ms", [cell.strip("`") for cell, *_ in rows("In the record")])

    def test_says_what_a_strategy_knows(self) -> None:
        """Fields of its context."""
        for name in ("failures", "elapsed", "remaining"):
            self.assertTrue(hasattr(RetryContext("orders"), name))
            self.assertIn(f"`context.{name}`", TEXT)
        self.assertEqual(Duration(0.1), FixedSettings().wait)
