"""
Outbound: applications come in on a plain local listener, and leave over mutual TLS to a verified peer.

Ring 3. accept → limits → who is asking → authorize → connector (retry, balance, timeouts) → relay → record. The
application is not read from until the peer has accepted: its bytes, and its FIN, wait in the kernel; only its reset is
heard.
"""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from tcpmesh.codes import CLIENT_NOT_ALLOWED, INTERNAL, STOPPING
from tcpmesh.dataplane.contexts import own_svid
from tcpmesh.errors import Refusal
from tcpmesh.net.announcing import header_for_server
from tcpmesh.net.connection import MeshConnection
from tcpmesh.net.connector import Establishment
from tcpmesh.net.leg_owners import Loss
from tcpmesh.net.legs import Leg, PlainLeg
from tcpmesh.net.listener import ListenerLimit
from tcpmesh.net.local_client import LocalClient, identify_local_client
from tcpmesh.net.plane import DataPlane
from tcpmesh.net.requests import outbound_request
from tcpmesh.net.sockets import tune_plain
from tcpmesh.net.tls import TLSLeg
from tcpmesh.net.upstream import Upstream
from tcpmesh.policy.evaluate import Verdict, decide_by
from tcpmesh.proxy_protocol_settings import ProxyProtocolVersion
from tcpmesh.settings import OnChange, OutboundSettings, Timeouts
from tcpmesh.values import Address, AuthorizationRequest, Effect

_log = Logger()


@attrs.frozen(eq=False)
class OutboundListener:
    """One outbound listener: its settings, the service behind it and what it shares."""

    settings: OutboundSettings
    upstream: Upstream
    timeouts: Timeouts
    plane: DataPlane
    limit: ListenerLimit | None = None
    position: int | None = None  # with a port for each endpoint: whose this one is

    @property
    def name(self) -> str:
        """As records call it."""
        return self.settings.name

    def build(self) -> PlainLeg:
        """Make the protocol for one accepted connection."""
        connection = OutboundConnection(self)
        leg = PlainLeg(connection, connection, on_connected=connection.begin)
        connection.src = leg
        return leg


class OutboundConnection(MeshConnection):
    """One connection from a local application to a service."""

    __slots__ = ("_establishment", "_request", "_verdict", "listener")

    def __init__(self, listener: OutboundListener) -> None:
        super().__init__(listener.plane, "outbound", listener.name, listener.settings.workload, listener.timeouts)
        self.listener = listener
        self.limit = listener.limit
        self.record.dst_service = listener.upstream.name
        self._establishment: Establishment | None = None
        self._verdict: Deferred[Verdict] | None = None
        self._request: AuthorizationRequest | None = None

    def begin(self, leg: Leg) -> None:
        """The application is connected."""
        self.accepted(leg.transport)
        tune_plain(leg.transport)
        state = self.plane.state.current
        try:
            self._check_client(leg)
            svid = own_svid(state, self.record.workload)
        except Refusal as refusal:
            self.upstream_refused(refusal)
            return
        self.record.src_identity = str(svid.id)
        self.decided_by = state.policies
        if not state.decides_outbound:
            self._connect()
            return
        verdict = decide_by(state, self.authorization_request(), self.plane.clock, _log)
        if isinstance(verdict, Deferred):
            self._verdict = verdict
            verdict.addCallbacks(self._decided, self._decision_failed, callbackArgs=(state.policies,))
        else:
            self._decided(verdict, state.policies)

    def authorization_request(self) -> AuthorizationRequest:
        """
        What policies are asked about it, made when it is needed first.

        :raises Refusal: when there is no own identity any longer.
        """
        if self._request is None:
            assert self.src is not None
            svid = own_svid(self.plane.state.current, self.record.workload)
            self._request = outbound_request(self.record, svid, self.src.transport.peer)
        return self._request

    def _decided(self, verdict: Verdict, policies: object) -> None:
        self._verdict = None
        if self.is_closed:
            return
        record = self.record
        record.policy, record.rule, record.notes = verdict.decision.policy, verdict.decision.rule, verdict.notes
        if verdict.code is not None:
            record.decision = Effect.DENY.value
            self.upstream_refused(Refusal(verdict.code, verdict.decision.reason))
        elif self.plane.stopping:
            self.upstream_refused(Refusal(STOPPING, "this proxy is stopping"))
        else:
            if self.decided_by is policies:  # else how long it stands is for those to say that came since
                self.stands(verdict)
            self._connect()

    def _decision_failed(self, failure: Any) -> None:
        # Only abandon cancels, and what follows then is not ours to say.
        if not self.is_closed and not failure.check(CancelledError):
            _log.failure("deciding about a connection failed", failure)
            self.upstream_refused(Refusal(INTERNAL, "deciding failed"))

    def _connect(self) -> None:
        full = self.take_places()
        if full is not None:
            self.upstream_refused(full)
            return
        listener = self.listener
        self._establishment = Establishment(
            self,
            listener.upstream,
            self.record.workload,
            self.timeouts,
            self.plane,
            position=listener.position,
            started=self._started,
        )
        self._establishment.attempt()

    def _check_client(self, leg: Leg) -> None:
        allowed = self.listener.settings.clients
        if not allowed.uids and not allowed.gids:
            return
        client = identify_local_client(leg.transport.socket)
        if client is None or not _is_allowed(client, allowed.uids, allowed.gids):
            who = f"uid {client.uid}" if client is not None else "an unknown user"
            raise Refusal(
                CLIENT_NOT_ALLOWED,
                f"{who} may not use {self.listener.name!r}; allowed: uids {allowed.uids}, gids {allowed.gids}",
            )

    # --- LiveConnection

    @property
    def wire(self) -> TLSLeg | None:
        """The leg to the service, that of an attempt under way among it."""
        if isinstance(self.dst, TLSLeg):
            return self.dst
        return self._establishment.wire if self._establishment is not None else None

    @property
    def closes_on_expiry(self) -> bool:
        """As the service says. (LiveConnection)"""
        return self.listener.upstream.settings.on_expiry == "close"

    @property
    def on_change(self) -> OnChange:
        """As the service says. (DecidedConnection)"""
        return self.listener.upstream.settings.on_change

    def withdraw(self, refusal: Refusal) -> None:
        """Before anything was sent another endpoint may do better; what is wrong with ourselves stays so."""
        attempting = self.dst is None and self._establishment is not None and refusal.code.retryable
        if not (attempting and self._establishment.withdraw(refusal)):  # type: ignore[union-attr]
            super().withdraw(refusal)

    # --- EstablishmentOwner

    @property
    def source(self) -> Address:
        """Where the application is. (EstablishmentOwner)"""
        assert self.src is not None
        return self.src.transport.peer  # type: ignore[no-any-return]

    def header_for_server(self, version: ProxyProtocolVersion) -> bytes:
        """With the application's own address. (UpstreamConnection)"""
        assert self.src is not None
        return header_for_server(version, self.src.transport.peer, self.src.transport.own)

    def upstream_established(self, leg: TLSLeg) -> None:
        """The service accepted: let payload flow."""
        self.dst = leg
        leg.owner = self  # its attempt has ended; until the relay owns it, what breaks is ours
        self.record.decision = "allow"
        self.establish(self._early_loss)

    def upstream_refused(self, refusal: Refusal) -> None:
        """Nobody took the connection: the application sees a reset, never a clean end."""
        assert self.src is not None
        self.src.reset()
        self.close(refusal.code, refusal.reason, "proxy")

    def _early_loss(self, loss: Loss) -> bool:
        """The service's leg broke before any payload moved; maybe another endpoint will do."""
        assert self.src is not None
        assert self._establishment is not None
        self.src.owner = self
        if not self._establishment.resume(loss):
            assert self.relay is not None
            self.src.owner = self.relay
            return False
        self.relay = None
        self.dst = None
        return True

    def dst_lost(self, refusal: Refusal) -> None:
        """Never asked: until the relay owns it, which is at once, the upstream leg is the establishment's."""
        raise AssertionError(refusal)

    def abandon(self) -> None:
        """The application went away, or we stop."""
        if self._verdict is not None:
            verdict, self._verdict = self._verdict, None
            verdict.cancel()
        if self._establishment is not None:
            self._establishment.cancel()

    def close(self, *args: object, **kwargs: object) -> None:
        """Report the end, once."""
        if self._establishment is not None:
            self._establishment.closed()
        super().close(*args, **kwargs)  # type: ignore[arg-type]


def _is_allowed(client: LocalClient, uids: list[int], gids: list[int]) -> bool:
    return client.uid in uids or any(gid in gids for gid in client.gids)
