"""
The control side of discovery: runs the plugins, and makes what they deliver the endpoints of the mesh state.

Ring 4, beside ``control``. ``MeshState.endpoints`` has no key for a service of which nothing was said yet, and an empty
tuple for one that is said to have none, of which ``MeshState.no_endpoints`` says why, if that is known;
``MeshState.discovery_failures`` says why a discovery that fails does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import attrs
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from tcpmesh.codes import DISCOVERY_FAILED, PLUGIN_UNUSABLE
from tcpmesh.discovery.endpoint_rules import MAX_ENDPOINTS, other_kind
from tcpmesh.discovery.intake import change, take_in
from tcpmesh.discovery.status import DiscoveryStatus
from tcpmesh.endpoint_lines import DiscoveryLines
from tcpmesh.errors import ConfigurationError, Problem, StartError
from tcpmesh.interfaces import ICheckable, IDiscoveryObserver, IReloadable, IServiceDiscovery
from tcpmesh.mesh_state import MeshStateCell
from tcpmesh.values import Address, Endpoint, ExpectedIdentity

__all__ = ["PACE", "DiscoveryStatus", "EndpointControl"]

PACE = 0.1  # seconds between two deliveries of one service that are looked at: each costs every part that does …
_REST = 9.0  # … and so many times what the last one cost, if that is longer: of ten thousand endpoints, a second
_MAX_PAUSE = 5.0  # seconds
_MAX_REASON = 500  # characters of a plugin's

_log = Logger(namespace="tcpmesh.control")


@attrs.define(eq=False)
class _Discovery:
    """One service's discovery, and what came of it."""

    service: str
    plugin: str
    discovery: IServiceDiscovery
    expect: Sequence[ExpectedIdentity]
    lines: DiscoveryLines
    started: bool = False
    starting: bool = False
    published: tuple[Endpoint, ...] | None = None
    known: frozenset[Endpoint] = frozenset()  # the same, to be found quickly
    why_none: str = ""  # what it said of there being no endpoints
    waiting: tuple[tuple[object, ...], str] | None = None  # delivered, to be looked at when the pace allows
    outdated: bool = False  # whether a failure came after it
    pause: Any = None  # the delayed call until then
    recovering: Any = None  # the delayed call that says that it works again …
    failed_since: float = 0.0  # … and since when it had not
    said: float | None = None
    failing: float | None = None
    reason: str = ""
    changes: int = 0
    failures: int = 0


@implementer(IDiscoveryObserver)
@attrs.frozen(eq=False)
class _Observer:
    """Where one service's discovery delivers."""

    control: EndpointControl
    discovery: _Discovery

    def endpoints_changed(self, endpoints: Sequence[Endpoint], reason: str = "") -> None:
        """(IDiscoveryObserver)."""
        self.control.take(self.discovery, endpoints, reason)

    def endpoints_failed(self, reason: str) -> None:
        """(IDiscoveryObserver)."""
        self.control.note_failure(self.discovery, reason)


class EndpointControl:
    """
    Runs every service's discovery.

    :param refuses: why no service may have an endpoint at this address; empty when it may.
    """

    def __init__(self, cell: MeshStateCell, clock: Any, refuses: Callable[[Address], str] = lambda address: "") -> None:
        self._cell = cell
        self._clock = clock
        self._refuses = refuses
        self._discoveries: list[_Discovery] = []

    def seconds(self) -> float:
        """The time that statuses are told by."""
        return float(self._clock.seconds())

    def add(
        self,
        service: str,
        discovery: IServiceDiscovery,
        expect: Sequence[ExpectedIdentity] = (),
        plugin: str = "",
    ) -> None:
        """
        Register a service's discovery; it is started by :meth:`start`.

        :param expect: the service's own, of whose kind an endpoint's must be.
        """
        self._discoveries.append(_Discovery(service, plugin, discovery, expect, DiscoveryLines(service, self._clock)))

    def statuses(self) -> Iterator[DiscoveryStatus]:
        """Where every discovery stands."""
        for one in self._discoveries:
            count = None if one.published is None else len(one.published)
            reason = one.reason or one.why_none
            yield DiscoveryStatus(
                one.service, one.plugin, count, one.said, one.failing, reason, one.changes, one.failures
            )

    def check(self) -> list[StartError | ConfigurationError]:
        """What the discoveries that can tell beforehand would complain of; nothing is started."""
        problems: list[StartError | ConfigurationError] = []
        for one in self._discoveries:
            where = f"discovery of service {one.service!r}"
            if ICheckable.providedBy(one.discovery):
                try:
                    one.discovery.check()  # type: ignore[attr-defined]
                except StartError as error:
                    problems.append(StartError(error.code, f"{where}: {error.reason}"))
                except ConfigurationError as error:
                    # What has no line, such as a file that is not there, is at least said to be of this service.
                    named = [each if each.mark else Problem(f"{where}: {each.message}") for each in error.problems]
                    problems.append(ConfigurationError(named))
                except Exception as error:  # noqa: BLE001  a plugin's failure is an answer
                    _log.failure("checking the discovery of service {service!r} failed", service=one.service)
                    reason = f"the {where} cannot be checked: {_named(error)}"
                    problems.append(StartError(PLUGIN_UNUSABLE, reason))
        return problems

    def start(self) -> None:
        """
        Start everything. What a discovery raises beside the following leaves its service without endpoints.

        :raises StartError: from the first that cannot start; or ConfigurationError. :meth:`stop` must be called
            all the same.
        """
        for one in self._discoveries:
            one.started = one.starting = True
            try:
                one.discovery.start(_Observer(self, one))
            except (StartError, ConfigurationError):
                raise
            except Exception as error:  # noqa: BLE001  one service's plugin must not keep the others from theirs
                _log.failure(
                    "{code} starting the discovery of service {service!r} failed",
                    code=DISCOVERY_FAILED.id,
                    service=one.service,
                )
                self.note_failure(one, f"it could not be started: {_named(error)}; the log has the traceback")
                if one.published is None and one.waiting is None:
                    self._publish(one, ())  # nothing will come: nobody shall wait for it
            finally:
                one.starting = False

    def reload(self) -> None:
        """Let every discovery that can look for something new do so now; what comes of it is told as always."""
        for one in self._discoveries:
            if one.started and IReloadable.providedBy(one.discovery):
                outcome = maybeDeferred(one.discovery.reload)  # type: ignore[attr-defined]
                outcome.addErrback(self._reload_failed, one)

    def stop(self) -> list[Deferred[Any]]:
        """Stop whatever was started; none of what is returned fails."""
        stopping = []
        for one in self._discoveries:
            for call in (one.pause, one.recovering):
                if call is not None and call.active():
                    call.cancel()
            one.pause = one.recovering = None
            if one.started:
                one.started = False
                outcome = maybeDeferred(one.discovery.stop)
                outcome.addErrback(self._stop_failed, one)
                stopping.append(outcome)
        return stopping

    def _reload_failed(self, failure: Failure, one: _Discovery) -> None:
        _log.failure("reloading the discovery of service {service!r} failed", failure, service=one.service)
        self.note_failure(one, f"reloading failed: {_named(failure.value)}")

    def _stop_failed(self, failure: Failure, one: _Discovery) -> None:
        _log.failure("stopping the discovery of service {service!r} failed", failure, service=one.service)

    # --- what is delivered

    def take(self, one: _Discovery, endpoints: Sequence[Endpoint], reason: str = "") -> None:
        """A discovery delivered: use what can be used of it, now or when the pace allows."""
        if not one.started:
            return
        try:
            one.waiting, one.outdated = (tuple(islice(endpoints, MAX_ENDPOINTS + 1)), _cut(reason)), False
        except Exception as error:  # noqa: BLE001  a plugin delivers what it likes
            self.note_failure(one, f"it delivered something that is no list of endpoints: {type(error).__name__}")
            return
        if one.pause is None:
            self._look(one)

    def _look(self, one: _Discovery) -> None:
        """Look at what was delivered last, and rest as much as that takes."""
        delivered, one.waiting = one.waiting, None
        if delivered is None:
            return
        begun = self.seconds()
        one.pause = self._clock.callLater(PACE, self._paused, one)
        try:
            self._take_in(one, *delivered)
        finally:
            cost = self.seconds() - begun
            if one.pause is not None and one.pause.active():
                one.pause.reset(min(_MAX_PAUSE, max(PACE, _REST * cost)))

    def _paused(self, one: _Discovery) -> None:
        one.pause = None
        self._look(one)

    def _take_in(self, one: _Discovery, delivered: tuple[object, ...], reason: str) -> None:
        try:
            intake = take_in(delivered, one.known, lambda endpoint: self._objection(one, endpoint))
        except ValueError as error:
            self.note_failure(one, str(error))
            return
        one.said = self.seconds()
        if one.failing is not None and not one.outdated:
            one.recovering = self._clock.callLater(0, self._recovered, one)
            one.failed_since, one.failing, one.reason = one.failing, None, ""
            self._tell_failures()
        if intake.remark:
            one.lines.remark(intake.remark)
        why_none = reason if not intake.endpoints else ""
        if one.published is None or one.known != frozenset(intake.endpoints) or one.why_none != why_none:
            self._publish(one, intake.endpoints, why_none)

    def _recovered(self, one: _Discovery) -> None:
        one.recovering = None
        one.lines.recovered(self.seconds() - one.failed_since)

    def note_failure(self, one: _Discovery, reason: str) -> None:
        """A discovery cannot say which endpoints there are: what it said last goes on to serve."""
        if not one.started:
            return
        text = _cut(reason)
        one.failures += 1
        one.outdated = True
        if one.failing is None:
            one.failing = self._failing_since(one)
        one.lines.failed(text, None if one.published is None else len(one.published))
        if text != one.reason:
            one.reason = text
            self._tell_failures()

    def _failing_since(self, one: _Discovery) -> float:
        """Now; but who delivers what it can and says in the same breath what it cannot has not worked in between."""
        if one.recovering is None:
            return self.seconds()
        one.recovering.cancel()
        one.recovering = None
        return one.failed_since

    def _objection(self, one: _Discovery, endpoint: Endpoint) -> str:
        return self._refuses(endpoint.address) or other_kind(endpoint.expect, one.expect)

    def _tell_failures(self) -> None:
        failures = {one.service: one.reason for one in self._discoveries if one.failing is not None}
        if failures != self._cell.current.discovery_failures:
            self._cell.swap(discovery_failures=failures)

    def _publish(self, one: _Discovery, endpoints: tuple[Endpoint, ...], why_none: str = "") -> None:
        before, one.published, one.known, one.why_none = one.published, endpoints, frozenset(endpoints), why_none
        one.changes += before != endpoints
        reasons = {**self._cell.current.no_endpoints, one.service: why_none}
        reasons = {service: why for service, why in reasons.items() if why}
        self._cell.swap(endpoints={**self._cell.current.endpoints, one.service: endpoints}, no_endpoints=reasons)
        one.lines.changed(before, endpoints, change(before or (), endpoints), quiet=one.starting, why_none=why_none)


def _cut(text: str) -> str:
    text = "; ".join(str(text).splitlines())  # what is wrong with a file has a line each; a reason has one
    return text if len(text) <= _MAX_REASON else text[: _MAX_REASON - 3] + "..."


def _named(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
