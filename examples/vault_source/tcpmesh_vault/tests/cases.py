"""What the tests have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
from twisted.internet.task import Clock
from twisted.logger import LogEvent, Logger
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.identity.spiffe import SpiffeId, TrustDomain
from tcpmesh.testing import FakeIdentityObserver, plugin_context
from tcpmesh.values import IdentitySnapshot, Workload
from tcpmesh.wall_clock import wall_clock
from tcpmesh_vault.settings import VaultSettings
from tcpmesh_vault.source import VaultSource, VaultWorkload
from tcpmesh_vault.tests.fake_vault import ROLE_ID, SECRET_ID, TOKEN, FakeVault

OWN = TrustDomain("example.test")


class VaultCase(SynchronousTestCase):
    """A fake Vault, files with its secrets, and a source that asks it."""

    def setUp(self) -> None:
        super().setUp()
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.token = self.secret("token", TOKEN)
        self.secret_id = self.secret("secret-id", SECRET_ID)
        self.vault = FakeVault(self.directory)
        self.addCleanup(self.vault.stop)
        self.clock = Clock()
        self.ahead = 0.0  # of the wall clock
        self.observer = FakeIdentityObserver()
        self.events: list[LogEvent] = []

    def secret(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_text(text + "\n")
        return path

    def settings(self, **changes: Any) -> VaultSettings:
        found: dict[str, Any] = {"address": self.vault.address, "role": "mesh", "ca": self.vault.ca}
        if "token" not in changes and "role_id" not in changes:
            found["token"] = self.token
        return VaultSettings(**{**found, **changes})

    def approle(self, **changes: Any) -> VaultSettings:
        return self.settings(role_id=ROLE_ID, secret_id=self.secret_id, **changes)

    def source(
        self, settings: VaultSettings | None = None, names: tuple[str, ...] = ("web",), role: str = ""
    ) -> VaultSource:
        workloads = {name: Workload(name, SpiffeId.from_segments(OWN, name), VaultWorkload(role)) for name in names}
        context = plugin_context(clock=self.clock, workloads=workloads)
        context = attrs.evolve(context, log=Logger(observer=self.events.append))
        source = VaultSource(settings or self.settings(), context, lambda: wall_clock() + self.ahead)
        self.addCleanup(source.stop)
        return source

    def started(self, settings: VaultSettings | None = None, names: tuple[str, ...] = ("web",)) -> VaultSource:
        source = self.source(settings, names)
        source.start(self.observer)
        return source

    def delivered(self) -> IdentitySnapshot:
        """The newest snapshot; nothing has failed."""
        self.assertEqual(self.observer.failures, [])
        return self.observer.snapshots[-1]

    def failure(self, settings: VaultSettings | None = None, names: tuple[str, ...] = ("web",)) -> str:
        """How a source that asks for the first time fails: the reason, Vault's words and what is next."""
        source = self.started(settings, names)
        source.stop()
        self.assertEqual((self.observer.snapshots, len(self.observer.failures)), ([], 1))
        (warning,) = [event for event in self.events if event["log_level"].name == "warn"]
        said = self.observer.failures.pop() + "\n" + warning["log_format"].format(**warning)
        for secret in (TOKEN, SECRET_ID, "hvs."):
            self.assertNotIn(secret, said)
            self.assertNotIn(secret, repr(self.events))  # the traceback, for debug
        self.events.clear()
        return said
