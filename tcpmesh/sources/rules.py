"""
The plugin ``rules``: policies in the configuration, and in files that are read again when they change.

Ring 3, without a reactor.
"""

from __future__ import annotations

from collections.abc import Sequence

from zope.interface import implementer

from tcpmesh.errors import Problem
from tcpmesh.interfaces import (
    IAuthorizationPolicyFactory,
    ICheckable,
    IPolicyObserver,
    IPolicySource,
    IReloadable,
    PluginContext,
)
from tcpmesh.policy.files import PolicyReader
from tcpmesh.policy.language import RulesSettings
from tcpmesh.policy.rules import Rules
from tcpmesh.policy_interfaces import IDoubtedPolicy, IOutboundPolicy
from tcpmesh.sources.watched_files import FileContent, WatchedFiles
from tcpmesh.values import AuthorizationRequest, Decision, Effect

__all__ = ["RulesFactory", "RulesSource"]


@implementer(IOutboundPolicy, IPolicySource, ICheckable, IReloadable, IDoubtedPolicy)
class RulesSource:
    """Delivers what the files say, and again whenever they have changed and can be used."""

    decides_outbound = True  # until it has delivered: nobody knows yet

    def __init__(self, settings: RulesSettings, context: PluginContext) -> None:
        self._inbound = context.inbound
        self._now = context.wall_clock
        self._reader = PolicyReader(settings.inline, context.inbound, context.services)
        self._places = list(settings.paths())
        self._files: WatchedFiles[Rules] = WatchedFiles(
            self._places, self._read, context.clock, context.log, interval=settings.interval
        )

    def _read(self, contents: Sequence[FileContent]) -> Rules:
        policies = self._reader.read([(content.path, content.data) for content in contents])
        return Rules(policies, self._now, self._inbound)

    def check(self) -> None:
        """
        Read everything, deliver nothing. (ICheckable)

        :raises ConfigurationError: with everything that is wrong.
        """
        self._files.load()

    def warnings(self) -> Sequence[Problem]:
        """Rules that can never decide, in the files as they are now. (IDoubtedPolicy)"""
        return self._files.load().warnings()

    def start(self, observer: IPolicyObserver) -> None:
        """
        Read everything and deliver. (IPolicySource)

        :raises ConfigurationError: with everything that is wrong.
        """
        self._files.start(observer.policy_changed, observer.policy_failed)

    def reload(self) -> None:
        """Look now. (IReloadable)"""
        self._files.reload()

    def stop(self) -> None:
        """Watch no longer. (IPolicySource)"""
        self._files.stop()

    def decide(self, request: AuthorizationRequest) -> Decision:
        """Deny: nothing was read yet. (IAuthorizationPolicy)"""
        return Decision(Effect.DENY, reason="the files of the policies were not read yet")

    def describe(self) -> Sequence[str]:
        """Where they are. (IAuthorizationPolicy)"""
        return [f"not read yet: {place}" for place in self._places]


@implementer(IAuthorizationPolicyFactory)
class RulesFactory:
    """Makes policies from rules in the configuration and in files beside it."""

    name = "rules"
    description = "allow, deny and audit by identity, network, listener, service and time"
    settings = RulesSettings

    def create(self, settings: RulesSettings, context: PluginContext) -> Rules | RulesSource:
        """Compile the rules, those in files when they are read."""
        if settings.files is not None or settings.directory is not None:
            return RulesSource(settings, context)
        return Rules(settings.inline, context.wall_clock, context.inbound)
