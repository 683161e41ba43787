"""The start-up block says everything once, on lines that nobody can forge."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.config import loads
from tcpmesh.identity.federated import FederatedBundle
from tcpmesh.observe.start_block import (
    ListenerFacts,
    StartFacts,
    WorkloadFacts,
    default_lines,
    federation_lines,
    proxy_lines,
    start_block,
    tls_lines,
)
from tcpmesh.settings import Defaults, Settings
from tcpmesh.testing import TestAuthority
from tcpmesh.values import TrustBundle
from tests.unit.config_samples import FILE, PLUGINS, variant
from tests.unit.record_samples import HOSTILE


class StartBlockTests(SynchronousTestCase):
    """The lines for some facts."""

    def test_shows_everything(self) -> None:
        """One line a fact, names aligned, outbound before inbound, warnings last."""
        facts = StartFacts(
            version="0.1.0",
            reactor="epoll",
            tls_library="OpenSSL 3.5.4",
            file="/etc/tcpmesh.yaml",
            digest="0123456789abcdef" * 4,
            trust_domain="a.test",
            listeners=[
                ListenerFacts("inbound", "orders-in", "127.0.0.1:4143", "127.0.0.1:5000", "orders"),
                ListenerFacts("outbound", "web-to-orders", "127.0.0.1:15000", "orders", "web"),
                ListenerFacts("outbound", "x", "unix:/run/x.sock", "orders", "web"),
            ],
            workloads=[
                WorkloadFacts("web", "spiffe://a.test/web", "ready", 1000.0 + 86400 + 3 * 3600 + 59),
                WorkloadFacts("orders", "spiffe://a.test/orders", "init"),
                WorkloadFacts("old", "spiffe://a.test/old", "expired", 1000.0),
                WorkloadFacts("soon", "spiffe://a.test/soon", "ready", 1042.5),
                WorkloadFacts("now", "spiffe://a.test/now", "ready", 1000.5),
            ],
            federated=["b.test  file b.pem, authorities: 1, received 0 s ago"],
            tls=["inbound orders-in: groups X25519"],
            proxy=["inbound orders-in: v2 to the application"],
            rules=["allow web-may-use-orders: spiffe://a.test/web to orders-in"],
            limits={"connections": "9000", "handshakes": "1000"},
            admin=["unix:/run/admin.sock", "http://127.0.0.1:4191/metrics"],
            warnings=["outbound.x listens on the network in plain text"],
        )
        self.assertEqual(
            start_block(facts, 1000.0),
            [
                "tcpmesh   0.1.0, reactor epoll, OpenSSL 3.5.4",
                "config    /etc/tcpmesh.yaml, SHA-256 0123456789ab, trust domain a.test",
                "outbound  web-to-orders  127.0.0.1:15000 -> orders as web",
                "outbound  x              unix:/run/x.sock -> orders as web",
                "inbound   orders-in  127.0.0.1:4143 -> 127.0.0.1:5000 as orders",
                "workload  web     spiffe://a.test/web  ready, expires at 1970-01-02T03:17:39.000Z (in 1d 3h)",
                "workload  orders  spiffe://a.test/orders  init, no certificate yet",
                "workload  old     spiffe://a.test/old  expired, expired at 1970-01-01T00:16:40.000Z",
                "workload  soon    spiffe://a.test/soon  ready, expires at 1970-01-01T00:17:22.500Z (in 42s)",
                "workload  now     spiffe://a.test/now  ready, expires at 1970-01-01T00:16:40.500Z (in less than 1s)",
                "federated b.test  file b.pem, authorities: 1, received 0 s ago",
                "tls       inbound orders-in: groups X25519",
                "proxy     inbound orders-in: v2 to the application",
                "rule      allow web-may-use-orders: spiffe://a.test/web to orders-in",
                "limits    connections 9000, handshakes 1000",
                "admin     unix:/run/admin.sock",
                "admin     http://127.0.0.1:4191/metrics",
                "warning   outbound.x listens on the network in plain text",
            ],
        )

    def test_says_that_no_rule_means_no_connection(self) -> None:
        """An inbound listener without policy looks alive and refuses everybody."""
        facts = StartFacts("0.1.0", "epoll", "OpenSSL", "f", "d", "a.test")
        self.assertFalse(any(line.startswith("rule") for line in start_block(facts, 0.0)))
        inbound = ListenerFacts("inbound", "orders-in", "127.0.0.1:4143", "127.0.0.1:5000", "orders")
        facts = StartFacts("0.1.0", "epoll", "OpenSSL", "f", "d", "a.test", listeners=[inbound])
        self.assertIn("rule      none: every inbound connection is denied", start_block(facts, 0.0))

    def test_keeps_plugins_texts_on_their_line(self) -> None:
        """A rule's description comes from a plugin."""
        for text in HOSTILE:
            facts = StartFacts("0.1.0", "epoll", "OpenSSL", text, "d", "a.test", rules=[text], warnings=[text])
            for line in start_block(facts, 0.0):
                self.assertTrue(line.isascii() and line.isprintable(), line)


class TLSLinesTests(SynchronousTestCase):
    """What is said of groups and cipher suites."""

    default = ("X25519MLKEM768", "X25519")

    def load(self, service: str = "", inbound: str = "") -> Settings:
        text = variant("    expect:", f"    tls: {{{service}}}\n    expect:")
        text = text.replace("workload: web}\nauth", f"workload: web, tls: {{{inbound}}}}}\nauth")
        return loads(text.encode(), FILE, PLUGINS)

    def test_nothing_as_long_as_all_is_as_usual(self) -> None:
        """A post-quantum group first, and nothing configured."""
        self.assertEqual(list(tls_lines(self.load(), self.default)), [])

    def test_shows_what_is_configured(self) -> None:
        """Listeners first; only the lists that somebody wrote."""
        settings = self.load(
            "groups: [secp256r1], ciphers: [TLS_AES_128_GCM_SHA256, TLS_AES_256_GCM_SHA384]",
            "ciphers: [TLS_AES_256_GCM_SHA384]",
        )
        self.assertEqual(
            list(tls_lines(settings, self.default)),
            [
                "inbound in: ciphers TLS_AES_256_GCM_SHA384",
                "service orders: groups P-256; ciphers TLS_AES_128_GCM_SHA256, TLS_AES_256_GCM_SHA384",
            ],
        )

    def test_names_the_default_of_a_library_without_a_post_quantum_group(self) -> None:
        """Unless nobody uses it."""
        line = "no post-quantum group comes first with this TLS library, whose groups are X25519, ffdhe2048"
        for default in (("X25519", "ffdhe2048"), ("0xfe01",), ()):
            self.assertEqual(len(list(tls_lines(self.load(), default))), 1, default)
        self.assertIn(line, list(tls_lines(self.load("groups: [X448]"), ("X25519", "ffdhe2048"))))
        settings = self.load("groups: [X448]", "groups: [X448]")
        self.assertNotIn(line, list(tls_lines(settings, ("X25519", "ffdhe2048"))))


class ProxyLinesTests(SynchronousTestCase):
    """Where PROXY headers are read and sent."""

    def load(self, inbound: str = "{}", service: str = "none") -> Settings:
        text = variant("    expect:", f"    proxy_protocol: {service}\n    expect:")
        text = text.replace("workload: web}\nauth", f"workload: web, proxy_protocol: {inbound}}}\nauth")
        return loads(text.encode(), FILE, PLUGINS)

    def test_nothing_where_nobody_wants_them(self) -> None:
        """The usual case."""
        self.assertEqual(list(proxy_lines(self.load())), [])

    def test_says_whose_word_is_taken_and_who_is_told(self) -> None:
        """Listeners first."""
        settings = self.load('{accept_from: [10.0.0.0/8, "fd00::/8"], timeout: 1s, send: v2}', "v1")
        self.assertEqual(
            list(proxy_lines(settings)),
            [
                "inbound in: header from 10.0.0.0/8, fd00::/8 within 1s, v2 to the application",
                "service orders: v1 before TLS",
            ],
        )


class FederationLinesTests(SynchronousTestCase):
    """Other trust domains, as they stand at the start."""

    def test_says_where_each_bundle_comes_from_and_what_is_there(self) -> None:
        """A file, an endpoint of either profile, and what went wrong already; nothing of a URL's query."""
        settings = loads(
            variant(
                "  sources:",
                """  federation:
    b.test: {bundle: b.json}
    c.test: {url: "https://c.test/x", profile: https_web, trust: c.pem}
    long.test: {url: "https://192.0.2.1:8443/", profile: https_spiffe, endpoint_id: "spiffe://long.test/s", bundle: l}
    e.test: {url: "https://e.test/x", profile: https_web}
    f.test: {bundle: f.pem}
  sources:""",
            ).encode(),
            FILE,
            PLUGINS,
        )
        named = {str(domain): domain for domain in settings.identity.federation}
        root = TestAuthority("b.test").root.certificate
        bundle = TrustBundle(named["b.test"], (root,))
        held = [
            FederatedBundle(named["b.test"], bundle, 42, received=1000.0),
            FederatedBundle(named["c.test"]),
            FederatedBundle(named["e.test"], failure="it refused the connection"),
            FederatedBundle(named["f.test"], TrustBundle(named["f.test"], ()), received=900.0),
        ]
        lines = list(federation_lines(settings.identity.federation, held, 1003.0))
        self.assertEqual(
            lines,
            [
                "b.test     file /etc/mesh/b.json, authorities: 1, sequence 42, received 3 s ago",
                "c.test     https_web https://c.test/x, trust /etc/mesh/c.pem, no bundle yet: its peers are refused",
                "long.test  https_spiffe https://192.0.2.1:8443/ as spiffe://long.test/s, no bundle yet: its peers are "
                "refused",
                "e.test     https_web https://e.test/x, trust system, no bundle yet: its peers are refused (it refused "
                "the connection)",
                "f.test     file /etc/mesh/f.pem, authorities: 0, received 103 s ago",
            ],
        )


class DefaultLinesTests(SynchronousTestCase):
    """What holds where no policy says anything."""

    def test_shows_what_is_not_as_it_is_everywhere(self) -> None:
        """The usual defaults need no line."""
        self.assertEqual(list(default_lines(Defaults())), [])
        self.assertEqual(
            list(default_lines(Defaults(inbound="allow", outbound="deny"))),
            [
                "by default: every authenticated peer to every inbound listener",
                "by default: no workload to any service",
            ],
        )
