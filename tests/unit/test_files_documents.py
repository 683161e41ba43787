"""SPIFFE bundle documents in the source ``files``, in the place of PEM bundles."""

from __future__ import annotations

from tcpmesh.identity.spiffe import TrustDomain
from tests.unit.bundles import document
from tests.unit.crafted import authority
from tests.unit.test_files_reload import ReloadCase

OTHER = TrustDomain("b.test")


class BundleDocumentTests(ReloadCase):
    """The own bundle and another trust domain's."""

    def setUp(self) -> None:
        super().setUp()
        self.other = authority("root of b.test").certificate
        self.bundle = self.put("a.json", document(self.root.certificate, spiffe_sequence=1))
        self.bundles = {"a.test": self.bundle, "b.test": self.put("b.json", document(self.other))}

    def settle(self) -> None:
        """A look at what has changed, and the second one."""
        self.look()
        self.again()

    def test_both_are_read(self) -> None:
        """The own one verifies the own certificate."""
        self.begin()
        self.assert_serves(self.first)
        self.assertEqual(self.newest().bundles[OTHER].authorities, (self.other,))

    def test_another_one_without_keys_revokes(self) -> None:
        """What an empty PEM file does not."""
        self.begin()
        self.put("b.json", document())
        self.settle()
        self.assertEqual(self.newest().bundles[OTHER].authorities, ())
        self.assertEqual(self.newest().bundles[TrustDomain("a.test")].authorities, (self.root.certificate,))

    def test_our_own_without_keys_is_not_taken_while_its_identity_is_in_use(self) -> None:
        """It is reported, as every bundle that does not fit."""
        self.begin()
        self.put("a.json", document())
        self.settle()
        self.assertEqual(self.newest().bundles[TrustDomain("a.test")].authorities, (self.root.certificate,))
        self.assertIn("is in use would not verify under it", self.observer.failures[-1])

    def test_a_damaged_one_is_a_bad_file(self) -> None:
        """The last good one stays."""
        self.begin()
        self.put("b.json", document(self.other)[:60])
        self.settle()
        self.assertIn("b.json is not JSON", self.observer.failures[-1])
        self.assertEqual(self.newest().bundles[OTHER].authorities, (self.other,))
