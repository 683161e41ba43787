"""The proxies that are measured: each in a module of its own, all through `benchmarks.peers.base.Peer`.

``python -m benchmarks.peers`` shows what each of them does on this machine.
"""

from __future__ import annotations

from typing import Final

from benchmarks.peers.base import Peer
from benchmarks.peers.direct import Direct
from benchmarks.peers.envoy import Envoy
from benchmarks.peers.ghostunnel import Ghostunnel
from benchmarks.peers.haproxy import HAProxy
from benchmarks.peers.linkerd2_proxy import Linkerd2Proxy
from benchmarks.peers.nginx import Nginx
from benchmarks.peers.stunnel import Stunnel
from benchmarks.peers.tcpmesh import Tcpmesh
from benchmarks.peers.twisted_endpoints import TwistedEndpoints

__all__ = ["PEERS"]

# In the order of the table.
PEERS: Final[tuple[Peer, ...]] = (
    Direct(),
    Tcpmesh(),
    HAProxy(),
    Nginx(),
    Stunnel(),
    Envoy(),
    Ghostunnel(),
    Linkerd2Proxy(),
    TwistedEndpoints(),
)
