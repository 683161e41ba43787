"""
The identity source ``workload-api``: a SPIFFE Workload API, such as a SPIRE agent's, on a socket of this machine.

Ring 3. Holds one call open and lets the server push; each message is the complete state. Whatever goes wrong, the
last good identities go on to serve, but where the server, asked twice, says that they are ours no more.
(SPIFFE_Workload_API.md, SPIFFE_Workload_Endpoint.md)
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from zope.interface import implementer

from tcpmesh.addresses import Address
from tcpmesh.codes import INTERNAL
from tcpmesh.errors import Refusal
from tcpmesh.identity.workload_delivery import NOTHING, Delivery, read_delivery
from tcpmesh.identity.workload_messages import MessageError
from tcpmesh.identity.workload_socket import ENVIRONMENT_VARIABLE
from tcpmesh.interfaces import IIdentityObserver, IIdentitySource, IIdentitySourceFactory, IReloadable, PluginContext
from tcpmesh.sources.grpc_stream import GrpcStream, StreamEnd
from tcpmesh.sources.grpc_wire import Status
from tcpmesh.sources.local_sockets import Connect, connect_to, why_not
from tcpmesh.sources.withdrawal import Withdrawal
from tcpmesh.sources.workload_api_settings import WorkloadAPISettings, WorkloadAPIWorkload, local_socket
from tcpmesh.wall_clock import WallClock, wall_clock

__all__ = [
    "FIRST_RETRY",
    "LAST_RETRY",
    "SLOW_RETRY",
    "WorkloadAPIFactory",
    "WorkloadAPISettings",
    "WorkloadAPISource",
    "WorkloadAPIWorkload",
]

FIRST_RETRY = 1.0  # seconds
LAST_RETRY = 30.0
SLOW_RETRY = 300.0  # what repeating cannot mend; but the server behind the socket may be replaced one day

_SERVICE = "/SpiffeWorkloadAPI/"
# Proves that nobody tricked some HTTP client into asking (SPIFFE_Workload_Endpoint.md section 5).
_METADATA = (("workload.spiffe.io", "true"),)
_POINTLESS = frozenset({Status.INVALID_ARGUMENT, Status.UNIMPLEMENTED})
_random = secrets.SystemRandom().random


@implementer(IIdentitySource, IReloadable)
class WorkloadAPISource:
    """
    Delivers what a Workload API pushes, after verifying it as a peer will.

    Asks for SVIDs with their bundles; without a workload to serve, for bundles only. A failed call is made again after
    1 s, doubling to 30 s, shortened at random by up to a half; a call that ended in order, at once; one that was
    answered with InvalidArgument or Unimplemented, after five minutes. What withdraws an identity makes a call at
    once, and only its answer withdraws it.

    :param wall_clock: certificates are verified at this time.
    :param random: between 0 and 1.
    :param connect: how to get a connection.
    """

    def __init__(
        self,
        address: Address,
        context: PluginContext,
        wall_clock: WallClock = wall_clock,
        random: Callable[[], float] = _random,
        connect: Connect = connect_to,
    ) -> None:
        self._address = address
        self._context = context
        self._wall_clock = wall_clock
        self._random = random
        self._connect = connect
        self._observer: IIdentityObserver | None = None
        self._connecting: Deferred[Any] | None = None
        self._stream: GrpcStream | None = None
        self._past: GrpcStream | None = None  # the one before, whose connection may still be closing
        self._began = 0.0  # when the stream began, on the reactor's clock
        self._call: IDelayedCall | None = None
        self._retry = FIRST_RETRY
        self._revoked = ""
        self._unserved: tuple[str, ...] = ()
        self._last = NOTHING  # what was delivered
        self._withdrawal = Withdrawal(context.clock)

    def start(self, observer: IIdentityObserver) -> None:
        """Make the first call."""
        self._observer = observer
        self._begin()

    def stop(self) -> Deferred[None] | None:
        """End the call; the Deferred fires when its connection is gone. Safe in every order."""
        self._observer = None
        self._withdrawal.drop()
        if self._call is not None:
            self._call.cancel()
            self._call = None
        stream, self._stream = self._stream, None
        connecting, self._connecting = self._connecting, None
        if stream is not None:
            stream.abort()
        if connecting is not None:
            connecting.cancel()
        gone = [each.gone for each in (stream, self._past) if each is not None and each.transport is not None]
        return gatherResults(gone).addCallback(lambda _: None) if gone else None

    def reload(self) -> None:
        """Make the next call now; while one is open there is nothing to ask for. (IReloadable)"""
        if self._call is not None:
            self._call.cancel()
            self._begin()

    # --- the call

    def _begin(self) -> None:
        self._call = None
        self._began = self._context.clock.seconds()
        method = "FetchX509SVID" if self._context.workloads else "FetchX509Bundles"
        stream = GrpcStream(
            self._context.clock,
            _SERVICE + method,
            _METADATA,
            self._take_message,
            lambda end: self._ended(stream, end),
        )
        self._stream = stream
        factory = Factory.forProtocol(lambda: stream)
        factory.noisy = False
        connecting = self._connect(self._context.clock, self._address, factory)
        if self._stream is stream:  # the whole call may have passed by now, in a test
            self._connecting = connecting
        connecting.addCallbacks(self._connected, self._not_connected, errbackArgs=(stream,))

    def _connected(self, _protocol: object) -> None:
        self._connecting = None

    def _not_connected(self, failure: Failure, stream: GrpcStream) -> None:
        self._connecting = None
        reason = f"cannot connect: {why_not(failure)}; does the agent run?"
        self._ended(stream, StreamEnd(Status.UNAVAILABLE, reason))

    def _ended(self, stream: GrpcStream, end: StreamEnd) -> None:
        observer = self._observer
        if observer is None or stream is not self._stream:
            return
        self._stream, self._past = None, stream
        denied = end.status is Status.PERMISSION_DENIED
        if denied and self._last is not NOTHING and self._withdrawal.doubt(lambda: self._revoke(end.reason)):
            self._begin()
            return
        self._call = self._context.clock.callLater(self._delay(end.status), self._begin)
        if denied:
            self._withdrawal.drop()
            self._revoke(end.reason)
            return
        self._withdrawal.stand()
        if end.status is not Status.OK:
            observer.identity_failed(f"the Workload API at {self._address}: {end.reason}")

    def _delay(self, status: Status) -> float:
        """How long to wait for the next call."""
        lived = self._context.clock.seconds() - self._began
        if status is Status.OK and lived >= FIRST_RETRY:
            return 0.0
        if status in _POINTLESS:
            return self._shortened(SLOW_RETRY)
        retry, self._retry = self._retry, min(self._retry * 2, LAST_RETRY)
        return self._shortened(retry)

    def _shortened(self, seconds: float) -> float:
        """At random by up to a half, so that proxies that lost one agent together do not return together."""
        return seconds * (1 - self._random() / 2)

    def _revoke(self, reason: str) -> None:
        """Say once that nothing may be used; until there is a message, the next calls will be told the same."""
        observer = self._observer
        if observer is None or reason == self._revoked:
            return
        self._revoked = reason
        self._last = NOTHING
        observer.identity_revoked(
            f"the Workload API at {self._address}: {reason}; see which workload this process is registered as there, "
            "with SPIRE: spire-server entry show"
        )

    # --- what it brings

    def _take_message(self, message: bytes) -> None:
        observer = self._observer
        if observer is None:
            return
        try:
            delivery = read_delivery(message, self._context.workloads, self._last, self._wall_clock())
        except (MessageError, Refusal) as error:
            self._skip(observer, str(error))
        except Exception as error:  # noqa: BLE001  one message that nobody thought of must not end the others
            self._context.log.failure("a message of the Workload API could not be read")
            self._skip(observer, f"{INTERNAL.id} {type(error).__name__}")
        else:
            self._retry = FIRST_RETRY
            served = {svid.id for svid in delivery.snapshot.svids}
            less = any(svid.id not in served for svid in self._last.snapshot.svids)
            if less and self._withdrawal.doubt(lambda: self._deliver(delivery)):
                self._ask_again()
            else:
                self._withdrawal.drop()
                self._deliver(delivery)

    def _ask_again(self) -> None:
        """End the call that is open and make another one."""
        stream, self._stream = self._stream, None
        if stream is not None:
            self._past = stream
            stream.abort()
        self._begin()

    def _deliver(self, delivery: Delivery) -> None:
        observer = self._observer
        if observer is None:
            return
        self._revoked = ""
        self._last = delivery
        self._tell(delivery.unserved)
        observer.identity_changed(delivery.snapshot)
        if delivery.defects and self._observer is observer:
            where = f"the Workload API at {self._address}"
            observer.identity_failed(f"{where}: {'; '.join(delivery.defects)}; what was there before stays in use")

    def _skip(self, observer: IIdentityObserver, reason: str) -> None:
        observer.identity_failed(f"the Workload API at {self._address} sent what cannot be used, skipped: {reason}")

    def _tell(self, unserved: tuple[str, ...]) -> None:
        """Log whom the server does not serve, once for each state of affairs."""
        if unserved != self._unserved:
            self._unserved = unserved
            for text in unserved:
                self._context.log.warn("the Workload API at {address}: {text}", address=self._address, text=text)


@implementer(IIdentitySourceFactory)
class WorkloadAPIFactory:
    """
    Makes sources that ask a Workload API.

    :param environment: where ``SPIFFE_ENDPOINT_SOCKET`` is looked up.
    :param wall_clock: for tests, as ``connect``.
    """

    name = "workload-api"
    description = "what a SPIFFE Workload API pushes: certificates, keys and bundles"
    settings = WorkloadAPISettings
    workload_settings = WorkloadAPIWorkload

    def __init__(
        self,
        environment: Mapping[str, str] = os.environ,
        wall_clock: WallClock = wall_clock,
        connect: Connect = connect_to,
    ) -> None:
        self._environment = environment
        self._wall_clock = wall_clock
        self._connect = connect

    def create(self, settings: WorkloadAPISettings, context: PluginContext) -> WorkloadAPISource:
        """
        Make one source.

        :raises ValueError: when neither the settings nor the environment name a socket of this machine.
        """
        if settings.socket is not None:
            address = local_socket(settings.socket)
        elif text := self._environment.get(ENVIRONMENT_VARIABLE):
            try:
                address = local_socket(text)
            except ValueError as error:
                raise ValueError(f"the environment's {ENVIRONMENT_VARIABLE}: {error}") from None
        else:
            raise ValueError(
                f"there is neither a socket here nor {ENVIRONMENT_VARIABLE} in the environment; "
                "write socket: unix:///run/spire/agent.sock"
            )
        return WorkloadAPISource(address, context, self._wall_clock, connect=self._connect)
