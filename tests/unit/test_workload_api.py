"""The workload-api source against a Workload API that behaves, and against one that does not."""

from __future__ import annotations

from typing import Any

from h2.errors import ErrorCodes
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.identity.protobuf import read_fields
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.sources.grpc_stream import ANSWER_TIME, KEEPALIVE, MAX_FRAMES, PONG_TIME
from tcpmesh.sources.grpc_wire import MAX_MESSAGE, Status
from tcpmesh.sources.withdrawal import CONFIRMATION
from tcpmesh.sources.workload_api import (
    FIRST_RETRY,
    LAST_RETRY,
    SLOW_RETRY,
    WorkloadAPIFactory,
    WorkloadAPISettings,
    WorkloadAPISource,
    WorkloadAPIWorkload,
)
from tcpmesh.testing import FakeIdentityObserver, FakeWorkloadAPI, TestAuthority, plugin_context
from tcpmesh.testing.workload_api import WorkloadAPICall
from tcpmesh.testing.workload_messages import (
    der_of,
    protobuf_field,
    x509_bundles_response,
    x509_svid,
    x509_svid_response,
)
from tcpmesh.values import IdentitySnapshot, TrustBundle, UnixAddress, Workload

NOW = 1_800_000_000.0
SOCKET = UnixAddress("/run/agent.sock")


class SourceCase(SynchronousTestCase):
    """A source, its observer, its clock and the fake that it asks."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.now = NOW
        self.authority = TestAuthority(now=NOW)
        self.observer = FakeIdentityObserver()
        self.api = FakeWorkloadAPI()

    def snapshot(self, *paths: str, authority: TestAuthority | None = None) -> IdentitySnapshot:
        return (authority or self.authority).snapshot(*(paths or ("/web",)))

    def start(self, workloads: dict[str, Workload] | None = None, random: float = 0.0) -> WorkloadAPISource:
        if workloads is None:
            workloads = {"web": self.authority.workload("web", WorkloadAPIWorkload())}
        context = plugin_context(clock=self.clock, workloads=workloads)
        source = WorkloadAPISource(SOCKET, context, lambda: self.now, lambda: random, self.api.connect)
        self.addCleanup(source.stop)
        source.start(self.observer)
        return source

    def served(self) -> WorkloadAPISource:
        """A source that has got its identities."""
        self.api.serve(self.snapshot())
        source = self.start()
        self.assertEqual([kind for kind, _ in self.observer.events], ["changed"])
        return source

    def told(self) -> list[str]:
        return [kind for kind, _ in self.observer.events]

    def check_reconnects_after(self, seconds: float) -> None:
        """A new call is made then and not before."""
        before = len(self.api.requests)
        self.assertEqual(self.api.calls, [])
        self.clock.advance(seconds - 0.01)
        self.assertEqual(len(self.api.requests), before)
        self.clock.advance(0.02)
        self.assertEqual(len(self.api.requests), before + 1)


class AskingTests(SourceCase):
    def test_asks_for_svids_as_the_specification_says(self) -> None:
        """The method, gRPC's headers, and the metadata that proves who wrote the request."""
        self.served()
        (request,) = self.api.requests
        self.assertEqual(request[":path"], "/SpiffeWorkloadAPI/FetchX509SVID")
        self.assertEqual(request["workload.spiffe.io"], "true")
        self.assertEqual((request[":method"], request["te"]), ("POST", "trailers"))
        self.assertEqual(request["content-type"], "application/grpc")

    def test_asks_for_bundles_when_it_serves_nobody(self) -> None:
        """A source without workloads is there for its bundles."""
        other = TestAuthority("partner.test", now=NOW)
        self.api.serve(IdentitySnapshot((), {a.trust_domain: a.bundle for a in (self.authority, other)}))
        self.start(workloads={})
        self.assertEqual(self.api.requests[0][":path"], "/SpiffeWorkloadAPI/FetchX509Bundles")
        (snapshot,) = self.observer.snapshots
        self.assertEqual(snapshot.svids, ())
        self.assertEqual(snapshot.bundles[other.trust_domain].authorities, other.bundle.authorities)

    def test_delivers_every_message(self) -> None:
        """A rotation is one more message on the same call."""
        self.served()
        second = self.snapshot()
        self.api.serve(second)
        self.assertEqual(self.told(), ["changed", "changed"])
        self.assertEqual(self.observer.snapshots[1].svids[0].leaf, second.svids[0].leaf)
        self.assertEqual(len(self.api.requests), 1)

    def test_works_one_byte_at_a_time(self) -> None:
        """Frames and messages may be cut anywhere."""
        self.api.chunk = 1
        self.served()
        self.api.serve(self.snapshot())
        self.assertEqual(self.told(), ["changed", "changed"])

    def test_serves_several_workloads(self) -> None:
        """Each gets the SVID with its ID, in any order; what nobody asked for is left out."""
        self.api.serve(self.snapshot("/other", "/reports", "/web"))
        self.start({name: self.authority.workload(name, WorkloadAPIWorkload()) for name in ("web", "reports")})
        self.assertEqual({svid.id.path for svid in self.observer.snapshots[0].svids}, {"/web", "/reports"})

    def test_chooses_by_hint(self) -> None:
        """Of two SVIDs with one ID the hint says which."""
        snapshot = self.snapshot("/web", "/web")
        self.api.serve(snapshot, ["external", "internal"])
        self.start({"web": self.authority.workload("web", WorkloadAPIWorkload("internal"))})
        (svid,) = self.observer.snapshots[0].svids
        self.assertEqual(svid.leaf, snapshot.svids[1].leaf)

    def test_delivers_bundles_of_other_trust_domains(self) -> None:
        """What the API federates is there; what the next message leaves out is gone."""
        partner = TestAuthority("partner.test", now=NOW)
        own = self.snapshot()
        self.api.serve(IdentitySnapshot(own.svids, {**own.bundles, partner.trust_domain: partner.bundle}))
        self.start()
        self.assertEqual(
            self.observer.snapshots[0].bundles[partner.trust_domain].authorities, partner.bundle.authorities
        )
        self.api.serve(own)
        self.assertNotIn(partner.trust_domain, self.observer.snapshots[1].bundles)

    def test_says_which_workload_got_nothing(self) -> None:
        """It is withdrawn, not an error: the others are served. The log says it once."""
        self.api.serve(self.snapshot("/web"))
        workloads = {name: self.authority.workload(name, WorkloadAPIWorkload()) for name in ("web", "gone")}
        context = plugin_context(clock=self.clock, workloads=workloads)
        events: list[dict[str, Any]] = []
        context.log.observer = events.append  # type: ignore[assignment]
        source = WorkloadAPISource(SOCKET, context, lambda: NOW, lambda: 0.0, self.api.connect)
        self.addCleanup(source.stop)
        source.start(self.observer)
        self.api.serve(self.snapshot("/web"))
        self.assertEqual(self.told(), ["changed", "changed"])
        self.assertEqual([event["text"] for event in events], [
            "no SVID for workload 'gone' with spiffe://example.test/gone; there are spiffe://example.test/web"
        ])  # fmt: skip


class StatusTests(SourceCase):
    def test_permission_denied_ends_the_use(self) -> None:
        """When it is said twice, with the server's words; later it is asked again, and what it gives then serves."""
        self.served()
        self.api.refuse(Status.PERMISSION_DENIED, "no identity issued")
        self.assertEqual((self.told(), len(self.api.requests)), (["changed", "revoked"], 2))
        self.assertIn("PermissionDenied: 'no identity issued'", self.observer.revocations[0])
        self.clock.pump([FIRST_RETRY, 2 * FIRST_RETRY])
        self.assertEqual(len(self.api.requests), 4)
        self.assertEqual(self.told(), ["changed", "revoked"])
        self.api.serve(self.snapshot())
        self.clock.advance(4 * FIRST_RETRY)
        self.assertEqual(self.told(), ["changed", "revoked", "changed"])
        self.api.refuse(Status.PERMISSION_DENIED, "no identity issued")
        self.assertEqual(self.told(), ["changed", "revoked", "changed", "revoked"])

    def test_permission_denied_after_a_piece_of_a_message(self) -> None:
        """A message that did not end does not hide the status."""
        self.served()
        self.api.send_bytes(b"\0\0\0\1\0half")
        self.api.refuse(Status.PERMISSION_DENIED)
        self.assertEqual(self.told(), ["changed", "revoked"])

    def test_pointless_requests_are_not_repeated_soon(self) -> None:
        """InvalidArgument and Unimplemented are reported, and asked again after minutes."""
        for status, name in ((Status.INVALID_ARGUMENT, "InvalidArgument"), (Status.UNIMPLEMENTED, "Unimplemented")):
            self.setUp()
            self.api.refuse(status, "not here")
            self.start()
            self.assertEqual(self.observer.failures, [f"the Workload API at unix:/run/agent.sock: {name}: 'not here'"])
            self.check_reconnects_after(SLOW_RETRY)

    def test_other_statuses_keep_the_last_identities(self) -> None:
        """Each is a failure that withdraws nothing and is tried again."""
        special = {Status.OK, Status.PERMISSION_DENIED, Status.INVALID_ARGUMENT, Status.UNIMPLEMENTED}
        for status in set(Status) - special:
            self.setUp()
            self.served()
            self.api.end(status, "words")
            self.assertEqual(self.told(), ["changed", "failed"], status)
            self.check_reconnects_after(FIRST_RETRY)
            self.assertEqual(self.told(), ["changed", "failed", "changed"], status)

    def test_a_clean_end_reconnects_at_once(self) -> None:
        """An agent that restarts in order is no failure."""
        self.served()
        self.clock.advance(60)
        self.api.end()
        self.clock.advance(0)
        self.assertEqual(self.told(), ["changed", "changed"])

    def test_clean_ends_without_end_do_not_hammer(self) -> None:
        """A server that ends each call as soon as it began is asked ever less often."""
        self.api.refuse(Status.OK)
        self.start()
        for wait in (FIRST_RETRY, 2 * FIRST_RETRY, 4 * FIRST_RETRY):
            self.check_reconnects_after(wait)

    def test_backs_off_to_the_longest_wait(self) -> None:
        """1, 2, 4, 8, 16, 30, 30 seconds; a good message begins anew."""
        self.api.refuse(Status.UNAVAILABLE, "later")
        self.start()
        for wait in (1, 2, 4, 8, 16, LAST_RETRY, LAST_RETRY):
            self.check_reconnects_after(wait)
        self.api.serve(self.snapshot())
        self.clock.advance(LAST_RETRY)
        self.assertEqual(self.told()[-1], "changed")
        self.api.end(Status.UNAVAILABLE)
        self.check_reconnects_after(FIRST_RETRY)

    def test_chance_shortens_the_waits(self) -> None:
        """By up to a half, so that not everybody comes back at once."""
        self.api.refuse(Status.UNAVAILABLE)
        self.start(random=1.0)
        self.check_reconnects_after(FIRST_RETRY / 2)
        self.check_reconnects_after(FIRST_RETRY)

    def test_unknown_statuses(self) -> None:
        """A number that nobody knows, or none, is a failure like others; the words are escaped."""
        for code, shown in (("99", "99"), ("-1", "-1"), ("seven", "seven"), ("007", "007")):
            self.setUp()
            self.served()
            self.api.end_with([("grpc-status", code), ("grpc-message", "a%0Ab")])
            self.assertEqual(self.told(), ["changed", "failed"], code)
            self.assertIn(f"the unknown status {shown}, 'a\\nb'", self.observer.failures[0])


class SilentAPI(FakeWorkloadAPI):
    """Can leave a call without an answer."""

    silent = False

    def take_request(self, call: WorkloadAPICall, headers: dict[str, str]) -> None:
        if self.silent:
            self.requests.append(headers)
        else:
            super().take_request(call, headers)


class WithdrawalTests(SourceCase):
    """What SPIRE says while it replaces what a tainted authority has signed: nothing is there, and then new ones."""

    def setUp(self) -> None:
        super().setUp()
        self.api: SilentAPI = SilentAPI()

    def test_a_denial_that_the_next_call_takes_back(self) -> None:
        """Nobody hears of it; the open call is the second one."""
        self.served()
        self.api.end(Status.PERMISSION_DENIED, "no identity issued")
        self.assertEqual((self.told(), len(self.api.requests)), (["changed", "changed"], 2))
        self.clock.advance(CONFIRMATION)
        self.assertEqual((self.told(), len(self.api.requests)), (["changed", "changed"], 2))

    def test_a_denial_of_bundles_that_the_next_call_takes_back(self) -> None:
        """Also for a source that serves nobody."""
        self.api.serve(self.snapshot())
        self.start(workloads={})
        self.api.end(Status.PERMISSION_DENIED, "no identity issued")
        self.assertEqual(self.told(), ["changed", "changed"])

    def test_a_denial_before_anything_was_given(self) -> None:
        """There is nothing to doubt."""
        self.api.refuse(Status.PERMISSION_DENIED, "no identity issued")
        self.start()
        self.assertEqual((self.told(), len(self.api.requests)), (["revoked"], 1))

    def test_no_second_answer_confirms_it(self) -> None:
        """Silence is waited for, not longer than that; what comes later serves again."""
        self.served()
        self.api.silent = True
        self.api.end(Status.PERMISSION_DENIED, "no identity issued")
        self.clock.advance(CONFIRMATION - 0.01)
        self.assertEqual(self.told(), ["changed"])
        self.clock.advance(0.01)
        self.assertEqual(self.told(), ["changed", "revoked"])
        self.assertIn("no identity issued", self.observer.revocations[0])
        self.api.silent = False
        self.api.serve(self.snapshot())
        self.assertEqual((self.told(), len(self.api.requests)), (["changed", "revoked", "changed"], 2))

    def test_a_failure_of_the_second_call_confirms_it(self) -> None:
        """An agent that denies and is gone has denied."""
        self.served()
        self.api.reachable = False
        self.api.end(Status.PERMISSION_DENIED, "no identity issued")
        self.assertEqual(self.told(), ["changed", "revoked", "failed"])

    def test_a_server_that_goes_to_and_fro_is_believed(self) -> None:
        """The second denial in so short a time counts, and the next call has to wait."""
        self.served()
        self.api.end(Status.PERMISSION_DENIED)
        self.api.end(Status.PERMISSION_DENIED)
        self.assertEqual((self.told(), len(self.api.requests)), (["changed", "changed", "revoked"], 2))
        self.check_reconnects_after(FIRST_RETRY)
        self.clock.advance(CONFIRMATION)
        self.api.end(Status.PERMISSION_DENIED)
        self.assertEqual(self.told(), ["changed", "changed", "revoked", "changed", "changed"])

    def two_workloads(self) -> None:
        self.api.serve(self.snapshot("/web", "/reports"))
        self.start({name: self.authority.workload(name, WorkloadAPIWorkload()) for name in ("web", "reports")})

    def test_a_message_with_less_that_the_next_one_takes_back(self) -> None:
        """One workload's certificate was missing for a moment: it was there all the time."""
        self.two_workloads()
        self.api.send(x509_svid_response(self.snapshot("/web")))
        self.assertEqual([len(snapshot.svids) for snapshot in self.observer.snapshots], [2, 2])
        self.assertEqual((len(self.api.requests), len(self.api.calls)), (2, 1))

    def test_a_message_with_less_that_is_confirmed(self) -> None:
        """By the next one, or by silence."""
        for silent, wait in ((False, 0.0), (True, CONFIRMATION)):
            self.setUp()
            self.two_workloads()
            self.api.silent = silent
            self.api.serve(self.snapshot("/web"))
            self.clock.advance(wait)
            self.assertEqual([len(snapshot.svids) for snapshot in self.observer.snapshots], [2, 1])
            self.assertEqual(self.observer.snapshots[1].svids[0].id.path, "/web")

    def test_stops_while_it_waits(self) -> None:
        """Nothing is left over."""
        self.api.serve(self.snapshot())
        source = self.start()
        self.api.silent = True
        self.api.end(Status.PERMISSION_DENIED)
        source.stop()
        self.assertEqual((self.told(), self.clock.getDelayedCalls(), self.api.calls), (["changed"], [], []))


class RevokedAuthorityTests(SourceCase):
    """A certificate that comes again beside a bundle from which its authority was taken."""

    def setUp(self) -> None:
        super().setUp()
        self.successor = TestAuthority(now=NOW)
        self.both = {self.authority.trust_domain: self.bundle(self.authority, self.successor)}
        self.new = {self.authority.trust_domain: self.bundle(self.successor)}
        self.old_web = self.authority.svid("/web")

    def bundle(self, *authorities: TestAuthority) -> TrustBundle:
        return TrustBundle(self.authority.trust_domain, tuple(one.root.certificate for one in authorities))

    def test_the_bundle_counts(self) -> None:
        """Whoever still has a certificate of that authority is refused, and we do not show ours."""
        self.api.serve(IdentitySnapshot((self.old_web,), self.both))
        self.start()
        self.api.serve(IdentitySnapshot((self.old_web,), self.new))
        self.assertEqual(self.told(), ["changed", "changed"])
        self.assertEqual(self.observer.snapshots[1].svids, ())
        bundle = self.observer.snapshots[1].bundles[self.authority.trust_domain]
        self.assertEqual(bundle.authorities, (self.successor.root.certificate,))
        self.api.serve(IdentitySnapshot((self.successor.svid("/web"),), self.new))
        self.assertEqual(len(self.observer.snapshots[2].svids), 1)

    def test_others_are_served_on(self) -> None:
        """Their certificates are renewed while the old one is offered again and again."""
        self.api.serve(IdentitySnapshot((self.old_web, self.successor.svid("/reports")), self.both))
        self.start({name: self.authority.workload(name, WorkloadAPIWorkload()) for name in ("web", "reports")})
        for _ in range(2):
            renewed = self.successor.svid("/reports")
            self.api.serve(IdentitySnapshot((self.old_web, renewed), self.new))
            (svid,) = self.observer.snapshots[-1].svids
            self.assertEqual(svid.leaf, renewed.leaf)
        self.assertEqual(set(self.told()), {"changed"})

    def test_says_whose_certificate_it_was(self) -> None:
        """With what the bundle lacks."""
        self.api.serve(IdentitySnapshot((self.old_web,), self.both))
        context = plugin_context(
            clock=self.clock, workloads={"web": self.authority.workload("web", WorkloadAPIWorkload())}
        )
        events: list[dict[str, Any]] = []
        context.log.observer = events.append  # type: ignore[assignment]
        source = WorkloadAPISource(SOCKET, context, lambda: NOW, lambda: 0.0, self.api.connect)
        self.addCleanup(source.stop)
        source.start(self.observer)
        self.api.serve(IdentitySnapshot((self.old_web,), self.new))
        (event,) = events
        self.assertIn(
            "its authority has been taken from the bundle, and there is no new certificate: TM-I202 no author",
            event["text"],
        )
        self.assertIn("spiffe://example.test/web", event["text"])


class ReloadTests(SourceCase):
    def test_does_not_wait_any_longer(self) -> None:
        """An operator who mended something need not wait for the next call."""
        self.api.refuse(Status.UNIMPLEMENTED)
        source = self.start()
        self.api.serve(self.snapshot())
        source.reload()
        self.assertEqual((self.told(), self.clock.getDelayedCalls() != []), (["failed", "changed"], True))
        self.clock.advance(SLOW_RETRY)
        self.assertEqual(len(self.api.requests), 2)

    def test_leaves_an_open_call_alone(self) -> None:
        """The server pushes what is new by itself."""
        source = self.served()
        source.reload()
        self.assertEqual((self.told(), len(self.api.requests)), (["changed"], 1))

    def test_does_nothing_before_the_start_and_after_the_stop(self) -> None:
        """Whoever asks for it may come too late."""
        source = WorkloadAPISource(SOCKET, plugin_context(clock=self.clock), connect=self.api.connect)
        source.reload()
        source.start(self.observer)
        source.stop()
        source.reload()
        self.assertEqual((len(self.api.requests), self.clock.getDelayedCalls()), (1, []))


class BadMessageTests(SourceCase):
    """One bad message is reported and skipped; the last good one stays, and the next good one is used."""

    def check_skips(self, message: bytes, reason: str) -> None:
        self.served()
        self.api.send(message)
        self.assertEqual(self.told(), ["changed", "failed"])
        self.assertIn("sent what cannot be used, skipped: ", self.observer.failures[0])
        self.assertIn(reason, self.observer.failures[0])
        self.api.serve(self.snapshot())
        self.assertEqual(self.told(), ["changed", "failed", "changed"])
        self.assertEqual(len(self.api.requests), 1)

    def test_garbage(self) -> None:
        """Bytes that are no message."""
        self.check_skips(b"\xff" * 20, "the message is malformed: ")

    def test_nothing(self) -> None:
        """A message without an SVID is not one that withdraws all."""
        self.check_skips(b"", "there is no SVID in it")

    def test_roots_of_another_trust_domain_under_ours(self) -> None:
        """Our own certificate must verify under the bundle beside it."""
        svid = self.authority.svid("/web")
        message = protobuf_field(1, x509_svid(svid, TestAuthority("evil.test", now=NOW).bundle))
        self.check_skips(message, "the bundle of example.test has an authority of another trust domain: ")

    def test_roots_that_did_not_sign_our_certificate(self) -> None:
        """Also where their certificates name our own trust domain."""
        message = protobuf_field(1, x509_svid(self.authority.svid("/web"), TestAuthority(now=NOW).bundle))
        self.check_skips(message, "TM-I202 no authority in the bundle of example.test signed the chain")

    def test_a_bad_bundle_of_another_trust_domain(self) -> None:
        """Our own identities are renewed all the same; the last good bundle stays, and the failure is reported."""
        partner = TestAuthority("partner.test", now=NOW)
        domain = partner.trust_domain
        own = self.snapshot()
        self.api.serve(IdentitySnapshot(own.svids, {**own.bundles, domain: partner.bundle}))
        self.start()
        second = self.snapshot()
        bad = TrustBundle(domain, TestAuthority("evil.test", now=NOW).bundle.authorities)
        self.api.serve(IdentitySnapshot(second.svids, {**second.bundles, domain: bad}))
        self.assertEqual(self.told(), ["changed", "changed", "failed"])
        self.assertIn("the bundle of partner.test has an authority of another trust domain", self.observer.failures[0])
        self.assertEqual(self.observer.snapshots[1].svids[0].leaf, second.svids[0].leaf)
        self.assertEqual(self.observer.snapshots[1].bundles[domain].authorities, partner.bundle.authorities)

    def test_a_bad_bundle_does_not_bring_back_what_was_withdrawn(self) -> None:
        """Neither by a later message, nor by PermissionDenied."""
        partner = TestAuthority("partner.test", now=NOW)
        domain = partner.trust_domain
        own = self.snapshot()
        good = IdentitySnapshot(own.svids, {**own.bundles, domain: partner.bundle})
        bad = IdentitySnapshot(
            own.svids, {**own.bundles, domain: TrustBundle(domain, self.authority.bundle.authorities)}
        )
        self.start()
        for withdraw in (
            lambda: self.api.serve(own),
            lambda: self.api.refuse(Status.PERMISSION_DENIED),
        ):
            self.api.serve(good)
            self.clock.advance(LAST_RETRY)
            self.assertIn(domain, self.observer.snapshots[-1].bundles)
            withdraw()
            self.api.serve(bad)
            self.clock.advance(LAST_RETRY)
            self.assertEqual(self.told()[-2:], ["changed", "failed"])
            self.assertNotIn(domain, self.observer.snapshots[-1].bundles)

    def test_federated_bundles_cannot_replace_our_own(self) -> None:
        """The bundle beside the SVID wins."""
        own = x509_svid_response(self.snapshot())
        evil = TrustBundle(self.authority.trust_domain, TestAuthority("evil.test", now=NOW).bundle.authorities)
        self.start()
        self.api.send(own + x509_bundles_response([evil]).replace(b"\x12", b"\x1a", 1))
        self.assertEqual(self.told(), ["changed"])
        bundle = self.observer.snapshots[0].bundles[self.authority.trust_domain]
        self.assertEqual(bundle.authorities, self.authority.bundle.authorities)

    def test_a_key_that_does_not_fit(self) -> None:
        """The key of another certificate."""
        good, other = x509_svid(self.authority.svid("/web"), self.authority.bundle), self.authority.svid("/web")
        key = protobuf_field(3, _field(x509_svid(other, self.authority.bundle), 3))
        message = protobuf_field(1, good.replace(protobuf_field(3, _field(good, 3)), key))
        self.check_skips(message, "TM-I201 the private key does not belong to the certificate")

    def test_an_id_that_the_certificate_does_not_have(self) -> None:
        """The message says one thing and the certificate another."""
        good = x509_svid(self.authority.svid("/intruder"), self.authority.bundle)
        renamed = good.replace(
            protobuf_field(1, "spiffe://example.test/intruder"), protobuf_field(1, "spiffe://example.test/web")
        )
        self.check_skips(protobuf_field(1, renamed), "TM-I203 the certificate is for spiffe://example.test/intruder")

    def test_an_expired_certificate(self) -> None:
        """An agent that comes back with what it had cannot replace what is valid."""
        old = self.authority.svid("/web", ttl=600, now=NOW)
        message = protobuf_field(1, x509_svid(old, self.authority.bundle))
        self.now += 3000
        self.api.serve(self.authority.snapshot("/web", now=NOW + 1000))
        self.start()
        self.api.send(message)
        self.assertEqual(self.told(), ["changed", "failed"])
        self.assertIn("TM-I102", self.observer.failures[0])

    def test_what_others_were_offered_does_no_harm(self) -> None:
        """An SVID that no workload wants may have any key and certificate."""
        odd = protobuf_field(1, "spiffe://example.test/other") + protobuf_field(2, b"x") + protobuf_field(3, b"x")
        odd = protobuf_field(1, odd + protobuf_field(4, der_of(self.authority.bundle.authorities)))
        self.start()
        self.api.send(odd + x509_svid_response(self.snapshot()))
        self.assertEqual(self.told(), ["changed"])

    def test_an_empty_bundle_revokes_when_bundles_were_asked_for(self) -> None:
        """A bundle without a certificate is a statement."""
        self.api.serve(IdentitySnapshot((), {TrustDomain("b.test"): TrustBundle(TrustDomain("b.test"), ())}))
        self.start(workloads={})
        self.assertEqual(self.observer.snapshots[0].bundles[TrustDomain("b.test")].authorities, ())


class MisbehaviourTests(SourceCase):
    """Whatever a server does: the call ends with a reason, the last identities stay, the next call is made."""

    def check_ends(self, reason: str, wait: float = FIRST_RETRY) -> None:
        self.assertEqual(self.told(), ["changed", "failed"])
        self.assertIn(reason, self.observer.failures[0])
        self.check_reconnects_after(wait)
        self.assertEqual(self.told(), ["changed", "failed", "changed"])

    def test_message_of_the_largest_size(self) -> None:
        """4 MiB come through the windows of flow control; an unknown field is read over."""
        message = x509_svid_response(self.snapshot())
        self.start()
        filler = protobuf_field(99, bytes(MAX_MESSAGE - len(message) - 6))
        self.assertEqual(len(message + filler), MAX_MESSAGE)
        self.api.send(message + filler)
        self.assertEqual(self.told(), ["changed"])

    def test_message_that_is_larger(self) -> None:
        """It is refused at its first bytes."""
        self.served()
        self.api.send_bytes(b"\0" + (MAX_MESSAGE + 1).to_bytes(4, "big"))
        self.check_ends("the server breaks gRPC: a message of 4194305 bytes, more than 4194304")

    def test_compressed_message(self) -> None:
        """Nothing was offered, so nothing is decompressed."""
        self.served()
        self.api.send(b"x", flag=1)
        self.check_ends("a message is compressed (flag 1)")

    def test_no_trailers(self) -> None:
        """An answer without a status is not one that ended in order."""
        self.served()
        self.api.end_without_trailers()
        self.check_ends("the server ended the answer without a status")

    def test_trailers_without_a_status(self) -> None:
        """As without trailers."""
        self.served()
        self.api.end_with([("x-other", "1")])
        self.check_ends("the server ended the answer without a status")

    def test_end_within_a_message(self) -> None:
        """OK cannot follow half a message."""
        self.served()
        self.api.send_bytes(b"\0\0\0\1\0half")
        self.api.end()
        self.check_ends("in the middle of a message")

    def test_end_of_the_connection(self) -> None:
        """Without a status it is a failure."""
        self.served()
        self.api.cut()
        self.check_ends("the server closed the connection without a status")

    def test_reset_stream(self) -> None:
        """With the name of the error."""
        self.served()
        self.api.reset()
        self.check_ends("the server reset the stream (INTERNAL_ERROR)")

    def test_goaway_with_an_error(self) -> None:
        """With its name and the server's words, escaped."""
        self.served()
        self.api.go_away(ErrorCodes.ENHANCE_YOUR_CALM, b"too_many_pings\n")
        self.check_ends("the server ended the connection (ENHANCE_YOUR_CALM, 'too_many_pings\\n')")

    def test_goaway_in_order(self) -> None:
        """An agent that stops in order is asked again at once."""
        self.served()
        self.clock.advance(5)
        self.api.go_away()
        self.clock.advance(0)
        self.assertEqual(self.told(), ["changed", "changed"])

    def test_goaway_with_a_ping_behind_it(self) -> None:
        """As gRPC's servers do it: the PING asks whether the GOAWAY has been read."""
        self.served()
        self.clock.advance(5)
        (call,) = self.api.calls
        kept: list[bytes] = []
        call.write = kept.append  # type: ignore[method-assign]
        self.api.go_away()
        self.api.flood_pings(1)
        assert call.transport is not None
        call.transport.write(b"".join(kept))
        self.clock.advance(0)
        self.assertEqual(self.told(), ["changed", "changed"])

    def test_goaway_after_a_message_in_one_piece(self) -> None:
        """What came before it counts."""
        self.start()
        self.clock.advance(5)
        (call,) = self.api.calls
        kept: list[bytes] = []
        call.write = kept.append  # type: ignore[method-assign]
        self.api.send(x509_svid_response(self.snapshot()))
        self.api.go_away()
        assert call.transport is not None
        call.transport.write(b"".join(kept))
        self.assertEqual(self.told(), ["changed"])

    def test_floods(self) -> None:
        """More frames without content than anybody needs end the call; some are answered."""
        for flood in (self.api.flood_pings, self.api.flood_settings):
            self.setUp()
            self.served()
            getattr(self.api, flood.__name__)(MAX_FRAMES // 2)
            self.assertEqual(self.told(), ["changed"], flood.__name__)
            getattr(self.api, flood.__name__)(MAX_FRAMES)
            self.check_ends(f"the server sends more than {MAX_FRAMES} frames in a minute")

    def test_frames_are_counted_by_the_minute(self) -> None:
        """What comes in good measure may come for ever."""
        self.served()
        for _ in range(4):
            self.api.flood_pings(MAX_FRAMES - 20)
            self.clock.advance(60)
        self.assertEqual(self.told(), ["changed"])

    def test_flood_of_messages(self) -> None:
        """Good messages are bounded too: each makes the proxy verify and swap."""
        self.served()
        message = x509_svid_response(self.snapshot())
        for _ in range(MAX_FRAMES):
            self.api.send(message)
        self.assertIn("failed", self.told())
        self.assertLessEqual(self.told().count("changed"), MAX_FRAMES)

    def test_empty_data_frames(self) -> None:
        """They carry nothing."""
        self.served()
        frame = b"\x00\x00\x00\x00\x00" + self.api.calls[0].stream.to_bytes(4, "big")
        self.api.write(frame * (MAX_FRAMES + 1))
        self.check_ends("frames in a minute")

    def test_headers_without_end(self) -> None:
        """CONTINUATION frames that never end the headers."""
        self.served()
        self.api.flood_continuations(1000)
        self.check_ends("the server breaks HTTP/2: ")

    def test_headers_that_are_too_large(self) -> None:
        """Twenty kilobytes of trailers."""
        self.served()
        self.api.end_with([("grpc-status", "0"), ("x-large", "x" * 20_000)])
        self.check_ends("the server breaks HTTP/2: ")

    def test_garbage_instead_of_http2(self) -> None:
        """Some other server on this socket."""
        self.served()
        self.api.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10)
        self.check_ends("the server breaks HTTP/2: ")

    def test_pushed_streams(self) -> None:
        """They were forbidden at the beginning."""
        self.served()
        promise = b"\x00\x00\x05\x05\x04" + self.api.calls[0].stream.to_bytes(4, "big") + b"\x00\x00\x00\x02\x82"
        self.api.write(promise)
        self.check_ends("the server breaks HTTP/2: ")

    def test_answers_that_are_not_grpc(self) -> None:
        """Another HTTP status, another type, a compression that nobody offered."""
        for headers, reason in (
            ([(":status", "404")], "the HTTP status 404; is it a Workload API?"),
            ([(":status", "200"), ("content-type", "text/html")], "of type text/html, not application/grpc"),
            ([(":status", "200")], "of type (none), not application/grpc"),
            (
                [(":status", "200"), ("content-type", "application/grpc"), ("grpc-encoding", "gzip")],
                "compressed (gzip)",
            ),
        ):
            self.setUp()
            self.start()
            self.api.begin_with(headers)
            self.assertIn(reason, self.observer.failures[0])
            self.check_reconnects_after(FIRST_RETRY)

    def test_silence_at_first(self) -> None:
        """A server that takes the request and never answers."""
        self.start()
        self.clock.advance(ANSWER_TIME)
        self.assertIn(f"no message came within {ANSWER_TIME:g} s", self.observer.failures[0])
        self.check_reconnects_after(FIRST_RETRY)

    def test_silence_within_a_message(self) -> None:
        """A message that began must end; single bytes do not prolong it."""
        self.served()
        self.api.send_bytes(b"\0\0\0\1\0")
        for _ in range(int(ANSWER_TIME) - 1):
            self.clock.advance(1)
            self.api.send_bytes(b"x")
        self.assertEqual(self.told(), ["changed"])
        self.clock.advance(1)
        self.check_ends(f"a message or a frame began and did not end within {ANSWER_TIME:g} s")

    def test_silence_within_a_frame(self) -> None:
        """A frame that began must end, too."""
        self.served()
        self.api.write(b"\0\0\x08\x06")
        self.clock.advance(ANSWER_TIME - 1)
        self.assertEqual(self.told(), ["changed"])
        self.clock.advance(1)
        self.check_ends("a message or a frame began and did not end")

    def test_silence_that_is_answered(self) -> None:
        """A quiet server that answers a ping is left alone, for hours."""
        self.served()
        for _ in range(100):
            self.clock.advance(KEEPALIVE / 4)
        self.assertEqual((self.told(), len(self.api.requests)), (["changed"], 1))

    def test_silence_that_is_not_answered(self) -> None:
        """A server that was stopped does not close its sockets; a ping finds out."""
        self.served()
        self.api.frozen = True
        self.clock.advance(KEEPALIVE)
        self.clock.advance(PONG_TIME - 1)
        self.assertEqual(self.told(), ["changed"])
        self.clock.advance(1)
        self.api.frozen = False
        self.check_ends("does not answer a ping")

    def test_nobody_listens(self) -> None:
        """The agent is not there yet: it is waited for."""
        self.api.reachable = False
        self.start()
        self.assertIn("cannot connect: ", self.observer.failures[0])
        self.clock.pump([1, 2])
        self.assertEqual(len(self.observer.failures), 3)
        self.api.reachable = True
        self.api.serve(self.snapshot())
        self.clock.advance(4)
        self.assertEqual(self.told()[-1], "changed")


class StoppingTests(SourceCase):
    def test_stop_ends_the_call(self) -> None:
        """The connection is gone, and nothing is scheduled."""
        source = self.served()
        stopped = source.stop()
        assert stopped is not None
        self.assertIs(self.successResultOf(stopped), None)
        self.assertEqual((self.api.calls, self.clock.getDelayedCalls()), ([], []))

    def test_stop_between_calls(self) -> None:
        """Nothing is tried again."""
        self.api.refuse(Status.UNAVAILABLE)
        source = self.start()
        source.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_an_observer_may_stop_the_source(self) -> None:
        """In the middle of a message, of a failure and of a revocation."""
        for happens in (
            lambda: self.api.serve(self.snapshot("/web")),
            lambda: self.api.send(b"\xff"),
            lambda: self.api.end(Status.UNAVAILABLE),
            lambda: self.api.refuse(Status.PERMISSION_DENIED),
        ):
            self.setUp()
            source = self.start()
            told: list[object] = []

            def stop(what: object, source: WorkloadAPISource = source, told: list[object] = told) -> None:
                told.append(what)
                source.stop()

            for name in ("identity_changed", "identity_failed", "identity_revoked"):
                setattr(self.observer, name, stop)
            happens()
            self.clock.advance(3600)
            self.assertEqual((len(told), self.api.calls, self.clock.getDelayedCalls()), (1, [], []))


class FactoryTests(SynchronousTestCase):
    def create(self, socket: str | None = None, **environment: str) -> WorkloadAPISource:
        return WorkloadAPIFactory(environment).create(WorkloadAPISettings(socket), plugin_context())

    def test_the_setting_wins(self) -> None:
        """Over the environment, which is used when there is no setting."""
        both = self.create("unix:/a", SPIFFE_ENDPOINT_SOCKET="unix:///b")
        self.assertEqual(both._address, UnixAddress("/a"))
        self.assertEqual(self.create(SPIFFE_ENDPOINT_SOCKET="unix:///b")._address, UnixAddress("/b"))

    def test_needs_one_of_them(self) -> None:
        """The message says which key and which variable."""
        error = self.assertRaises(ValueError, self.create)
        self.assertIn("neither a socket here nor SPIFFE_ENDPOINT_SOCKET in the environment", str(error))

    def test_names_the_environment_when_that_is_wrong(self) -> None:
        """It is not in the configuration file."""
        error = self.assertRaises(ValueError, self.create, SPIFFE_ENDPOINT_SOCKET="/run/agent.sock")
        self.assertIn("the environment's SPIFFE_ENDPOINT_SOCKET: '/run/agent.sock' begins neither with", str(error))

    def test_refuses_other_machines(self) -> None:
        """Private keys do not cross the network in plain text."""
        for create in (
            lambda: WorkloadAPISettings("tcp://192.0.2.1:8081"),
            lambda: self.create(SPIFFE_ENDPOINT_SOCKET="tcp://192.0.2.1:8081"),
        ):
            self.assertIn("192.0.2.1:8081 is on another machine", str(self.assertRaises(ValueError, create)))


def _field(message: bytes, number: int) -> bytes:
    value = dict(read_fields(message))[number]
    assert value is not None
    return value
