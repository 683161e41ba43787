"""
Tells tcpmesh of the five plugins. Every twistd on the machine imports this: import nothing else here.

The variables' names must not change: Twisted remembers them in dropin.cache, also across upgrades.
"""

from tcpmesh.descriptors import PluginDescriptor
from tcpmesh.interfaces import AUTHORIZATION, BALANCE, DISCOVERY, IDENTITY, RETRY

acme_identity_command = PluginDescriptor(
    IDENTITY,
    "acme-command",
    "identities that a command issues",
    "acme_mesh.identity_command:CommandFactory",
)
acme_discovery_list = PluginDescriptor(
    DISCOVERY,
    "acme-list",
    "addresses in a text file, looked at again and again",
    "acme_mesh.discovery_list:ListFactory",
)
acme_authorization_office_hours = PluginDescriptor(
    AUTHORIZATION,
    "acme-office-hours",
    "whom it names, in office hours only",
    "acme_mesh.office_hours:OfficeHoursFactory",
)
acme_retry_patient = PluginDescriptor(
    RETRY,
    "acme-patient",
    "equal waits until a total time is spent",
    "acme_mesh.patient:PatientFactory",
)
acme_balance_least_used = PluginDescriptor(
    BALANCE,
    "acme-least-used",
    "the endpoint with the fewest connections of this proxy",
    "acme_mesh.least_used:LeastUsedFactory",
)
