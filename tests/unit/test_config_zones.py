"""The zone of the proxy, and what services make of it."""

from __future__ import annotations

from tests.unit.config_samples import SAMPLE, ConfigTestCase, variant


class ZoneTests(ConfigTestCase):
    def test_is_nowhere_unless_said(self) -> None:
        """Services prefer a zone that is not known, which is no preference."""
        settings = self.load(SAMPLE)
        self.assertIsNone(settings.zone)
        self.assertEqual({service.same_zone for service in settings.services.values()}, {"prefer"})

    def test_is_read(self) -> None:
        """As is the preference."""
        settings = self.load(variant("    expect:", "    same_zone: ignore\n    expect:") + "zone: eu-1a\n")
        self.assertEqual(settings.zone, "eu-1a")
        self.assertIn("ignore", {service.same_zone for service in settings.services.values()})

    def test_is_a_name(self) -> None:
        """One that endpoints can have, too."""
        self.check_problems(
            SAMPLE + "zone: ‸''\n",
            "zone: the name of the zone is empty; name it as the endpoints do, or leave the key out",
        )
        self.check_problems(
            SAMPLE + "zone: ‸'eu 1a'\n",
            "zone: 'eu 1a' is not the name of a zone: it has a space or a character that is not printable",
        )

    def test_the_preference_is_one_of_two_words(self) -> None:
        """Others are refused."""
        self.check_problems(
            variant("    expect:", "    same_zone: ‸always\n    expect:"),
            "services.orders.same_zone: expected 'prefer' or 'ignore', got 'always'",
        )
