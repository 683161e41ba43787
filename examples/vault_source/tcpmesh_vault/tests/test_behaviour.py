"""What the identity source ``vault`` asks, keeps, renews and says."""

from __future__ import annotations

from pathlib import Path

from tcpmesh.identity.own import verify_own
from tcpmesh.testing import TestAuthority, plugin_context
from tcpmesh_vault.client import MAX_ANSWER
from tcpmesh_vault.settings import VaultSettings
from tcpmesh_vault.source import VaultFactory
from tcpmesh_vault.tests.cases import OWN, VaultCase
from tcpmesh_vault.tests.fake_vault import ROLE_ID, SECRET_ID, TOKEN, FakeVault

ISSUER, SIGN, LOGIN = "/v1/pki/issuer/default/json", "/v1/pki/sign/mesh", "/v1/auth/approle/login"


class SigningTests(VaultCase):
    def test_no_private_key_crosses_the_network(self) -> None:
        """A CSR goes out, with the SPIFFE ID and the lifetime; nothing that is asked or answered holds a key."""
        self.started()
        svid = self.delivered().svids[0]
        self.assertEqual(self.vault.paths(), [ISSUER, SIGN])
        body = self.vault.requests[1].body
        self.assertEqual(sorted(body), ["csr", "format", "ttl", "uri_sans"])
        self.assertEqual((body["uri_sans"], body["ttl"]), ("spiffe://example.test/web", "3600s"))
        self.assertTrue(body["csr"].startswith("-----BEGIN CERTIFICATE REQUEST-----"))
        self.assertNotIn("PRIVATE", str(self.vault.requests))
        self.assertEqual(svid.leaf.public_key(), svid.private_key.public_key())

    def test_the_token_goes_only_where_it_is_needed(self) -> None:
        """The chain of an issuer is public, so that request has none."""
        self.started()
        tokens = [request.headers.get("x-vault-token") for request in self.vault.requests]
        self.assertEqual(tokens, [None, TOKEN])

    def test_presents_the_intermediate_and_trusts_the_root(self) -> None:
        """The anchor is in the bundle and not in the chain."""
        self.started()
        snapshot = self.delivered()
        self.assertEqual(snapshot.bundles[OWN].authorities, (self.vault.authority.root.certificate,))
        self.assertEqual(snapshot.svids[0].chain[1:], (self.vault.authority.issuing.certificate,))

    def test_asks_within_its_namespace(self) -> None:
        """Every request names it."""
        self.vault.namespace = "org/team"
        self.started(self.settings(namespace="org/team"))
        self.delivered()
        self.assertEqual({request.headers["x-vault-namespace"] for request in self.vault.requests}, {"org/team"})

    def test_a_workload_may_have_a_role_of_its_own(self) -> None:
        """Instead of the source's."""
        self.source(role="other").start(self.observer)
        self.assertEqual(self.vault.paths()[1], "/v1/pki/sign/other")


class RenewalTests(VaultCase):
    def test_signs_anew_at_half_of_the_lifetime(self) -> None:
        """Before, only the issuers are looked at, and the same certificate goes on to serve."""
        self.started()
        first = self.delivered().svids[0]
        for seconds, signed in ((1700.0, 1), (1800.0, 2)):
            self.ahead = seconds
            self.clock.advance(70)
            self.delivered()
            self.assertEqual(self.vault.paths().count(SIGN), signed)
        renewed = self.delivered().svids[0]
        self.assertNotEqual(renewed.leaf.public_key(), first.leaf.public_key())

    def test_looks_again_when_half_of_a_short_life_is_over(self) -> None:
        """However long ``interval`` is."""
        source = self.started(self.settings(ttl=90.0, interval=3600.0))
        self.delivered()
        self.assertTrue(20 < source.interval <= 30, source.interval)  # valid from 30 s ago

    def test_a_root_that_came_is_trusted_before_it_signs(self) -> None:
        """A rotation names both issuers; the certificate stays."""
        partner = TestAuthority("example.test")
        self.vault.chains["next"] = [partner.root.certificate]
        self.started(self.settings(issuers=["default", "next"]))
        authorities = self.delivered().bundles[OWN].authorities
        self.assertEqual(authorities, (self.vault.authority.root.certificate, partner.root.certificate))

    def test_a_root_that_went_brings_a_new_certificate(self) -> None:
        """At the next look, not at half of the lifetime."""
        self.started()
        self.delivered()
        self.vault.authority = TestAuthority("example.test")
        self.vault.chains["default"] = self.vault.chain()
        self.clock.advance(70)
        snapshot = self.delivered()
        self.assertEqual(self.vault.paths().count(SIGN), 2)
        verify_own(snapshot.svids[0], snapshot.bundles, self.vault.authority.now())


class CredentialTests(VaultCase):
    def test_a_new_token_in_the_file_counts_at_once(self) -> None:
        """Whoever renews it writes the file; the proxy is not told."""
        self.started()
        self.vault.tokens = {"hvs.renewed"}
        self.secret("token", "hvs.renewed")
        self.ahead = 1900.0
        self.clock.advance(70)
        self.delivered()
        self.assertEqual(self.vault.requests[-1].headers["x-vault-token"], "hvs.renewed")

    def test_logs_in_with_an_approle_and_keeps_the_token(self) -> None:
        """One login serves every workload of a look."""
        self.started(self.approle(), ("web", "db"))
        self.assertEqual(len(self.delivered().svids), 2)
        self.assertEqual(self.vault.paths(), [ISSUER, LOGIN, SIGN, SIGN])

    def test_logs_in_again_when_the_token_is_refused(self) -> None:
        """It was revoked: one more login, and the look succeeds."""
        self.started(self.approle())
        self.vault.tokens = set()
        self.ahead = 1900.0
        self.clock.advance(70)
        self.delivered()
        self.assertEqual(self.vault.paths()[-4:], [ISSUER, SIGN, LOGIN, SIGN])

    def test_a_login_without_success_is_not_repeated_at_once(self) -> None:
        """A policy that forbids the role costs one more login in a look, never a loop."""
        source = self.source(self.approle())
        self.vault.tokens = frozenset()  # type: ignore[assignment]
        self.vault._log_in = lambda body: (200, {"auth": {"client_token": "hvs.poor", "lease_duration": 0}})  # type: ignore[method-assign]
        source.start(self.observer)
        self.assertEqual(self.vault.paths(), [ISSUER, LOGIN, SIGN, LOGIN, SIGN])
        self.assertIn("HTTP 403", self.observer.failures[0])

    def test_no_secret_is_shown(self) -> None:
        """Not by the settings, and not by the source and what it is made of."""
        source = self.started(self.approle())
        self.delivered()
        shown = repr([source, source._settings, vars(source), source._client, source._credential])
        for secret in (TOKEN, SECRET_ID, "hvs."):
            self.assertNotIn(secret, shown)
            self.assertNotIn(secret, repr(self.events))

    def test_files_that_others_can_read_are_refused(self) -> None:
        """And those that are no word, or are not there."""
        self.token.chmod(0o644)
        self.assertIn("can be read or changed by others (mode 0644)", self.failure())
        self.token.chmod(0o600)
        for text, said in (("", "is empty"), ("two words", "does not hold one word"), ("a\r\nX-Evil: 1", "one word")):
            self.token.write_text(text)
            self.assertIn(said, self.failure())
        self.token.unlink()
        self.assertIn("No such file", self.failure())
        self.assertEqual({*self.vault.paths()}, {ISSUER})


class RefusalTests(VaultCase):
    def test_says_what_to_do_when_vault_refuses(self) -> None:
        """By its status; Vault's own words are in the log, with the next step."""
        for status, said, next_step in (
            (429, "a standby, or a quota is used up", "raise the quota"),
            (472, "a disaster recovery standby", "primary cluster"),
            (473, "a performance standby", "active node"),
            (501, "not initialised", "vault operator init"),
            (503, "sealed", "vault operator unseal"),
            (404, "Vault knows no pki/issuer/default/json", "correct 'mount'"),
            (307, "a redirect (HTTP 307), which is not followed", "'address'"),
            (500, "Vault refused the issuer: HTTP 500", "audit log"),
        ):
            self.vault.answer = (status, b'{"errors": ["their \\u001b[31m words"]}')
            told = self.failure()
            self.assertIn(said, told)
            self.assertIn(next_step, told)
            self.assertIn("their \\x1b[31m words", told)
            self.assertNotIn("\x1b", told)

    def test_says_what_a_token_lacks(self) -> None:
        """403 looks alike for a token that has expired and for a policy."""
        self.vault.tokens = set()
        told = self.failure()
        self.assertIn(f"HTTP 403, the token in {self.token} expired, was revoked or lacks 'update' on pki/sign", told)
        self.assertIn('path "pki/sign/mesh" { capabilities = ["update"] }', told)
        self.assertIn("permission denied", told)

    def test_says_that_a_mount_or_an_issuer_is_wrong(self) -> None:
        """Vault answers 403 and 500."""
        told = self.failure(self.settings(mount="elsewhere"))
        self.assertIn("Vault knows no elsewhere/issuer/default/json, or gives it to nobody: HTTP 403", told)
        self.assertIn("correct 'mount' or 'namespace'", told)
        told = self.failure(self.settings(issuers=["other"]))
        self.assertIn("Vault knows no issuer of the name in pki/issuer/other/json: HTTP 500", told)
        self.assertIn("vault list MOUNT/issuers", told)

    def test_says_that_a_role_does_not_allow_an_id(self) -> None:
        """With what the role needs."""
        told = self.failure(names=("forbidden",))
        self.assertIn("HTTP 400, the role of pki/sign/mesh does not allow it", told)
        self.assertIn("spiffe://example.test/forbidden not allowed by this role", told)
        self.assertIn("vault read pki/roles/mesh; it needs allowed_uri_sans", told)

    def test_says_that_a_secret_id_is_used_up(self) -> None:
        """The file that is to be written anew is named."""
        self.secret("secret-id", "another")
        told = self.failure(self.approle())
        self.assertIn("Vault refused the login at auth/approle/login: HTTP 400", told)
        self.assertIn("write a new one into the file", told)

    def test_says_where_a_chain_ends(self) -> None:
        """An intermediate whose root is not in the mount makes no bundle."""
        self.vault.chains["default"] = [self.vault.authority.issuing.certificate]
        told = self.failure()
        self.assertIn("has no root", told)
        self.assertIn("issuers/import/cert", told)

    def test_uses_no_certificate_that_a_peer_would_refuse(self) -> None:
        """Signed by an issuer that is not among ``issuers``."""
        self.vault.authority = TestAuthority("example.test")
        told = self.failure()
        self.assertIn("what pki/sign/mesh signed for spiffe://example.test/web cannot be used", told)
        self.assertIn("vault read pki/roles/mesh", told)

    def test_logs_a_failure_once(self) -> None:
        """Attempts go on, the log does not."""
        self.vault.answer = (503, b"{}")
        self.started()
        for _ in range(5):
            self.clock.advance(70)
        self.assertGreater(len(self.observer.failures), 3)
        self.assertEqual(len([event for event in self.events if event["log_level"].name == "warn"]), 1)


class LimitTests(VaultCase):
    def test_an_answer_has_a_size(self) -> None:
        """More is not read."""
        self.vault.answer = (200, b" " * (MAX_ANSWER + 1))
        self.assertIn(f"larger than {MAX_ANSWER} bytes", self.failure())

    def test_an_answer_that_never_ends_is_ended(self) -> None:
        """A byte from time to time does not extend the time of the whole."""
        self.vault.answer = (200, b"")
        self.vault.drip.set()
        self.assertIn("no answer within 0.9 s", self.failure(self.settings(timeout=1.0)))

    def test_answers_that_are_something_else_are_refused(self) -> None:
        """Each in words, none with a traceback."""
        many = b'"x",' * 10
        for data, said in (
            (b"<html>", "is no JSON object"),
            (b"[" * 100000, "is no JSON object"),
            (b"[]", "is no JSON object"),
            (b"{}", "has no data"),
            (b'{"data": {"ca_chain": []}}', "no list of certificates"),
            (b'{"data": {"ca_chain": [1]}}', "no list of certificates"),
            (b'{"data": {"ca_chain": ["x"]}}', "holds no PEM certificate"),
            (b'{"data": {"ca_chain": [' + many + b'"x"]}}', "has 11 certificates"),
        ):
            self.vault.answer = (200, data)
            self.assertIn(said, self.failure())


class ServerTests(VaultCase):
    def test_a_server_that_does_not_verify_hears_no_token(self) -> None:
        """Not one request is made."""
        other = self.directory / "other"
        other.mkdir()
        strange = FakeVault(other)
        self.addCleanup(strange.stop)
        told = self.failure(self.settings(ca=strange.ca))
        self.assertIn("is not good", told)
        self.assertIn("name the authority of Vault's certificate with 'ca'", told)
        self.assertEqual(self.vault.requests, [])

    def test_the_name_of_the_server_is_verified(self) -> None:
        """A certificate for another name is no good."""
        told = self.failure(self.settings(address=self.vault.address.replace("localhost", "127.0.0.1")))
        self.assertIn("is not good: IP address mismatch", told)
        self.assertEqual(self.vault.requests, [])

    def test_says_which_file_of_authorities_is_wrong(self) -> None:
        """Missing, or something else."""
        self.assertIn("No such file", self.failure(self.settings(ca=self.directory / "missing.pem")))
        self.assertIn("holds no PEM certificate", self.failure(self.settings(ca=self.token)))

    def test_says_that_nobody_listens(self) -> None:
        """With the address."""
        address = self.vault.address
        self.vault.stop()
        told = self.failure(self.settings(address=address))
        self.assertIn(f"{address.removeprefix('https://')} cannot be reached: Connection refused", told)


class SettingsTests(VaultCase):
    def test_refuses_what_is_unsafe_or_no_url(self) -> None:
        """While the configuration is read."""
        for address, said in (
            ("http://vault.example.test:8200", "without TLS the token can be read"),
            ("http://localhost:8200", "without TLS the token can be read"),
            ("https://user:secret@vault.example.test", "no password into the URL"),
            ("https://vault.example.test/v1", "without a path"),
            ("https://vault.example.test:port", "is no URL"),
            ("vault.example.test", "write the server's URL"),
            ("https://vault example.test", "write the server's URL"),
        ):
            self.assertIn(said, str(self.assertRaises(ValueError, VaultSettings, address, "mesh")))
        self.assertEqual(VaultSettings("http://127.0.0.1:8200", "mesh").mount, "pki")

    def test_refuses_names_that_lead_elsewhere(self) -> None:
        """A path of the API is made of them."""
        for wrong in (
            {"role": "../../sys/seal"},
            {"mount": "pki/../sys"},
            {"mount": "/pki"},
            {"namespace": "a b"},
            {"issuers": ["a/b"]},
            {"issuers": []},
            {"approle": ""},
            {"role_id": "a\nb"},
            {"ttl": 0.5},
        ):
            self.assertRaises(ValueError, self.settings, **wrong)

    def test_wants_one_way_to_log_in(self) -> None:
        """A token, or an AppRole; not both, not half of one, not none."""
        for changes in (
            {"role_id": ROLE_ID},
            {"token": None},
            {"token": Path("token"), "role_id": ROLE_ID, "secret_id": Path("secret-id")},
            {"token": Path("token"), "secret_id": Path("secret-id")},
        ):
            error = self.assertRaises(ValueError, VaultFactory().create, self.settings(**changes), plugin_context())
            self.assertIn("either token, or role_id and secret_id", str(error))
