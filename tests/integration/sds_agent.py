"""An agent from which Envoy gets certificates and bundles, as from SPIRE's; it has what tests put into it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from twisted.trial.unittest import SynchronousTestCase

from tests.integration import skip_or_fail
from tests.integration.field import TRUST_DOMAIN
from tests.integration.processes import ROOT
from tests.integration.sds_messages import certificate_secret, trust_secret
from tests.integration.servers import temporary_directory

__all__ = ["Agent"]


class Agent:
    """
    The server of ``tests.integration.sds_server``, in a process of its own.

    Its names are those of SPIRE's agent: the SPIFFE ID of a workload or of a trust domain, and ALL for all bundles.
    """

    def __init__(self, test: SynchronousTestCase) -> None:
        if importlib.util.find_spec("grpc") is None:
            skip_or_fail("gRPC's own library is not installed (pip install grpcio, or make lint)")
        directory = temporary_directory(test)
        self.socket = directory / "agent.sock"
        self._secrets = directory / "secrets"
        self._secrets.mkdir()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.sds_server", self.socket, self._secrets],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        test.addCleanup(self._end)
        assert self._process.stdout is not None
        test.assertEqual(self._process.stdout.readline(), "READY\n")
        self._test = test

    def _end(self) -> None:
        self._process.kill()
        said, _ = self._process.communicate()
        self._test.assertEqual(said, "", "Envoy refused a secret")

    def put(self, name: str, secret: bytes) -> None:
        """Have a secret from now on."""
        (self._secrets / quote(name, safe="")).write_bytes(secret)

    def put_certificate(self, name: str, files: Path) -> None:
        """Have the certificate of a workload."""
        identity = f"spiffe://{TRUST_DOMAIN}/{name}"
        chain, key = (files / "certificate.pem").read_bytes(), (files / "key.pem").read_bytes()
        self.put(identity, certificate_secret(identity, chain, key))

    def put_bundles(self, name: str, bundles: Mapping[str, Path]) -> None:
        """Have the bundles of these trust domains."""
        self.put(name, trust_secret(name, {domain: bundle.read_bytes() for domain, bundle in bundles.items()}))

    def send(self) -> None:
        """Send what there is to all that asked."""
        assert self._process.stdin is not None
        self._process.stdin.write("send\n")
        self._process.stdin.flush()
