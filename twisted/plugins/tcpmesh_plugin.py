"""
Tells twistd about ``twistd tcpmesh`` and tcpmesh about its built-in plugins; imports nothing heavy.

Every twistd on the machine imports this. The module-level names are frozen by a test: Twisted's ``dropin.cache``
may outlive an upgrade, and a renamed plugin would be missing until somebody deletes that file.
"""

from twisted.application.reactors import Reactor
from twisted.application.service import ServiceMaker

from tcpmesh.descriptors import PluginDescriptor
from tcpmesh.interfaces import AUTHORIZATION, BALANCE, DISCOVERY, IDENTITY, RETRY

service = ServiceMaker(
    "tcpmesh", "tcpmesh.tap", "mutual TLS, identity and authorization beside a TCP service", "tcpmesh"
)

reactor = Reactor("tcpmesh", "tcpmesh.net.reactor", "epoll(7), with a shorter way to the connections of tcpmesh")

identity_embedded = PluginDescriptor(
    IDENTITY,
    "embedded",
    "an authority of this machine's own, in a state directory",
    "tcpmesh.sources.embedded:EmbeddedFactory",
)
identity_files = PluginDescriptor(
    IDENTITY,
    "files",
    "certificates, keys and bundles from PEM files, taken anew when they change",
    "tcpmesh.sources.files:FilesFactory",
)
identity_workload_api = PluginDescriptor(
    IDENTITY,
    "workload-api",
    "what a SPIFFE Workload API pushes: certificates, keys and bundles",
    "tcpmesh.sources.workload_api:WorkloadAPIFactory",
)
discovery_static = PluginDescriptor(
    DISCOVERY,
    "static",
    "the addresses that the configuration lists",
    "tcpmesh.discovery.static:StaticFactory",
)
discovery_file = PluginDescriptor(
    DISCOVERY,
    "file",
    "the endpoints in a file, taken anew when it has changed",
    "tcpmesh.sources.endpoint_file:EndpointFileFactory",
)
discovery_dns = PluginDescriptor(
    DISCOVERY,
    "dns",
    "the addresses or SRV records that name servers give for a name",
    "tcpmesh.sources.dns:DnsFactory",
)
authorization_opa = PluginDescriptor(
    AUTHORIZATION,
    "opa",
    "asks an Open Policy Agent over HTTP",
    "tcpmesh.sources.opa:OpaFactory",
)
authorization_rules = PluginDescriptor(
    AUTHORIZATION,
    "rules",
    "allow, deny, audit and limit by identity, network, listener, service and time",
    "tcpmesh.sources.rules:RulesFactory",
)
authorization_linkerd = PluginDescriptor(
    AUTHORIZATION,
    "linkerd",
    "Linkerd's Servers and authorizations, from files, taken anew when they change",
    "tcpmesh.sources.linkerd:LinkerdFactory",
)
balance_least_connections = PluginDescriptor(
    BALANCE,
    "least-connections",
    "the endpoint that has the fewest connections for its weight",
    "tcpmesh.balance.least_connections:LeastConnectionsFactory",
)
balance_p2c_ewma = PluginDescriptor(
    BALANCE,
    "p2c-ewma",
    "of two by lot, the one that takes connections faster and has fewer",
    "tcpmesh.balance.p2c_ewma:P2cEwmaFactory",
)
balance_random = PluginDescriptor(
    BALANCE,
    "random",
    "any endpoint by lot, by weight",
    "tcpmesh.balance.random_choice:RandomChoiceFactory",
)
balance_source_hash = PluginDescriptor(
    BALANCE,
    "source-hash",
    "the same endpoint for the same source host, by weight",
    "tcpmesh.balance.source_hash:SourceHashFactory",
)
balance_round_robin = PluginDescriptor(
    BALANCE,
    "round-robin",
    "one endpoint after the other, by weight",
    "tcpmesh.balance.round_robin:RoundRobinFactory",
)
retry_none = PluginDescriptor(
    RETRY,
    "none",
    "one attempt, no retry",
    "tcpmesh.retry.none:NoRetryFactory",
)
retry_fixed = PluginDescriptor(
    RETRY,
    "fixed",
    "the same wait between any two attempts",
    "tcpmesh.retry.fixed:FixedFactory",
)
retry_exponential = PluginDescriptor(
    RETRY,
    "exponential",
    "exponentially growing waits with full jitter",
    "tcpmesh.retry.exponential:ExponentialFactory",
)
