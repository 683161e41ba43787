"""Key exchange groups and cipher suites in the configuration: which names are taken, and what is said of the others."""

from __future__ import annotations

from tcpmesh.config.tls_words import parse_cipher_suite, parse_group
from tcpmesh.settings import TLSSettings
from tcpmesh.tls_names import GROUPS, SUITES
from tests.unit.config_samples import ConfigTestCase, variant

ALL_GROUPS = ", ".join(GROUPS)
ALL_SUITES = ", ".join(SUITES)
BOTH = 'min_version: "1.2", '


def with_tls(tls: str) -> str:
    """The sample with these settings at its service."""
    return variant("    expect:", f"    tls: {{{tls}}}\n    expect:")


class TLSListCase(ConfigTestCase):
    def tls(self, tls: str) -> TLSSettings:
        return self.load(with_tls(tls)).services["orders"].tls

    def check_tls(self, tls: str, *messages: str) -> None:
        """Each message belongs to ``services.orders.tls``."""
        self.check_problems(with_tls(tls), *(f"services.orders.tls.{message}" for message in messages))


class NameTests(TLSListCase):
    """Names as OpenSSL and the registries have them."""

    def test_groups_have_one_name_each(self) -> None:
        """However it is spelt, it is the name by which OpenSSL's commands know it."""
        for name, spellings in {
            "X25519MLKEM768": ("X25519MLKEM768", "x25519mlkem768"),
            "SecP256r1MLKEM768": ("SecP256r1MLKEM768", "SECP256R1MLKEM768"),
            "SecP384r1MLKEM1024": ("SecP384r1MLKEM1024",),
            "X25519": ("X25519", "x25519"),
            "X448": ("X448",),
            "P-256": ("P-256", "p-256", "secp256r1", "prime256v1"),
            "P-384": ("P-384", "secp384r1"),
            "P-521": ("P-521", "secp521r1"),
        }.items():
            for spelling in spellings:
                self.assertEqual(self.tls(f"groups: [{spelling}]").groups, (name,), spelling)

    def test_suites_have_one_name_each(self) -> None:
        """The registry's, also for what OpenSSL, and so a record, calls otherwise."""
        for name, spellings in {
            "TLS_AES_128_GCM_SHA256": ("TLS_AES_128_GCM_SHA256", "tls_aes_128_gcm_sha256"),
            "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": (
                "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
                "ECDHE-ECDSA-AES256-GCM-SHA384",
            ),
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": ("ECDHE-RSA-CHACHA20-POLY1305",),
        }.items():
            for spelling in spellings:
                self.assertEqual(parse_cipher_suite(spelling), name)

    def test_keeps_the_order(self) -> None:
        """It is the order of preference; without the keys there is none."""
        tls = self.tls("groups: [P-256, X25519], ciphers: [TLS_AES_128_GCM_SHA256, TLS_AES_256_GCM_SHA384]")
        self.assertEqual(tls.groups, ("P-256", "X25519"))
        self.assertEqual(tls.ciphers, ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384"))
        self.assertEqual((self.tls("").groups, self.tls("").ciphers), ((), ()))

    def test_holds_for_listeners_too(self) -> None:
        """The same keys, with the place of their mapping for later complaints, which does not tell settings apart."""
        text = variant("workload: web}\nauth", "workload: web, tls: {groups: [x448]}}\nauth")
        tls = self.load(text).inbound[0].tls
        self.assertEqual(tls, TLSSettings(groups=(parse_group("X448"),)))
        self.assertEqual(hash(tls), hash(TLSSettings(groups=(parse_group("X448"),))))
        assert tls.mark is not None
        self.assertEqual((tls.mark.line, tls.mark.column), (14, text.splitlines()[13].index("{groups") + 1))


class RefusedNameTests(TLSListCase):
    """Names that are not taken."""

    def test_unknown_ones(self) -> None:
        """With what was probably meant, else with all that there are."""
        self.check_tls(
            "groups: [‸X25591, ‸nothing]",
            "groups[0]: 'X25591' is no key exchange group that tcpmesh knows; did you mean 'X25519'?",
            f"groups[1]: 'nothing' is no key exchange group that tcpmesh knows; known: {ALL_GROUPS}",
        )
        self.check_tls(
            "ciphers: [‸TLS_AES_256_GCM_SHA348, ‸strong]",
            "ciphers[0]: 'TLS_AES_256_GCM_SHA348' is no cipher suite that tcpmesh knows; did you mean "
            "'TLS_AES_256_GCM_SHA384'?",
            f"ciphers[1]: 'strong' is no cipher suite that tcpmesh knows; known: {ALL_SUITES}",
        )

    def test_lists_in_openssls_own_notation(self) -> None:
        """One name for each entry."""
        self.check_tls(
            'groups: [‸"X25519:P-256"], ciphers: [‸"HIGH:!aNULL"]',
            "groups[0]: 'X25519:P-256' is no key exchange group; write each as an entry of its own: "
            "[X25519MLKEM768, SecP256r1MLKEM768]",
            "ciphers[0]: 'HIGH:!aNULL' is no cipher suite; write each as an entry of its own: "
            "[TLS_AES_256_GCM_SHA384, TLS_AES_128_GCM_SHA256]",
        )
        self.check_tls("groups: ‸X25519", "groups: expected a list, got 'X25519'; write [\"X25519\"]")

    def test_weak_groups(self) -> None:
        """Each with its reason, and what there is instead."""
        for name, reason in {
            "P-224": "has less than 128 bits",
            "secp224r1": "has less than 128 bits",
            "prime192v1": "has less than 128 bits",
            "sect233k1": "has less than 128 bits",
            "ffdhe2048": "has less than 128 bits",
            "ffdhe3072": "makes each handshake many times as expensive as a curve does",
            "MLKEM768": "has no classical half to fall back on",
            "brainpoolP256r1tls13": "is not in common use",
        }.items():
            self.check_tls(f"groups: [‸{name}]", f"groups[0]: {name!r} {reason}; use one of {ALL_GROUPS}")

    def test_weak_suites(self) -> None:
        """Each with its reason, and what there is instead."""
        for name, reason in {
            "TLS_SHA256_SHA256": "does not encrypt",
            "TLS_ECDHE_ECDSA_WITH_NULL_SHA": "does not encrypt",
            "TLS_ECDH_anon_WITH_AES_128_CBC_SHA": "authenticates nobody",
            "TLS_ECDHE_PSK_WITH_AES_128_GCM_SHA256": "asks for no certificate, so that nobody would be identified",
            "TLS_RSA_WITH_RC4_128_MD5": "is broken",
            "DES-CBC3-SHA": "is broken",
            "TLS_AES_128_CCM_8_SHA256": "has a tag of 8 bytes only",
            "ECDHE-ECDSA-AES128-CCM8": "has a tag of 8 bytes only",
            "TLS_AES_128_CCM_SHA256": "is not in common use",
            "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256": "has no authenticated encryption",
            "ECDHE-RSA-AES128-SHA256": "has no authenticated encryption",
            "AES128-SHA": "has no authenticated encryption",
            "TLS_RSA_WITH_AES_128_GCM_SHA256": "is not forward secret",
            "DHE-RSA-AES128-GCM-SHA256": "makes each handshake many times as expensive as ECDHE does",
        }.items():
            self.check_tls(f"ciphers: [‸{name}]", f"ciphers[0]: {name!r} {reason}; use one of {ALL_SUITES}")

    def test_long_and_strange_ones(self) -> None:
        """They are shown cut and escaped, and cost nothing."""
        for parse in (parse_group, parse_cipher_suite):
            error = self.assertRaises(ValueError, parse, "x\u202e" + "y" * 100_000)
            self.assertTrue(str(error).isascii() and len(str(error)) < 700, str(error))

    def test_other_things(self) -> None:
        """A number, nothing, a mapping."""
        what = "a key exchange group such as X25519MLKEM768, X25519 or P-256"
        self.check_tls(
            "groups: [‸25519, ‸, ‸{}]".replace("‸,", '‸"",'),
            f"groups[0]: '25519' is no key exchange group that tcpmesh knows; known: {ALL_GROUPS}",
            f"groups[1]: '' is no key exchange group that tcpmesh knows; known: {ALL_GROUPS}",
            f"groups[2]: expected {what}, got a mapping",
        )


class ListTests(TLSListCase):
    """Names that do not go together."""

    def test_an_empty_list(self) -> None:
        """It would be nobody's choice."""
        message = "the list is empty; name at least one, or leave the key out for the library's own choice"
        self.check_tls("groups: ‸[], ciphers: ‸[]", f"groups: {message}", f"ciphers: {message}")

    def test_the_same_twice(self) -> None:
        """Also in two spellings."""
        self.check_tls(
            "groups: [X25519, P-256, ‸secp256r1, ‸x25519]",
            "groups[2]: P-256 is listed already, as services.orders.tls.groups[1]",
            "groups[3]: X25519 is listed already, as services.orders.tls.groups[0]",
        )
        self.check_tls(
            "ciphers: [TLS_AES_256_GCM_SHA384, ‸tls_aes_256_gcm_sha384]",
            "ciphers[1]: TLS_AES_256_GCM_SHA384 is listed already, as services.orders.tls.ciphers[0]",
        )

    def test_what_the_versions_do_not_admit(self) -> None:
        """A name that could never be used is an error, with what would make it useful."""
        suite = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"
        self.check_tls(
            f"ciphers: [TLS_AES_128_GCM_SHA256, ‸{suite}]",
            f'ciphers[1]: {suite} is for TLS 1.2, which min_version does not admit; add min_version: "1.2", or '
            "remove it",
        )
        self.check_tls(
            f'min_version: "1.2", max_version: "1.2", groups: [‸X25519MLKEM768, P-256], '
            f"ciphers: [{suite}, ‸TLS_AES_128_GCM_SHA256]",
            'groups[0]: X25519MLKEM768 is for TLS 1.3, which max_version "1.2" does not admit; remove one of the two',
            'ciphers[1]: TLS_AES_128_GCM_SHA256 is for TLS 1.3, which max_version "1.2" does not admit; remove one of '
            "the two",
        )

    def test_what_the_versions_need(self) -> None:
        """A version without a name of its own is one that no peer could use."""
        suite = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"
        self.check_tls(
            f"{BOTH}groups: ‸[X25519MLKEM768], ciphers: ‸[TLS_AES_128_GCM_SHA256]",
            "groups: none of them is for TLS 1.2, which min_version admits; add one that is",
            "ciphers: none of them is for TLS 1.2, which min_version admits; add one that is",
        )
        self.check_tls(
            f"{BOTH}ciphers: ‸[{suite}]",
            "ciphers: none of them is for TLS 1.3, which max_version admits; add one that is",
        )
        self.tls(f"{BOTH}groups: [X25519MLKEM768, P-256], ciphers: [{suite}, TLS_AES_128_GCM_SHA256]")
        self.tls(f'{BOTH}max_version: "1.2", groups: [X25519], ciphers: [{suite}]')

    def test_versions_that_contradict_each_other_come_first(self) -> None:
        """What does not fit them is not told as well."""
        self.check_tls(
            'min_version: "1.3", max_version: ‸"1.2", groups: [X25519MLKEM768]',
            'max_version: min_version "1.3" is above max_version "1.2"',
        )
