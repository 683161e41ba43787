"""The built-in identity sources keep their contract."""

from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tcpmesh.interfaces import IIdentitySourceFactory, PluginContext
from tcpmesh.settings import NoSettings
from tcpmesh.sources.embedded import EmbeddedFactory, EmbeddedSettings, EmbeddedSource
from tcpmesh.sources.files import FilesFactory, FilesSettings, FilesSource, FilesWorkload
from tcpmesh.sources.polling import PollingIdentitySource
from tcpmesh.sources.workload_api import WorkloadAPIFactory, WorkloadAPISettings, WorkloadAPISource
from tcpmesh.testing import FakeWorkloadAPI, IdentitySourceContract, TestAuthority
from tcpmesh.values import IdentitySnapshot, Workload


class EmbeddedContractTests(IdentitySourceContract, SynchronousTestCase):
    """embedded"""

    def setUp(self) -> None:
        super().setUp()
        self.state = Path(self.mktemp()).absolute()

    def now(self) -> float:
        return 1_800_000_000.0 + self.clock.seconds()

    def make_factory(self) -> EmbeddedFactory:
        return EmbeddedFactory(self.now)

    def make_settings(self) -> EmbeddedSettings:
        return EmbeddedSettings(self.state)

    def break_source(self) -> bool:
        (self.state / "audit.jsonl").write_bytes(b"")  # nothing is signed that the log does not take
        return True

    def test_makes_the_class_under_test(self) -> None:
        """What the contract looked at is EmbeddedSource."""
        self.assertIsInstance(self.create(), EmbeddedSource)


class FilesContractTests(IdentitySourceContract, SynchronousTestCase):
    """files"""

    def setUp(self) -> None:
        super().setUp()
        self.authority = TestAuthority()
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()

    def make_factory(self) -> FilesFactory:
        return FilesFactory()

    def make_settings(self) -> FilesSettings:
        return FilesSettings({"example.test": self.authority.write_bundle(self.directory / "bundle.pem")})

    def make_workloads(self) -> dict[str, Workload]:
        certificate, key = self.authority.write_svid(self.authority.svid("/web"), self.directory)
        return {"web": self.authority.workload("web", FilesWorkload(certificate, key))}

    def break_source(self) -> bool:
        (self.directory / "workload.key").write_bytes(b"")
        return True

    def test_makes_the_class_under_test(self) -> None:
        """What the contract looked at is FilesSource."""
        self.assertIsInstance(self.create(), FilesSource)


class WorkloadAPIContractTests(IdentitySourceContract, SynchronousTestCase):
    """workload-api"""

    def setUp(self) -> None:
        super().setUp()
        self.authority = TestAuthority()
        self.api = FakeWorkloadAPI(self.authority.snapshot("/web"))

    def make_factory(self) -> WorkloadAPIFactory:
        return WorkloadAPIFactory({}, connect=self.api.connect)

    def make_settings(self) -> WorkloadAPISettings:
        return WorkloadAPISettings("unix:///run/agent.sock")

    def break_source(self) -> bool:
        self.api.reachable = False
        self.api.cut()
        return True

    def test_makes_the_class_under_test(self) -> None:
        """What the contract looked at is WorkloadAPISource."""
        self.assertIsInstance(self.create(), WorkloadAPISource)


class Polling(PollingIdentitySource):
    """Fetches from a test authority, until it is broken."""

    def __init__(self, context: PluginContext, authority: TestAuthority, broken: list[bool]) -> None:
        super().__init__(context)
        self._authority = authority
        self._broken = broken

    def fetch(self) -> IdentitySnapshot:
        if self._broken:
            raise OSError("the authority is gone")
        return self._authority.snapshot("/web")


@implementer(IIdentitySourceFactory)
class PollingFactory:
    """What an author of a polling source writes."""

    name = "polling"
    description = "for this test"
    settings = NoSettings
    workload_settings = None

    def __init__(self, authority: TestAuthority, broken: list[bool]) -> None:
        self._authority = authority
        self._broken = broken

    def create(self, settings: Any, context: PluginContext) -> Polling:
        return Polling(context, self._authority, self._broken)


class PollingContractTests(IdentitySourceContract, SynchronousTestCase):
    """The base class of third parties' sources."""

    def setUp(self) -> None:
        super().setUp()
        self.authority = TestAuthority()
        self.broken: list[bool] = []

    def make_factory(self) -> PollingFactory:
        return PollingFactory(self.authority, self.broken)

    def break_source(self) -> bool:
        self.broken.append(True)
        return True
