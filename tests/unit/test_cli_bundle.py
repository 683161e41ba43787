"""``tcpmesh bundle diff``: what it says of two files, and its exit status."""

from __future__ import annotations

import base64
import io
import json
import sys
from pathlib import Path
from typing import Any

import attrs
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.cli import main
from tcpmesh.identity.certificates import fingerprint, moment, not_after, not_before, pem_of, subject_key_identifier
from tests.unit.crafted import Issuer
from tests.unit.tls_pairs import now_authority


@attrs.frozen
class Ended:
    """A finished command."""

    status: Any
    out: str
    err: str


class DiffTests(SynchronousTestCase):
    """bundle diff."""

    def setUp(self) -> None:
        self.base = Path(self.mktemp()).absolute()
        self.base.mkdir()
        self.one, self.two = now_authority("one"), now_authority("two")

    def diff(self, *arguments: object) -> Ended:
        out, err = io.StringIO(), io.StringIO()
        self.patch(sys, "stdout", out)
        self.patch(sys, "stderr", err)
        status = self.assertRaises(SystemExit, main, ["bundle", "diff", *map(str, arguments)]).code
        return Ended(status, out.getvalue(), err.getvalue())

    def pem(self, name: str, *authorities: Issuer) -> Path:
        path = self.base / name
        path.write_bytes(pem_of([one.certificate for one in authorities]))
        return path

    def document(self, name: str, sequence: int, *authorities: Issuer) -> Path:
        keys = []
        for one in authorities:
            numbers = one.key.public_key().public_numbers()
            coordinates = {
                axis: base64.urlsafe_b64encode(value.to_bytes(32, "big")).rstrip(b"=").decode()
                for axis, value in (("x", numbers.x), ("y", numbers.y))
            }
            der = base64.b64encode(one.certificate.public_bytes(Encoding.DER)).decode()
            keys.append({"kty": "EC", "crv": "P-256", **coordinates, "use": "x509-svid", "x5c": [der]})
        path = self.base / name
        path.write_text(json.dumps({"spiffe_sequence": sequence, "keys": keys}))
        return path

    def check_failed(self, ended: Ended, status: int, message: str) -> None:
        self.assertEqual((ended.status, ended.out), (status, ""))
        self.assertEqual(ended.err.splitlines()[-1], f"tcpmesh: {message}")

    def lines(self, sign: str, one: Issuer, *meaning: str) -> list[str]:
        certificate = one.certificate
        return [
            f"{sign} {certificate.subject.rfc4514_string()}",
            f"    valid   {moment(not_before(certificate))} to {moment(not_after(certificate))}",
            f"    key id  {subject_key_identifier(certificate)}",
            f"    sha256  {fingerprint(certificate)}",
            *(f"    means   {text}" for text in meaning),
        ]

    def test_shows_what_comes_goes_and_stays(self) -> None:
        """With what it means."""
        three = now_authority("three")
        old, new = self.pem("old.pem", self.one, self.two), self.pem("new.pem", self.two, three)
        ended = self.diff(old, new)
        self.assertEqual((ended.status, ended.err), (1, ""))
        self.assertEqual(
            ended.out.splitlines(),
            [
                f"{old} to {new}: 1 added, 1 removed, 1 kept",
                *self.lines("+", three, "whoever it signed is trusted from then on"),
                *self.lines("-", self.one, "cuts whoever it signed: refused from then on (TM-I604)"),
                *self.lines("=", self.two),
            ],
        )

    def test_compares_what_is_written_differently(self) -> None:
        """A document and a PEM file may hold the same bundle."""
        old, new = self.pem("old.pem", self.one, self.two), self.document("new.json", 7, self.two, self.one)
        ended = self.diff(old, new, "--trust-domain", "a.test")
        self.assertEqual((ended.status, ended.err), (0, ""))
        self.assertEqual(ended.out.splitlines()[0], f"{old} to {new}: 0 added, 0 removed, 2 kept")

    def test_tells_programs(self) -> None:
        """The same as JSON; a sequence that goes back is worth a note."""
        old, new = self.document("old.json", 42, self.one, self.two), self.document("new.json", 41, self.one)
        ended = self.diff(old, new, "--trust-domain", "a.test", "--json")
        answer = json.loads(ended.out)
        self.assertEqual((ended.status, answer["same"], answer["added"]), (1, False, []))
        self.assertEqual(
            answer["removed"],
            [
                {
                    "subject": "CN=two",
                    "uris": [],
                    "not_before": moment(not_before(self.two.certificate)),
                    "not_after": moment(not_after(self.two.certificate)),
                    "key_id": subject_key_identifier(self.two.certificate),
                    "sha256": fingerprint(self.two.certificate),
                    "meaning": "cuts whoever it signed: refused from then on (TM-I604)",
                }
            ],
        )
        self.assertEqual([one["subject"] for one in answer["kept"]], ["CN=one"])
        self.assertEqual(
            answer["notes"], ["spiffe_sequence goes back from 42 to 41: the new document is the older one"]
        )

    def test_says_that_everything_is_revoked(self) -> None:
        """By a document without keys."""
        ended = self.diff(self.pem("old.pem", self.one), self.document("new.json", 1), "--trust-domain", "a.test")
        self.assertEqual(ended.status, 1)
        self.assertEqual(
            ended.out.splitlines()[-1], "note: the new bundle is empty: everything of this trust domain is revoked"
        )

    def test_wants_to_know_whose_a_document_is(self) -> None:
        """It does not say it itself."""
        document = self.document("new.json", 1, self.one)
        self.check_failed(
            self.diff(self.pem("old.pem", self.one), document),
            64,
            f"{document} looks like a SPIFFE bundle document, which does not say whose it is; add --trust-domain NAME",
        )

    def test_says_what_cannot_be_read(self) -> None:
        """Status 2: whether they differ cannot be told."""
        good = self.pem("good.pem", self.one)
        missing, empty = self.base / "missing", self.base / "empty"
        empty.write_bytes(b"")
        self.check_failed(self.diff(good, missing), 2, f"{missing}: cannot be read: No such file or directory")
        self.check_failed(self.diff(empty, good), 2, f"{empty}: is empty")
        broken = self.base / "broken.json"
        broken.write_text("{")
        ended = self.diff(good, broken, "--trust-domain", "a.test")
        self.assertEqual((ended.status, ended.out), (2, ""))
        self.assertIn(f"tcpmesh: {broken}: is not JSON", ended.err)
