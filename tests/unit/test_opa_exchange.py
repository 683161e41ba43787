"""What Open Policy Agent is asked, and what its answers mean: the good ones, and every other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.codes import POLICY_FAILED
from tcpmesh.errors import Refusal, StartError
from tcpmesh.policy.opa_exchange import MAX_VALID_FOR, read_answer, write_question
from tcpmesh.sources.opa import OpaFactory, OpaSettings
from tcpmesh.testing import authorization_request, peer_identity, plugin_context
from tcpmesh.values import Decision, Duration, Effect, TCPAddress, UnixAddress

URL = "http://127.0.0.1:8181/v1/data/tcpmesh/allow"


def read(answer: Any, undefined: Effect = Effect.DENY) -> Decision:
    data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return read_answer(data, "tcpmesh/allow", 5.0, undefined)


class AnswerTests(SynchronousTestCase):
    def test_true_and_false(self) -> None:
        """With a reason that names the document, and the default's validity."""
        self.assertEqual(
            read({"result": True}),
            Decision(Effect.ALLOW, "opa", "tcpmesh/allow", "the policy tcpmesh/allow allows it", 5.0),
        )
        self.assertEqual(
            read({"result": False, "decision_id": "x"}),
            Decision(Effect.DENY, "opa", "tcpmesh/allow", "the policy tcpmesh/allow denies it", 5.0),
        )

    def test_an_object_says_more(self) -> None:
        """Reason and validity; what else is in it is the policy's own."""
        said = read({"result": {"allow": False, "reason": "not on Sundays", "valid_for": 60, "teams": ["a"]}})
        self.assertEqual((said.effect, said.reason, said.valid_for), (Effect.DENY, "not on Sundays", 60.0))
        self.assertEqual(read({"result": {"allow": True, "valid_for": 0}}).valid_for, 0.0)
        self.assertEqual(read({"result": {"allow": True, "valid_for": 1e9}}).valid_for, MAX_VALID_FOR)
        self.assertEqual(read({"result": {"allow": True, "valid_for": 10**400}}).valid_for, MAX_VALID_FOR)

    def test_undefined_denies(self) -> None:
        """Or abstains, where that is configured; a package without allow is undefined too."""
        for answer in ({}, {"warning": {}}, {"result": {}}, {"result": {"reason": "x"}}, {"result": None}):
            self.assertEqual(read(answer).effect, Effect.DENY, answer)
            self.assertEqual(read(answer, Effect.ABSTAIN).effect, Effect.ABSTAIN, answer)

    def test_reasons_are_escaped_and_cut(self) -> None:
        """A policy may quote what a peer sent."""
        self.assertEqual(read({"result": {"allow": False, "reason": "a\n\x1b[0m\u202e"}}).reason, "a\\n\\x1b[0m\\u202e")
        self.assertEqual(len(read({"result": {"allow": False, "reason": "x" * 9999}}).reason), 500)

    def test_everything_else_is_refused(self) -> None:
        """Nothing that only looks like true allows anybody."""
        for answer in (
            *(b"", b"true", b"{", b"[]", b'{"result": tru', b"\xff", b'{"result": NaN}', b"[" * 5000),
            *(b'{"result": true, "result": false}', b'{"result": {"allow": false, "allow": true}}'),
            *({"result": value} for value in (1, 0, "true", "", [], [True], 1.5)),
            *({"result": {"allow": value}} for value in (1, "true", [], {}, {"allow": True})),
            *({"result": {"allow": True, "reason": value}} for value in (1, [], {}, True)),
            *({"result": {"allow": True, "valid_for": value}} for value in ("5", -1, True, [], {})),
            b'{"result": {"allow": true, "valid_for": Infinity}}',
            b'{"result": {"allow": true, "valid_for": 1e999}}',
        ):
            refusal = self.assertRaises(Refusal, read, answer)
            self.assertEqual(refusal.code, POLICY_FAILED)
            self.assertTrue(refusal.reason.startswith("Open Policy Agent answered with"), refusal.reason)

    @given(st.binary(max_size=60))
    def test_any_bytes_are_refused_or_mean_nothing(self, data: bytes) -> None:
        """Random bytes never allow."""
        try:
            decision = read(data)
        except Refusal:
            return
        self.assertEqual(decision.effect, Effect.DENY)


class QuestionTests(SynchronousTestCase):
    def test_says_everything_but_the_port(self) -> None:
        """Identity in parts, address, certificate, listener and names."""
        request = authorization_request("spiffe://example.test/ns/shop/sa/web", source=TCPAddress("fe80::1%eth0", 4711))
        self.assertEqual(
            json.loads(write_question(request)),
            {
                "input": {
                    "version": 1,
                    "source": {
                        "address": "fe80::1",
                        "authenticated": True,
                        "identity": "spiffe://example.test/ns/shop/sa/web",
                        "spiffe_id": "spiffe://example.test/ns/shop/sa/web",
                        "trust_domain": "example.test",
                        "path": ["ns", "shop", "sa", "web"],
                        "dns_name": "",
                        "serial": "01",
                        "not_before": 0.0,
                        "not_after": 3.2e9,
                    },
                    "inbound": "orders-in",
                    "workload": "orders",
                    "sni": "",
                    "alpn": "",
                }
            },
        )

    def test_a_peer_without_an_id_has_empty_ones(self) -> None:
        """So that a policy that compares with an ID never matches by accident."""
        request = authorization_request(peer_identity(None, dns_name="db.example.test"), source=UnixAddress("/run/x"))
        source = json.loads(write_question(request))["input"]["source"]
        self.assertEqual(
            (source["spiffe_id"], source["path"], source["dns_name"], source["identity"], source["address"]),
            ("", [], "db.example.test", "dns:db.example.test", ""),
        )


class SettingsTests(SynchronousTestCase):
    def create(self, **settings: Any) -> Any:
        return OpaFactory().create(OpaSettings(**{"url": URL, **settings}), plugin_context())

    def test_plain_http_is_for_this_machine(self) -> None:
        """Whoever sits between could answer in its place."""
        for host in ("127.0.0.1:8181", "127.0.0.2", "[::1]:8181"):
            self.create(url=f"http://{host}/v1/data/a")
        for host in ("192.0.2.1:8181", "opa.example.test", "[2001:db8::1]", "0.0.0.0", "[::]"):
            error = self.assertRaises(ValueError, self.create, url=f"http://{host}/v1/data/a")
            self.assertIn("over http only this machine can be asked", str(error))
            self.create(url=f"https://{host}/v1/data/a")
        self.assertIn(
            "write 127.0.0.1", str(self.assertRaises(ValueError, self.create, url="http://localhost/v1/data/a"))
        )
        self.create(url="http://opa/v1/data/a", socket=UnixAddress("/run/opa.sock"))

    def test_refuses_what_is_no_document(self) -> None:
        """No other path, no query, no user; ports and hosts that are none."""
        for url in (
            *(
                "127.0.0.1:8181/v1/data/a",
                "ftp://127.0.0.1/v1/data/a",
                "http://127.0.0.1/",
                "http://127.0.0.1/v1/data/",
            ),
            *("http://127.0.0.1/v1/policies/a", "http://127.0.0.1/v1/data/a?pretty", "http://u:p@127.0.0.1/v1/data/a"),
            *("http://127.0.0.1:99999/v1/data/a", "http://127.0.0.1:0/v1/data/a", "http:///v1/data/a", URL + "\n"),
            "http://127.0.0.1/v1/data/a b",
        ):
            self.assertRaises(ValueError, OpaSettings, url)

    def test_refuses_what_fits_nothing(self) -> None:
        """TLS on a unix socket, authorities without TLS, and numbers out of bounds."""
        self.assertRaises(ValueError, self.create, url="https://a.test/v1/data/a", socket=UnixAddress("/run/x"))
        self.assertRaises(ValueError, self.create, trust=Path("ca.pem"))
        for settings in ({"connections": 0}, {"connections": 257}, {"waiting": -1}, {"valid_for": Duration(86401.0)}):
            self.assertRaises(ValueError, OpaSettings, URL, **settings)

    def test_check_names_the_file_that_cannot_be_used(self) -> None:
        """Authorities and token; a token's text is never shown."""
        directory = Path(self.mktemp())
        directory.mkdir()
        token = directory / "token"
        self.assertIn(str(token), str(self.assertRaises(StartError, self.create(token=token).check)))
        for bad in (b"", b"two words", b"\xff", b"a\nb", b"x" * 5000):
            token.write_bytes(bad)
            error = self.assertRaises(StartError, self.create(token=token).check)
            self.assertIn("does not hold a bearer token", str(error))
        token.write_text("secret\n")
        policy = self.create(token=token)
        policy.check()
        self.assertNotIn("secret", repr(policy._place()))
        absent = directory / "ca.pem"
        error = self.assertRaises(StartError, self.create(url="https://a.test/v1/data/a", trust=absent).check)
        self.assertIn(str(absent), str(error))

    def test_describes_whom_it_asks(self) -> None:
        """Document and place."""
        self.assertEqual(list(self.create().describe()), ["opa: tcpmesh/allow at http://127.0.0.1:8181"])
        place = self.create(socket=UnixAddress("/run/opa.sock")).describe()
        self.assertEqual(list(place), ["opa: tcpmesh/allow at unix:/run/opa.sock"])
