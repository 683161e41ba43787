"""Each plugin keeps the contract of its kind."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from acme_mesh.discovery_list import ListFactory, ListSettings
from acme_mesh.identity_command import CommandFactory, CommandSettings
from acme_mesh.least_used import LeastUsedFactory
from acme_mesh.office_hours import OfficeHoursFactory, OfficeHoursSettings
from acme_mesh.patient import PatientFactory
from tcpmesh.identity.spiffe import SpiffeId
from tcpmesh.testing import (
    AuthorizationPolicyContract,
    IdentitySourceContract,
    LoadBalancerContract,
    RetryStrategyContract,
    ServiceDiscoveryContract,
    TestAuthority,
    authorization_request,
)
from tcpmesh.values import AuthorizationRequest

# Stands for the company's own tool: answers from files that the test writes.
ISSUE = """
import pathlib, sys
directory = pathlib.Path(sys.argv[1])
if sys.argv[2] == "bundle":
    print((directory / "bundle.pem").read_text())
else:
    name = sys.argv[3].rpartition("/")[2]
    print((directory / f"{name}.key").read_text() + (directory / f"{name}.pem").read_text())
"""


class CommandContractTests(IdentitySourceContract, SynchronousTestCase):
    """acme-command"""

    def setUp(self) -> None:
        super().setUp()
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        authority = TestAuthority("example.test")
        authority.write_bundle(self.directory / "bundle.pem")
        authority.write_svid(authority.svid("/web"), self.directory, "web")
        (self.directory / "issue.py").write_text(ISSUE)

    def make_factory(self) -> CommandFactory:
        return CommandFactory()

    def make_settings(self) -> CommandSettings:
        return CommandSettings([sys.executable, str(self.directory / "issue.py"), str(self.directory)])

    def break_source(self) -> bool:
        (self.directory / "issue.py").write_text("import sys; sys.exit('the authority is closed')")
        return True

    def test_a_failure_carries_the_command_s_words(self) -> None:
        """The operator reads what the command said, and nothing of what it printed to standard output."""
        _source, observer = self.started()
        (self.directory / "issue.py").write_text("import sys; print('SECRET'); sys.exit('the authority is closed')")
        self.clock.advance(1000)
        self.assertIn("the authority is closed", observer.failures[0])
        self.assertNotIn("SECRET", observer.failures[0])


class ListContractTests(ServiceDiscoveryContract, SynchronousTestCase):
    """acme-list"""

    def make_factory(self) -> ListFactory:
        return ListFactory()

    def make_settings(self) -> ListSettings:
        path = Path(self.mktemp())
        path.write_text("# the shop's databases\n127.0.0.1:5432\n\n[::1]:5432\n127.0.0.1:5432\n")
        return ListSettings(path)


class OfficeHoursContractTests(AuthorizationPolicyContract, SynchronousTestCase):
    """acme-office-hours"""

    def make_factory(self) -> OfficeHoursFactory:
        return OfficeHoursFactory(lambda: datetime.datetime(2026, 3, 2, 12, tzinfo=datetime.UTC))  # a Monday

    def make_settings(self) -> OfficeHoursSettings:
        return OfficeHoursSettings([SpiffeId.parse("spiffe://example.test/web")])

    def allowed(self) -> list[AuthorizationRequest]:
        return [authorization_request("spiffe://example.test/web")]

    def denied(self) -> list[AuthorizationRequest]:
        return [authorization_request("spiffe://example.test/night-watch")]


class PatientContractTests(RetryStrategyContract, SynchronousTestCase):
    """acme-patient"""

    def make_factory(self) -> PatientFactory:
        return PatientFactory()


class LeastUsedContractTests(LoadBalancerContract, SynchronousTestCase):
    """acme-least-used"""

    def make_factory(self) -> LeastUsedFactory:
        return LeastUsedFactory()
