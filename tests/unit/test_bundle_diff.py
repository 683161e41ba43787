"""Bundles compared: what comes, goes and stays, and whom that cuts."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.identity.bundle_diff import BundleDiff, compare_bundles
from tests.unit.crafted import DAY, NOW, Issuer, authority, leaf

CUT = "cuts whoever it signed: refused from then on (TM-I604)"
TRUSTED = "whoever it signed is trusted from then on"


class DiffTests(SynchronousTestCase):
    """compare_bundles."""

    def compare(self, old: list[Issuer], new: list[Issuer]) -> BundleDiff:
        return compare_bundles([one.certificate for one in old], [one.certificate for one in new], NOW)

    def check(self, found: BundleDiff, added: list[str], removed: list[str], kept: list[str]) -> None:
        sides = [[change.meaning for change in side] for side in (found.added, found.removed, found.kept)]
        self.assertEqual(sides, [added, removed, kept])
        self.assertEqual(found.same, not added and not removed)

    def test_the_same(self) -> None:
        """In any order, however often."""
        one, two = authority("one"), authority("two")
        found = self.compare([one, two], [two, one, two])
        self.check(found, [], [], ["", ""])
        self.assertEqual((found.kept[0].authority, found.notes), (two.certificate, ()))

    def test_rotation(self) -> None:
        """First the new one beside the old one, then the new one alone."""
        one, two = authority("one"), authority("two")
        prepared = self.compare([one], [one, two])
        self.check(prepared, [TRUSTED], [], [""])
        self.assertEqual((prepared.added[0].authority, prepared.notes), (two.certificate, ()))
        retired = self.compare([one, two], [two])
        self.check(retired, [], [CUT], [""])
        self.assertEqual((retired.removed[0].authority, retired.notes), (one.certificate, ()))

    def test_nothing_in_common(self) -> None:
        """A rotation without its first step."""
        found = self.compare([authority("one")], [authority("one")])  # the same name, and another key
        self.check(found, [TRUSTED], [CUT], [])
        self.assertEqual(
            found.notes,
            (
                "no authority is in both: while some proxies have the old bundle and some the new one, certificates of "
                "either are refused by the others; publish a bundle with both first",
            ),
        )

    def test_renewal(self) -> None:
        """The same name and key in another certificate: what was signed verifies as before."""
        one = authority("one")
        again = authority("one", key=one.key, not_after=NOW + 300 * DAY)
        found = self.compare([one], [again])
        self.check(
            found,
            ["renewed: its name and key were there before, so nobody is trusted anew"],
            ["replaced: its name and key stay, so nobody is cut"],
            [],
        )
        self.assertEqual(found.notes, ())
        late = authority("one", key=one.key, not_after=NOW - 60)  # in which nothing that it signed verifies
        self.check(self.compare([late], [one]), [TRUSTED], ["it expired at 2027-01-15T07:59:00Z, so nobody is cut"], [])
        self.check(self.compare([one], [late]), ["vouches for nobody: it expired 60 s ago"], [CUT], [])
        renamed = self.compare([one], [authority("two", key=one.key)])  # another name: nothing chains to it
        self.check(renamed, [TRUSTED], [CUT], [])

    def test_intermediates(self) -> None:
        """One that goes while its root stays."""
        root = authority("root")
        below = authority("below", root)
        self.check(
            self.compare([root, below], [root]),
            [],
            [
                "CN=root, which signed it, is there: whoever presents it in its chain is still trusted, everybody else "
                "that it signed is cut (TM-I604)"
            ],
            [""],
        )
        self.check(self.compare([root, below], [below]), [], [CUT], [""])

    def test_authorities_that_vouch_for_nobody(self) -> None:
        """Expired, to come, or none at all."""
        old = authority("old", not_after=NOW - 3600)
        coming = authority("coming", not_before=NOW + 3600)
        none = leaf(authority("ca"))
        good = authority("good")
        found = compare_bundles(
            [old.certificate, good.certificate], [good.certificate, coming.certificate, none.certificate], NOW
        )
        self.check(
            found,
            [
                "vouches for nobody yet: it is valid in 60 min",
                "vouches for nobody: TM-I506 the authority CN=leaf is not an authority's certificate (cA is not true)",
            ],
            ["it expired at 2027-01-15T07:00:00Z, so nobody is cut"],
            [""],
        )
        self.check(self.compare([old], [old]), [], [], ["vouches for nobody: it expired 60 min ago"])

    def test_emptiness(self) -> None:
        """An empty bundle is a revocation (SPIFFE_Trust_Domain_and_Bundle.md section 4)."""
        found = self.compare([authority("one")], [])
        self.check(found, [], [CUT], [])
        self.assertEqual(found.notes, ("the new bundle is empty: everything of this trust domain is revoked",))
        self.assertEqual(self.compare([], [authority("one")]).notes, ())
        self.assertEqual(self.compare([], []).notes, ())
