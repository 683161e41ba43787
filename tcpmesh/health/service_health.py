"""
The health of one service: which of its endpoints may be tried, how much each gets, and whether to try at all.

Ring 1, pure: ``now`` is the reactor's clock in seconds. While nothing is wrong, ``impaired`` is False and nobody needs
to ask anything else. What is known of an endpoint goes by its address: a change of its weight forgets nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from tcpmesh.codes import STOPPING, Code
from tcpmesh.errors import Refusal
from tcpmesh.health.ejected import Ejected
from tcpmesh.health.endpoint_health import EndpointHealth
from tcpmesh.health.faults import is_answer, is_fault
from tcpmesh.health.service_circuit import ServiceCircuit
from tcpmesh.health.states import ChangeWord, CheckResult, CircuitState, EndpointState, HealthChange, Trouble, cut
from tcpmesh.upstream_settings import HealthSettings
from tcpmesh.values import Address, Endpoint

__all__ = ["ServiceHealth"]

_TOLD = 3  # endpoints of which is told why they are not tried
_NO_CIRCUIT = CircuitState()


def _nobody(_change: HealthChange) -> None:
    pass


class ServiceHealth:
    """
    One service.

    The order of calls: :meth:`retain` when its endpoints change (the composition does that). For each connection
    :meth:`refuses`, and if that gives None, for each of its attempts :meth:`opened`, then :meth:`established` or
    :meth:`failed`, whatever ends it; :meth:`lost` takes an ``established`` back. A connection that ``refuses`` let try
    and that never became established ends with :meth:`connection_failed`. ``who`` is the connection: any object that
    is one and the same in all these calls.

    :ivar impaired: whether any endpoint gets less than its share, or the circuit is not closed. While it is False,
        ``refuses``, ``admits``, ``share`` and ``opened`` need not be called.
    :ivar checks: how many active checks ended ``good``, how many ``failed``.
    """

    __slots__ = (
        "_addresses", "_circuit", "_ejected", "_known", "_limited", "_on_change", "_settings", "checks", "impaired",
        "service",
    )  # fmt: skip

    def __init__(
        self, service: str, settings: HealthSettings, on_change: Callable[[HealthChange], None] = _nobody
    ) -> None:
        self.service = service
        self.impaired = False
        self.checks = {"good": 0, "failed": 0}
        self._settings = settings
        self._on_change = on_change
        circuit = settings.circuit
        self._circuit = ServiceCircuit(service, circuit, self._circuit_changed) if circuit is not None else None
        self._addresses: frozenset[Address] = frozenset()
        self._known: dict[Address, EndpointHealth] = {}  # of those of which there is anything to know
        self._limited: dict[Address, EndpointHealth] = {}  # of those that get less than their share
        self._ejected = Ejected(settings.ejection.max_share)

    # --- which endpoints there are

    def retain(self, endpoints: Iterable[Endpoint], now: float) -> None:
        """
        These are all endpoints from now on; what is known of others is forgotten.

        Those that join others which stay begin slowly. When fewer are left than that many ejections need, those whose
        time ends first are taken back.
        """
        before, self._addresses = self._addresses, frozenset(endpoint.address for endpoint in endpoints)
        for address in before - self._addresses:
            self._known.pop(address, None)
            self._limited.pop(address, None)
            self._ejected.discard(address)
        self._ejected.of_all(len(self._addresses))
        if self._settings.slow_start and before & self._addresses:
            for address in self._addresses - before:
                known = self._known_of(address)
                known.begin_slowly(now)
                self._limit(address, known)
        for address in self._ejected.surplus():
            self._return(address, self._known[address], now, "too few endpoints are left to do without it")
        self._review()

    # --- the circuit

    def refuses(self, now: float, who: object) -> str | None:
        """Say why a connection must fail at once, as the circuit has it (TM-U107); None lets it try."""
        return self._circuit.refuses(now, who) if self._circuit is not None else None

    def connection_failed(self, code: Code, reason: str, now: float, who: object) -> None:
        """A connection that ``refuses`` let try is over, and was never established; ``code`` is of the last attempt."""
        if self._circuit is not None:
            self._circuit.failed(code, reason, now, who)

    def _circuit_changed(self, change: HealthChange) -> None:
        self._review()
        self._on_change(change)

    # --- which endpoint may be tried

    def admits(self, endpoint: Endpoint, now: float) -> bool:
        """Whether an attempt at it may begin."""
        known = self._limited.get(endpoint.address)
        return known is None or known.admits(now)

    def share(self, endpoint: Endpoint, now: float) -> float:
        """How much of its usual share it is to get, above 0 to 1, if it is admitted at all."""
        known = self._limited.get(endpoint.address)
        if known is None:
            return 1.0
        share = known.share(now)
        if share >= 1.0 and not known.is_limited:
            self._limit(endpoint.address, known)
        return share

    def away(self, now: float) -> frozenset[Address]:
        """Where no attempt may begin: for who has thousands of endpoints, most of which are well."""
        return frozenset(address for address, known in self._limited.items() if not known.admits(now))

    def starting(self, now: float) -> dict[Address, float]:
        """Who is to get less than its usual share, and how much of it: as :meth:`share` has it, of all at once."""
        found = {}
        for address, known in list(self._limited.items()):
            share = known.share(now)
            if share < 1.0:
                found[address] = share
            elif not known.is_limited:
                self._limit(address, known)
        return found

    def why(self, endpoint: Endpoint, now: float) -> str:
        """Why it is not admitted; empty when it is."""
        known = self._limited.get(endpoint.address)
        return known.why(now) if known is not None else ""

    def why_none(self, endpoints: Sequence[Endpoint], now: float) -> str:
        """Why none of them is admitted, in a sentence of bounded length (TM-U105)."""
        away = self.away(now)
        without = [endpoint for endpoint in endpoints if endpoint.address in away]
        more = f"; and {len(without) - _TOLD} more" if len(without) > _TOLD else ""
        return "; ".join(f"{endpoint.address} is {self.why(endpoint, now)}" for endpoint in without[:_TOLD]) + more

    # --- what becomes of attempts

    def opened(self, endpoint: Endpoint, now: float, who: object) -> None:
        """An attempt begins; it is the trial of an endpoint upon probation."""
        known = self._limited.get(endpoint.address)
        if known is not None and known.ejection.until is not None and known.ejection.admits(now):
            known.ejection.trial = who

    def established(self, endpoint: Endpoint, now: float, who: object) -> None:
        """The endpoint has accepted."""
        if self._circuit is not None:
            self._circuit.succeeded(now)
        if self._known:
            self._succeeded(endpoint.address, now, who)

    def _succeeded(self, address: Address, now: float, who: object) -> None:
        known = self._known.get(address)
        if known is None:
            return
        if known.ejection.until is None:
            known.ejection.succeeded()
        elif known.ejection.trial is who:  # what began before the ejection says nothing of how it is now
            self._return(address, known, now, "its trial connection succeeded")

    def failed(self, endpoint: Endpoint, code: Code, reason: str, now: float, who: object) -> None:
        """An attempt that was opened failed, or was given up."""
        address = endpoint.address
        known = self._known.get(address)
        if is_answer(code):
            self._succeeded(address, now, who)
        elif known is not None and known.ejection.trial is who:
            self._trial_failed(address, known, code, reason, now)
        elif address not in self._addresses:
            return
        elif is_fault(code):
            known = known or self._known_of(address)
            known.trouble = Trouble(code.id, cut(reason), now)
            if known.ejection.until is None:
                known.ejection.failed()
                self._eject_if_due(address, known, now)
        elif code is STOPPING and self._settings.ejection.failures:
            known = known or self._known_of(address)
            known.trouble = Trouble(code.id, cut(reason), now)
            if known.ejection.until is None and self._make_room(now):
                self._eject(address, known, known.ejection.eject_briefly(now))

    def _trial_failed(self, address: Address, known: EndpointHealth, code: Code, reason: str, now: float) -> None:
        ejection = known.ejection
        ejection.trial = None
        if is_fault(code):
            ejection.failed()
        elif code is not STOPPING:
            return
        known.trouble = Trouble(code.id, cut(reason), now)
        self._eject(address, known, ejection.eject_briefly(now) if code is STOPPING else ejection.eject(now))

    def lost(self, endpoint: Endpoint, code: Code, reason: str, now: float) -> None:
        """An established connection broke before any payload byte had moved: it counts as one that failed."""
        if self._circuit is not None:
            self._circuit.lost()
        if is_fault(code) and endpoint.address in self._addresses:
            known = self._known_of(endpoint.address)
            known.trouble = Trouble(code.id, cut(reason), now)
            if known.ejection.until is None:
                known.ejection.lost()
                self._eject_if_due(endpoint.address, known, now)

    def checked(self, address: Address, refusal: Refusal | None, duration: float, now: float) -> None:
        """An active check has ended, well if there is no refusal; ``duration`` in seconds."""
        if address not in self._addresses:
            return
        self.checks["good" if refusal is None else "failed"] += 1
        known = self._known_of(address)
        trouble = Trouble(refusal.code.id, cut(refusal.reason), now) if refusal is not None else None
        known.check = CheckResult(now, duration, trouble)
        if not known.checks.note(refusal is None):
            return
        known.begin_slowly(now)
        self._limit(address, known)
        if known.checks.up:
            self._tell(address, "up", f"good checks in a row: {known.checks.rise}")
        else:
            self._tell(address, "down", f"failed checks in a row: {known.checks.fall}, the last with {trouble}")

    # --- ejecting and returning

    def _eject_if_due(self, address: Address, known: EndpointHealth, now: float) -> None:
        if known.ejection.is_due and self._make_room(now):
            self._eject(address, known, known.ejection.eject(now))

    def _eject(self, address: Address, known: EndpointHealth, seconds: float) -> None:
        known.slow_since = None
        self._ejected.add(address, known.ejection)
        self._limit(address, known)
        count = known.ejection.failures
        text = f"failures in a row: {count}, the last with {known.trouble}" if count else str(known.trouble)
        self._tell(address, "ejected", text, seconds)

    def _return(self, address: Address, known: EndpointHealth, now: float, reason: str) -> None:
        known.ejection.take_back(now)
        self._ejected.discard(address)
        known.begin_slowly(now)
        self._limit(address, known)
        self._tell(address, "back", reason)

    def _make_room(self, now: float) -> bool:
        if self._ejected.has_room:
            return True
        # A standby, or one without weight, may be upon probation for ever: nobody goes there to find out.
        unwanted = self._ejected.unwanted(now)
        if unwanted is not None:
            self._return(unwanted, self._known[unwanted], now, "nobody tried it, and another one fails")
        return unwanted is not None

    # --- bookkeeping

    def _known_of(self, address: Address) -> EndpointHealth:
        known = self._known.get(address)
        if known is None:
            known = self._known[address] = EndpointHealth(self._settings)
        return known

    def _limit(self, address: Address, known: EndpointHealth) -> None:
        if known.is_limited:
            self._limited[address] = known
        else:
            self._limited.pop(address, None)
        self._review()

    def _review(self) -> None:
        self.impaired = bool(self._limited) or (self._circuit is not None and not self._circuit.is_closed)

    def _tell(self, address: Address, change: ChangeWord, reason: str, seconds: float = 0.0) -> None:
        self._on_change(HealthChange(self.service, address, change, reason, seconds))

    # --- display

    def circuit(self, now: float) -> CircuitState:
        """Where the circuit stands; always closed where there is none."""
        return self._circuit.state(now) if self._circuit is not None else _NO_CIRCUIT

    def limited(self, now: float) -> Iterator[EndpointState]:
        """Those that get less than their share, or did when they were last asked about; all others are up."""
        return (known.state(address, now) for address, known in self._limited.items())

    def state(self, address: Address, now: float) -> EndpointState:
        """Everything that is known of one endpoint."""
        known = self._known.get(address)
        return known.state(address, now) if known is not None else EndpointState(address, "up")
