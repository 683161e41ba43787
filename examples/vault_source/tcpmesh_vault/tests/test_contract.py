"""The identity source ``vault`` keeps the contract of identity sources."""

from __future__ import annotations

from tcpmesh.testing import IdentitySourceContract
from tcpmesh_vault.settings import VaultSettings
from tcpmesh_vault.source import VaultFactory
from tcpmesh_vault.tests.cases import VaultCase


class TokenContractTests(IdentitySourceContract, VaultCase):
    """With a token from a file."""

    def make_factory(self) -> VaultFactory:
        return VaultFactory()

    def make_settings(self) -> VaultSettings:
        return self.settings()

    def break_source(self) -> bool:
        self.vault.answer = (503, b'{"errors": ["Vault is sealed"]}')
        return True


class AppRoleContractTests(TokenContractTests):
    """With an AppRole."""

    def make_settings(self) -> VaultSettings:
        return self.approle()
