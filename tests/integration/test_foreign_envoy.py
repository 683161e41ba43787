"""Envoy as client and as server, in everything that is asked of the other foreign peers."""

from __future__ import annotations

from tests.integration.envoy import SPIFFE_VALIDATOR, with_tls
from tests.integration.foreign_case import ExchangeTests, ForeignProgramTestCase
from tests.integration.foreign_programs import changed
from tests.integration.test_foreign_clients import ForeignClientTestCase
from tests.integration.test_foreign_refusals import RefusedClientTests, RefusedServerTests
from tests.integration.test_foreign_servers import ForeignServerTestCase
from tests.integration.test_foreign_versions import ExchangeMixin, OldPeerTests, answer


class EnvoyClientTests(ForeignClientTestCase, ExchangeTests):
    """Envoy sends close_notify for each end and waits for the other."""

    kind = "envoy"


class EnvoySPIFFEClientTests(EnvoyClientTests):
    """The same with its SPIFFE validator."""

    change = staticmethod(with_tls(SPIFFE_VALIDATOR, server=False))


class EnvoyServerTests(ForeignServerTestCase, ExchangeTests):
    """Envoy sends close_notify for each end and waits for the other."""

    kind = "envoy"


class EnvoySPIFFEServerTests(EnvoyServerTests):
    """The same with its SPIFFE validator."""

    change = staticmethod(with_tls(SPIFFE_VALIDATOR, server=True))


class RefusedEnvoyClientTests(RefusedClientTests, ForeignProgramTestCase):
    """
    Envoy's access log knows a reset (UR).

    An alert behind its own handshake is in its log of connections only.
    """

    kind = "envoy"
    of_reset = r"(?m)^UR [05] 0 -$"
    of_internal_error = r"TLSV1_ALERT_INTERNAL_ERROR:"
    of_certificate_required = r"TLSV1_ALERT_CERTIFICATE_REQUIRED:"


class RefusedEnvoyServerTests(RefusedServerTests, ForeignProgramTestCase):
    """Envoy cannot read our alert, which OpenSSL sends in plain text, and names the fault of our certificate."""

    kind = "envoy"
    of_internal_error = r"(?m)^- 0 0 - TLS_error:\S+:DECRYPTION_FAILED_OR_BAD_RECORD_MAC:"
    of_our_certificate = r"(?m)^- 0 0 \S+/web TLS_error:\S+_at_depth_1:_unable_to_get_local_issuer_certificate:"


class OldEnvoyTests(OldPeerTests, ForeignProgramTestCase):
    """Envoy that ends at TLS 1.2: the access log has the alert."""

    kind = "envoy"
    as_client = as_server = staticmethod(
        changed("maximum_protocol_version: TLSv1_3", "maximum_protocol_version: TLSv1_2")
    )
    of_version = r"(?m)^UF,URX 0 0 TLS_error:\S+:TLSV1_ALERT_PROTOCOL_VERSION:"


class EnvoyNegotiationTests(ExchangeMixin, ForeignProgramTestCase):
    """What Envoy makes of our ALPN, and of the key exchange."""

    kind = "envoy"
    alpn = staticmethod(changed(r"^( *)tls_params:", r"\1alpn_protocols: [h2]\n\1tls_params:"))

    async def test_other_protocols(self) -> None:
        """It goes on without one, in both roles."""
        await self.assert_carries(await self.client_hop(self.kind, "inbound", answer, change=self.alpn))
        await self.assert_carries(await self.server_hop(self.kind, "service", answer, change=self.alpn))

    async def test_post_quantum_key_exchange(self) -> None:
        """As documented, it is used."""
        for hop in (
            await self.client_hop(self.kind, "inbound", answer),
            await self.server_hop(self.kind, "service", answer),
        ):
            await self.assert_carries(hop)
            self.assertEqual((await hop.proxy.closed()).tls_group, "X25519MLKEM768")
