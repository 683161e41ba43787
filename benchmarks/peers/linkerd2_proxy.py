"""linkerd2-proxy, a gap by its nature: it cannot be run in the two-hop topology of the others."""

from __future__ import annotations

from contextlib import AbstractContextManager

from benchmarks.peers.base import Missing, Run, Running

_REASON = (
    "it starts only with Linkerd's control plane (identity, destination, policy), which runs on Kubernetes; "
    "there is no static configuration and no package of it"
)


class Linkerd2Proxy:
    """Named so that nobody looks for it in vain."""

    name = "linkerd2-proxy"

    def find(self) -> Missing:
        """Never found, wherever it is installed."""
        return Missing(_REASON)

    def running(self, run: Run) -> AbstractContextManager[Running]:
        """:raises RuntimeError: always."""
        raise RuntimeError(f"linkerd2-proxy cannot be run here: {_REASON}")
