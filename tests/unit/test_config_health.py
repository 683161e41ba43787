"""The key health of a service: its defaults, its bounds, and whom TLS checks come from."""

from __future__ import annotations

from tcpmesh.config.health import check_workload
from tcpmesh.upstream_settings import CheckSettings, CircuitSettings, EjectionSettings, HealthSettings
from tcpmesh.values import Duration
from tests.unit.config_samples import ConfigTestCase, variant

WEB = '    web: {id: "spiffe://example.org/web"}\n'
API = '    api: {id: "spiffe://example.org/api"}\n'
OTHER = '  - {name: other, listen: "127.0.0.1:15001", service: orders, workload: api}\ninbound:'


def with_health(health: str) -> str:
    """The sample with this health of its service."""
    return variant("    expect:", f"    health: {{{health}}}\n    expect:")


class HealthKeyTests(ConfigTestCase):
    """What is read, and what is refused where."""

    def health(self, text: str) -> HealthSettings:
        return self.load(with_health(text)).services["orders"].health

    def refused(self, health: str, *messages: str) -> None:
        """Each message belongs to ``services.orders.health``."""
        self.check_problems(with_health(health), *(f"services.orders.health.{message}" for message in messages))

    def test_ejection_alone_is_on_by_default(self) -> None:
        """Checks, slow start and circuit are not."""
        ejection = EjectionSettings(5, Duration(10.0), Duration(300.0), 0.5)
        self.assertEqual(self.health(""), HealthSettings(ejection, None, None, None))

    def test_everything_can_be_set(self) -> None:
        """And what is absent has its default."""
        found = self.health(
            "ejection: {failures: 3, time: 1s, max_time: 1m, max_share: 1}, check: {type: tcp, interval: 5s}, "
            "slow_start: 30s, circuit: {failures: 7}"
        )
        self.assertEqual(found.ejection, EjectionSettings(3, Duration(1.0), Duration(60.0), 1.0))
        self.assertEqual(found.check, CheckSettings("tcp", Duration(5.0), Duration(2.0), 0.1, 2, 3, None))
        self.assertEqual(found.slow_start, 30.0)
        self.assertEqual(found.circuit, CircuitSettings(7, Duration(5.0), Duration(60.0)))

    def test_what_is_no_mapping_is_told_its_keys(self) -> None:
        """There is no switch."""
        self.refused(
            "circuit: ‸true", "circuit: expected a mapping with any of the keys failures, time, max_time, got true"
        )

    def test_ejection_is_bounded(self) -> None:
        """Numbers, times and the share; 0 failures are allowed and mean never."""
        self.assertEqual(self.health("ejection: {failures: 0}").ejection.failures, 0)
        self.refused("ejection: {failures: ‸-1}", "ejection.failures: -1 is not between 0 and 1000")
        self.refused("ejection: {time: ‸50ms}", "ejection.time: 50ms is too short; write 100ms to 1d")
        self.refused("ejection: {max_time: ‸2d}", "ejection.max_time: 2d is too long; write 100ms to 1d")
        self.refused("ejection: {max_time: ‸5s}", "ejection.max_time: 5s is shorter than time, 10s")
        for share in ("0", "-0.5", "1.01"):
            self.refused(
                f"ejection: {{max_share: ‸{share}}}",
                f"ejection.max_share: {share} is not a share of the endpoints, above 0 and at most 1; to eject none, "
                "write failures: 0",
            )

    def test_a_default_that_does_not_fit_is_told_at_the_mapping(self) -> None:
        """There is no other place for it; and who did not write the key is told where its value comes from."""
        default = "; that is its default, so write this key, too"
        self.refused("ejection: ‸{time: 10m}", f"ejection.max_time: 5m is shorter than time, 10m{default}")
        self.refused(
            "check: ‸{type: tcp, interval: 1s}",
            f"check.timeout: 2s is not between 1ms and the interval, 1s{default}",
        )

    def test_checks_are_bounded(self) -> None:
        """A check is over before the next one, and several cannot be none."""
        self.refused("check: {type: tcp, timeout: ‸11s}", "check.timeout: 11s is not between 1ms and the interval, 10s")
        self.refused("check: {type: tcp, timeout: ‸0s}", "check.timeout: 0ms is not between 1ms and the interval, 10s")
        self.refused(
            "check: {type: tcp, interval: ‸50ms, timeout: 50ms}",
            "check.interval: 50ms is too short; write 100ms to 1d",
        )
        self.refused(
            "check: {type: tcp, jitter: ‸0.6}", "check.jitter: 0.6 is not a share of the interval, from 0 to 0.5"
        )
        self.refused("check: {type: tcp, rise: ‸0}", "check.rise: 0 is not between 1 and 100")
        self.refused("check: {type: tcp, fall: ‸101}", "check.fall: 101 is not between 1 and 100")

    def test_the_type_of_checks_has_no_default(self) -> None:
        """They differ in what they prove."""
        self.assertIn("key 'type' is missing", str(self.problems(with_health("check: {}"))))
        self.assertIn("tcp", str(self.problems(with_health("check: {type: http}"))))

    def test_circuit_and_slow_start_are_bounded(self) -> None:
        """As the rest."""
        self.refused("circuit: {failures: ‸0}", "circuit.failures: 0 is not between 1 and 1000")
        self.refused("circuit: {max_time: ‸1s}", "circuit.max_time: 1s is shorter than time, 5s")
        self.refused("slow_start: ‸10ms", "slow_start: 10ms is too short; write 100ms to 1d")


class CheckWorkloadTests(ConfigTestCase):
    """As whom TLS checks connect."""

    def test_whoever_uses_the_service(self) -> None:
        """If it is one, however many listeners it has."""
        settings = self.load(with_health("check: {type: tls}"))
        check = settings.services["orders"].health.check
        assert check is not None
        self.assertEqual(check_workload("orders", check, settings.outbound), "web")
        self.assertEqual(check_workload("orders", check, [*settings.outbound, *settings.outbound]), "web")

    def test_of_several_one_has_to_be_named(self) -> None:
        """At the key, and then it counts."""
        several = with_health("check: ‸{type: tls}").replace("inbound:\n", f"{OTHER}\n", 1).replace(WEB, WEB + API)
        self.check_problems(
            several,
            "services.orders.health.check.workload: several workloads use the service: web, api; name the one that "
            "its checks come from",
        )
        named = several.replace("‸", "").replace("type: tls", "type: tls, workload: api")
        settings = self.load(named)
        check = settings.services["orders"].health.check
        assert check is not None
        self.assertEqual(check_workload("orders", check, settings.outbound), "api")

    def test_without_a_listener_one_has_to_be_named(self) -> None:
        """A service that only routes lead to, or nobody."""
        text = with_health("check: ‸{type: tls}")
        start = text.index("outbound:")
        text = text[:start] + text[text.index("inbound:") :]
        self.check_problems(
            text,
            "services.orders.health.check.workload: no outbound listener leads to the service; name the workload that "
            "its checks come from",
        )

    def test_routes_lead_to_services_too(self) -> None:
        """Whose listener has a route to the service uses it."""
        text = with_health("check: {type: tls}").replace(
            "service: orders, workload: web}", "workload: web, routes: [{failover: [orders, other]}]}"
        )
        other = '  other: {expect: ["spiffe://example.org/o"], discovery: {plugin: static, endpoints: ["127.0.0.1:9"]}}'
        settings = self.load(text.replace("outbound:", f"{other}\noutbound:", 1))
        check = settings.services["orders"].health.check
        assert check is not None
        self.assertEqual(check_workload("orders", check, settings.outbound), "web")

    def test_checks_of_type_tcp_have_no_identity(self) -> None:
        """Who names one expects more than they prove."""
        self.check_problems(
            with_health("check: {type: tcp, workload: ‸web}"),
            "services.orders.health.check.workload: checks of type tcp show no identity; write type: tls, or leave it "
            "out",
        )

    def test_the_workload_must_exist(self) -> None:
        """As everywhere."""
        self.assertIn("wbe", str(self.problems(with_health("check: {type: tls, workload: wbe}"))))
