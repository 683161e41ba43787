"""
Tells tcpmesh of the three plugins. Every twistd on the machine imports this: import nothing else here.

The variables' names must not change: Twisted remembers them in dropin.cache, also across upgrades.
"""

from tcpmesh.descriptors import PluginDescriptor
from tcpmesh.interfaces import BALANCE, DISCOVERY, RETRY

registry_failover_http_registry = PluginDescriptor(
    DISCOVERY,
    "http-registry",
    "the instances that an HTTP registry says are well",
    "registry_failover.http_registry:HTTPRegistryFactory",
)
registry_failover_last_good = PluginDescriptor(
    BALANCE,
    "last-good",
    "the endpoint that accepted last, until it fails",
    "registry_failover.last_good:LastGoodFactory",
)
registry_failover_by_code = PluginDescriptor(
    RETRY,
    "by-code",
    "waits, or gives up, by what the failures were",
    "registry_failover.by_code:ByCodeFactory",
)
