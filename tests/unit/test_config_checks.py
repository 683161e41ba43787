"""Tests for what single keys cannot say: names, listeners, plaintext, identities, bounds; and for warnings."""

from __future__ import annotations

from tcpmesh.config import warnings
from tcpmesh.errors import Mark
from tests.unit.config_samples import FILE, SAMPLE, ConfigTestCase, located, variant

OUT = '{name: out, listen: "127.0.0.1:15000", service: orders, workload: web}'
IN = '{name: in, listen: "127.0.0.1:4143", target: "127.0.0.1:5000", workload: web}'
EXPECT = 'expect: ["spiffe://example.org/orders"]'
EXTRA = "    expect:"  # where a key of the service can be added


def with_service(line: str) -> str:
    return variant(EXTRA, f"    {line}\n{EXTRA}")


def with_top(line: str) -> str:
    return f"{SAMPLE}{line}\n"


class PlaintextTests(ConfigTestCase):
    """Where plaintext may go."""

    def test_must_stay_on_the_machine(self) -> None:
        """Both plain sides are loopback or unix sockets."""
        for listen in ("127.0.0.2:1", "[::1]:1", "unix:a.sock", "127.0.0.1:0"):
            self.load(variant('listen: "127.0.0.1:15000"', f'listen: "{listen}"'))
        for target in ("127.0.0.2:1", "[::1]:1", "unix:a.sock"):
            self.load(variant('target: "127.0.0.1:5000"', f'target: "{target}"'))

    def test_may_not_be_accepted_from_the_network(self) -> None:
        """Not on another address, nor on all of them."""
        for listen in ("0.0.0.0:1", "[::]:1", "10.0.0.1:1", "0.0.0.0:0"):
            self.check_problems(
                variant('listen: "127.0.0.1:15000"', f'listen: ‸"{listen}"'),
                f"outbound[0].listen: {listen} accepts plaintext from the network; listen on loopback or a unix "
                "socket, or, if everybody there may act as this workload, add plaintext_network: allow",
            )

    def test_may_not_be_sent_over_the_network(self) -> None:
        """Not to another machine."""
        self.check_problems(
            variant('target: "127.0.0.1:5000"', 'target: ‸"10.0.0.1:5000"'),
            "inbound[0].target: 10.0.0.1:5000 would be sent plaintext over the network; use loopback or a unix socket, "
            "or, if the network in between is trusted, add plaintext_network: allow",
        )

    def test_may_when_somebody_says_so_in_writing(self) -> None:
        """Then it is a warning, at the entry, at every start."""
        text = SAMPLE.replace(
            OUT, OUT.replace("127.0.0.1:15000", "0.0.0.0:15000").replace("}", ", plaintext_network: allow}")
        )
        text = text.replace(
            IN, IN.replace("127.0.0.1:5000", "10.0.0.1:5000").replace("}", ", plaintext_network: allow}")
        )
        found = warnings(self.load(text))
        self.assertEqual(
            [(problem.message, problem.mark) for problem in found],
            [
                (
                    "outbound[0] (out) accepts plaintext from the network on 0.0.0.0:15000, and whoever reaches it "
                    "acts as web (plaintext_network: allow)",
                    Mark(str(FILE), 12, 5),
                ),
                (
                    "inbound[0] (in) sends plaintext over the network to 10.0.0.1:5000 (plaintext_network: allow)",
                    Mark(str(FILE), 14, 5),
                ),
            ],
        )

    def test_everybody_may_come_in(self) -> None:
        """Allowed in writing, and told at every start; with it a missing policy refuses nobody."""
        text = with_top("defaults: ‸{inbound: allow, outbound: deny}")
        for one in (text, text[: text.index("authorization:")] + text[text.index("defaults:") :]):
            clean, marks = located(one)
            (found,) = warnings(self.load(clean))
            self.assertIn("every authenticated peer may use every inbound listener", found.message)
            self.assertEqual([found.mark], marks)

    def test_nothing_to_warn_of(self) -> None:
        """What stays on the machine needs no warning, allowed or not."""
        self.assertEqual(warnings(self.load(SAMPLE)), [])
        self.assertEqual(warnings(self.load(variant('000", service', '000", plaintext_network: allow, service'))), [])


class ProbeTests(ConfigTestCase):
    """Who may ask an inbound listener how it sees them."""

    def test_is_off_unless_somebody_is_listed(self) -> None:
        """No key, no probe; a key names whom it is for, by exact SPIFFE IDs."""
        self.assertIsNone(self.load(SAMPLE).inbound[0].probe)
        probe = self.load(variant("{name: in,", '{probe: {allow: ["spiffe://b.test/w"]}, name: in,')).inbound[0].probe
        assert probe is not None
        self.assertEqual([str(one) for one in probe.allow], ["spiffe://b.test/w"])
        self.check_problems(
            variant("{name: in,", "{probe: {allow: ‸[]}, name: in,"),
            "inbound[0].probe.allow: the list is empty; name who may ask, or leave probe out so that nobody may",
        )
        self.check_problems(
            variant("{name: in,", '{probe: {allow: [‸"spiffe://b.test"]}, name: in,'),
            "inbound[0].probe.allow[0]: spiffe://b.test names a whole trust domain, which no peer's certificate does",
        )
        self.check_problems(
            variant("{name: in,", '{probe: {allow: [‸"dns:b.test"]}, name: in,'),
            "inbound[0].probe.allow[0]: 'dns:b.test' does not start with 'spiffe://'",
        )


class TargetTests(ConfigTestCase):
    """Where an inbound listener may lead."""

    def check_target(self, target: str, message: str, more: str = "") -> None:
        self.check_problems(
            variant('target: "127.0.0.1:5000"', f'target: ‸"{target}"') + more, f"inbound[0].target: {message}"
        )

    def test_is_not_one_of_our_own_listeners(self) -> None:
        """Inbound, outbound and admin listeners, also those that listen on every address."""

        def circle(target: str, own: str) -> str:
            return (
                f"{target} is this proxy's own listener {own}, so connections would run in a circle; "
                "write the application's address"
            )

        admin = 'admin: {listen: "unix:admin.sock", metrics: "0.0.0.0:4191"}\n'
        for target, own, more in [
            ("127.0.0.1:4143", "inbound[0].listen (127.0.0.1:4143, line 14)", ""),
            ("127.0.0.1:15000", "outbound[0].listen (127.0.0.1:15000, line 12)", ""),
            ("127.0.0.1:4191", "admin.metrics (0.0.0.0:4191, line 19)", admin),
            ("127.0.0.9:4191", "admin.metrics (0.0.0.0:4191, line 19)", admin),
        ]:
            self.check_target(target, circle(target, own), more)
        self.check_target(
            "unix:x/../admin.sock",
            circle("unix:/etc/mesh/admin.sock", "admin.listen (unix:/etc/mesh/admin.sock, line 19)"),
            admin,
        )
        self.check_target(
            "[::1]:4191",
            circle("[::1]:4191", "admin.metrics ([::]:4191, line 19)"),
            'admin: {metrics: "[::]:4191"}\n',
        )
        self.check_target(
            "127.0.0.1:4191",
            circle("127.0.0.1:4191", "admin.metrics ([::]:4191, line 19)"),
            'admin: {metrics: "[::]:4191"}\n',
        )

    def test_may_share_a_port_with_a_listener_elsewhere(self) -> None:
        """Another address, another family: not our listener."""
        for target in ("127.0.0.2:15000", "[::1]:15000", "[::1]:4143"):
            self.load(variant('target: "127.0.0.1:5000"', f'target: "{target}"'))
        self.load(variant('target: "127.0.0.1:5000"', 'target: "[::1]:4191"') + 'admin: {metrics: "0.0.0.0:4191"}\n')

    def test_can_be_dialled(self) -> None:
        """Port 0 and wildcards are for listeners."""
        self.check_target("127.0.0.1:0", "127.0.0.1:0 has port 0, which nobody can connect to")
        self.check_target(
            "0.0.0.0:5000", "0.0.0.0:5000 is an address to listen on; write the application's own, such as 127.0.0.1"
        )

    def test_warns_of_a_circle_that_it_cannot_be_sure_of(self) -> None:
        """An address of the network may be this machine's."""
        text = SAMPLE.replace(
            IN,
            '{name: in, listen: "0.0.0.0:4143", target: "10.0.0.1:4143", workload: web, plaintext_network: allow}',
        )
        self.assertEqual(
            [problem.message for problem in warnings(self.load(text))],
            [
                "inbound[0] (in) sends plaintext over the network to 10.0.0.1:4143 (plaintext_network: allow)",
                "inbound[0] (in): if 10.0.0.1:4143 is an address of this machine, the target is this proxy's own "
                "listener, and connections run in a circle",
            ],
        )


class ListenerTests(ConfigTestCase):
    """Names and addresses of listeners."""

    def check_second(self, listen: str, *messages: str, first: str = "127.0.0.1:15000") -> None:
        second = f'  - {{name: two, listen: ‸"{listen}", service: orders, workload: web}}\n'
        text = SAMPLE.replace("127.0.0.1:15000", first).replace("inbound:\n", f"{second}inbound:\n", 1)
        if messages:
            self.check_problems(text, *messages)
        else:
            self.load(text.replace("‸", ""))

    def test_addresses_are_taken_once(self) -> None:
        """The same address again is refused where it is written the second time."""
        self.check_second(
            "127.0.0.1:15000",
            "outbound[1].listen: 127.0.0.1:15000 is taken already by outbound[0].listen (127.0.0.1:15000, line 12)",
        )
        self.check_second(
            "unix:./x/../a",
            "outbound[1].listen: unix:/etc/mesh/a is taken already by outbound[0].listen (unix:/etc/mesh/a, line 12)",
            first="unix:a",
        )

    def test_addresses_that_differ(self) -> None:
        """Another port, another address, another family, or a port that the kernel chooses."""
        for listen in ("127.0.0.1:15001", "127.0.0.2:15000", "[::1]:15000", "unix:a"):
            self.check_second(listen)
        self.check_second("127.0.0.1:0", first="127.0.0.1:0")

    def test_a_wildcard_takes_every_address(self) -> None:
        """IPv6's takes IPv4 too, as Linux has it; whoever is covered is told by whom."""
        for wildcard, covered in [
            ("0.0.0.0:4143", ["in"]),
            ("[::]:4143", ["in"]),
            ("0.0.0.0:4144", []),
            ("0.0.0.0:0", []),
        ]:
            text = with_top(f'admin: {{metrics: "{wildcard}"}}')
            if covered:
                self.check_problems(
                    text.replace('listen: "127.0.0.1:4143"', 'listen: ‸"127.0.0.1:4143"'),
                    f"inbound[0].listen: 127.0.0.1:4143 is taken already by admin.metrics ({wildcard}, line 19)",
                )
            else:
                self.load(text)
        self.check_problems(
            SAMPLE.replace('listen: "127.0.0.1:4143"', 'listen: ‸"0.0.0.0:4143"') + 'admin: {metrics: "[::]:4143"}\n',
            "inbound[0].listen: 0.0.0.0:4143 is taken already by admin.metrics ([::]:4143, line 19)",
        )
        self.load(
            SAMPLE.replace('listen: "127.0.0.1:4143"', 'listen: "[::1]:4143"') + 'admin: {metrics: "0.0.0.0:4143"}\n'
        )

    def test_names_are_given_once(self) -> None:
        """Also across both kinds of listener."""
        self.check_problems(
            variant("{name: in,", "{name: ‸out,").replace("inbound: [in]", "inbound: [out]"),
            "a listener named 'out' exists already, in line 12; logs and metrics tell listeners apart by name",
        )

    def test_names_can_be_shown_anywhere(self) -> None:
        """In a label, a URL or a shell without quoting."""
        rule = "use up to 63 letters, digits, '.', '_' and '-', beginning with a letter or digit"
        self.check_problems(variant("{name: out,", "{name: ‸a b,"), f"'a b' cannot name an outbound listener: {rule}")
        self.check_problems(variant("{name: out,", '{name: ‸"",'), f"'' cannot name an outbound listener: {rule}")
        self.check_problems(variant("{name: out,", "{name: ‸-a,"), f"'-a' cannot name an outbound listener: {rule}")
        self.check_problems(
            variant("  orders:\n", "  ‸ör:\n").replace("service: orders", "service: ör"),
            f"'\\xf6r' cannot name a service: {rule}",
        )
        self.check_problems(
            variant("    web:", f"    ‸{'w' * 64}:").replace("workload: web", f"workload: {'w' * 64}"),
            f"'{'w' * 64}' cannot name a workload: {rule}",
        )
        self.load(variant("{name: out,", f"{{name: {'a' * 63},"))

    def test_there_is_one(self) -> None:
        """A proxy without listeners has nothing to do."""
        text = SAMPLE[: SAMPLE.index("outbound:")]
        self.check_problems(
            f"‸{text}", "there is neither an inbound nor an outbound listener, so there is nothing to do"
        )

    def test_local_users(self) -> None:
        """An empty list would admit everybody, and users of other machines cannot be told."""
        for clients in ("{}", "{uids: []}", "{gids: []}"):
            self.check_problems(
                variant("workload: web}\ninbound", f"workload: web, clients: ‸{clients}}}\ninbound"),
                "outbound[0].clients: nobody is listed; name a uid or gid, or leave the key out to admit all local "
                "users",
            )
        self.check_problems(
            variant(
                'listen: "127.0.0.1:15000"',
                'clients: ‸{uids: [0]}, plaintext_network: allow, listen: "0.0.0.0:15000"',
            ),
            "outbound[0].clients: clients are users of this machine, but 0.0.0.0:15000 accepts the network",
        )
        self.check_problems(
            variant(
                'listen: "127.0.0.1:15000"', 'clients: {uids: [0, ‸-1], gids: [‸4294967295]}, listen: "127.0.0.1:1"'
            ),
            "outbound[0].clients.uids[1]: -1 is not a user or group number",
            "outbound[0].clients.gids[0]: 4294967295 is not a user or group number",
        )

    def test_admin_listens_on_a_unix_socket(self) -> None:
        """TCP is for metrics only."""
        self.check_problems(
            with_top('admin: {listen: ‸"127.0.0.1:4190"}'),
            "admin.listen: 127.0.0.1:4190 is a TCP address; TCP serves only /live /ready /metrics: use admin.metrics. "
            "Commands need a unix socket, such as unix:/run/tcpmesh/admin.sock",
        )
        self.check_problems(
            with_top('admin: {metrics: ‸"unix:a"}'),
            "admin.metrics: 'unix:a' is a unix socket; expected a TCP address such as "
            '"127.0.0.1:5432" or "[::1]:5432"',
        )


class IdentityTests(ConfigTestCase):
    """Who this proxy may be, and who must answer."""

    def test_a_workload_is_not_a_trust_domain(self) -> None:
        """Its ID has a path."""
        self.check_problems(
            variant('"spiffe://example.org/web"}\nservices', '‸"spiffe://example.org"}\nservices'),
            "identity.workloads.web.id: spiffe://example.org names a whole trust domain; "
            "a workload's ID has a path after it",
        )

    def test_there_is_a_source(self) -> None:
        """Without one nobody has an identity."""
        self.check_problems(
            variant("{local: {plugin: own, state: state}}", "‸{}"),
            "identity.sources: there is no identity source; every listener needs an identity",
        )

    def test_an_id_belongs_to_one_workload_of_a_source(self) -> None:
        """The second one would silently be given the first one's certificate."""
        self.check_problems(
            variant("    web:", '    again: {id: "spiffe://example.org/web"}\n    web:').replace(
                '    web: {id: "', '    web: {id: ‸"', 1
            ),
            "identity.workloads.web.id: identity.workloads.again has this ID too, and a source gives one identity for "
            "it: use that workload for both",
        )

    def test_a_workload_may_be_unused(self) -> None:
        """It may be there for tomorrow."""
        self.load(variant("    web:", '    spare: {id: "spiffe://example.org/spare"}\n    web:'))

    def test_expectations(self) -> None:
        """At least one, of one kind, each of one peer."""
        where = "services.orders.expect"
        self.check_problems(
            variant(EXPECT, "expect: ‸[]"), f"{where}: the list is empty; name at least one identity that may answer"
        )
        self.check_problems(
            variant(EXPECT, 'expect: ‸["dns:a.example", "spiffe://example.org/a"]'),
            f"{where}: SPIFFE IDs, dns: names and spki: pins are mixed; each kind is verified in another way, so make "
            "it services of one kind each",
        )
        self.check_problems(
            variant(EXPECT, 'expect: ["spiffe://example.org/a", ‸"spiffe://example.org"]'),
            f"{where}[1]: spiffe://example.org names a whole trust domain, which no peer's certificate does",
        )
        self.load(variant(EXPECT, 'expect: ["dns:a.example", "dns:b.example"]'))

    def test_pinned_keys(self) -> None:
        """Several of them, for a key that is to be changed; beside no names, and without an authority."""
        pins = [f"spki:sha256:{letter * 42}A=" for letter in "AB"]
        self.load(variant(EXPECT, f'expect: ["{pins[0]}", "{pins[1]}"]'))
        self.check_problems(
            variant(EXPECT, f'expect: ‸["{pins[0]}", "dns:a.example"]'),
            "services.orders.expect: SPIFFE IDs, dns: names and spki: pins are mixed; each kind is verified in another "
            "way, so make it services of one kind each",
        )
        self.check_problems(
            with_service("trust: ‸system").replace("spiffe://example.org/orders", pins[0]),
            "services.orders.trust: a pinned key needs no authority; trust is for dns: names",
        )
        self.check_problems(
            variant(EXPECT, 'expect: [‸"spki:sha1:AAAA"]'),
            "services.orders.expect[0]: 'spki:sha1:AAAA' is not a pin; write spki:sha256: and the key's hash in base64",
        )

    def test_trust_is_for_dns_names(self) -> None:
        """A SPIFFE ID is worth what its own trust domain says."""
        for trust in ("system", "./bundle.pem"):
            self.check_problems(
                with_service(f"trust: ‸{trust}"),
                "services.orders.trust: SPIFFE IDs are always verified against the mesh's own bundle; "
                "trust is for dns: names",
            )
            self.load(with_service(f"trust: {trust}").replace("spiffe://example.org/orders", "dns:a.example"))

    def test_server_names(self) -> None:
        """What is asked for is a DNS name too."""
        self.check_problems(
            with_service("sni: ‸10.0.0.1"),
            "services.orders.sni: '10.0.0.1' looks like an IP address; "
            "a certificate is matched by DNS name or SPIFFE ID",
        )
        self.load(with_service("sni: a.example"))

    def test_tls_versions(self) -> None:
        """The least is not above the most."""
        self.check_problems(
            with_service('tls: {min_version: "1.3", max_version: ‸"1.2"}'),
            'services.orders.tls.max_version: min_version "1.3" is above max_version "1.2"',
        )
        self.check_problems(
            variant("workload: web}\nauth", 'workload: web, tls: {max_version: ‸"1.2"}}\nauth'),
            'inbound[0].tls.max_version: "1.2" is below min_version, which is "1.3" unless it is set; '
            'add min_version: "1.2"',
        )
        self.check_problems(
            with_service("tls: {min_version: ‸1.2}"),
            'services.orders.tls.min_version: YAML reads 1.2 as a number; write "1.2"',
        )
        self.load(with_service('tls: {min_version: "1.2", max_version: "1.2"}'))

    def test_warns_when_everybody_would_be_refused(self) -> None:
        """An inbound listener without any policy is closed to all."""
        text = SAMPLE[: SAMPLE.index("authorization:")]
        self.assertEqual(
            [(problem.message, problem.mark) for problem in warnings(self.load(text))],
            [("there is no authorization policy, so every inbound connection will be refused", Mark(str(FILE), 14, 5))],
        )


class BoundsTests(ConfigTestCase):
    """Numbers and times."""

    def test_times(self) -> None:
        """From 1 ms up to what is sane and what the kernel takes; everywhere where times are set."""
        for name, most, above in [
            ("connect", "1h", "2h"),
            ("handshake", "1h", "2h"),
            ("preface", "1h", "2h"),
            ("resolve", "1h", "2h"),
            ("queue", "1h", "2h"),
            ("establish", "1h", "2h"),
            ("idle", "365d", "366d"),
            ("half_close", "365d", "366d"),
            ("lifetime", "365d", "366d"),
            ("linger", "5m", "6m"),
            ("user_timeout", "24d", "25d"),
            ("shutdown", "1d", "2d"),
            ("decision", "1m", "2m"),
        ]:
            rule = f"write 1ms to {most}"
            self.check_problems(with_top(f"timeouts: {{{name}: ‸0s}}"), f"timeouts.{name}: 0ms is too short; {rule}")
            self.check_problems(
                with_top(f"timeouts: {{{name}: ‸{above}}}"), f"timeouts.{name}: {above} is too long; {rule}"
            )
            self.load(with_top(f"timeouts: {{{name}: {most}}}"))
            self.load(with_top(f"timeouts: {{{name}: 1ms}}"))
        self.check_problems(
            with_top("timeouts: {keepalive: ‸999ms}"), "timeouts.keepalive: 999ms is too short; write 1s to 32767s"
        )
        self.check_problems(
            with_service("timeouts: {connect: ‸0s}"),
            "services.orders.timeouts.connect: 0ms is too short; write 1ms to 1h",
        )
        self.check_problems(
            variant("workload: web}\ninbound", "workload: web, timeouts: {linger: ‸1h}}\ninbound"),
            "outbound[0].timeouts.linger: 1h is too long; write 1ms to 5m",
        )

    def test_jitter(self) -> None:
        """A share."""
        for value in ("-0.1", "1.1", "2"):
            self.check_problems(
                with_top(f"timeouts: {{lifetime_jitter: ‸{value}}}"),
                f"timeouts.lifetime_jitter: {value} is not a share of the lifetime, from 0 to 1",
            )
        for value in ("0", "0.5", "1", "1.0"):
            self.load(with_top(f"timeouts: {{lifetime_jitter: {value}}}"))

    def test_limits(self) -> None:
        """At least one, and no more than a machine has descriptors."""
        for value in (0, -1, 1_000_001):
            self.check_problems(
                with_top(f"limits: {{connections: ‸{value}, handshakes: ‸{value}}}"),
                f"limits.connections: {value} is not between 1 and 1000000",
                f"limits.handshakes: {value} is not between 1 and 1000000",
            )
        self.load(with_top("limits: {connections: 1, handshakes: 1000000}"))


class LaterTests(ConfigTestCase):
    """What the next versions bring is told from a typing error."""

    def test_keys(self) -> None:
        """One of each place, at its key."""
        self.check_problems(
            variant("  - plugin: rules\n", "  - plugin: rules\n    ‸on_change: close\n"),
            "authorization[0].on_change is not in this version",
        )

    def test_keys_that_are_elsewhere(self) -> None:
        """Where one might look for them, and where they are."""
        self.check_problems(
            with_top("‸routes: []\nlimits: {}"),
            "unknown key 'routes'; this is said in the listeners, under outbound and inbound",
        )
        self.check_problems(
            variant("{name: in,", "{‸sni: a, name: in,"), "unknown key 'sni' in inbound[0]; this is said in routes"
        )
        self.check_problems(
            variant("{name: out,", "{‸passthrough: true, name: out,"),
            "unknown key 'passthrough' in outbound[0]; this is said in routes",
        )
        for key, where in (
            ("weight", "each entry of discovery.endpoints"),
            ("outlier_detection", "health.ejection"),
            ("health_check", "health.check"),
            ("slow_start", "health.slow_start"),
        ):
            self.check_problems(
                variant("    expect:", f"    ‸{key}: 3\n    expect:"),
                f"unknown key '{key}' in services.orders; this is said in {where}",
            )
        self.check_problems(with_top("‸queue: {}\nlimits: {}"), "unknown key 'queue'; this is said in services.*.queue")
        self.check_problems(
            variant("{name: out,", "{limits: {‸pending: 3}, name: out,"),
            "unknown key 'pending' in outbound[0].limits; this is said in services.*.limits",
        )
