"""What bundle endpoints served, kept over a restart: what is used of it, how long, and what is told."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import attrs

from tcpmesh import config
from tcpmesh.codes import BUNDLE_STALE
from tcpmesh.errors import StartError
from tcpmesh.identity.spiffe import SpiffeId, TrustDomain
from tcpmesh.plugins import PluginRegistry
from tcpmesh.settings import FederationSettings
from tcpmesh.sources.bundle_cache import MAX_AGE, BundleCache
from tcpmesh.sources.bundle_endpoint import EndpointError
from tcpmesh.sources.federation import Federation
from tests.documents import ROOT, blocks
from tests.unit.bundles import document
from tests.unit.config_samples import ConfigTestCase, variant
from tests.unit.test_federation import MINE, ONE, OWN, TWO, URL, WEB, B, FederationTestCase

NOW = 1_800_000_000.0
SPIFFE = FederationSettings(url=URL, profile="https_spiffe", endpoint_id=SpiffeId.parse("spiffe://b.test/server"))


class CacheCase(FederationTestCase):
    """A proxy that is started again and again; the wall clock is the timers' and begins in 2027."""

    def setUp(self) -> None:
        super().setUp()
        self.clock.advance(NOW)
        self.cache = self.directory / "cache"
        self.file = self.cache / "bundle-b.test.json"

    def start(self, **relations: FederationSettings) -> Federation:
        named = {TrustDomain(f"{name}.test"): settings for name, settings in relations.items()}
        self.federation = Federation(
            named, OWN, self.clock, self.clock.seconds, fetch=self.fetch, random=lambda: 0.5, cache=self.cache
        )
        self.addCleanup(self.federation.stop)
        self.federation.start(lambda: self.federation.merged(self.pooled), self.changed)
        return self.federation

    def received(self, data: bytes, settings: FederationSettings = WEB) -> None:
        """One life of the proxy, in which the endpoint serves this."""
        self.start(b=settings)
        self.answer(data)
        self.federation.stop()
        self.told()

    def change(self, **fields: Any) -> None:
        self.file.write_text(json.dumps({**json.loads(self.file.read_bytes()), **fields}))


class RestartTests(CacheCase):
    """What is there before the endpoint has answered."""

    def test_the_last_bundle_is_in_use_from_the_start(self) -> None:
        """With its sequence and its age; its endpoint is asked all the same, and replaces it."""
        self.received(document(ONE, spiffe_sequence=3, spiffe_refresh_hint=600))
        self.clock.advance(100)
        self.start(b=WEB)
        (held,) = self.federation.held
        self.assertEqual((self.authorities(), held.sequence, held.received), ((ONE,), 3, NOW))
        self.assertEqual(self.told(), [])
        self.answer(document(TWO, spiffe_sequence=4))
        self.assertEqual((self.authorities(), held.sequence), ((TWO,), 4))
        self.assertIn("gone: CN=one", self.told()[0])
        self.federation.stop()
        self.start(b=WEB)
        self.assertEqual(self.authorities(), (TWO,))

    def test_says_how_old_it_is_when_it_should_have_been_refreshed(self) -> None:
        """And it serves on while the endpoint fails, as it would have without the restart."""
        self.received(document(ONE, spiffe_refresh_hint=600))
        self.clock.advance(3 * 3600)
        self.start(b=WEB)
        (line,) = self.told()
        self.assertIn(f"{BUNDLE_STALE.id} the bundle of b.test is the one of 3 h ago, kept over the restart", line)
        self.answer(EndpointError("no answer"))
        self.assertEqual(self.authorities(), (ONE,))
        self.assertIn("the last one goes on to serve", self.told()[0])

    def test_it_verifies_a_server_whose_authority_was_replaced(self) -> None:
        """The file to begin with knows only the one before."""
        old = self.write("b.json", document(ONE))
        os.utime(old, (NOW - 10, NOW - 10))
        settings = FederationSettings(bundle=old, url=URL, profile="https_spiffe", endpoint_id=SPIFFE.endpoint_id)
        self.received(document(TWO), settings)
        self.start(b=settings)
        trust = self.asked[-1][0]
        self.assertEqual(trust.bundles[B].authorities, (TWO,))
        self.assertEqual(self.authorities(), (TWO,))
        self.federation.stop()
        os.utime(old, (NOW + 10, NOW + 10))  # somebody has put a new one there
        self.start(b=settings)
        self.assertEqual(self.authorities(), (ONE,))
        self.assertIn(f"before {old} was written, which is used instead", self.told()[0])

    def test_what_was_revoked_stays_revoked(self) -> None:
        """An empty bundle is one, also after a restart."""
        self.received(document())
        self.start(b=WEB)
        self.assertEqual(self.authorities(), ())

    def test_a_revocation_is_not_forgotten(self) -> None:
        """However old it is, and wherever the clock is: its endpoint cannot be verified any more to renew it."""
        old = self.write("b.json", document(ONE))
        os.utime(old, (NOW - 10, NOW - 10))
        for settings in (WEB, attrs.evolve(SPIFFE, bundle=old)):
            self.received(document(), settings)
            for received, wanted in ((NOW - 9, None), (NOW - MAX_AGE - 9, "7 d are the limit"), (NOW + 999, "future")):
                os.utime(old, (received - 1, received - 1))
                self.change(received=received)
                self.start(b=settings)
                self.assertEqual(self.authorities(), ())
                (held,) = self.federation.held
                self.assertEqual(held.received, min(received, NOW))
                lines = [line for line in self.told() if "in use all the same until its endpoint answers" in line]
                self.assertEqual(
                    [wanted in line and "since it revokes" in line for line in lines], [True] * bool(wanted)
                )
                self.federation.stop()

    def test_an_older_file_does_not_bring_back_what_was_withdrawn(self) -> None:
        """What was kept too long is better than a file that is older still; a newer one is taken."""
        old = self.write("b.json", document(ONE))
        settings = attrs.evolve(SPIFFE, bundle=old)
        self.received(document(TWO), settings)
        for received in (NOW - MAX_AGE - 9, NOW + 999):
            self.change(received=received)
            for written, wanted in ((received - 1, TWO), (received + 1, ONE)):
                os.utime(old, (written, written))
                self.start(b=settings)
                self.assertEqual(self.authorities(), (wanted,))
                self.assertEqual(any(f"since {old} is older still" in line for line in self.told()), wanted is TWO)
                self.federation.stop()

    def test_only_what_was_good_is_kept(self) -> None:
        """What was refused, or could not be read, replaces nothing."""
        self.received(document(ONE))
        before = self.file.read_bytes()
        for bad in (b"", b"{}", document(MINE)):
            self.received(bad)
            self.assertEqual(self.file.read_bytes(), before)

    def test_without_the_key_nothing_is_kept(self) -> None:
        """Nor is there anything after a start without an answer."""
        self.start(b=WEB)
        self.assertEqual(list(self.cache.iterdir()), [])
        self.assertEqual(self.cache.stat().st_mode & 0o777, 0o700)
        other = Federation({B: WEB}, OWN, self.clock, self.clock.seconds, fetch=self.fetch)
        self.addCleanup(other.stop)
        other.start(dict, self.changed)
        self.answer(document(ONE))
        self.assertEqual(list(self.cache.iterdir()), [])


class UnusableTests(CacheCase):
    """What is kept, and not used."""

    def setUp(self) -> None:
        super().setUp()
        self.received(document(ONE))
        self.good = self.file.read_bytes()

    def unused(self, wanted: str, settings: FederationSettings = WEB) -> None:
        """It is told why, and its peers are refused until the endpoint answers."""
        self.start(b=settings)
        self.assertIsNone(self.authorities())
        (line,) = self.told()
        self.assertIn("the bundle of b.test that was kept is not used: it ", line)
        self.assertIn(wanted, line)
        self.federation.stop()
        self.file.write_bytes(self.good)

    def test_a_damaged_one(self) -> None:
        """Cut, of another form, or with something in it that is no bundle."""
        for data in (b"", self.good[:-40], b"[]", b'{"version": 1}', b"\xff"):
            self.file.write_bytes(data)
            self.unused("is damaged")
        for fields in ({"version": 2}, {"received": "now"}, {"received": True}, {"document": 1}, {"trust_domain": 0}):
            self.change(**fields)
            self.unused("is " + ("of another endpoint" if "trust_domain" in fields else "damaged"))
        for received in ("NaN", "1e300", "-1.0"):
            self.file.write_text(self.good.decode().replace(f"{NOW}", received))
            self.unused("is damaged")
        self.change(document='{"keys": 1}')
        self.unused("keys")

    def test_one_of_another_endpoint_or_trust_domain(self) -> None:
        """The configuration was changed, or somebody has renamed a file."""
        self.unused("is of another endpoint", SPIFFE)
        self.change(trust_domain="c.test")
        self.unused("is of another endpoint")

    def test_one_that_is_too_old_or_from_the_future(self) -> None:
        """A week, and five minutes for a clock that was set back a little."""
        for received, wanted in (
            (NOW - MAX_AGE - 1, "was received 7 d ago, and 7 d are the limit"),
            (NOW + 301, "in the future by this clock"),
        ):
            self.change(received=received)
            self.unused(wanted)
        for received in (NOW - MAX_AGE, NOW + 300):
            self.change(received=received)
            self.start(b=WEB)
            self.assertEqual(self.authorities(), (ONE,))
            self.federation.stop()

    def test_one_that_others_could_have_written(self) -> None:
        """The file's mode is looked at, and the directory's at the start."""
        self.file.chmod(0o666)
        self.unused("others than its owner can get at it")
        self.cache.chmod(0o755)
        self.assertIn("has mode 0755", self.assertRaises(StartError, self.start, b=WEB).reason)

    def test_one_with_an_authority_that_is_ours(self) -> None:
        """As when the endpoint had served it now."""
        text = document(MINE).decode()
        self.change(document=text)
        self.start(b=WEB)
        self.assertIsNone(self.authorities())
        self.assertIn("has an authority of another trust domain", self.told()[0])


class KeepingTests(CacheCase):
    """When it is written."""

    def test_what_has_not_changed_is_written_once_an_hour(self) -> None:
        """For its age; a change at once."""
        settings = FederationSettings(url=URL, profile="https_web", refresh=WEB.refresh)
        self.start(b=settings)
        written = []
        for data in [document(ONE)] * 30 + [document(TWO)]:
            self.answer(data)
            written.append(json.loads(self.file.read_bytes())["received"] - NOW)
            self.clock.advance(300)
        self.assertEqual(sorted(set(written)), [0.0, 3600.0, 7200.0, 9000.0])
        self.assertEqual(self.file.stat().st_mode & 0o777, 0o600)
        self.assertNotIn(b"PRIVATE", self.file.read_bytes())

    def test_a_clock_that_was_set_back_does_not_keep_it_from_the_future(self) -> None:
        """It is written with the new time, so that a restart can use it."""
        self.start(b=WEB)
        self.answer(document(ONE))
        self.clock.rightNow -= 7200
        self.federation.reload()
        self.answer(document(ONE))
        self.assertEqual(json.loads(self.file.read_bytes())["received"], NOW - 7200)

    def test_a_disk_that_takes_nothing_is_told_once(self) -> None:
        """What was received is in use all the same."""
        self.start(b=WEB)
        (self.cache / "bundle-b.test.json.tmp").mkdir()  # no file can be written in its place
        for data in (document(ONE), document(TWO)):
            self.answer(data)
            self.clock.advance(300)
        self.assertEqual(self.authorities(), (TWO,))
        lines = [line for line in self.told() if "cannot be kept" in line]
        self.assertEqual(len(lines), 1)
        self.assertIn("bundle-b.test.json cannot be written", lines[0])

    def test_each_trust_domain_has_a_file_whatever_its_name(self) -> None:
        """Dots and 255 characters are valid ones."""
        cache = BundleCache(self.cache)
        names = ["..", ".", "a" * 255, "b" * 255, "b.test"]
        for number, name in enumerate(names):
            cache.keep(TrustDomain(name), "endpoint", document(ONE, spiffe_sequence=number), NOW)
        self.assertEqual(len(list(self.cache.iterdir())), len(names))
        for number, name in enumerate(names):
            kept = cache.load(TrustDomain(name), "endpoint", NOW)
            assert kept is not None
            self.assertEqual(kept.document.sequence, number)

    def test_a_document_that_could_not_be_read_back_is_not_written(self) -> None:
        """It would be larger than what is read."""
        error = self.assertRaises(StartError, BundleCache(self.cache).keep, B, "e", b" " * (1 << 20), NOW)
        self.assertIn("too many for a file", error.reason)


class BundleCacheTests(ConfigTestCase):
    """The key in the configuration."""

    def test_is_a_directory(self) -> None:
        """Relative to the file; and the documentation's example is one."""
        entry = '  federation: {b.test: {url: "https://b.test/", profile: https_web}}\n'
        read = self.load(variant("  sources:", f"{entry}  bundle_cache: kept\n  sources:"))
        self.assertEqual(read.identity.bundle_cache, Path("/etc/mesh/kept"))
        document = (ROOT / "docs" / "identity.md").read_text(encoding="utf-8")
        (example,) = [block.text for block in blocks(document) if "bundle-cache" in block.words]
        (whole,) = [block.text for block in blocks(document) if block.language == "yaml" and "carrier" in block.text]
        text = whole.replace("  federation:\n", f"{example}  federation:\n")
        found = config.loads(text.encode(), Path("/etc/mesh/tcpmesh.yaml"), PluginRegistry())
        self.assertEqual(found.identity.bundle_cache, Path("/var/lib/tcpmesh/bundles"))

    def test_is_for_endpoints(self) -> None:
        """Without one nothing would ever be in it."""
        message = "identity.bundle_cache: no bundle comes from an endpoint, and files need no copy"
        for entry in ("", "  federation: {b.test: {bundle: b.pem}}\n"):
            self.check_problems(variant("  sources:", f"{entry}  bundle_cache: ‸kept\n  sources:"), message)
