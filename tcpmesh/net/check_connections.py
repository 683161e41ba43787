"""
One active check of an endpoint: a TCP connection that is made and closed, or the same with TLS and who answers.

Ring 3. A TLS check is verified as every connection with payload is. An inbound tcpmesh answers it (ALPN
``tcpmesh-check/1``) without policy and without its application; of any other server the handshake is all that counts.
"""

from __future__ import annotations

import attrs
from twisted.internet.defer import Deferred

from tcpmesh.codes import (
    CLOSED_BEFORE_OK,
    CONNECT_TIMEOUT,
    HANDSHAKE_TIMEOUT,
    PREFACE_MALFORMED,
    PREFACE_TIMEOUT,
    REFUSED_BY_PEER,
    by_id,
)
from tcpmesh.dataplane.preface import CHECK_ALPN, InvalidPreface, PrefaceReader
from tcpmesh.errors import Refusal
from tcpmesh.net.attempt import FROM_PEERS
from tcpmesh.net.dialled_leg import Announcement
from tcpmesh.net.dialling import Dial
from tcpmesh.net.leg_owners import LegOwner
from tcpmesh.net.legs import Leg, PlainLeg
from tcpmesh.net.plane import DataPlane
from tcpmesh.net.probing import Inquiry
from tcpmesh.net.upstream_core import SecuredService, upstream_core
from tcpmesh.settings import Timeouts
from tcpmesh.values import Address, Duration, Endpoint, format_duration

__all__ = ["Check", "TCPCheck", "TLSCheck"]


class Check:
    """
    One check; :meth:`run` does it, and cancelling what that gives ends it.

    :ivar late: why it failed, when its time is over as it stands.
    """

    late: Refusal

    def run(self) -> Deferred[None]:
        """Fails with a Refusal that says what is wrong."""
        raise NotImplementedError

    def abort(self) -> None:
        """Close what may linger, now."""


def _late(timeout: Duration, what: str) -> str:
    return f"{what} within {format_duration(timeout)}"


class TCPCheck(Check, LegOwner):
    """
    Connects and closes in order. It counts among the connections and sockets of the proxy.

    :param announcement: what a server wants to hear first of whom a connection is for.
    """

    def __init__(
        self, plane: DataPlane, address: Address, timeout: Duration, announcement: Announcement | None = None
    ) -> None:
        self.late = Refusal(CONNECT_TIMEOUT, _late(timeout, f"connecting to {address}: no answer"))
        self._plane = plane
        self._address = address
        self._timeout = timeout
        self._announcement = announcement
        self._dial: Dial | None = None
        self._leg: PlainLeg | None = None
        self._outcome: Deferred[None] = Deferred(lambda _: self._give_up())

    def run(self) -> Deferred[None]:
        """Dial; fails with a Refusal that says why nobody took the connection, or why none could be made."""
        code = self._plane.gate.enter()
        if code is not None:
            self._outcome.errback(Refusal(code, "this proxy has no room for another connection"))
            return self._outcome
        leg = PlainLeg(self, self, on_connected=self._connected)
        self._dial = self._plane.sockets.dial(self._address, leg, self._timeout, self._failed)
        return self._outcome

    def _connected(self, leg: PlainLeg) -> None:
        self._dial = None
        self._leg = leg
        self._plane.gate.sockets += 1
        if self._announcement is not None:
            leg.send(self._announcement(leg.transport))
        leg.end()
        leg.finish()
        self._outcome.callback(None)

    def _failed(self, refusal: Refusal) -> None:
        self._dial = None
        self._plane.gate.leave()
        if refusal.errno == "ECONNRESET":  # it was accepted, and reset before we came to see that
            self._outcome.callback(None)
        else:
            self._outcome.errback(refusal)

    def _give_up(self) -> None:
        if self._dial is not None:
            self._dial.cancel()
            self._dial = None
            self._plane.gate.leave()

    def leg_closed(self, _leg: Leg) -> None:
        """The socket is closed. (LegKeeper)"""
        self._leg = None
        self._plane.gate.sockets -= 1
        self._plane.gate.leave()

    def abort(self) -> None:
        """Close what may linger, now."""
        if self._leg is not None:
            self._leg.transport.abortConnection()


class TLSCheck(Check):
    """
    Connects as a workload and verifies who answers.

    :param timeouts: those of the service, for what is no step of the check's own.
    :raises Refusal: (from :meth:`run`) when this proxy has no identity to show.
    """

    def __init__(
        self,
        plane: DataPlane,
        service: SecuredService,
        endpoint: Endpoint,
        workload: str,
        timeout: Duration,
        timeouts: Timeouts,
        announcement: Announcement | None = None,
    ) -> None:
        self.late = Refusal(CONNECT_TIMEOUT, _late(timeout, f"connecting to {endpoint.address}: no answer"))
        self._plane = plane
        self._service = service
        self._endpoint = endpoint
        self._workload = workload
        self._timeout = timeout
        self._timeouts = attrs.evolve(timeouts, connect=timeout, handshake=timeout, preface=timeout)
        self._announcement = announcement
        self._inquiries: set[Inquiry] = set()

    def run(self) -> Deferred[None]:
        """Fails with a Refusal that says what is wrong."""
        return Deferred.fromCoroutine(self._run())

    async def _run(self) -> None:
        plane, timeout = self._plane, self._timeout
        core = upstream_core(self._service, self._endpoint, self._workload, plane, plane.state.current, CHECK_ALPN)
        inquiry = Inquiry(plane, self._endpoint.address, core, self._timeouts, self._inquiries, self._announcement)
        try:
            await inquiry.connect()
            self.late = Refusal(HANDSHAKE_TIMEOUT, _late(timeout, "no complete handshake"))
            failure = await inquiry.shake_hands()
            if failure is not None:
                raise failure
            state = plane.state.current
            core.verification.rejudge(state.bundles, state.deny_list)
            if core.alpn == CHECK_ALPN:
                self.late = Refusal(PREFACE_TIMEOUT, _late(timeout, "the peer did not say whether it lives"))
                refusal = await inquiry.listen(_Answer())
                if refusal is not _ALIVE:
                    raise refusal
        finally:
            inquiry.close()

    def abort(self) -> None:
        """Close what may linger, now."""
        for inquiry in list(self._inquiries):
            inquiry.abort()


_ALIVE = Refusal(CLOSED_BEFORE_OK, "not refused")  # what stands for an ok; a listener's None means: not yet


class _Answer:
    """Reads the preface of an inbound listener that was checked (``probing.Listener``)."""

    seconds: float | None = None

    def __init__(self) -> None:
        self._reader = PrefaceReader()

    def heard(self, plaintext: bytes | memoryview) -> Refusal | None:
        """Something came."""
        try:
            found = self._reader.feed(plaintext)
        except InvalidPreface as error:
            return Refusal(PREFACE_MALFORMED, str(error))
        if found is None:
            return None
        preface, _rest = found
        if preface.ok:
            return _ALIVE
        text = preface.text or "without a reason"
        code = by_id(preface.code)
        if code is None or not code.id.startswith(FROM_PEERS):
            return Refusal(REFUSED_BY_PEER, f"the peer refused with {preface.code!a}: {text!a}")
        return Refusal(code, f"refused by the peer: {text}")

    def broken(self, refusal: Refusal) -> Refusal:
        """An alert came, or something that is no TLS."""
        return refusal

    def ended(self, *, in_order: bool) -> Refusal:
        """The peer ended its stream."""
        how = "closed" if in_order else "broke"
        return Refusal(CLOSED_BEFORE_OK, f"the peer {how} the connection without saying whether it lives")

    def timed_out(self) -> Refusal:
        """The time is over."""
        return Refusal(PREFACE_TIMEOUT, "the peer did not say whether it lives")
