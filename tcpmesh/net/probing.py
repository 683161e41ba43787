"""
One connection to a peer for the sake of a check: dialled, secured and listened to as the data path would, no payload.

Ring 3. Whoever checks waits for one step after the other; cancelling a step ends the connection.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred

from tcpmesh.codes import HANDSHAKE_TIMEOUT, HANDSHAKE_TRUNCATED, RESET, TRUNCATED
from tcpmesh.dataplane.tls_core import TLSCore
from tcpmesh.errors import Refusal
from tcpmesh.net.dialled_leg import Announcement, dialled_leg
from tcpmesh.net.dialling import Dial
from tcpmesh.net.leg_owners import Loss, TLSLegOwner
from tcpmesh.net.legs import Leg
from tcpmesh.net.plane import DataPlane
from tcpmesh.net.tls import TLSLeg
from tcpmesh.settings import Timeouts
from tcpmesh.values import Address

__all__ = ["Inquiry", "Listener"]

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


class Listener(Protocol[T_co]):
    """Who makes something of what the peer says after the handshake; None where there is nothing to be made yet."""

    @property
    def seconds(self) -> float | None:
        """How long to listen at most; None for as long as a peer has for its preface."""

    def heard(self, plaintext: bytes | memoryview) -> T_co | None:
        """Something came."""

    def broken(self, refusal: Refusal) -> T_co:
        """An alert came, or something that is no TLS."""

    def ended(self, *, in_order: bool) -> T_co:
        """The peer ended its stream."""

    def timed_out(self) -> T_co:
        """The time is over."""


class Inquiry(TLSLegOwner):
    """
    One connection: :meth:`connect`, :meth:`shake_hands`, :meth:`listen`, then :meth:`close`, which may come any time.

    It counts among the connections and sockets of the proxy, within their limits.

    :param among: where it stands as long as it has a socket, or is to have one.
    :param announcement: what goes before TLS.
    """

    def __init__(
        self,
        plane: DataPlane,
        address: Address,
        core: TLSCore,
        timeouts: Timeouts,
        among: set[Inquiry],
        announcement: Announcement | None = None,
    ) -> None:
        self._plane = plane
        self._among = among
        self._address = address
        self._timeouts = timeouts
        self._leg = dialled_leg(announcement, self, self, core, timeouts, plane, client=True)
        self._dial: Dial | None = None
        self._deadline: Any = None
        self._entered = False
        self._connected: Deferred[None] | None = None
        self._secured: Deferred[Refusal | None] | None = None
        self._failure: Refusal | None = None  # that came before anybody asked
        self._is_secured = False
        self._listener: Listener[Any] | None = None
        self._heard: Deferred[Any] | None = None

    def connect(self) -> Deferred[None]:
        """Dial; fails with a Refusal that says why nobody took the connection, or why none could be made."""
        outcome: Deferred[None] = Deferred(lambda _: self.close())
        code = self._plane.gate.enter()
        if code is not None:
            outcome.errback(Refusal(code, "this proxy has no room for another connection"))
            return outcome
        self._entered = True
        self._among.add(self)
        self._connected = outcome
        self._dial = self._plane.sockets.dial(self._address, self._leg, self._timeouts.connect, self._not_connected)
        return outcome

    def shake_hands(self) -> Deferred[Refusal | None]:
        """Wait for the end of the handshake: the reason why there was none with whom is expected, None if there was."""
        self._secured = Deferred(lambda _: self.close())
        outcome = self._secured
        self._tell_secured()
        return outcome

    def listen(self, listener: Listener[T]) -> Deferred[T]:
        """Hear what the peer says after the handshake, until the listener has made something of it."""
        outcome: Deferred[T] = Deferred(lambda _: self.close())
        self._heard, self._listener = outcome, listener
        seconds = listener.seconds
        self._arm(self._timeouts.preface if seconds is None else seconds, lambda: self._conclude(listener.timed_out()))
        if self._failure is not None:
            self._lost(self._failure)
        else:
            self._leg.owner = self
            self._leg.start_relaying()
        return outcome

    def close(self) -> None:
        """End it, in order if there is anybody to tell."""
        self._disarm()
        self._listener = self._heard = self._connected = None
        if self._dial is not None:
            dial, self._dial = self._dial, None
            dial.cancel()
            self._leave()
        elif self._leg.transport is not None and self._failure is None:
            if self._is_secured and not self._leg.finishing:
                self._leg.end()
                self._leg.finish()
            elif not self._leg.finishing:
                self._leg.reset()

    def abort(self) -> None:
        """End it now, whatever it is at."""
        self.close()
        if self._leg.transport is not None:
            self._leg.transport.abortConnection()

    # --- the steps

    def _not_connected(self, refusal: Refusal) -> None:
        self._dial = None
        self._leave()
        if self._connected is not None:
            connected, self._connected = self._connected, None
            connected.errback(refusal)

    def connected(self) -> None:
        """TCP is connected: the handshake begins. (DialledLeg)"""
        self._dial = None
        self._plane.gate.sockets += 1
        seconds = self._timeouts.handshake
        late = Refusal(HANDSHAKE_TIMEOUT, "the server did not finish the TLS handshake in time")
        self._arm(seconds, lambda: self._expire(late))
        if self._connected is not None:
            connected, self._connected = self._connected, None
            connected.callback(None)

    def _expire(self, refusal: Refusal) -> None:
        self._leg.reset()
        self._fail(refusal)

    def leg_secured(self, _leg: TLSLeg) -> None:
        """The peer is who was expected. (TLSLegOwner)"""
        self._is_secured = True
        self._disarm()
        self._tell_secured()

    def leg_refused(self, _leg: TLSLeg, refusal: Refusal) -> None:
        """The handshake failed. (TLSLegOwner)"""
        self._fail(refusal)

    def leg_lost(self, _leg: Leg, loss: Loss) -> None:
        """The connection broke. (LegOwner)"""
        if self._is_secured:
            self._fail(Refusal(loss.code, loss.reason))
        else:
            self._fail(Refusal(HANDSHAKE_TRUNCATED, "the server closed the connection during the TLS handshake"))

    def _fail(self, refusal: Refusal) -> None:
        if self._failure is not None:
            return
        self._failure = refusal
        self._disarm()
        if self._is_secured:
            self._lost(refusal)
        else:
            self._tell_secured()

    def _tell_secured(self) -> None:
        if self._secured is not None and (self._is_secured or self._failure is not None):
            secured, self._secured = self._secured, None
            secured.callback(None if self._is_secured else self._failure)

    # --- after the handshake

    def leg_data(self, _leg: Leg, data: bytes | memoryview) -> None:
        """Plaintext. (LegOwner)"""
        if self._listener is not None:
            self._conclude(self._listener.heard(data))

    def leg_ended(self, _leg: Leg) -> None:
        """close_notify came. (LegOwner)"""
        if self._listener is not None:
            self._conclude(self._listener.ended(in_order=True))

    def _lost(self, refusal: Refusal) -> None:
        if self._listener is not None:
            cut = refusal.code in (TRUNCATED, RESET)
            self._conclude(self._listener.ended(in_order=False) if cut else self._listener.broken(refusal))

    def _conclude(self, made: Any) -> None:
        if made is None or self._heard is None:
            return
        heard = self._heard
        self.close()
        heard.callback(made)

    # --- bookkeeping

    def leg_closed(self, _leg: Leg) -> None:
        """The socket is closed. (LegKeeper)"""
        self._plane.gate.sockets -= 1
        self._leave()

    def _leave(self) -> None:
        if self._entered:
            self._entered = False
            self._among.discard(self)
            self._plane.gate.leave()

    def _arm(self, seconds: float, expired: Any) -> None:
        self._disarm()
        self._deadline = self._plane.clock.callLater(seconds, expired)

    def _disarm(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None
