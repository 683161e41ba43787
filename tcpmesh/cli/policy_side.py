"""
The policies of a configuration, made as the proxy makes them, and asked without one.

Ring 4. Nothing is listened on and no identity source is made: what decides, and the deny-list, are all that is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import click
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.logger import Logger

from tcpmesh.policy.evaluate import Verdict, decide_by
from tcpmesh.policy.explain import Nearest, explained, limits_of, near_rules_of, on_deny_list
from tcpmesh.policy.replay import Places
from tcpmesh.settings import Settings
from tcpmesh.values import AuthorizationRequest
from tcpmesh.wall_clock import WallClock, wall_clock

if TYPE_CHECKING:
    from tcpmesh.mesh_state import MeshState

__all__ = ["PolicySide", "policy_side", "waited_for"]

_log = Logger(namespace="tcpmesh")
_T = TypeVar("_T")


@attrs.frozen(eq=False)
class PolicySide:
    """
    The policies, defaults and deny-list of a configuration.

    :param clock: the reactor, for policies that answer later.
    """

    settings: Settings
    state: MeshState
    places: Places
    clock: Any

    def decide(self, request: AuthorizationRequest) -> Verdict | Deferred[Verdict]:
        """What the proxy would decide, and as late."""
        return decide_by(self.state, request, self.clock, _log)

    @inlineCallbacks
    def explain(self, request: AuthorizationRequest, *, nearest: bool = True) -> Any:
        """
        Fires with the explanation as JSON values.

        :param nearest: whether to look for the rule that came nearest, which takes longer than to decide.
        """
        if denied := on_deny_list(self.state, request):
            return denied
        verdict = self.decide(request)
        if isinstance(verdict, Deferred):
            verdict = yield verdict
        search = Nearest()
        for rule in near_rules_of(self.state, request, verdict) if nearest else ():
            search.offer(rule)
        return explained(verdict, search.found, limits_of(self.state, request))


@contextmanager
def policy_side(config: Path, now: WallClock = wall_clock) -> Iterator[PolicySide]:
    """
    Read a configuration and make its policies.

    :param now: what they take for the time of day.
    :raises ConfigurationError: with everything that is wrong, in the files of policies too.
    """
    from twisted.internet import reactor  # noqa: TID251  # lent to plugins as their clock

    from tcpmesh.composition import compose_policies
    from tcpmesh.config import load
    from tcpmesh.deny_control import DenyControl
    from tcpmesh.plugins import PluginRegistry

    _show_tracebacks_escaped()
    plugins = PluginRegistry()
    settings = load(config.absolute(), plugins)
    cell, control = compose_policies(settings, plugins, reactor, now)
    denials = DenyControl(settings.identity.deny_list, cell, reactor, now)
    try:
        denials.start()
        control.start()
        yield PolicySide(settings, cell.current, Places.of(settings), reactor)
    finally:
        control.stop()
        denials.stop()


def _show_tracebacks_escaped() -> None:
    """
    Let what a plugin raised be shown as the proxy's log shows it.

    Its text may hold what a peer sent, and Twisted writes it to the terminal as it is until somebody begins to log;
    which only a process's owner may do, and once.
    """
    context = click.get_current_context(silent=True)
    words = context.find_root().obj if context is not None else None
    if not words:
        return
    words.clear()
    from twisted.logger import FilteringLogObserver, LogLevel, LogLevelFilterPredicate, globalLogBeginner

    from tcpmesh.observe.log import TextLogObserver

    observer = TextLogObserver(lambda text: click.echo(text, err=True))
    critical = LogLevelFilterPredicate(defaultLogLevel=LogLevel.critical)
    globalLogBeginner.beginLoggingTo(
        [FilteringLogObserver(observer, [critical])], discardBuffer=True, redirectStandardIO=False
    )


def waited_for(result: Deferred[_T]) -> _T:
    """
    What a Deferred fires with, which may need the reactor to run; that can be done once in a process.

    :raises Exception: what it fails with.
    """
    from twisted.internet import reactor  # noqa: TID251

    found: list[_T] = []
    failures: list[Any] = []
    result.addCallbacks(found.append, failures.append)
    if not found and not failures:
        loop: Any = reactor
        result.addBoth(lambda _: loop.stop())
        loop.run()
    if failures:
        failures[0].raiseException()
    if not found:
        raise KeyboardInterrupt
    return found[0]
