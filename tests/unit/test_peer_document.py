"""docs/identity.md: its section about peers says what the vectors of certificates show."""

from __future__ import annotations

import re

from tcpmesh import codes
from tcpmesh.identity.profile import MAX_NAMES
from tcpmesh.identity.spiffe import MAX_ID_BYTES
from tcpmesh.identity.verify import MAX_CERTIFICATE_BYTES, MAX_CHAIN_LENGTH, verify_dns_name
from tcpmesh.values import DNSName, KeyPin
from tests.documents import ROOT, blocks, section
from tests.unit.config_samples import SAMPLE, ConfigTestCase
from tests.unit.crafted import dns, leaf
from tests.unit.svid_vectors import VECTORS, World

SECTION = section((ROOT / "docs" / "identity.md").read_text(encoding="utf-8"), "Who a peer is")


class PeerDocumentTests(ConfigTestCase):
    """The section."""

    def test_has_every_code_with_which_a_peer_is_refused(self) -> None:
        """Those of the vectors, of an empty chain, and of expectations that are not met; and no other."""
        told = set(re.findall(r"TM-I[0-9]{3}", SECTION))
        refused = {vector.code.id for vector in VECTORS if vector.code is not None} | {codes.NO_CERTIFICATE.id}
        expectations = {codes.ID_DIFFERS, codes.TRUST_DOMAIN_DIFFERS, codes.DNS_DIFFERS, codes.KEY_DIFFERS}
        self.assertEqual(told, refused | {code.id for code in expectations})

    def test_has_the_limits_that_exist(self) -> None:
        """In numbers."""
        size = MAX_CERTIFICATE_BYTES // 1024
        self.assertIn(f"at most {MAX_CHAIN_LENGTH} certificates with {size} KiB in all", SECTION)
        self.assertIn(f"at most {MAX_NAMES} names", SECTION)
        self.assertIn(f"at most {MAX_ID_BYTES} bytes", SECTION)

    def test_shows_services_that_can_be_configured(self) -> None:
        """Each block beside a whole configuration: a name as Linkerd gives it, and a pin."""
        shown = {word: block.text for block in blocks(SECTION) for word in block.words}
        self.assertEqual(sorted(shown), ["service-by-key", "service-by-name"])
        expected = {}
        for word, text in shown.items():
            added = text.removeprefix("services:\n")
            services = self.load(SAMPLE.replace("services:\n", "services:\n" + added)).services
            self.assertEqual(len(services), 2)
            (expected[word],) = next(each.expect for name, each in services.items() if name != "orders")
        name = expected["service-by-name"]
        assert isinstance(name, DNSName)
        self.assertIsInstance(expected["service-by-key"], KeyPin)
        made = leaf(World().a, dns(name.name))
        self.assertEqual(verify_dns_name(made.chain, [name]).dns_name, name.name)
