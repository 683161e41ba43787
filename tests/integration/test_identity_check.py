"""``tcpmesh identity check``: broken set-ups, each found at its layer, and odd ones, of which none is called broken."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import attrs
from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.cli import main
from tcpmesh.dataplane.preface import ALPN, OK, Preface
from tcpmesh.identity.certificates import pem_of
from tcpmesh.identity.key_pin import key_pin
from tcpmesh.testing import TestAuthority
from tcpmesh.values import Svid
from tests.documents import ROOT, blocks, section
from tests.integration.foreign import ForeignTLS
from tests.unit import crafted
from tests.unit.record_samples import HOSTILE
from tests.unit.tls_pairs import foreign_context, now_authority, now_leaf

CONFIGURATION = """\
version: 1
trust_domain: a.test

identity:
  sources:
    disk: {plugin: files, bundles: {a.test: a.test.pem}}
  workloads:
    web: {id: "spiffe://a.test/web", certificate: web.pem, key: web.key}
  federation:
    b.test: {bundle: b.test.pem}

services:
  orders:
    expect: ["spiffe://a.test/orders"]
    discovery: {plugin: static, endpoints: ["ADDRESS"]}

outbound:
  - {name: to-orders, listen: "127.0.0.1:0", service: orders, workload: web}
"""
INBOUND = """
inbound:
  - {name: web-in, listen: "127.0.0.1:0", target: "127.0.0.1:5000", workload: web}

authorization:
  - plugin: rules
    policies: [{name: orders-may, action: allow, from: [{ids: ["spiffe://a.test/orders"]}]}]
"""
SECONDS = 10.0  # for a server to end
DOCUMENT = ROOT / "docs" / "identity.md"
HEADING = "Which layer is broken"
Serve = Callable[[socket.socket], None]


class Setup:
    """A proxy's files, good ones, and whoever is to answer at the service's address."""

    def __init__(self, base: Path) -> None:
        self.base = base
        hour_ago = TestAuthority("a.test").now() - 3600
        self.a, self.b = TestAuthority("a.test", now=hour_ago), TestAuthority("b.test", now=hour_ago)
        self.now = hour_ago + 3600
        self.text = CONFIGURATION
        self.serve: Serve | None = None
        self.a.write_bundle(base / "a.test.pem")
        self.b.write_bundle(base / "b.test.pem")
        self.own(self.a.svid("/web", now=self.now))
        self.answer(self.a.svid("/orders", now=self.now))

    def own(self, svid: Svid) -> None:
        """Give the proxy this identity."""
        for name in ("web.pem", "web.key"):
            (self.base / name).unlink(missing_ok=True)
        self.a.write_svid(svid, self.base, "web")

    def change(self, old: str, new: str) -> None:
        """Edit the configuration."""
        assert old in self.text, old
        self.text = self.text.replace(old, new)

    def answer(self, svid: Svid, preface: bytes | None = OK) -> None:
        """Let this identity answer, and say that; None for a server that is no tcpmesh."""
        self.present(context_of(svid), preface)

    def present(self, context: SSL.Context, preface: bytes | None = OK) -> None:
        """Let a server with this context answer."""
        if preface is not None:
            context.set_alpn_select_callback(
                lambda _, offered: ALPN if ALPN in offered else SSL.NO_OVERLAPPING_PROTOCOLS
            )

        def serve(connection: socket.socket) -> None:
            stream = ForeignTLS(connection, context, server=True)
            with contextlib.suppress(SSL.Error, OSError):  # whom it refuses, or who refuses it
                stream.handshake()
                if preface:
                    stream.sendall(preface)
                stream.recv(65536)
            with contextlib.suppress(OSError):
                stream._flush()

        self.serve = serve


def context_of(svid: Svid) -> SSL.Context:
    """A server of somebody who verifies nobody."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.use_certificate(svid.leaf)
    for certificate in svid.chain[1:]:
        context.add_extra_chain_cert(certificate)
    context.use_privatekey(svid.private_key)  # type: ignore[arg-type]
    return context


# --- what is broken


def no_key(setup: Setup) -> None:
    (setup.base / "web.key").unlink()


def expired(setup: Setup) -> None:
    setup.own(setup.a.svid("/web", ttl=600))


def other_key(setup: Setup) -> None:
    other = setup.a.svid("/web", now=setup.now)
    setup.own(Svid(other.id, other.chain, setup.a.svid("/web", now=setup.now).private_key))


def other_authority(setup: Setup) -> None:
    setup.own(TestAuthority("a.test").svid("/web"))


def other_id(setup: Setup) -> None:
    setup.own(setup.a.svid("/wbe", now=setup.now))


def nobody_listens(setup: Setup) -> None:
    setup.serve = None


def plain_text(setup: Setup) -> None:
    def greet(connection: socket.socket) -> None:
        connection.sendall(b"220 ready\r\n")
        connection.recv(65536)

    setup.serve = greet


def old_version(setup: Setup) -> None:
    context = context_of(setup.a.svid("/orders", now=setup.now))
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    setup.present(context)


def no_spiffe_id(setup: Setup) -> None:
    setup.present(foreign_context(now_leaf(now_authority("root"), crafted.dns("orders.a.test"))))


def peer_expired(setup: Setup) -> None:
    setup.answer(setup.a.svid("/orders", ttl=600))


def no_bundle(setup: Setup) -> None:
    setup.answer(TestAuthority("c.test").svid("/orders"))


def withdrawn_authority(setup: Setup) -> None:
    setup.answer(TestAuthority("a.test").svid("/orders"))


def other_peer(setup: Setup) -> None:
    setup.answer(setup.a.svid("/order", now=setup.now))


def other_domain(setup: Setup) -> None:
    setup.answer(setup.b.svid("/orders", now=setup.now))


def policy(setup: Setup) -> None:
    refusal = Preface(False, "TM-P102", "no policy allows spiffe://a.test/web")
    setup.answer(setup.a.svid("/orders", now=setup.now), refusal.encode())


def malformed_preface(setup: Setup) -> None:
    setup.answer(setup.a.svid("/orders", now=setup.now), b"\xff\xff")


def unknown_code(setup: Setup) -> None:
    setup.answer(setup.a.svid("/orders", now=setup.now), Preface(False, "TM-X999", "no").encode())


def closed(setup: Setup) -> None:
    context = context_of(setup.a.svid("/orders", now=setup.now))
    context.set_alpn_select_callback(lambda *_: ALPN)

    def serve(connection: socket.socket) -> None:
        ForeignTLS(connection, context, server=True).handshake()

    setup.serve = serve


def alert(setup: Setup) -> None:
    context = context_of(setup.a.svid("/orders", now=setup.now))
    context.set_verify(SSL.VERIFY_PEER, lambda *_: False)
    setup.present(context)


def alert_before_the_end(setup: Setup) -> None:
    """In TLS 1.2 a server judges its client before the handshake is complete."""
    setup.change("    discovery:", '    tls: {min_version: "1.2"}\n    discovery:')
    context = context_of(setup.a.svid("/orders", now=setup.now))
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    context.set_verify(SSL.VERIFY_PEER, lambda *_: False)
    setup.present(context)


def denied_by_us(setup: Setup) -> None:
    entry = '{id: "spiffe://a.test/orders", reason: stolen}'
    setup.change("  federation:", f"  deny_list: {{entries: [{entry}]}}\n  federation:")


def refused_while_dns(setup: Setup) -> None:
    setup.change('"spiffe://a.test/orders"]', '"dns:orders.a.test"]')
    setup.answer(setup.b.svid("/orders", now=setup.now, dns=["orders.a.test"]), None)


def other_dns_name(setup: Setup) -> None:
    setup.change('"spiffe://a.test/orders"]', '"dns:orders.a.test"]')
    setup.answer(setup.a.svid("/orders", now=setup.now, dns=["order.a.test"]), None)


def bad_partner_bundle(setup: Setup) -> None:
    federated(setup)
    (setup.base / "b.test.pem").write_text("nothing\n")


def other_pinned_key(setup: Setup) -> None:
    pin = key_pin(setup.a.svid("/orders", now=setup.now).leaf)
    setup.change('"spiffe://a.test/orders"]', f'"{pin}"]')


# --- what is odd


def well(_setup: Setup) -> None:
    """Nothing is odd at all."""


def nearly_over(setup: Setup) -> None:
    setup.own(setup.a.svid("/web", ttl=3800))


def rotation(setup: Setup) -> None:
    old = TestAuthority("a.test", now=setup.now - 7200)
    both = [*setup.a.bundle.authorities, *old.bundle.authorities]
    (setup.base / "a.test.pem").write_bytes(pem_of(both))
    setup.answer(old.svid("/orders", now=setup.now))


def federated(setup: Setup) -> None:
    setup.change('"spiffe://a.test/orders"', '"spiffe://a.test/orders", "spiffe://b.test/orders"')
    setup.answer(setup.b.svid("/orders", now=setup.now))


def foreign_server(setup: Setup) -> None:
    setup.change('"spiffe://a.test/orders"]', '"dns:orders.a.test"]')
    setup.answer(setup.a.svid("/orders", now=setup.now, dns=["orders.a.test"]), None)


def no_listener(setup: Setup) -> None:
    setup.text = setup.text.partition("\noutbound:")[0] + INBOUND


def expired_authority(setup: Setup) -> None:
    old = crafted.authority("old", not_before=setup.now - 7200, not_after=setup.now - 3600).certificate
    (setup.base / "a.test.pem").write_bytes(pem_of([*setup.a.bundle.authorities, old]))


def pinned_key(setup: Setup) -> None:
    appliance = now_leaf(now_authority("root"), crafted.dns("x"))
    setup.change('"spiffe://a.test/orders"]', f'"{key_pin(appliance.certificate)}"]')
    setup.present(foreign_context(appliance), None)


@attrs.frozen
class Case:
    """A set-up, its name in the documentation, the status, and the layer with its code where it is broken."""

    make: Callable[[Setup], None]
    status: int = 0
    layer: int = 8
    code: str = ""
    where: str = ""

    @property
    def name(self) -> str:
        return self.make.__name__.replace("_", "-")


WORKLOAD, SERVICE = "identity.workloads.web at ", "services.orders.expect at "
DISCOVERY, PEER = "services.orders.discovery at ", "the peer at 127.0.0.1:"
BROKEN = (
    Case(no_key, 1, 1, "TM-I101", WORKLOAD),
    Case(expired, 1, 1, "TM-I102", WORKLOAD),
    Case(other_key, 1, 2, "TM-I201", WORKLOAD),
    Case(other_authority, 1, 2, "TM-I202", WORKLOAD),
    Case(other_id, 1, 2, "TM-I203", WORKLOAD),
    Case(nobody_listens, 1, 4, "TM-U101", DISCOVERY),
    Case(plain_text, 1, 4, "TM-I402", DISCOVERY),
    Case(old_version, 1, 4, "TM-I403", DISCOVERY),
    Case(no_spiffe_id, 1, 5, "TM-I501", PEER),
    Case(peer_expired, 1, 5, "TM-I503", PEER),
    Case(no_bundle, 1, 6, "TM-I601", "identity.federation at "),
    Case(withdrawn_authority, 1, 6, "TM-I604", "identity.sources at "),
    Case(other_peer, 1, 7, "TM-I701", SERVICE),
    Case(other_domain, 1, 7, "TM-I702", SERVICE),
    Case(policy, 1, 8, "TM-P102", PEER),
)
FURTHER = (
    Case(malformed_preface, 1, 8, "TM-U109", PEER),
    Case(unknown_code, 1, 8, "TM-U111", PEER),
    Case(closed, 1, 8, "TM-U110", PEER),
    Case(alert, 1, 8, "TM-I403", PEER),
    Case(alert_before_the_end, 1, 8, "TM-I403", PEER),
    Case(denied_by_us, 1, 6, "TM-I606", "identity.deny_list at "),
    Case(refused_while_dns, 1, 6, "TM-I604", "identity.sources at "),
    Case(other_dns_name, 1, 7, "TM-I703", SERVICE),
    Case(bad_partner_bundle, 1, 6, "TM-I601", "identity.federation['b.test'] at "),
    Case(other_pinned_key, 1, 7, "TM-I704", SERVICE),
)
ODD = (Case(nearly_over), Case(rotation), Case(federated), Case(foreign_server), Case(no_listener), Case(well))


@attrs.frozen
class Ended:
    """A finished command."""

    status: Any
    out: str
    err: str


def _wake(listener: socket.socket) -> None:
    """End an accept(2) that waits in another thread."""
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)


class CheckCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.patch(os, "environ", {**os.environ})
        os.environ.pop("TCPMESH_CONFIG", None)

    def setup(self, make: Callable[[Setup], None]) -> Setup:
        base = Path(self.mktemp()).absolute()
        base.mkdir(parents=True)
        made = Setup(base)
        make(made)
        return made

    def check(self, setup: Setup, *arguments: str, connections: int = 1) -> Ended:
        """Run the command while the set-up's server takes so many connections, fewer if there is no need."""
        listener = socket.create_server(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        (setup.base / "tcpmesh.yaml").write_text(setup.text.replace("ADDRESS", address))
        serve = setup.serve

        def run() -> None:
            try:
                connection, _ = listener.accept()
            except OSError:
                return  # there was no need
            connection.settimeout(SECONDS)
            with connection:
                assert serve is not None
                serve(connection)

        if serve is None:
            listener.close()
        else:
            thread = Thread(target=run, daemon=True)
            thread.start()
            # Last in, first out: wake it, wait for it, and only then give the descriptor's number away.
            self.addCleanup(listener.close)
            self.addCleanup(thread.join, SECONDS)
            self.addCleanup(_wake, listener)
        out, err = io.StringIO(), io.StringIO()
        self.patch(sys, "stdout", out)
        self.patch(sys, "stderr", err)
        words = [word.replace("ADDRESS", address) for word in arguments]
        file = str(setup.base / "tcpmesh.yaml")
        status = self.assertRaises(SystemExit, main, ["identity", "check", "--offline", "--config", file, *words]).code
        return Ended(status, out.getvalue(), err.getvalue())

    def answer(self, ended: Ended) -> Any:
        """The only pair in an answer for programs."""
        (pair,) = json.loads(ended.out)["checks"]
        return pair


class BrokenTests(CheckCase):
    """Set-ups in which something is broken."""

    def test_finds_the_layer(self) -> None:
        """The code, what was expected, what to do and where; nothing is said of layers behind it."""
        for case in (*BROKEN, *FURTHER):
            ended = self.check(self.setup(case.make), "--json")
            self.assertEqual((ended.status, ended.err), (case.status, ""), case.name)
            pair = self.answer(ended)
            last = pair["layers"][-1]
            self.assertEqual(
                (last["outcome"], last["layer"], last["code"]), ("broken", case.layer, case.code), case.name
            )
            self.assertTrue(last["text"] and last["expected"] and last["next"], last)
            self.assertTrue(last["where"].startswith(case.where), last["where"])
            self.assertEqual([one["layer"] for one in pair["layers"]], list(range(1, case.layer + 1)), case.name)
            self.assertEqual({one["outcome"] for one in pair["layers"][:-1]} - {"good"}, set(), pair)
            self.assertEqual(len(pair["layers"]) + len(pair["not_looked_at"]), 8)


class OddTests(CheckCase):
    """Six in which nothing is."""

    def test_calls_nothing_broken(self) -> None:
        """Every layer is looked at, and the status is 0."""
        for case in (*ODD, Case(pinned_key)):
            ended = self.check(self.setup(case.make), "--json")
            self.assertEqual((ended.status, ended.err), (0, ""), f"{case.name}: {ended.out}")
            pair = self.answer(ended)
            self.assertEqual([one["layer"] for one in pair["layers"]], list(range(1, 9)), case.name)
            self.assertNotIn("broken", [one["outcome"] for one in pair["layers"]])

    def test_marks_what_deserves_a_look(self) -> None:
        """A renewal that is overdue, a service that nobody uses, a peer that cannot say that it accepts."""
        for make, layer, outcome in (
            (nearly_over, 1, "odd"),
            (no_listener, 3, "odd"),
            (expired_authority, 6, "odd"),
            (foreign_server, 8, "unknown"),
        ):
            pair = self.answer(self.check(self.setup(make), "--json"))
            self.assertEqual([one["layer"] for one in pair["layers"] if one["outcome"] != "good"], [layer])
            self.assertEqual(pair["layers"][layer - 1]["outcome"], outcome)


class ChoiceTests(CheckCase):
    """What is looked at."""

    def test_an_address_that_no_service_lists(self) -> None:
        """Its certificate is judged; whom to expect there nobody knows, and it is not asked whether it accepts."""
        setup = self.setup(well)
        setup.change('endpoints: ["ADDRESS"]', 'endpoints: ["127.0.0.1:1"]')
        ended = self.check(setup, "--peer", "ADDRESS", "--json")
        self.assertEqual(ended.status, 2)
        outcomes = [one["outcome"] for one in self.answer(ended)["layers"]]
        self.assertEqual(outcomes, ["good", "good", "unknown", "good", "good", "good", "unknown", "unknown"])

    def test_a_stranger_at_an_address_that_no_service_lists(self) -> None:
        """Is found out all the same."""
        setup = self.setup(withdrawn_authority)
        setup.change('endpoints: ["ADDRESS"]', 'endpoints: ["127.0.0.1:1"]')
        ended = self.check(setup, "--peer", "ADDRESS", "--json")
        last = self.answer(ended)["layers"][-1]
        self.assertEqual((ended.status, last["layer"], last["code"]), (1, 6, "TM-I604"))

    def test_shows_hostile_text_as_it_is_written(self) -> None:
        """What a server says reaches no terminal."""
        for text in HOSTILE:
            setup = self.setup(well)
            refusal = Preface(False, "TM-P102", text).encode()
            setup.answer(setup.a.svid("/orders", now=setup.now), refusal)
            ended = self.check(setup)
            self.assertEqual((ended.status, len(ended.out.splitlines())), (1, 12), ended.out)
            self.assertTrue(ended.out.isascii() and ended.out.replace("\n", "").isprintable(), ended.out)

    def test_an_address_of_a_service(self) -> None:
        """As that service."""
        for words in (("--peer", "ADDRESS"), ("--service", "orders"), ("--workload", "web")):
            ended = self.check(self.setup(well), *words, "--json")
            self.assertEqual((ended.status, self.answer(ended)["service"]), (0, "orders"))

    def test_a_proxy_that_reaches_nobody(self) -> None:
        """Its own two layers."""
        setup = self.setup(well)
        setup.text = setup.text.partition("\nservices:")[0] + INBOUND
        ended = self.check(setup, "--json")
        self.assertEqual((ended.status, [one["layer"] for one in self.answer(ended)["layers"]]), (0, [1, 2]))

    def test_identities_that_only_the_proxy_has(self) -> None:
        """Another process would be given another one's."""
        setup = self.setup(well)
        setup.change("{plugin: files, bundles: {a.test: a.test.pem}}", "{plugin: embedded, state: state}")
        setup.change(", certificate: web.pem, key: web.key", "")
        ended = self.check(setup, "--json")
        self.assertEqual(ended.status, 2)
        (layer,) = self.answer(ended)["layers"]
        self.assertEqual((layer["layer"], layer["outcome"]), (1, "unknown"))
        self.assertFalse((setup.base / "state").exists())

    def test_a_bundle_that_only_the_proxy_has(self) -> None:
        """Nobody can say here that it does not vouch for the peer."""
        setup = self.setup(federated)
        setup.change("{bundle: b.test.pem}", '{url: "https://b.test/bundle", profile: https_web}')
        ended = self.check(setup, "--json")
        self.assertEqual(ended.status, 2)
        last = self.answer(ended)["layers"][-1]
        self.assertEqual((last["layer"], last["outcome"]), (6, "unknown"))

    def test_wrong_usage(self) -> None:
        """Status 64, with what is there."""
        for words, message in (
            (("--service", "order"), "did you mean 'orders'?"),
            (("--workload", "nobody"), "it has: web"),
            (("--workload", ""), "has no workload ''; it has: web"),  # a variable of the shell that is not set
            (("--peer", "nonsense"), "--peer: "),
            (("--peer", "127.0.0.1:1", "--service", "orders"), "name services or a peer, not both"),
        ):
            setup = self.setup(nobody_listens)
            ended = self.check(setup, *words)
            self.assertEqual((ended.status, ended.out), (64, ""))
            self.assertIn(message, ended.err)


def documented(out: str, base: Path) -> str:
    """An output as the documentation has it: without what is another each time."""
    out = out.replace(str(base), "/etc/mesh")
    out = re.sub(r"127\.0\.0\.1:[0-9]+", "192.0.2.10:4143", out)
    out = out.replace("coming from 127.0.0.1,", "coming from 192.0.2.20,")
    out = re.sub(r"20[0-9]{2}-[0-9-]+T[0-9:]+Z", "2026-11-22T10:00:00Z", out)
    out = re.sub(r"\b[0-9a-f]{40}\b", "9f21...", out)
    return re.sub(r"\b[0-9]+ (min|s|h)\b", r"50 \1", out)


class DocumentTests(CheckCase):
    """docs/identity.md shows what the command writes."""

    def test_shows_each_set_up(self) -> None:
        """Word by word, and none besides."""
        shown = {
            block.comment.removeprefix("check: "): block.text
            for block in blocks(section(DOCUMENT.read_text(encoding="utf-8"), HEADING))
            if block.comment.startswith("check: ")
        }
        written = {}
        for case in (*BROKEN, *ODD):
            setup = self.setup(case.make)
            written[case.name] = documented(self.check(setup).out, setup.base)
        self.maxDiff = None
        self.assertEqual(shown, written)
