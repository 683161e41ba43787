"""
The plugin ``rules``: policies in the configuration, and in files that are read again when they change.

Ring 3, without a reactor.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure
from zope.interface import implementer

from tcpmesh.errors import ConfigurationError, Problem
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
from tcpmesh.sources.polling import InThread, in_caller, in_daemon_thread
from tcpmesh.sources.watched_files import FileContent, WatchedFiles
from tcpmesh.values import AuthorizationRequest, Decision, Effect

__all__ = ["RulesFactory", "RulesSource"]


@implementer(IOutboundPolicy, IPolicySource, ICheckable, IReloadable, IDoubtedPolicy)
class RulesSource:
    """
    Delivers what the files say, and again whenever they have changed and can be used.

    Reading a thousand policies takes a second, for which no connection shall wait: after the start it is done in a
    thread.

    :param in_thread: how; by default a daemon thread, or in the caller's when the context's clock is no reactor.
    """

    decides_outbound = True  # until it has delivered: nobody knows yet

    def __init__(self, settings: RulesSettings, context: PluginContext, in_thread: InThread | None = None) -> None:
        if in_thread is None:
            reactor = context.clock
            in_thread = in_daemon_thread(reactor) if IReactorFromThreads.providedBy(reactor) else in_caller
        self._run = in_thread
        self._log = context.log
        self._ports = context.inbound_ports
        self._now = context.wall_clock
        self._reader = PolicyReader(settings.inline, context.inbound, context.services)
        self._places = list(settings.paths())
        self._files: WatchedFiles[Sequence[FileContent]] = WatchedFiles(
            self._places, lambda contents: contents, context.clock, context.log, interval=settings.interval
        )
        self._observer: IPolicyObserver | None = None
        self._delivered = False
        self._reading = False
        self._newest: Sequence[FileContent] | None = None  # to be read when the thread is done with another
        self._outdated = False  # the files cannot be read any longer, whatever the thread makes of those of before
        self._waiting: list[Deferred[None]] = []  # fire when the thread is done with all

    def _read(self, contents: Sequence[FileContent]) -> Rules:
        policies = self._reader.read([(content.path, content.data) for content in contents])
        rules = Rules(policies, self._now, self._ports)
        rules.warnings()  # which it remembers: finding them takes time, too
        return rules

    def check(self) -> None:
        """
        Read everything, deliver nothing. (ICheckable)

        :raises ConfigurationError: with everything that is wrong.
        """
        self._read(self._files.load())

    def warnings(self) -> Sequence[Problem]:
        """Rules that can never decide, in the files as they are now. (IDoubtedPolicy)"""
        return self._read(self._files.load()).warnings()

    def start(self, observer: IPolicyObserver) -> None:
        """
        Read everything and deliver. (IPolicySource)

        :raises ConfigurationError: with everything that is wrong.
        """
        self._observer = observer
        self._files.start(self._found, self._unreadable)

    def reload(self) -> Deferred[None] | None:
        """Look now; what is returned fires when it was delivered, or told of. (IReloadable)"""
        self._files.reload()
        if not self._reading:
            return None
        done: Deferred[None] = Deferred()
        self._waiting.append(done)
        return done

    def stop(self) -> None:
        """Watch no longer; what a thread still reads is dropped. (IPolicySource)"""
        self._observer = None
        self._files.stop()
        self._tell_done()

    def decide(self, request: AuthorizationRequest) -> Decision:
        """Deny: nothing was read yet. (IAuthorizationPolicy)"""
        return Decision(Effect.DENY, reason="the files of the policies were not read yet")

    def describe(self) -> Sequence[str]:
        """Where they are. (IAuthorizationPolicy)"""
        return [f"not read yet: {place}" for place in self._places]

    # --- reading

    def _found(self, contents: Sequence[FileContent]) -> None:
        if not self._delivered:
            rules = self._read(contents)
            self._delivered = True
            self._deliver(rules)
            return
        self._newest = contents
        if not self._reading:
            self._begin()

    def _unreadable(self, reason: str) -> None:
        self._newest, self._outdated = None, True
        if self._observer is not None:
            self._observer.policy_failed(reason)

    def _tell_done(self) -> None:
        waiting, self._waiting = self._waiting, []
        for done in waiting:
            done.callback(None)

    def _begin(self) -> None:
        contents, self._newest = self._newest or (), None
        self._reading, self._outdated = True, False
        try:
            self._run(lambda: self._read(contents), self._ended)
        except RuntimeError:  # no thread to be had: told, and tried again with the next change or reload
            self._ended(Failure())

    def _ended(self, result: Rules | Failure) -> None:
        self._reading = False
        if self._newest is not None:
            self._begin()
            return
        try:
            if not self._outdated:
                self._take(result)
        finally:
            self._tell_done()

    def _take(self, result: Rules | Failure) -> None:
        if isinstance(result, Rules) and self._observer is not None:
            for doubt in result.warnings():
                self._log.warn("{doubt}", doubt=str(doubt))
        self._deliver(result)

    def _deliver(self, result: Rules | Failure) -> None:
        if self._observer is None:
            return
        if isinstance(result, Rules):
            self._observer.policy_changed(result)
        elif result.check(ConfigurationError):
            self._observer.policy_failed(str(result.value))
        else:
            self._log.failure("reading the files of the policies failed", result)
            self._observer.policy_failed("reading the files failed; see the traceback above")


@implementer(IAuthorizationPolicyFactory)
class RulesFactory:
    """Makes policies from rules in the configuration and in files beside it."""

    name = "rules"
    description = "allow, deny, audit and limit by identity, network, listener, service and time"
    settings = RulesSettings

    def create(self, settings: RulesSettings, context: PluginContext) -> Rules | RulesSource:
        """Compile the rules, those in files when they are read."""
        if settings.files is not None or settings.directory is not None:
            return RulesSource(settings, context)
        return Rules(settings.inline, context.wall_clock, context.inbound_ports)
