"""docs/identity.md: its section about peers says what the vectors of certificates show."""

from __future__ import annotations

import re

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import codes
from tcpmesh.identity.profile import MAX_NAMES
from tcpmesh.identity.spiffe import MAX_ID_BYTES
from tcpmesh.identity.verify import MAX_CERTIFICATE_BYTES, MAX_CHAIN_LENGTH, verify_dns_name
from tcpmesh.values import DNSName, KeyPin, parse_expected_identity
from tests.documents import ROOT, section
from tests.unit.crafted import dns, leaf
from tests.unit.svid_vectors import VECTORS, World

SECTION = section((ROOT / "docs" / "identity.md").read_text(encoding="utf-8"), "Who a peer is")
EXPECTED = re.findall(r'^    expect: \["(.+)"\]', SECTION, re.MULTILINE)


class PeerDocumentTests(SynchronousTestCase):
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

    def test_shows_expectations_that_can_be_written(self) -> None:
        """A name as Linkerd gives it, which matches such a certificate, and a pin."""
        name, pin = map(parse_expected_identity, EXPECTED)
        assert isinstance(name, DNSName)
        self.assertIsInstance(pin, KeyPin)
        made = leaf(World().a, dns(name.name))
        self.assertEqual(verify_dns_name(made.chain, [name]).dns_name, name.name)
