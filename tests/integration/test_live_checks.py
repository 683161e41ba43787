"""``tcpmesh identity check`` by the running proxy: its own identities, its own sockets, and what the far side says."""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import attrs
from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import TestCase

from tcpmesh import config
from tcpmesh.checking.choice import Choice
from tcpmesh.checking.knowledge import Knowledge
from tcpmesh.checking.live import LiveChecks
from tcpmesh.cli import main
from tcpmesh.cli.check_output import status_of
from tcpmesh.dataplane.preface import ALPN
from tcpmesh.dataplane.probe import PROBE_ALPN, ProbeRefusal
from tcpmesh.identity_checks import IdentityChecks
from tcpmesh.plugins import PluginRegistry
from tcpmesh.service import MeshService
from tcpmesh.wall_clock import wall_clock
from tests.documents import blocks, section
from tests.integration.applications import until
from tests.integration.foreign import ForeignTLS
from tests.integration.mesh import in_thread, reactor, unused_port
from tests.integration.test_identity_check import (
    BROKEN,
    DOCUMENT,
    FURTHER,
    HEADING,
    ODD,
    Ended,
    Setup,
    context_of,
    documented,
    well,
)

SECONDS = 20.0  # for a server to end
FAR = """\
version: 1
trust_domain: a.test

identity:
  sources:
    disk: {plugin: files, bundles: {a.test: a.test.pem}}
  workloads:
    orders: {id: "spiffe://a.test/orders", certificate: orders.pem, key: orders.key}

inbound:
  - name: orders-in
    listen: "127.0.0.1:0"
    target: "127.0.0.1:TARGET"
    workload: orders
    probe: {allow: ["spiffe://a.test/web"]}

authorization:
  - plugin: rules
    policies: [{name: web-may, action: allow, from: [{ids: ["spiffe://a.test/web"]}]}]

log: {access: none}
"""


@attrs.define
class Far:
    """The proxy at the other end: its configuration, its application, its clock, and what it is given as a bundle."""

    text: str = FAR
    domain: str = "a.test"
    target: int | None = None  # None: one that answers
    ahead: float = 0.0  # seconds

    def change(self, old: str, new: str) -> None:
        assert old in self.text, old
        self.text = self.text.replace(old, new)


class Clock:
    """Wall-clock seconds, from which a test may be away."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return wall_clock() + self.ahead


class LiveCase(TestCase):
    """One proxy that is asked, and whoever answers at its service's address."""

    timeout = 120

    def setUp(self) -> None:
        self.patch(os, "environ", {**os.environ})
        os.environ.pop("TCPMESH_CONFIG", None)
        self.clock = Clock()

    def setup(self, make: Callable[[Setup], None]) -> Setup:
        base = Path(self.mktemp()).absolute()
        base.mkdir(parents=True)
        made = Setup(base)
        make(made)
        return made

    def run_proxy(self, file: Path, now: Callable[[], float] = wall_clock) -> MeshService:
        """Start what the file says."""
        plugins = PluginRegistry()
        service = MeshService(config.load(file, plugins), plugins, reactor, wall_clock=now)
        service.privilegedStartService()
        service.startService()
        self.addCleanup(self._stop, service)
        return service

    async def _stop(self, service: MeshService) -> None:
        stopping: Deferred[Any] = service.stopService()
        service.stop_now()
        await stopping

    def run_near(self, setup: Setup, address: str) -> MeshService:
        """Start the proxy of a set-up, with an admin socket at a path that is short enough."""
        number = os.open(setup.base, os.O_DIRECTORY)
        self.addCleanup(os.close, number)
        more = f'\nadmin: {{listen: "unix:/proc/self/fd/{number}/admin.sock"}}\nlog: {{access: none}}\n'
        file = setup.base / "tcpmesh.yaml"
        file.write_text(setup.text.replace("ADDRESS", address) + more)
        return self.run_proxy(file, self.clock)

    def run_far(self, setup: Setup, far: Far) -> str:
        """Start the proxy at the other end, with files of its own; give its address."""
        base = setup.base / "far"
        base.mkdir()
        authority = setup.b if far.domain == "b.test" else setup.a
        authority.write_svid(authority.svid("/orders", now=setup.now - 3000, ttl=7200), base, "orders")
        authority.write_bundle(base / f"{far.domain}.pem")
        target = far.target
        if target is None:
            target = self.answer(lambda connection: connection.recv(1))
        (base / "tcpmesh.yaml").write_text(far.text.replace("TARGET", str(target)))
        service = self.run_proxy(base / "tcpmesh.yaml", lambda: wall_clock() + far.ahead)
        return f"127.0.0.1:{service.bound_ports()['orders-in'].port}"

    def answer(self, serve: Callable[[socket.socket], Any] | None) -> int:
        """Take connections, one after the other; give the port. Nobody: a port on which nobody listens."""
        if serve is None:
            return unused_port()
        listener = socket.create_server(("127.0.0.1", 0))

        def run() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connection.settimeout(SECONDS)
                with connection:
                    serve(connection)

        thread = Thread(target=run, daemon=True)
        thread.start()
        self.addCleanup(listener.close)
        self.addCleanup(thread.join, SECONDS)
        self.addCleanup(listener.shutdown, socket.SHUT_RDWR)
        return int(listener.getsockname()[1])

    async def command(self, setup: Setup, *arguments: str) -> Ended:
        """Run the command beside the reactor."""
        out, err = io.StringIO(), io.StringIO()
        self.patch(sys, "stdout", out)
        self.patch(sys, "stderr", err)

        def run() -> Any:
            try:
                main(["identity", "check", "--config", str(setup.base / "tcpmesh.yaml"), *arguments])
            except SystemExit as end:
                return end.code

        return Ended(await in_thread(run), out.getvalue(), err.getvalue())

    async def check(self, setup: Setup, *arguments: str, far: Far | None = None) -> Ended:
        """Start everything and ask."""
        address = f"127.0.0.1:{self.answer(setup.serve)}" if far is None else self.run_far(setup, far)
        self.run_near(setup, address)
        return await self.command(setup, *arguments)

    async def layers(self, setup: Setup, far: Far | None = None) -> list[dict[str, Any]]:
        """The layers of the only pair."""
        ended = await self.check(setup, "--json", far=far)
        self.assertEqual(ended.err, "")
        answer = json.loads(ended.out)
        self.assertEqual(answer["by"], "proxy")
        (pair,) = answer["checks"]
        return list(pair["layers"])


class SameTests(LiveCase):
    """What its files show, the running proxy finds as well."""

    async def test_finds_the_layer(self) -> None:
        """The same layer, code and place, whatever is broken at the peer."""
        for case in (*BROKEN[5:], *FURTHER):
            if case.name == "bad-partner-bundle":
                continue  # a proxy does not start with such a file
            setup = self.setup(case.make)
            ended = await self.check(setup, "--json")
            self.assertEqual((ended.status, ended.err), (case.status, ""), f"{case.name}: {ended.out}")
            (pair,) = json.loads(ended.out)["checks"]
            last = pair["layers"][-1]
            self.assertEqual(
                (last["outcome"], last["layer"], last["code"]),
                ("broken", case.layer, case.code),
                f"{case.name}: {last}",
            )
            self.assertTrue(last["where"].startswith(case.where), f"{case.name}: {last['where']}")
            self.assertEqual({one["outcome"] for one in pair["layers"][:-1]} - {"good"}, set(), pair)

    async def test_calls_nothing_else_broken(self) -> None:
        """Nor what is only odd."""
        for case in ODD:
            ended = await self.check(self.setup(case.make), "--json")
            self.assertEqual((ended.status, ended.err), (0, ""), f"{case.name}: {ended.out}")
            (pair,) = json.loads(ended.out)["checks"]
            self.assertEqual([one["layer"] for one in pair["layers"]], list(range(1, 9)), case.name)
            odd = [one["layer"] for one in pair["layers"] if one["outcome"] == "odd"]
            self.assertEqual(odd, {"nearly-over": [1], "no-listener": [3]}.get(case.name, []), case.name)


# --- what only the running proxy and the far side can say


def denied(_setup: Setup, far: Far) -> None:
    far.change('from: [{ids: ["spiffe://a.test/web"]}]', 'from: [{ids: ["spiffe://a.test/wbe"]}]')


def denied_by_name(_setup: Setup, far: Far) -> None:
    far.change("policies: [{", 'policies: [{name: not-web, action: deny, from: [{ids: ["spiffe://a.test/web"]}]}, {')


def denied_without_probe(setup: Setup, far: Far) -> None:
    denied(setup, far)
    far.change('    probe: {allow: ["spiffe://a.test/web"]}\n', "")


def no_application(_setup: Setup, far: Far) -> None:
    far.change('"127.0.0.1:TARGET"', '"unix:/nonexistent/orders.sock"')


def lacks_our_bundle(setup: Setup, far: Far) -> None:
    """It is of another trust domain and has no bundle of ours; we have its."""
    setup.change('"spiffe://a.test/orders"', '"spiffe://b.test/orders"')
    far.domain = "b.test"
    far.text = far.text.replace("a.test", "b.test").replace("b.test/web", "a.test/web")


def expired_there(_setup: Setup, far: Far) -> None:
    far.ahead = 7200.0


def denied_unasked(setup: Setup, far: Far) -> None:
    denied(setup, far)
    setup.change("    discovery:", "    preface: never\n    discovery:")


def told(_setup: Setup, _far: Far) -> None:
    """All is well, and the far side says so."""


def clock_ahead(_setup: Setup, far: Far) -> None:
    far.ahead = 1500.0


def clock_behind(_setup: Setup, far: Far) -> None:
    far.ahead = -1500.0


def tells_others(_setup: Setup, far: Far) -> None:
    far.change('probe: {allow: ["spiffe://a.test/web"]}', 'probe: {allow: ["spiffe://a.test/monitor"]}')


def no_probe(_setup: Setup, far: Far) -> None:
    far.change('    probe: {allow: ["spiffe://a.test/web"]}\n', "")


Make = Callable[[Setup, Far], None]
FAR_BROKEN: tuple[tuple[Make, str, str], ...] = (
    (denied, "TM-P102", "it would refuse spiffe://a.test/web, coming from 127.0.0.1, at orders-in: "),
    (denied_by_name, "TM-P101", "(policy not-web"),
    (denied_without_probe, "TM-P102", "the peer refused: "),
    (no_application, "TM-U106", "but its application does not answer: TM-U101 "),
    (lacks_our_bundle, "TM-I403", "see whether its bundle has that authority"),
)
FAR_WELL: tuple[tuple[Make, str, str], ...] = (
    (told, "good", "; the clocks agree"),
    (clock_ahead, "odd", "ahead of ours, and certificates end there so much earlier: ours at "),
    (clock_behind, "odd", "behind ours: "),
    (tells_others, "good", "add spiffe://a.test/web to its listener's probe.allow"),
    (no_probe, "good", "write probe: {allow: [spiffe://a.test/web]} at its listener"),
)


class FarTests(LiveCase):
    """Two real proxies: what the far side says of us."""

    def both(self, make: Make) -> tuple[Setup, Far]:
        setup, far = self.setup(well), Far()
        make(setup, far)
        return setup, far

    async def test_says_why_it_does_not_let_us_in(self) -> None:
        """The last layer, with the far side's own code and words; all before it is well."""
        for make, code, words in FAR_BROKEN:
            layers = await self.layers(*self.both(make))
            last = layers[-1]
            self.assertEqual((last["layer"], last["outcome"], last["code"]), (8, "broken", code), make.__name__)
            self.assertIn(words, last["text"])
            self.assertEqual({one["outcome"] for one in layers[:-1]}, {"good"}, make.__name__)

    async def test_says_what_it_sees(self) -> None:
        """That it lets us in, and what of its clock follows for us."""
        for make, outcome, words in FAR_WELL:
            layers = await self.layers(*self.both(make))
            self.assertEqual((layers[-1]["layer"], layers[-1]["outcome"]), (8, outcome), layers[-1])
            self.assertIn(words, layers[-1]["text"])
            self.assertEqual({one["outcome"] for one in layers[:-1]}, {"good"}, make.__name__)

    async def test_has_no_certificate_any_longer(self) -> None:
        """The far side ends what it cannot answer: that is said, and that its log knows."""
        setup, far = self.both(expired_there)
        last = (await self.layers(setup, far))[-1]
        self.assertEqual((last["layer"], last["code"], last["expected"]), (4, "TM-I405", "a complete TLS handshake"))
        self.assertIn("no valid certificate to show, or no room: its log says which", last["text"])
        self.assertTrue(last["where"].startswith("the peer at 127.0.0.1:"), last)

    async def test_is_not_asked(self) -> None:
        """With preface: never a tcpmesh has no way to refuse but to break the connection: that is what is said."""
        setup, far = self.both(denied_unasked)
        last = (await self.layers(setup, far))[-1]
        self.assertEqual((last["layer"], last["outcome"]), (8, "unknown"))
        for words in ("was not asked (the service's preface: never)", "closed the connection without a word"):
            self.assertIn(words, last["text"])

    async def test_offline_asks_it_too(self) -> None:
        """With the same words, where it is the same identity."""
        for make in (denied, told, clock_ahead, tells_others):
            setup, far = self.both(make)
            live = await self.check(setup, "--json", far=far)
            offline = await self.command(setup, "--offline", "--json")
            self.assertEqual((live.status, live.err, offline.err), (offline.status, "", ""), make.__name__)
            texts = [json.loads(one.out)["checks"][0]["layers"][7]["text"] for one in (live, offline)]
            said = [text.partition(" at orders-in")[0] for text in texts]  # the application is tried once a second
            self.assertEqual(said[0], said[1], make.__name__)
            self.assertEqual(json.loads(offline.out)["by"], "files")


class OwnTests(LiveCase):
    """What the proxy holds is not what is in its files."""

    async def test_goes_by_what_it_holds(self) -> None:
        """A bad file does not take away the good identity, but the check says that the source fails, and where."""
        setup = self.setup(well)
        service = self.run_near(setup, self.run_far(setup, Far()))
        setup.own(setup.a.svid("/wbe", now=setup.now))
        service.reload_identities()
        ended = await self.command(setup, "--json")
        self.assertEqual(ended.status, 0, ended.out)
        layers = json.loads(ended.out)["checks"][0]["layers"]
        self.assertEqual((layers[0]["outcome"], layers[0]["code"]), ("odd", "TM-I103"))
        self.assertIn("the certificate is for spiffe://a.test/wbe", layers[0]["text"])
        self.assertTrue(layers[0]["where"].endswith("tcpmesh.yaml:8:10"), layers[0]["where"])
        self.assertEqual({one["outcome"] for one in layers[1:]}, {"good"})
        offline = await self.command(setup, "--offline", "--json")
        self.assertEqual((offline.status, json.loads(offline.out)["checks"][0]["layers"][-1]["code"]), (1, "TM-I203"))

    async def test_has_no_identity_any_longer(self) -> None:
        """It has expired: nobody is dialled."""
        setup = self.setup(well)
        service = self.run_near(setup, f"127.0.0.1:{unused_port()}")
        self.clock.ahead = 30 * 86400.0
        service.reload_identities()
        ended = await self.command(setup, "--json")
        (layer,) = json.loads(ended.out)["checks"][0]["layers"]
        self.assertEqual((ended.status, layer["layer"], layer["code"]), (1, 1, "TM-I102"))

    async def test_says_the_line_only_of_the_file_that_it_runs_with(self) -> None:
        """After an edit the lines are others."""
        setup = self.setup(BROKEN[5].make)
        self.run_near(setup, f"127.0.0.1:{unused_port()}")
        file = setup.base / "tcpmesh.yaml"
        for text, where in ((file.read_text(), f"{file}:15:16"), ("# moved\n" + file.read_text(), f" in {file}")):
            file.write_text(text)
            ended = await self.command(setup)
            self.assertIn("where: services.orders.discovery", ended.out)
            self.assertTrue(ended.out.splitlines()[-2].endswith(where), ended.out)

    async def test_counts_no_connection_afterwards(self) -> None:
        """Sockets and places are given back."""
        setup = self.setup(well)
        service = self.run_near(setup, self.run_far(setup, Far()))
        for _ in range(3):
            self.assertEqual((await self.command(setup)).status, 0)
        plane = service.plane
        assert plane is not None
        await until(lambda: (plane.gate.connections, plane.gate.sockets) == (0, 0), "all is given back")

    async def test_has_found_no_endpoint(self) -> None:
        """Its discovery says that there is none, or has not said anything yet."""
        setup = self.setup(well)
        service = self.run_near(setup, "127.0.0.1:1")
        state = service.composition.state
        for endpoints, status, layer in (
            ({"orders": ()}, 1, (4, "broken", "TM-U103")),
            ({}, 2, (4, "unknown", None)),
        ):
            state.swap(endpoints=endpoints)
            ended = await self.command(setup, "--json")
            last = json.loads(ended.out)["checks"][0]["layers"][-1]
            self.assertEqual((ended.status, last["layer"], last["outcome"], last.get("code")), (status, *layer))

    async def test_has_no_room(self) -> None:
        """Its limits hold for checks as well."""
        setup = self.setup(well)
        service = self.run_near(setup, self.run_far(setup, Far()))
        assert service.plane is not None
        service.plane.gate.max_connections = 0
        ended = await self.command(setup, "--json")
        last = json.loads(ended.out)["checks"][0]["layers"][-1]
        self.assertEqual((ended.status, last["layer"], last["code"]), (1, 4, "TM-L101"))


def selecting(alpn: bytes, data: bytes, *, hold: bool = False) -> Callable[[Setup], None]:
    """A server that selects this protocol, sends this, and ends in order or, held, when the other side does."""

    def make(setup: Setup) -> None:
        context = context_of(setup.a.svid("/orders", now=setup.now))
        context.set_alpn_select_callback(lambda _, offered: alpn if alpn in offered else SSL.NO_OVERLAPPING_PROTOCOLS)

        def serve(connection: socket.socket) -> None:
            stream = ForeignTLS(connection, context, server=True)
            with contextlib.suppress(SSL.Error, OSError):  # whoever has heard enough goes away
                stream.handshake()
                stream.sendall(data)
                if not hold:
                    stream.close_notify()
                while stream.recv(65536):
                    pass

        setup.serve = serve

    return make


class HostileTests(LiveCase):
    """Whatever the far side answers to a probe, it is the far side that is broken."""

    async def check_both(self, make: Callable[[Setup], None], code: str, words: str, *, change: str = "") -> None:
        """By the running proxy and without it."""
        setup = self.setup(make)
        setup.text += change
        live = await self.check(setup, "--json")
        offline = await self.command(setup, "--offline", "--json") if not change else live
        for ended in (live, offline):
            last = json.loads(ended.out)["checks"][0]["layers"][-1]
            self.assertEqual((ended.status, last["layer"], last["code"]), (1, 8, code), last)
            self.assertIn(words, last["text"])
            self.assertLess(len(last["text"]), 300)

    async def test_answers_nonsense(self) -> None:
        """Too long, no JSON, nested, doubled, of another version, cut: each is named."""
        good = b'{"v":1,"refused":{"code":"TM-P106","text":"no"}}'
        for data, words in (
            (b" " * (1 << 22), "longer than 8192 bytes"),
            (b"", "is empty"),
            (b"\x00\xff" * 100, "not ASCII"),
            (b"<html>", "not JSON"),
            (b"[" * 8000, "nested too deeply"),
            (b'{"v":1,"v":1}', "twice"),
            (b'{"v":NaN}', "a number that is none"),
            (b'{"v":2}', "has version 2"),
            (good[:-1], "not JSON"),
        ):
            await self.check_both(selecting(PROBE_ALPN, data), "TM-U109", words)

    async def test_never_ends(self) -> None:
        """It is waited for as long as for a preface."""
        silent = selecting(PROBE_ALPN, b'{"v":1,', hold=True)
        await self.check_both(silent, "TM-T103", "did not say in time", change="\ntimeouts: {preface: 100ms}\n")

    async def test_refuses_with_codes_of_its_own(self) -> None:
        """A code that no peer can know of is not taken for one; another refusal is one."""
        for code, shown in (("TM-I101", "TM-U111"), ("TM-X1", "TM-U111"), ("TM-I601", "TM-I601")):
            refusal = ProbeRefusal(code, "because").encode()
            await self.check_both(selecting(PROBE_ALPN, refusal), shown, "'because'")

    async def test_refuses_probes_and_then_the_connection(self) -> None:
        """The second connection counts; one that refuses every probe is not asked again and again."""
        refusal = ProbeRefusal("TM-P106", "no").encode()
        setup = self.setup(selecting(PROBE_ALPN, refusal))
        ended = await self.check(setup, "--json")
        last = json.loads(ended.out)["checks"][0]["layers"][-1]
        self.assertEqual((ended.status, last["outcome"]), (0, "unknown"))
        self.assertIn("it has no way to say so (no tcpmesh/1)", last["text"])


class ManyTests(LiveCase):
    """How much may be asked at a time, and how it ends."""

    def begin(self, service: MeshService, **arguments: list[str]) -> Deferred[dict[str, Any]]:
        reporting: Any = service._reporting
        asked: Deferred[dict[str, Any]] = reporting.check_identities(arguments)
        return asked

    async def test_ends_with_who_asked(self) -> None:
        """A question that is given up leaves no connection; further ones than four are refused until then."""
        setup = self.setup(well)
        listener = socket.create_server(("127.0.0.1", 0))  # the kernel takes connections, and nobody says a word
        self.addCleanup(listener.close)
        service = self.run_near(setup, f"127.0.0.1:{listener.getsockname()[1]}")
        plane = service.plane
        assert plane is not None
        asked = [self.begin(service) for _ in range(4)]
        self.assertEqual(await self.begin(service), {"busy": "4 checks are under way already"})
        await until(lambda: plane.gate.connections == 4, "each has dialled")
        for each in asked:
            each.addErrback(lambda _: None)
            each.cancel()
        await until(lambda: (plane.gate.connections, plane.gate.sockets) == (0, 0), "all is given back")
        last = self.begin(service)
        self.assertFalse(last.called)
        last.addErrback(lambda _: None)
        last.cancel()

    async def test_ends_with_the_proxy(self) -> None:
        """A stop does not wait for checks."""
        setup = self.setup(well)
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        service = self.run_near(setup, f"127.0.0.1:{listener.getsockname()[1]}")
        asked = self.begin(service)
        ends: list[Any] = []
        asked.addBoth(ends.append)
        await service.stopService()
        self.assertEqual([end.type for end in ends], [CancelledError])

    async def test_ends_together(self) -> None:
        """When one pair fails for a reason of ours, nobody waits for the others: their connections end."""
        setup = self.setup(well)
        setup.text += "\ntimeouts: {handshake: 1h}\n"
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        setup.change('"ADDRESS"', f'"{address}", "127.0.0.1:1"')
        service = self.run_near(setup, "")
        plane = service.plane
        assert plane is not None
        knowledge = IdentityChecks(service.composition).knowledge(plane)
        known = [knowledge, knowledge]  # for the question and for its first pair

        def know() -> Knowledge:
            if not known:
                raise LookupError("the second pair")
            return known.pop()

        live = LiveChecks()
        self.addCleanup(live.stop)
        with self.assertRaisesRegex(LookupError, "the second pair"):
            await live.ask(plane, know, Choice())
        await until(lambda: (plane.gate.connections, plane.gate.sockets) == (0, 0), "all is given back")

    async def test_has_only_so_much_time(self) -> None:
        """What there is none left for is unknown; our own side was looked at."""
        setup = self.setup(well)
        service = self.run_near(setup, f"127.0.0.1:{unused_port()}")
        assert service.plane is not None
        knowledge = IdentityChecks(service.composition).knowledge(service.plane)
        answer = await LiveChecks(0.0).ask(service.plane, lambda: knowledge, Choice())
        layers = answer["checks"][0]["layers"]
        self.assertEqual([one["outcome"] for one in layers], ["good", "good", "good", "unknown"])
        self.assertIn("no time left", layers[-1]["text"])

    async def test_blames_no_peer_for_its_own_hurry(self) -> None:
        """A peer that may still say whether it accepts is not broken when the question's time is over: status 2."""
        setup = self.setup(selecting(ALPN, b"", hold=True))
        service = self.run_near(setup, f"127.0.0.1:{self.answer(setup.serve)}")
        plane = service.plane
        assert plane is not None
        checks = IdentityChecks(service.composition)
        answer = await LiveChecks(1.0).ask(plane, lambda: checks.knowledge(plane), Choice())
        last = answer["checks"][0]["layers"][-1]
        self.assertEqual((last["outcome"], last["unfinished"], status_of(answer)), ("unknown", True, 2), last)
        self.assertIn("no time left", last["text"])
        await until(lambda: (plane.gate.connections, plane.gate.sockets) == (0, 0), "all is given back")

    async def test_looks_at_only_so_many(self) -> None:
        """And says how many it left out: status 2."""
        setup = self.setup(well)
        many = ", ".join(f'"127.0.0.1:{port}"' for port in range(1, 206))
        setup.change('"ADDRESS"', many)
        self.run_near(setup, "")
        ended = await self.command(setup, "--json")
        answer = json.loads(ended.out)
        self.assertEqual((len(answer["checks"]), answer["left_out"]), (200, 5))
        self.assertIn("5 others were not looked at", (await self.command(setup)).out)


class WhomTests(LiveCase):
    """Two workloads in one proxy, and a service that no listener leads to."""

    def make(self, setup: Setup) -> None:
        setup.a.write_svid(setup.a.svid("/cron", now=setup.now), setup.base, "cron")
        other = '    cron: {id: "spiffe://a.test/cron", certificate: cron.pem, key: cron.key}\n'
        setup.change("key: web.key}\n", "key: web.key}\n" + other)
        bills = (
            '  bills:\n    expect: ["spiffe://a.test/bills"]\n'
            '    discovery: {plugin: static, endpoints: ["127.0.0.1:9"]}\n'
        )
        setup.change("\noutbound:", f"{bills}\noutbound:")

    async def test_looks_at_the_others(self) -> None:
        """Nobody can say as whom it would be reached: that is said, with what to ask, and the others are looked at."""
        setup = self.setup(self.make)
        live = await self.check(setup, "--json")
        offline = await self.command(setup, "--offline", "--json")
        for ended in (live, offline):
            orders, bills, cron = json.loads(ended.out)["checks"]
            self.assertEqual((ended.status, ended.err), (2, ""))
            self.assertEqual((orders["layers"][-1]["layer"], orders["layers"][-1]["outcome"]), (8, "good"), orders)
            last = bills["layers"][-1]
            self.assertEqual((last["layer"], last["outcome"], bills["endpoint"]), (3, "unknown", None))
            self.assertIn("leads to service bills; say as whom: --workload web|cron", last["text"])
            self.assertEqual((cron["workload"], len(cron["layers"])), ("cron", 2))

    async def test_says_as_whom(self) -> None:
        """A listener leads there, but as somebody else; and who names a service twice asks once."""
        setup = self.setup(self.make)
        ended = await self.check(setup, "--json", "--workload", "cron", "--service", "orders", "--service", "orders")
        (pair,) = json.loads(ended.out)["checks"]
        self.assertEqual((ended.status, pair["layers"][2]["outcome"]), (0, "odd"))
        self.assertIn("no outbound listener leads to it as workload cron", pair["layers"][2]["text"])


class AskingTests(LiveCase):
    """How the command finds the proxy, and what it says when there is none."""

    async def test_falls_back_on_the_files(self) -> None:
        """And says so, when nobody listens, or the configuration has no admin socket."""
        setup = self.setup(well)
        address = self.run_far(setup, Far())
        for more, words in (
            ("", "has no admin socket"),
            ('\nadmin: {listen: "unix:/proc/self/fd/none.sock"}\n', "no proxy is running: "),
        ):
            (setup.base / "tcpmesh.yaml").write_text(setup.text.replace("ADDRESS", address) + more)
            ended = await self.command(setup, "--json")
            self.assertEqual((ended.status, json.loads(ended.out)["by"]), (0, "files"))
            self.assertIn(words, ended.err)
            self.assertTrue(ended.err.endswith("looked at its files instead, as --offline does\n"), ended.err)

    async def test_does_not_when_a_proxy_is_named(self) -> None:
        """Status 2: it could not be asked."""
        setup = self.setup(well)
        (setup.base / "tcpmesh.yaml").write_text(setup.text.replace("ADDRESS", "127.0.0.1:1"))
        ended = await self.command(setup, "--admin", "unix:/proc/self/fd/none.sock")
        self.assertEqual((ended.status, ended.out), (2, ""))
        self.assertIn("no proxy is running", ended.err)
        ended = await self.command(setup, "--offline", "--admin", "unix:none")
        self.assertEqual(ended.status, 64)

    async def test_wrong_usage_is_told_by_the_proxy(self) -> None:
        """As it is without one."""
        setup = self.setup(well)
        self.run_near(setup, "127.0.0.1:1")
        for words, message in (
            (("--service", "order"), "did you mean 'orders'?"),
            (("--workload", "nobody"), "it has: web"),
            (("--workload", ""), "has no workload ''; it has: web"),  # a variable of the shell that is not set
            (("--peer", "nonsense"), "--peer: "),
            (("--peer", "127.0.0.1:1", "--service", "orders"), "name services or a peer, not both"),
        ):
            ended = await self.command(setup, *words)
            self.assertEqual((ended.status, ended.out), (64, ""), words)
            self.assertIn(message, ended.err)

    async def test_an_address_that_no_service_lists(self) -> None:
        """Its certificate is judged, and whether it accepts is not asked."""
        setup = self.setup(well)
        self.run_near(setup, "127.0.0.1:1")
        ended = await self.command(setup, "--peer", self.run_far(setup, Far()), "--json")
        outcomes = [one["outcome"] for one in json.loads(ended.out)["checks"][0]["layers"]]
        self.assertEqual(outcomes, ["good", "good", "unknown", "good", "good", "good", "unknown", "unknown"])
        self.assertEqual(ended.status, 2)


def source_fails(setup: Setup) -> None:
    setup.own(setup.a.svid("/wbe", now=setup.now))


def own_expired(_setup: Setup) -> None:
    """What the clock does."""


class DocumentTests(LiveCase):
    """docs/identity.md shows what the command writes."""

    async def written(self) -> dict[str, str]:
        """By name, each output as the documentation has it."""
        found = {}
        for make, _, _ in (*FAR_BROKEN, *FAR_WELL):
            setup, far = self.setup(well), Far()
            make(setup, far)
            found[make.__name__.replace("_", "-")] = documented((await self.check(setup, far=far)).out, setup.base)
        for change, ahead in ((source_fails, 0.0), (own_expired, 30 * 86400.0)):
            setup = self.setup(well)
            service = self.run_near(setup, self.run_far(setup, Far()))
            change(setup)
            self.clock.ahead = ahead
            service.reload_identities()
            found[change.__name__.replace("_", "-")] = documented((await self.command(setup)).out, setup.base)
        return found

    def test_shows_the_listener_that_tells(self) -> None:
        """As the far side of these tests has it."""
        found = blocks(section(DOCUMENT.read_text(encoding="utf-8"), HEADING))
        (text,) = (block.text for block in found if "far-side" in block.words)
        self.assertIn(text.replace("0.0.0.0:4143", "127.0.0.1:0").replace("5000", "TARGET"), FAR)

    async def test_shows_each_set_up(self) -> None:
        """Word by word, and none besides."""
        shown = {
            block.comment.removeprefix("live: "): block.text
            for block in blocks(section(DOCUMENT.read_text(encoding="utf-8"), HEADING))
            if block.comment.startswith("live: ")
        }
        self.maxDiff = None
        self.assertEqual(shown, await self.written())
