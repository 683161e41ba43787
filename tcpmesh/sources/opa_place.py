"""
Where Open Policy Agent answers, and how to connect to it.

Ring 3. Imported when such a policy starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
from cryptography import x509
from OpenSSL import crypto
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    UNIXClientEndpoint,
    wrapClientTLS,
)
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates

from tcpmesh.addresses import is_host_name

__all__ = ["OpaPlace"]

_NEXT_ADDRESS = 0.05  # seconds until another address of a name is tried beside the first


@attrs.frozen(eq=False)
class OpaPlace:
    """
    Where Open Policy Agent answers.

    :ivar socket: the path of a unix socket instead of ``host`` and ``port``; empty for none.
    :ivar authorities: for https, by whom it must be certified; None for the system's authorities.
    :ivar token: a bearer token, empty for none.
    """

    secure: bool
    host: str
    port: int
    path: str
    socket: str = ""
    authorities: Sequence[x509.Certificate] | None = None
    token: str = attrs.field(default="", repr=False)

    @property
    def url(self) -> str:
        """For twisted.web and for messages."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.secure else 'http'}://{host}:{self.port}{self.path}"

    def __str__(self) -> str:
        return f"unix:{self.socket}" if self.socket else self.url

    def endpoint(self, reactor: Any) -> IStreamClientEndpoint:
        """Make what connects to it; over TLS its certificate must be good for the host."""
        endpoint: Any
        if self.socket:
            endpoint = UNIXClientEndpoint(reactor, self.socket)
        elif is_host_name(self.host):
            endpoint = HostnameEndpoint(reactor, self.host, self.port, attemptDelay=_NEXT_ADDRESS)
        else:  # not as above, which would wait for further addresses when one refuses
            direct = TCP6ClientEndpoint if ":" in self.host else TCP4ClientEndpoint
            endpoint = direct(reactor, self.host, self.port)
        if self.secure:
            trust = None
            if self.authorities is not None:
                trust = trustRootFromCertificates(
                    [Certificate(crypto.X509.from_cryptography(each)) for each in self.authorities]
                )
            endpoint = wrapClientTLS(optionsForClientTLS(self.host, trustRoot=trust), endpoint)
        found: IStreamClientEndpoint = endpoint
        return found
