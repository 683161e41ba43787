"""
Tells tcpmesh of the plugin. Every twistd on the machine imports this: import nothing else here.

The variable's name must not change: Twisted remembers it in dropin.cache, also across upgrades.
"""

from tcpmesh.descriptors import PluginDescriptor
from tcpmesh.interfaces import IDENTITY

tcpmesh_vault_identity = PluginDescriptor(
    IDENTITY,
    "vault",
    "certificates that HashiCorp Vault or OpenBao signs",
    "tcpmesh_vault.source:VaultFactory",
)
