"""
The authorization policy ``opa``: asks an Open Policy Agent, for each peer and listener once in a while.

Ring 3, without a reactor of its own: that of the context is used when it starts.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import attrs
from cryptography import x509
from twisted.internet.defer import Deferred
from zope.interface import implementer

from tcpmesh.addresses import UnixAddress, shown
from tcpmesh.codes import BAD_CONFIGURATION
from tcpmesh.errors import StartError
from tcpmesh.identity.endpoint_url import parse_endpoint_url
from tcpmesh.interfaces import (
    IAuthorizationPolicyFactory,
    ICheckable,
    IPolicyObserver,
    IPolicySource,
    PluginContext,
)
from tcpmesh.policy.opa_exchange import MAX_VALID_FOR, read_answer, write_question
from tcpmesh.policy_interfaces import IUnauthenticatedPolicy
from tcpmesh.sources.pem_files import read_certificates
from tcpmesh.values import AuthorizationRequest, Decision, Duration, Effect

if TYPE_CHECKING:
    from tcpmesh.sources.opa_client import OpaClient
    from tcpmesh.sources.opa_place import OpaPlace

__all__ = ["OpaFactory", "OpaPolicy", "OpaSettings"]

_URL = re.compile(r"(https?)://(\[[^\]/?#@]*\]|[^\[\]/?#@:]*)(?::([0-9]{1,5}))?/v1/data/([A-Za-z0-9_./~-]+)\Z")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_TOKEN = re.compile(r"[!-~]{1,4096}")
_MAX_CONNECTIONS, _MAX_WAITING = 256, 100_000


def _check_url(_instance: object, _attribute: object, value: str) -> None:
    found = _URL.match(value)
    if found is None:
        raise ValueError(
            f"{shown(value)} is not the URL of a document in Open Policy Agent: write "
            "http://127.0.0.1:8181/v1/data/tcpmesh/allow"
        )
    _host_and_port(found)


def _host_and_port(found: re.Match[str]) -> tuple[str, int]:
    """:raises ValueError: for what is no host or port."""
    parsed = parse_endpoint_url(f"https://{found[2]}:{found[3] or _DEFAULT_PORTS[found[1]]}/")
    return parsed.host, parsed.port


def _between(least: int, most: int) -> Callable[[object, object, int], None]:
    def check(_instance: object, _attribute: object, value: int) -> None:
        if not least <= value <= most:
            raise ValueError(f"{value} is outside {least} to {most}")

    return check


def _check_valid_for(_instance: object, _attribute: object, value: Duration) -> None:
    if value > MAX_VALID_FOR:
        raise ValueError("an answer is remembered for a day at most")


@attrs.frozen
class OpaSettings:
    """
    ``url``: of the document that says who may come in; ``socket``: a unix socket instead of the host in it.

    ``valid_for`` is how long an answer is remembered that does not say so itself.
    """

    url: str = attrs.field(validator=_check_url)
    socket: UnixAddress | None = None
    trust: Literal["system"] | Path = "system"
    token: Path | None = None
    undefined: Literal["deny", "abstain"] = "deny"
    valid_for: Duration = attrs.field(default=Duration(5.0), validator=_check_valid_for)
    connections: int = attrs.field(default=8, validator=_between(1, _MAX_CONNECTIONS))
    waiting: int = attrs.field(default=1000, validator=_between(0, _MAX_WAITING))

    @property
    def secure(self) -> bool:
        """Whether it is asked over TLS."""
        return self.url.startswith("https:")

    @property
    def document(self) -> str:
        """The document's path, for the record."""
        found = _URL.match(self.url)
        assert found is not None, "the validator has looked"
        return found[4]


@implementer(IUnauthenticatedPolicy, IPolicySource, ICheckable)
class OpaPolicy:
    """Asks, and denies when there is no answer that can be understood."""

    def __init__(self, settings: OpaSettings, context: PluginContext) -> None:
        self._settings = settings
        self._context = context
        self._undefined = Effect(settings.undefined)
        self._client: OpaClient | None = None

    def check(self) -> None:
        """
        Look at the files; nobody is asked. (ICheckable)

        :raises StartError: naming the file that cannot be used.
        """
        self._authorities()
        self._token()

    def start(self, observer: IPolicyObserver) -> None:
        """
        Get ready to ask. Open Policy Agent need not be there yet. (IPolicySource)

        :raises StartError: naming the file that cannot be used.
        """
        from tcpmesh.sources.opa_client import OpaClient

        settings = self._settings
        self._client = OpaClient(self._context.clock, self._place(), settings.connections, settings.waiting)

    def stop(self) -> Deferred[None] | None:
        """End what is under way. (IPolicySource)"""
        client, self._client = self._client, None
        return client.stop() if client is not None else None

    def decide(self, request: AuthorizationRequest) -> Decision | Deferred[Decision]:
        """
        Ask.

        :raises Refusal: with TM-P103 when too many questions wait; the Deferred fails so for every other reason.
        """
        if self._client is None:
            return Decision(Effect.DENY, "opa", "", "Open Policy Agent is not being asked: not started, or stopped")
        answer: Deferred[bytes] = self._client.ask(write_question(request))
        settings = self._settings
        return answer.addCallback(
            read_answer,
            settings.document,
            settings.valid_for,
            self._undefined,
            authenticated=request.peer.is_authenticated,
        )

    def describe(self) -> Sequence[str]:
        """Whom it asks."""
        settings = self._settings
        where = str(settings.socket) if settings.socket is not None else settings.url.partition("/v1/")[0]
        return [f"opa: {settings.document} at {where}"]

    def _place(self) -> OpaPlace:
        from tcpmesh.sources.opa_place import OpaPlace

        settings = self._settings
        found = _URL.match(settings.url)
        assert found is not None, "the validator has looked"
        host, port = _host_and_port(found)
        socket = settings.socket.path if settings.socket is not None else ""
        return OpaPlace(
            settings.secure, host, port, f"/v1/data/{settings.document}", socket, self._authorities(), self._token()
        )

    def _authorities(self) -> tuple[x509.Certificate, ...] | None:
        trust = self._settings.trust
        return read_certificates(trust) if isinstance(trust, Path) else None

    def _token(self) -> str:
        path = self._settings.token
        if path is None:
            return ""
        try:
            with path.open("rb") as file:
                text = file.read(8192).decode("ascii").strip()
        except OSError as error:
            raise StartError(BAD_CONFIGURATION, f"{path} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError:
            text = ""
        if not _TOKEN.fullmatch(text):
            raise StartError(BAD_CONFIGURATION, f"{path} does not hold a bearer token: one line of visible ASCII")
        return text


@implementer(IAuthorizationPolicyFactory)
class OpaFactory:
    """Makes policies that ask Open Policy Agent."""

    name = "opa"
    description = "asks an Open Policy Agent over HTTP"
    settings = OpaSettings

    def create(self, settings: OpaSettings, context: PluginContext) -> OpaPolicy:
        """
        Make one policy.

        :raises ValueError: when it would be asked over a network without TLS.
        """
        if settings.socket is not None and settings.secure:
            raise ValueError("socket is for an url with http: TLS is not spoken on a unix socket")
        if settings.socket is None and not settings.secure:
            found = _URL.match(settings.url)
            assert found is not None, "the validator has looked"
            _check_loopback(_host_and_port(found)[0])
        if not settings.secure and settings.trust != "system":
            raise ValueError("trust is for an url with https")
        return OpaPolicy(settings, context)


def _check_loopback(host: str) -> None:
    """
    Refuse to ask strangers who may come in.

    :raises ValueError: for a host that is not this machine.
    """
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        hint = "write 127.0.0.1" if host == "localhost" else "use https, or an agent on this machine"
        raise ValueError(
            f"url: over http only this machine can be asked, 127.0.0.1 or [::1], since anybody on the way to "
            f"{shown(host)} could answer; {hint}"
        )
