"""
The control side of authorization: runs the policies that change while the proxy runs, and swaps in what they deliver.

Ring 4. A policy that has no source stays as it was made. Each change is one swap of the mesh state, so that a
connection is decided by the old policy or by the new one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import attrs
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer
from zope.interface.exceptions import Invalid
from zope.interface.verify import verifyObject

from tcpmesh.codes import PLUGIN_UNUSABLE
from tcpmesh.errors import Problem, StartError, TcpmeshError
from tcpmesh.interfaces import IAuthorizationPolicy, ICheckable, IPolicyObserver, IPolicySource, IReloadable
from tcpmesh.mesh_state import MeshStateCell, NamedPolicy
from tcpmesh.policy_interfaces import IDoubtedPolicy

__all__ = ["PolicyControl"]

_log = Logger(namespace="tcpmesh")

Outcome = Literal["changed", "failed"]


@implementer(IPolicyObserver)
@attrs.frozen(eq=False)
class _Observer:
    """Where one policy delivers."""

    control: PolicyControl
    position: int

    def policy_changed(self, policy: IAuthorizationPolicy) -> None:
        """(IPolicyObserver)."""
        self.control.take(self.position, policy)

    def policy_failed(self, reason: str) -> None:
        """(IPolicyObserver)."""
        self.control.note_failure(self.position, reason)


class PolicyControl:
    """
    Keeps the policies of the mesh state current.

    :param policies: as the plugins made them, in the order of the configuration; the state holds them already.
    """

    def __init__(self, cell: MeshStateCell, policies: Sequence[NamedPolicy]) -> None:
        self._cell = cell
        self._made = tuple(policies)
        self._started: dict[int, Any] = {}  # by position
        #: By position: why the newest change of a policy is not in use, for those of which that is so.
        self.failing: dict[int, str] = {}
        #: By position: how often a policy was delivered, and something that could not be used.
        self.outcomes: Counter[tuple[int, Outcome]] = Counter()

    @property
    def policies(self) -> tuple[NamedPolicy, ...]:
        """Those in use."""
        return self._cell.current.policies

    def report(self) -> list[dict[str, Any]]:
        """Where each policy stands, in the order of the configuration, as plain JSON values."""
        return [
            {
                "position": position,
                "plugin": named.name,
                "changes": IReloadable.providedBy(named.policy),
                "taken": self.outcomes[position, "changed"],
                "refused": self.outcomes[position, "failed"],
                "failure": self.failing.get(position, ""),
            }
            for position, named in enumerate(self._made)
        ]

    def check(self) -> list[TcpmeshError]:
        """What the policies that can tell beforehand would complain of at their start; nothing is started."""
        problems: list[TcpmeshError] = []
        for named in self._made:
            if ICheckable.providedBy(named.policy):
                try:
                    named.policy.check()  # type: ignore[attr-defined]
                except TcpmeshError as error:
                    problems.append(error)
                except Exception as error:  # noqa: BLE001  a plugin's failure is an answer
                    _log.failure("checking policy plugin {name!r} failed", name=named.name)
                    reason = f"policy plugin {named.name!r} cannot be checked: {type(error).__name__}: {error}"
                    problems.append(StartError(PLUGIN_UNUSABLE, reason))
        return problems

    def warnings(self) -> list[Problem]:
        """What in the policies that are in use cannot have been meant; those that are not started yet read theirs."""
        found: list[Problem] = []
        for named in self.policies:
            if IDoubtedPolicy.providedBy(named.policy):
                try:
                    found += named.policy.warnings()  # type: ignore[attr-defined]
                except Exception as error:  # noqa: BLE001  a plugin's failure is an answer
                    _log.failure("asking policy plugin {name!r} for warnings failed", name=named.name)
                    found.append(Problem(f"policy plugin {named.name!r} cannot be asked: {type(error).__name__}"))
        return found

    def start(self) -> None:
        """
        Start every policy that has a source.

        :raises ConfigurationError: or StartError, from the first that cannot start; :meth:`stop` must be called all
            the same.
        """
        for position, named in enumerate(self._made):
            if IPolicySource.providedBy(named.policy):
                source: Any = named.policy
                self._started[position] = source
                source.start(_Observer(self, position))

    def reload(self) -> Deferred[Any]:
        """
        Let every policy that can look for something new do so now; what comes of it is told as always.

        :return: fires when all have looked that say when they have; never fails.
        """
        looking = []
        for position, source in list(self._started.items()):
            if IReloadable.providedBy(source):
                # A plugin's failure must not keep the others from looking.
                looking.append(maybeDeferred(source.reload).addErrback(self._reload_failed, position))
        done: Deferred[Any] = Deferred()  # whoever no longer waits for it disturbs nobody who looks
        DeferredList(looking).addCallback(done.callback)
        return done

    def _reload_failed(self, failure: Failure, position: int) -> None:
        _log.failure("reloading policy plugin {name!r} failed", failure, name=self._made[position].name)
        self.note_failure(position, f"reloading failed: {failure.value.__class__.__name__}")

    def stop(self) -> Deferred[Any]:
        """Stop whatever was started; never fails."""
        started, self._started = self._started, {}
        stopping = []
        for position, source in started.items():
            outcome = maybeDeferred(source.stop)
            outcome.addErrback(self._stop_failed, self._made[position].name)
            stopping.append(outcome)
        return DeferredList(stopping)

    def _stop_failed(self, failure: Failure, name: str) -> None:
        _log.failure("stopping policy plugin {name!r} failed", failure, name=name)

    def take(self, position: int, policy: IAuthorizationPolicy) -> None:
        """A source delivered: decide by this policy from now on."""
        if position not in self._started:
            return
        named = self._made[position]
        try:
            verifyObject(IAuthorizationPolicy, policy)
        except Invalid as error:
            _log.error("policy plugin {name!r} delivered nonsense: {error}", name=named.name, error=error)
            self.note_failure(position, "delivered something that is not a policy")
            return
        policies = list(self._cell.current.policies)
        answers = named.answers.renewed() if named.answers is not None else None
        policies[position] = attrs.evolve(named, policy=policy, answers=answers)
        state = self._cell.swap(policies=tuple(policies))
        self.failing.pop(position, None)
        self.outcomes[position, "changed"] += 1
        _log.info(
            "policy plugin {name!r}: a policy is in use from generation {generation} on",
            name=named.name,
            generation=state.generation,
        )

    def note_failure(self, position: int, reason: str) -> None:
        """A change cannot be used: what was in use goes on to decide."""
        if position not in self._started:
            return
        name = self._made[position].name
        self.failing[position] = reason
        self.outcomes[position, "failed"] += 1
        _log.error(
            "policy plugin {name!r}: a change cannot be used, the policy of before goes on to decide: {reason}",
            name=name,
            reason=reason,
        )
