"""
The identity source ``acme-command``: runs a command that issues certificates.

The command is called with ``bundle`` for the trust bundle, and with ``issue SPIFFE-ID`` for each workload. It writes
PEM to its standard output: authorities for the bundle, key and chain (the leaf first) for a workload.
"""

from __future__ import annotations

import subprocess

import attrs
from zope.interface import implementer

from tcpmesh.identity.material import load_certificates, load_private_key
from tcpmesh.interfaces import IIdentitySourceFactory, PluginContext
from tcpmesh.sources.polling import PollingIdentitySource
from tcpmesh.values import Duration, IdentitySnapshot, Svid, TrustBundle


def _check_command(_instance: object, _attribute: object, value: list[str]) -> None:
    if not value:
        raise ValueError("the list is empty; name the program and its arguments")


@attrs.frozen
class CommandSettings:
    """``command``: the program and its first arguments, never passed to a shell. ``interval``: how often to ask."""

    command: list[str] = attrs.field(validator=_check_command)
    interval: Duration = Duration(600.0)
    timeout: Duration = Duration(10.0)  # for all workloads together


class CommandSource(PollingIdentitySource):
    """Asks the command for everything, each time."""

    def __init__(self, settings: CommandSettings, context: PluginContext) -> None:
        super().__init__(context)
        self.interval = settings.interval
        self.deadline = settings.timeout
        self._command = settings.command

    def fetch(self) -> IdentitySnapshot:
        """Run the command once for the bundle and once per workload; one that fails fails the whole."""
        own = self.context.trust_domain
        bundle = TrustBundle(own, load_certificates(self._run("bundle")))
        svids = []
        for workload in self.context.workloads.values():
            pem = self._run("issue", str(workload.id))
            svids.append(Svid(workload.id, load_certificates(pem), load_private_key(pem)))
        return IdentitySnapshot(tuple(svids), {own: bundle})

    def _run(self, *arguments: str) -> bytes:
        result = subprocess.run([*self._command, *arguments], capture_output=True, timeout=self.deadline, check=False)
        if result.returncode:
            # What it wrote to standard output may be a key; what it wrote to standard error is for people.
            words = result.stderr.decode(errors="replace").strip()
            raise RuntimeError(f"{words or 'no message'} (status {result.returncode} of {self._command[0]})")
        return result.stdout


@implementer(IIdentitySourceFactory)
class CommandFactory:
    """Makes sources that ask a command."""

    name = "acme-command"
    description = "identities that a command issues"
    settings = CommandSettings
    workload_settings = None

    def create(self, settings: CommandSettings, context: PluginContext) -> CommandSource:
        """Make one source."""
        return CommandSource(settings, context)
