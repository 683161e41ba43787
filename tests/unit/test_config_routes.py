"""Routes as they are written, and what is wrong with them."""

from __future__ import annotations

from tcpmesh.config.checks import warnings
from tcpmesh.route_settings import InboundRoute, OutboundRoute
from tests.unit.config_samples import ConfigTestCase

SAMPLE = """\
version: 1
trust_domain: example.org
identity:
  sources: {local: {plugin: own, state: state}}
  workloads:
    web: {id: "spiffe://example.org/web"}
    api: {id: "spiffe://example.org/api"}
services:
  orders:
    expect: ["spiffe://example.org/orders"]
    discovery: {plugin: static, endpoints: ["192.0.2.1:4143"]}
  canary:
    expect: ["spiffe://example.org/orders"]
    discovery: {plugin: static, endpoints: ["192.0.2.2:4143"]}
  legacy:
    discovery: {plugin: static, endpoints: ["192.0.2.3:443"]}
outbound:
  - name: out
    listen: "127.0.0.1:15000"
    workload: web
    OUT
inbound:
  - name: in
    listen: "0.0.0.0:4143"
    IN
authorization: []
"""
EXPECTED = ("  legacy:\n", '  legacy:\n    expect: ["spiffe://example.org/x"]\n')
OPEN = "authorization: [{plugin: rules, policies: [{name: o, action: allow, from: [{any: unauthenticated}]}]}]"
ROUTES = 'routes: [{sni: "*.legacy.test", service: legacy, passthrough: true}, {service: orders}]'
TARGETS = 'routes: [{sni: a.test, target: "127.0.0.1:5000", workload: api}, {target: "127.0.0.1:5001", workload: web}]'


def sample(out: str = ROUTES, inside: str = TARGETS) -> str:
    return SAMPLE.replace("OUT", out).replace("IN", inside)


class RoutesTests(ConfigTestCase):
    """What can be said."""

    def test_reads_outbound_routes(self) -> None:
        """One service, a split, a failover; by name or for all others."""
        settings = self.load(
            sample(
                'routes: [{sni: "*.legacy.test", service: legacy, passthrough: true}, '
                "{sni: Orders.Test, split: {orders: 95, canary: 5}}, {failover: [orders, canary]}]"
            )
        )
        (outbound,) = settings.outbound
        names = [(route.name, route.services, route.passthrough) for route in outbound.all_routes]
        self.assertEqual(
            names,
            [
                ("*.legacy.test", ("legacy",), True),
                ("orders.test", ("orders", "canary"), False),
                ("default", ("orders", "canary"), False),
            ],
        )
        self.assertEqual(outbound.services, ("legacy", "orders", "canary"))
        self.assertTrue(outbound.looks_at_hello)
        self.assertEqual(
            outbound.destination,
            "*.legacy.test: legacy, TLS passed through; orders.test: orders (95), canary (5); "
            "default: orders, else canary",
        )

    def test_a_service_is_one_route(self) -> None:
        """For all names, and nobody waits for any."""
        (outbound,) = self.load(sample("service: orders").replace(*EXPECTED)).outbound
        (route,) = outbound.all_routes
        self.assertIsInstance(route, OutboundRoute)
        self.assertEqual((route.name, route.services, outbound.destination), ("default", ("orders",), "orders"))
        self.assertFalse(outbound.looks_at_hello)

    def test_waits_for_a_name_only_where_it_matters(self) -> None:
        """A split or failover alone needs none; passthrough does, so that plaintext is never passed through."""
        for out, looks in (
            ("routes: [{split: {orders: 1, canary: 1}}]", False),
            ("routes: [{failover: [orders, canary]}]", False),
            ("routes: [{service: legacy, passthrough: true}]", True),
            ("routes: [{sni: a.test, service: orders}]", True),
        ):
            text = sample(out)
            if "legacy" not in out:
                text = text.replace(*EXPECTED)
            self.assertIs(self.load(text).outbound[0].looks_at_hello, looks, out)

    def test_reads_inbound_routes(self) -> None:
        """Each with its workload, which may be the listener's."""
        (inbound,) = self.load(
            sample(
                inside='workload: web\n    routes: [{sni: a.test, target: "127.0.0.1:1", workload: api}, '
                '{sni: b.test, target: "192.0.2.9:443", passthrough: true}, {target: "127.0.0.1:2"}]'
            )
        ).inbound
        names = [(route.name, str(route.target), route.workload, route.passthrough) for route in inbound.all_routes]
        self.assertEqual(
            names,
            [
                ("a.test", "127.0.0.1:1", "api", False),
                ("b.test", "192.0.2.9:443", "web", True),
                ("default", "127.0.0.1:2", "web", False),
            ],
        )
        self.assertEqual(inbound.workloads, ("api", "web"))

    def test_inbound_passthrough_needs_no_identity(self) -> None:
        """Of a target, or of all routes; and is told of at every start."""
        for inside in (
            'target: "192.0.2.9:443"\n    passthrough: true',
            'routes: [{sni: a.test, target: "192.0.2.9:443", passthrough: true}]',
        ):
            settings = self.load(sample(inside=inside).replace("authorization: []", OPEN))
            (route,) = settings.inbound[0].all_routes
            self.assertIsInstance(route, InboundRoute)
            self.assertEqual((route.workload, settings.inbound[0].workloads), (None, ()))
            told = [problem.message for problem in warnings(settings)]
            self.assertIn(
                "inbound[0] (in) passes TLS through to 192.0.2.9:443: no peer is verified there, and policies that say "
                "any: unauthenticated let it in",
                told,
            )
            self.assertFalse([text for text in told if "plaintext" in text])

    def test_warns_of_a_passthrough_that_nobody_gets_through(self) -> None:
        """Unless policies stand elsewhere."""
        refused = (
            "inbound[0] (in) passes TLS through to 127.0.0.1:443, and no policy says any: unauthenticated, so every "
            "connection there will be refused"
        )
        text = sample(inside='target: "127.0.0.1:443"\n    passthrough: true')
        for authorization, is_told in (
            ("authorization: []", True),
            (OPEN.replace("unauthenticated", "authenticated"), True),
            (OPEN.replace("action: allow", "action: deny"), True),
            (OPEN.replace("action: allow", "action: allow, mode: dry-run"), True),
            (OPEN, False),
            ("authorization: [{plugin: rules, files: [policies.yaml]}]", False),
        ):
            settings = self.load(text.replace("authorization: []", authorization))
            told = [problem.message for problem in warnings(settings)]
            self.assertIs(refused in told, is_told, authorization)


class ProblemsTests(ConfigTestCase):
    """What is wrong, each at its place."""

    def test_exactly_one_way(self) -> None:
        """Service or routes, target or routes."""
        self.check_problems(
            sample(f"service: orders\n    routes: ‸{ROUTES[8:]}"),
            "outbound[0].routes: service and routes both say where connections go; remove one of the two",
        )
        self.check_problems(
            sample("clients: {uids: [1]}").replace("  - name: out", "  - ‸name: out").replace(*EXPECTED),
            "key 'service' is missing in outbound[0], or routes to several",
        )
        self.check_problems(
            sample(inside="workload: web").replace("  - name: in", "  - ‸name: in"),
            "key 'target' is missing in inbound[0], or routes to several",
        )
        self.check_problems(
            sample(inside="workload: web\n    routes: ‸[]"),
            "inbound[0].routes: the list is empty, so that no connection goes anywhere; name a route, or use target",
        )
        self.check_problems(
            sample(inside=f'target: "127.0.0.1:1"\n    workload: web\n    routes: ‸{TARGETS[8:]}'),
            "inbound[0].routes: target and routes both say where connections go; remove one of the two",
        )

    def test_a_misspelt_key_is_told_once(self) -> None:
        """And not again as a missing one."""
        self.check_problems(
            sample("‸servise: orders").replace(*EXPECTED),
            "unknown key 'servise' in outbound[0]; did you mean 'service'?",
        )
        self.check_problems(
            sample(inside='‸tagret: "127.0.0.1:1"\n    workload: web'),
            "unknown key 'tagret' in inbound[0]; did you mean 'target'?",
        )
        self.check_problems(
            sample(inside='target: "127.0.0.1:1"\n    ‸workloaf: web'),
            "unknown key 'workloaf' in inbound[0]; did you mean 'workload'?",
        )

    def test_services_that_do_not_exist(self) -> None:
        """Wherever they are named, with what was probably meant."""
        self.check_problems(
            sample(
                "routes: [{sni: a.test, service: ‸order}, {sni: b.test, split: {‸cannary: 1, orders: 2}}, "
                "{failover: [orders, ‸other]}, {sni: c.test, service: legacy, passthrough: true}]"
            ),
            "outbound[0].routes[0].service: there is no service 'order'; did you mean 'orders'?",
            "outbound[0].routes[1].split.cannary: there is no service 'cannary'; did you mean 'canary'?",
            "outbound[0].routes[2].failover[1]: there is no service 'other'; services: orders, canary, legacy",
        )

    def test_a_route_leads_somewhere_once(self) -> None:
        """By one of three keys."""
        legacy = "{sni: l.test, service: legacy, passthrough: true}"
        self.check_problems(
            sample(f"routes: [‸{{sni: a.test}}, {legacy}, {{service: orders, failover: ‸[canary]}}]"),
            "outbound[0].routes[0]: it leads nowhere; give service, split or failover",
            "outbound[0].routes[2].failover: service says already where connections go; remove one of the two",
        )
        self.check_problems(
            sample(
                f"routes: [{legacy}, {{sni: a.test, split: ‸{{}}}}, {{sni: b.test, split: ‸{{orders: 0, canary: 0}}}}, "
                "{sni: c.test, split: {orders: ‸-1, canary: ‸1000001}}, {sni: d.test, failover: ‸[]}, "
                "{failover: [orders, canary, ‸orders]}]"
            ),
            "outbound[0].routes[1].split: it is empty; give each service its weight",
            "outbound[0].routes[2].split: every weight is 0, so that no service gets a connection",
            "outbound[0].routes[3].split.orders: a weight is 0 to 1000000, not -1",
            "outbound[0].routes[3].split.canary: a weight is 0 to 1000000, not 1000001",
            "outbound[0].routes[4].failover: the list is empty; name the services in the order in which they are tried",
            "outbound[0].routes[5].failover[2]: 'orders' was tried already when its turn comes; name it once",
        )

    def test_a_failover_has_an_end(self) -> None:
        """One connection tries 16 services, which takes a call within a call for each."""
        names = [f"more-{number}" for number in range(16)]
        known = 'expect: ["spiffe://example.org/x"], discovery: {plugin: static, endpoints: ["192.0.2.9:1"]}'
        more = "services:\n" + "".join(f"  {name}: {{{known}}}\n" for name in names)

        def failing_over(listed: str) -> str:
            routes = f"routes: [{{sni: a.test, service: legacy, passthrough: true}}, {{failover: {listed}}}]"
            return sample(routes).replace("services:\n", more)

        self.load(failing_over(f"[{', '.join(names)}]"))
        self.check_problems(
            failing_over(f"‸[orders, {', '.join(names)}]"),
            "outbound[0].routes[1].failover: 17 services are too many to try; 16 are the most",
        )

    def test_two_routes_for_the_same_names(self) -> None:
        """In whatever case; of which the later could never be taken."""
        self.check_problems(
            sample(
                "routes: [{sni: a.test, service: legacy, passthrough: true}, {sni: ‸A.test, service: orders}, "
                "{service: orders}, ‸{service: canary}]"
            ),
            "outbound[0].routes[1].sni: a.test has a route already, outbound[0].routes[0] (line 21)",
            "outbound[0].routes[3]: outbound[0].routes[2] (line 21) has no sni either; only one route can be for all "
            "other names",
        )
        self.check_problems(
            sample(inside='workload: web\n    routes: [{target: "127.0.0.1:1"}, ‸{target: "127.0.0.1:2"}]'),
            "inbound[0].routes[1]: inbound[0].routes[0] (line 26) has no sni either; only one route can be for all "
            "other names",
        )

    def test_names_that_no_client_sends(self) -> None:
        """With the form that it would send."""
        found = [
            message
            for message, _ in self.problems(
                sample(
                    'routes: [{sni: "a.test.", service: legacy, passthrough: true}, {sni: "a.*.test", service: orders}]'
                )
            )
        ]
        self.assertIn("outbound[0].routes[0].sni: 'a.test.' ends with a dot; write 'a.test'", found)
        self.assertIn(
            "outbound[0].routes[1].sni: in 'a.*.test', a wildcard can only be the whole first label, as in "
            "*.example.com",
            found,
        )

    def test_somebody_is_expected_unless_all_is_passed_through(self) -> None:
        """A listener that brings the mesh's own TLS needs to know who answers."""
        text = sample("routes: [{sni: a.test, service: legacy, passthrough: true}, {failover: [orders, legacy]}]")
        self.check_problems(
            text.replace("  legacy:\n    discovery", "  legacy:\n    ‸discovery"),
            "key 'expect' is missing in services.legacy",
        )
        text = sample("routes: [{service: orders}]").replace("  legacy:\n    discovery", "  legacy:\n    ‸discovery")
        self.check_problems(text, "key 'expect' is missing in services.legacy")
        self.check_problems(
            sample().replace("  legacy:\n", "  legacy:\n    expect: ‸[]\n"),
            "services.legacy.expect: the list is empty; name at least one identity that may answer",
        )
        self.check_problems(
            sample()
            .replace("  legacy:\n    discovery", "  legacy:\n    health: {check: {type: tls}}\n    discovery")
            .replace("  legacy:\n    health", "  legacy:\n    ‸health"),
            "key 'expect' is missing in services.legacy: its health.check looks at who answers",
        )

    def test_an_identity_is_shown_unless_all_is_passed_through(self) -> None:
        """By the listener or by each route."""
        self.check_problems(
            sample(inside='target: "127.0.0.1:1"').replace("  - name: in", "  - ‸name: in"),
            "key 'workload' is missing in inbound[0]",
        )
        self.check_problems(
            sample(inside='routes: [{sni: a.test, target: "127.0.0.1:1", workload: api}, ‸{target: "127.0.0.1:2"}]'),
            "key 'workload' is missing in inbound[0].routes[1], or in inbound[0]",
        )
        self.check_problems(
            sample(inside='routes: [{target: "127.0.0.1:1", passthrough: true, workload: ‸api}]'),
            "inbound[0].routes[0].workload: TLS that is passed through is answered by the application, and no identity "
            "is shown; remove the key",
        )
        self.check_problems(
            sample(inside='passthrough: ‸true\n    routes: [{target: "127.0.0.1:1", passthrough: true}]'),
            "inbound[0].passthrough: with routes, each says by itself whether TLS is passed through",
        )
        self.check_problems(
            sample(
                inside='target: "127.0.0.1:1"\n    passthrough: true\n    probe: ‸{allow: ["spiffe://example.org/web"]}'
            ),
            "inbound[0].probe: where all TLS is passed through there is nobody to answer; remove the key",
        )

    def test_targets_of_routes_are_looked_at_as_others(self) -> None:
        """Circles, ports, and plaintext over the network; TLS that is passed through is none."""
        self.check_problems(
            sample(
                inside="workload: web\n    routes:\n"
                '      - {sni: a.test, target: ‸"127.0.0.1:15000"}\n'
                '      - {sni: b.test, target: ‸"127.0.0.1:4143", passthrough: true}\n'
                '      - {sni: c.test, target: ‸"192.0.2.9:5432"}\n'
                '      - {sni: d.test, target: "192.0.2.9:443", passthrough: true}\n'
                '      - {sni: e.test, target: ‸"127.0.0.1:0", passthrough: true}\n'
            ),
            "inbound[0].routes[0].target: 127.0.0.1:15000 is this proxy's own listener outbound[0].listen "
            "(127.0.0.1:15000, line 19), so connections would run in a circle; write the application's address",
            "inbound[0].routes[1].target: 127.0.0.1:4143 is this proxy's own listener inbound[0].listen (0.0.0.0:4143, "
            "line 24), so connections would run in a circle; write the application's address",
            "inbound[0].routes[2].target: 192.0.2.9:5432 would be sent plaintext over the network; use loopback or a "
            "unix socket, or, if the network in between is trusted, add plaintext_network: allow",
            "inbound[0].routes[4].target: 127.0.0.1:0 has port 0, which nobody can connect to",
        )

    def test_ports_for_each_endpoint_have_one_service(self) -> None:
        """Routes give none."""
        text = sample("per_endpoint: true\n    routes: ‸[{service: legacy, passthrough: true}]")
        self.check_problems(
            text.replace('"127.0.0.1:15000"', '"127.0.0.1:15000-15000"'),
            "outbound[0].routes: per_endpoint gives the endpoints of one service; name it in service",
        )
