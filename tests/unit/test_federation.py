"""The bundles of other trust domains over time: files that change, endpoints that fail, and what is told of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.codes import BUNDLE_STALE, NO_BUNDLE
from tcpmesh.errors import StartError
from tcpmesh.identity.certificates import pem_of
from tcpmesh.identity.endpoint_url import EndpointURL
from tcpmesh.identity.spiffe import SpiffeId, TrustDomain
from tcpmesh.settings import FederationSettings
from tcpmesh.sources.bundle_endpoint import EndpointError, EndpointTrust
from tcpmesh.sources.federation import Federation
from tcpmesh.values import DNSName, Duration, TrustBundle
from tcpmesh.wall_clock import WallClock
from tests.unit import crafted
from tests.unit.bundles import document

OWN, B, C = TrustDomain("own.test"), TrustDomain("b.test"), TrustDomain("c.test")
ONE = crafted.authority("one").certificate
TWO = crafted.authority("two").certificate
MINE = crafted.authority("mine").certificate
URL = "https://bundles.b.test/b"
WEB = FederationSettings(url=URL, profile="https_web")
LOOK = 2.0


class FederationTestCase(SynchronousTestCase):
    """A clock, a log, and an endpoint that answers when the test wants it to."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.asked: list[tuple[EndpointTrust, Deferred[bytes]]] = []
        self.changes = 0
        self.pooled = {OWN: TrustBundle(OWN, (MINE,))}
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.events: list[dict[str, Any]] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)

    def fetch(self, _reactor: Any, url: EndpointURL, trust: EndpointTrust, _wall: WallClock) -> Deferred[bytes]:
        """In place of a real endpoint."""
        self.assertEqual(url.text, URL)
        answer: Deferred[bytes] = Deferred()
        self.asked.append((trust, answer))
        return answer

    def changed(self) -> None:
        self.changes += 1

    def start(self, **relations: FederationSettings) -> Federation:
        """Start with these; ``b=`` is b.test."""
        named = {TrustDomain(f"{name}.test"): settings for name, settings in relations.items()}
        federation = Federation(named, OWN, self.clock, self.clock.seconds, fetch=self.fetch, random=lambda: 0.5)
        self.federation = federation
        self.addCleanup(federation.stop)
        federation.start(lambda: federation.merged(self.pooled), self.changed)
        return federation

    def answer(self, data: bytes | Exception) -> None:
        """To the last question."""
        if isinstance(data, bytes):
            self.asked[-1][1].callback(data)
        else:
            self.asked[-1][1].errback(data)

    def authorities(self, domain: TrustDomain = B) -> tuple[object, ...] | None:
        """What peers of a trust domain are verified with; None without a bundle."""
        bundle = self.federation.merged(self.pooled).get(domain)
        return bundle.authorities if bundle is not None else None

    def told(self, level: LogLevel = LogLevel.warn) -> list[str]:
        """The lines of a level since the last call."""
        lines = [formatEvent(event) for event in self.events if event["log_level"] is level]
        self.events.clear()
        return lines

    def write(self, name: str, data: bytes) -> Path:
        """Write a file of the test's directory."""
        path = self.directory / name
        path.write_bytes(data)
        return path


class FileTests(FederationTestCase):
    """A file that is looked at every two seconds."""

    def settle(self) -> None:
        """Two looks: the change is seen, and has settled."""
        self.clock.pump([LOOK] * 2)

    def test_both_formats_are_read_at_the_start(self) -> None:
        """And each is one trust domain's."""
        pem, json = self.write("b.pem", pem_of([ONE])), self.write("c.json", document(TWO, spiffe_sequence=3))
        self.start(b=FederationSettings(bundle=pem), c=FederationSettings(bundle=json))
        self.assertEqual((self.authorities(B), self.authorities(C)), ((ONE,), (TWO,)))
        self.assertEqual([entry.sequence for entry in self.federation.held], [None, 3])
        self.assertEqual(self.authorities(OWN), (MINE,))

    def test_a_bad_file_is_a_failed_start(self) -> None:
        """Each is named; a check finds the same and starts nothing."""
        bad = {
            "b": FederationSettings(bundle=self.write("bad", b"{")),
            "c": FederationSettings(bundle=self.directory / "absent"),
        }
        error = self.assertRaises(StartError, self.start, **bad)
        self.assertIn("bad is not JSON", error.reason)
        self.assertIn("absent does not exist", error.reason)
        self.assertEqual(len(self.federation.check()), 2)
        (problem,) = Federation({B: FederationSettings(bundle=self.directory)}, OWN, self.clock).check()
        self.assertIn("is not a regular file", problem.reason)

    def test_a_change_is_taken_once_it_has_settled(self) -> None:
        """What is still being written may seem whole."""
        path = self.write("b", pem_of([ONE]))
        self.start(b=FederationSettings(bundle=path))
        self.write("b", pem_of([ONE, TWO])[: len(pem_of([ONE]))] + b"\n")
        self.clock.advance(LOOK)
        self.write("b", pem_of([ONE, TWO]))
        self.clock.advance(LOOK)
        self.assertEqual((self.authorities(), self.changes), ((ONE,), 1))
        self.clock.advance(LOOK)
        self.assertEqual((self.authorities(), self.changes), ((ONE, TWO), 2))

    def test_a_link_that_is_swapped_is_a_change(self) -> None:
        """As Kubernetes and certificate tools do it."""
        link = self.directory / "link"
        link.symlink_to(self.write("first", pem_of([ONE])).name)
        self.start(b=FederationSettings(bundle=link))
        self.write("second", pem_of([TWO]))
        (self.directory / "new").symlink_to("second")
        (self.directory / "new").rename(link)
        self.settle()
        self.assertEqual(self.authorities(), (TWO,))

    def test_a_file_that_goes_bad_keeps_the_last_one(self) -> None:
        """Told once each: emptied, gone, half written; then good again."""
        path = self.write("b", document(ONE))
        self.start(b=FederationSettings(bundle=path))
        self.told()
        for spoil, word in (
            (lambda: path.write_bytes(b""), "is empty"),
            (path.unlink, "does not exist"),
            (lambda: path.write_bytes(document(TWO)[:50]), "is not JSON"),
            (lambda: path.write_bytes(document(MINE)), "in the bundle of own.test too"),
        ):
            spoil()
            self.clock.pump([LOOK] * 5)
            (line,) = self.told()
            self.assertIn(word, line)
            self.assertIn(f"{BUNDLE_STALE.id} the bundle of b.test cannot be refreshed, the last one goes on", line)
            self.assertEqual(self.authorities(), (ONE,))
        self.write("b", document(TWO))
        self.settle()
        self.assertEqual((self.authorities(), self.federation.held[0].failure), ((TWO,), ""))
        self.assertIn("can be refreshed again", self.told(LogLevel.info)[0])

    def test_an_empty_document_revokes(self) -> None:
        """At once, with the code that its peers will be refused with."""
        self.start(b=FederationSettings(bundle=self.write("b", document(ONE))))
        self.told()
        self.write("b", document(spiffe_sequence=2))
        self.settle()
        self.assertEqual(self.authorities(), ())
        (line,) = self.told()
        self.assertIn(f"{NO_BUNDLE.id} the bundle of b.test", line)
        self.assertIn("everything of that trust domain is revoked", line)

    def test_an_unchanged_file_is_fresh(self) -> None:
        """Looked at is confirmed, while it can be."""
        path = self.write("b", document(ONE))
        self.start(b=FederationSettings(bundle=path))
        self.clock.pump([LOOK] * 10)
        self.assertEqual((self.federation.held[0].received, self.changes), (20.0, 1))
        path.unlink()
        self.clock.pump([LOOK] * 10)
        self.assertLess(self.federation.held[0].received or 0, 30.0)

    def test_what_was_refused_for_another_reason_is_tried_again(self) -> None:
        """The file is the same; what it must not share has changed."""
        path = self.write("b", document(ONE))
        self.start(b=FederationSettings(bundle=path))
        self.write("b", document(MINE))
        self.settle()
        self.assertEqual(self.authorities(), (ONE,))
        self.pooled[OWN] = TrustBundle(OWN, (TWO,))
        self.clock.advance(LOOK)
        self.assertEqual((self.authorities(), self.federation.held[0].failure), ((MINE,), ""))

    def test_a_reload_reads_it_at_once(self) -> None:
        """Good or bad."""
        self.start(b=FederationSettings(bundle=self.write("b", document(ONE))))
        self.write("b", document(TWO))
        self.federation.reload()
        self.assertEqual(self.authorities(), (TWO,))
        self.write("b", b"{")
        self.told()
        self.federation.reload()
        self.assertIn("is not JSON", self.told()[0])
        self.assertEqual(self.authorities(), (TWO,))

    def test_nothing_is_looked_at_after_the_stop(self) -> None:
        """No timer is left."""
        self.start(b=FederationSettings(bundle=self.write("b", document(ONE)))).stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class EndpointTests(FederationTestCase):
    """An endpoint that is asked from time to time."""

    def next_question(self) -> float:
        """In how many seconds it will be asked again."""
        (call,) = self.clock.getDelayedCalls()
        return call.getTime() - self.clock.seconds()

    def test_is_asked_at_once_and_as_it_wants(self) -> None:
        """By the hint in each answer; five minutes without one."""
        self.start(b=WEB)
        self.assertIsNone(self.authorities())
        self.answer(document(ONE, spiffe_refresh_hint=120))
        self.assertEqual((self.authorities(), self.changes), ((ONE,), 1))
        self.assertEqual(self.next_question(), 120.0)
        self.clock.advance(120)
        self.answer(document(ONE))
        self.assertEqual((self.changes, self.next_question()), (1, 300.0))

    def test_the_configured_time_wins(self) -> None:
        """Over any hint."""
        self.start(b=FederationSettings(url=URL, profile="https_web", refresh=Duration(10.0)))
        self.answer(document(ONE, spiffe_refresh_hint=120))
        self.assertEqual(self.next_question(), 10.0)

    def test_a_failure_keeps_the_last_one_and_waits_its_time(self) -> None:
        """Told when it begins, when the reason changes, and when it ends."""
        self.start(b=WEB)
        self.answer(document(ONE))
        self.told()
        for reason in ("is down", "is down", "is mad"):
            self.clock.advance(300)
            self.answer(EndpointError(reason))
        self.assertEqual(self.authorities(), (ONE,))
        lines = self.told()
        self.assertEqual([line.rpartition(": ")[2] for line in lines], [f"{URL} is down", f"{URL} is mad"])
        self.assertEqual((self.federation.held[0].failures, self.federation.held[0].received), (3, 0.0))
        self.clock.advance(300)
        self.answer(document(ONE))
        self.assertIn("can be refreshed again", self.told(LogLevel.info)[0])

    def test_without_any_bundle_it_is_asked_sooner(self) -> None:
        """But not faster and faster: 5 s, doubling up to the ordinary time."""
        self.start(b=WEB)
        waits = []
        for _ in range(8):
            self.answer(EndpointError("is down"))
            waits.append(self.next_question())
            self.clock.advance(waits[-1])
        self.assertEqual(waits, [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0])
        (line,) = self.told()
        self.assertIn("there is none yet: its peers are refused", line)

    def test_what_it_serves_is_judged(self) -> None:
        """No JSON, another trust domain's document, our own authority: the last one goes on to serve."""
        self.start(b=WEB)
        self.answer(document(ONE))
        for data, word in ((b"<html>", "is not JSON"), (document(MINE), "of another trust domain")):
            self.told()
            self.clock.advance(300)
            self.answer(data)
            self.assertIn(word, self.told()[0])
            self.assertEqual(self.authorities(), (ONE,))

    def test_an_empty_document_revokes_and_less_is_told(self) -> None:
        """A well-formed answer counts, whatever it withdraws."""
        self.start(b=WEB)
        self.answer(document(ONE, TWO, spiffe_sequence=5))
        self.told()
        self.clock.advance(300)
        self.answer(document(TWO, spiffe_sequence=4))
        (line,) = self.told()
        self.assertIn("sequence 4, which went back from 5, gone: CN=one", line)
        self.clock.advance(300)
        self.answer(document())
        self.assertEqual(self.authorities(), ())

    def test_a_web_endpoint_is_known_by_its_name(self) -> None:
        """By the system's authorities, or those of a file, which is read anew each time."""
        self.start(b=WEB)
        trust = self.asked[-1][0]
        self.assertEqual((trust.expected, trust.authorities), (DNSName("bundles.b.test"), None))
        self.federation.stop()
        path = self.write("web.pem", pem_of([ONE]))
        self.start(b=FederationSettings(url=URL, profile="https_web", trust=path))
        self.assertEqual(self.asked[-1][0].authorities, (ONE,))
        path.unlink()
        self.answer(document(ONE))
        self.told()
        self.clock.advance(300)
        self.assertIn("web.pem cannot be read", self.told()[0])
        self.assertEqual(len(self.federation.check()), 1)

    def test_a_server_of_its_own_trust_domain_is_verified_by_the_newest_bundle(self) -> None:
        """The file's at first, then what was served; after a revocation nothing verifies it."""
        server = SpiffeId.parse("spiffe://b.test/server")
        path = self.write("b", document(ONE))
        self.start(b=FederationSettings(url=URL, profile="https_spiffe", endpoint_id=server, bundle=path))
        self.assertEqual(self.authorities(), (ONE,))
        for served in ((TWO,), ()):
            trust = self.asked[-1][0]
            self.assertEqual((trust.expected, trust.bundles[B].authorities), (server, self.authorities()))
            self.answer(document(*served))
            self.clock.advance(300)
        self.assertEqual(self.asked[-1][0].bundles[B].authorities, ())

    def test_a_server_of_another_trust_domain_is_verified_by_that_ones_bundle(self) -> None:
        """As it is held now; without one there is nothing to verify it with."""
        for domain, bundles in ((OWN, self.pooled), (C, {})):
            settings = FederationSettings(
                url=URL, profile="https_spiffe", endpoint_id=SpiffeId.parse(f"spiffe://{domain}/server")
            )
            self.start(b=settings)
            found = self.asked[-1][0].bundles
            self.assertEqual(
                {key: each.authorities for key, each in found.items()}, {k: b.authorities for k, b in bundles.items()}
            )

    def test_an_error_of_our_own_is_told_with_its_traceback(self) -> None:
        """And asked again."""
        self.start(b=WEB)
        self.answer(ZeroDivisionError())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertIn("internal error (ZeroDivisionError)", self.federation.held[0].failure)
        self.assertEqual(self.next_question(), 5.0)

    def test_a_reload_asks_at_once(self) -> None:
        """Unless it is being asked; the next time is then counted from its answer."""
        self.start(b=WEB)
        self.federation.reload()
        self.assertEqual(len(self.asked), 1)
        self.answer(document(ONE))
        self.clock.advance(100)
        self.federation.reload()
        self.assertEqual(len(self.asked), 2)
        self.answer(document(TWO))
        self.assertEqual((self.authorities(), self.next_question()), ((TWO,), 300.0))

    def test_a_stop_gives_up_what_is_under_way(self) -> None:
        """Silently, and for ever."""
        self.start(b=WEB).stop()
        self.assertTrue(self.asked[0][1].called)
        self.assertEqual((self.clock.getDelayedCalls(), self.told()), ([], []))


class MergingTests(FederationTestCase):
    """Beside what identity sources deliver."""

    def test_a_source_that_delivers_the_same_trust_domain_does_not_count(self) -> None:
        """Told once, not at each delivery."""
        self.pooled[B] = TrustBundle(B, (TWO,))
        self.start(b=FederationSettings(bundle=self.write("b", document(ONE))))
        for _ in range(3):
            self.assertEqual(self.authorities(), (ONE,))
        lines = [line for line in self.told() if "identity.federation wins" in line]
        self.assertEqual(len(lines), 1)

    def test_a_bundle_that_shares_an_authority_with_a_later_one_is_left_out(self) -> None:
        """The own trust domain's wins, whenever it comes; told once, until it is well again."""
        self.start(b=FederationSettings(bundle=self.write("b", document(ONE))))
        self.told()
        self.pooled[OWN] = TrustBundle(OWN, (ONE,))
        for _ in range(3):
            self.assertIsNone(self.authorities())
        (line,) = self.told()
        self.assertIn(f"{NO_BUNDLE.id} the bundle of b.test: it is not used", line)
        self.pooled[OWN] = TrustBundle(OWN, (MINE,))
        self.assertEqual(self.authorities(), (ONE,))
