"""Policies in files keep the contract of policies that change while the proxy runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.errors import ConfigurationError
from tcpmesh.interfaces import PluginContext
from tcpmesh.policy.language import RulesSettings
from tcpmesh.sources.polling import InThread, in_caller
from tcpmesh.sources.rules import RulesFactory, RulesSource
from tcpmesh.testing import FakePolicyObserver, PolicySourceContract, authorization_request, plugin_context
from tcpmesh.values import AuthorizationRequest, TCPAddress

POLICY = """\
policies:
  - name: web-may
    action: allow
    to: {inbound: [orders-in]}
    from: [{ids: ["spiffe://example.test/web"]}]
"""
DENIAL = """\
policies:
  - {name: nobody, action: deny, from: [{any: authenticated}]}
"""


class RulesFilesTests(PolicySourceContract, SynchronousTestCase):
    """rules, with a directory of files."""

    def setUp(self) -> None:
        super().setUp()
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.file = self.directory / "10-web.yaml"
        self.file.write_text(POLICY)

    def make_factory(self) -> RulesFactory:
        return RulesFactory()

    def make_settings(self) -> RulesSettings:
        return RulesSettings(directory=self.directory)

    def make_context(self) -> PluginContext:
        return plugin_context(clock=self.clock, inbound={"orders-in": TCPAddress("127.0.0.1", 5000)})

    def allowed(self) -> list[AuthorizationRequest]:
        return [authorization_request("spiffe://example.test/web")]

    def denied(self) -> list[AuthorizationRequest]:
        return [authorization_request("spiffe://example.test/other")]

    def started(self) -> tuple[RulesSource, FakePolicyObserver]:
        source, observer = self.create(), FakePolicyObserver()
        assert isinstance(source, RulesSource)
        source.start(observer)
        self.addCleanup(source.stop)
        return source, observer

    def effects(self, observer: FakePolicyObserver) -> list[str]:
        return [self.answer(policy, self.allowed()[0]).effect.value for policy in observer.policies]

    def test_another_file_adds_its_policies(self) -> None:
        """Files are one list, in the order of their names; the rule says in which it stands."""
        _, observer = self.started()
        (self.directory / "20-nobody.yaml").write_text(DENIAL)
        (self.directory / ".30-hidden.yaml").write_text("nonsense")
        (self.directory / "40.yaml~").write_text("nonsense")
        self.clock.pump([5.0, 1.0])
        self.assertEqual(self.effects(observer), ["allow", "deny"])
        decision = self.answer(observer.policies[1], self.allowed()[0])
        self.assertEqual(decision.rule, f"policies[1].from[0].any ({self.directory / '20-nobody.yaml'}:2:41)")

    def test_a_bad_file_keeps_all_of_what_was_there(self) -> None:
        """The good change beside it waits too; every problem is told at its file, line and column."""
        source, observer = self.started()
        (self.directory / "20-nobody.yaml").write_text(DENIAL)
        bad = self.directory / "30-bad.yaml"
        bad.write_text(POLICY.replace("orders-in", "order-in").replace("web-may", "other").replace("ids", "id"))
        source.reload()
        self.assertEqual(self.effects(observer), ["allow"])
        (told,) = observer.failures
        lines = told.splitlines()
        self.assertEqual(
            lines[0],
            f"{bad}:4:20: policies[0].to.inbound[0]: there is no inbound listener "
            "'order-in'; did you mean 'orders-in'?",
        )
        self.assertEqual(lines[-1], f"{bad}:5:13: unknown key 'id' in policies[0].from[0]; did you mean 'ids'?")
        self.assertEqual(str(self.assertRaises(ConfigurationError, source.check)), told)
        bad.unlink()
        source.reload()
        self.assertEqual(self.effects(observer), ["allow", "deny"])

    def test_reading_takes_no_time_from_connections(self) -> None:
        """A thread reads; of changes that come meanwhile the last one counts, and none after the stop."""
        work: list[tuple[Callable[[], Any], Callable[[Any], None]]] = []
        source = RulesSource(self.make_settings(), self.make_context(), lambda *both: work.append(both))
        observer = FakePolicyObserver()
        source.start(observer)
        self.assertEqual((self.effects(observer), work), (["allow"], []))
        for text in (DENIAL, "policies: []\n", DENIAL.replace("deny", "allow")):
            self.file.write_text(text)
            source.reload()
        self.assertEqual((len(work), self.effects(observer)), (1, ["allow"]))
        self.work(work)
        self.assertEqual((len(work), self.effects(observer)), (1, ["allow"]))
        self.work(work)
        self.assertEqual(self.effects(observer), ["allow", "allow"])
        self.assertEqual(self.answer(observer.policies[1], self.denied()[0]).policy, "nobody")
        self.file.write_text(DENIAL)
        source.reload()
        source.stop()
        self.work(work)
        self.assertEqual((self.effects(observer), observer.failures), (["allow", "allow"], []))

    def test_a_reload_is_done_when_the_thread_is(self) -> None:
        """Whoever asked for it hears then what came of it, and at the stop that nothing will."""
        work: list[tuple[Callable[[], Any], Callable[[Any], None]]] = []
        source = RulesSource(self.make_settings(), self.make_context(), lambda *both: work.append(both))
        observer = FakePolicyObserver()
        source.start(observer)
        self.file.write_text(DENIAL)
        first = source.reload()
        self.file.write_text("nonsense")
        second = source.reload()
        assert first is not None
        assert second is not None
        self.work(work)
        self.assertNoResult(first)
        self.work(work)
        for done in (first, second):
            self.assertIsNone(self.successResultOf(done))
        self.assertEqual((len(observer.failures), self.effects(observer)), (1, ["allow"]))
        third = source.reload()
        assert third is not None
        source.stop()
        self.assertIsNone(self.successResultOf(third))
        self.work(work)

    def test_what_a_thread_reads_is_dropped_when_nothing_can_be_read_since(self) -> None:
        """Else the policies would count as the newest, and nobody would hear that they are not."""
        work: list[tuple[Callable[[], Any], Callable[[Any], None]]] = []
        source = RulesSource(self.make_settings(), self.make_context(), lambda *both: work.append(both))
        observer = FakePolicyObserver()
        source.start(observer)
        self.addCleanup(source.stop)
        self.file.write_text(DENIAL)
        source.reload()
        self.file.unlink()
        source.reload()
        self.assertEqual(len(observer.failures), 1)
        self.work(work)
        self.assertEqual((self.effects(observer), len(observer.failures)), (["allow"], 1))
        self.file.write_text(DENIAL)
        source.reload()
        self.work(work)
        self.assertEqual(self.effects(observer), ["allow", "deny"])

    def test_goes_on_when_there_was_no_thread_to_be_had(self) -> None:
        """That is told, and the next change is read."""
        threads: list[InThread] = []

        def run(function: Callable[[], Any], done: Callable[[Any], None]) -> None:
            if not threads:
                raise RuntimeError("can't start new thread")
            threads[0](function, done)

        source = RulesSource(self.make_settings(), self.make_context(), run)
        observer = FakePolicyObserver()
        source.start(observer)
        self.addCleanup(source.stop)
        self.file.write_text(DENIAL)
        source.reload()
        self.assertEqual(observer.failures, ["reading the files failed; see the traceback above"])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        threads.append(in_caller)
        source.reload()
        self.assertEqual(self.effects(observer), ["allow", "deny"])

    def work(self, work: list[tuple[Callable[[], Any], Callable[[Any], None]]]) -> None:
        """What the thread does with what it was given first."""
        function, done = work.pop(0)
        in_caller(function, done)

    def test_tells_what_cannot_have_been_meant_in_a_change(self) -> None:
        """As the start does, once for each change."""
        events: list[dict[str, Any]] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        source, observer = self.started()
        (self.directory / "20-nobody.yaml").write_text(DENIAL)
        source.reload()
        told = [str(event["doubt"]) for event in events if "doubt" in event]
        self.assertEqual(len(told), 1)
        self.assertIn("policy 'web-may' can never allow spiffe://example.test/web (ids[0]): policy 'nobody'", told[0])
        self.assertEqual(len(observer.policies), 2)

    def test_one_name_in_two_files_is_refused(self) -> None:
        """Records name the policy."""
        source, observer = self.started()
        (self.directory / "20-again.yaml").write_text(POLICY)
        source.reload()
        self.assertIn("2 policies are named 'web-may'", observer.failures[0])

    def test_a_directory_that_is_swapped_as_kubernetes_does(self) -> None:
        """Links through ..data: what counts is where they lead now."""
        mounted = Path(self.mktemp())
        for name, text in (("..one", POLICY), ("..two", DENIAL)):
            (mounted / name).mkdir(parents=True)
            (mounted / name / "rules.yaml").write_text(text)
        (mounted / "..data").symlink_to("..one")
        (mounted / "rules.yaml").symlink_to("..data/rules.yaml")
        self.directory = mounted
        _, observer = self.started()
        (mounted / "..new").symlink_to("..two")
        os.replace(mounted / "..new", mounted / "..data")
        self.clock.pump([5.0, 1.0])
        self.assertEqual(self.effects(observer), ["allow", "deny"])

    def test_a_file_that_says_nothing_is_refused(self) -> None:
        """An empty file is more likely one that is being written; none at all is written as such."""
        source, observer = self.started()
        for text in ("", "# nothing\n", "- name: x\n", "policies:\n"):
            self.file.write_text(text)
            source.reload()
        self.assertEqual(len(observer.failures), 4)
        self.assertIn("to say that there are none, write policies: []", observer.failures[0])
        self.file.write_text("policies: []\n")
        source.reload()
        self.assertEqual(self.effects(observer), ["allow", "abstain"])

    def test_only_what_changed_is_parsed_again(self) -> None:
        """A directory of thousands of rules costs what changes in it."""
        source, observer = self.started()
        (self.directory / "20-nobody.yaml").write_text(DENIAL)
        source.reload()
        old, new = (policy.policies for policy in observer.policies)  # type: ignore[attr-defined]
        self.assertIs(old[0], new[0])

    def test_too_much_is_refused(self) -> None:
        """Sixteen files of a mebibyte are the most."""
        source, observer = self.started()
        for number in range(17):
            (self.directory / f"{number}.yaml").write_text("policies: []\n" + "#" * 1_000_000)
        source.reload()
        self.assertEqual(observer.failures, ["there are more than 16 MiB of policies in files"])
