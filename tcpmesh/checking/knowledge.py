"""
What the layers are judged by: a configuration, and the identities and bundles that somebody holds.

Ring 3. Values only; the running proxy has them, and a command can read some of them from files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

from tcpmesh.dataplane.contexts import TLSContexts
from tcpmesh.errors import Refusal, StartError
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.mesh_state import MeshState
from tcpmesh.net.upstream import Upstream
from tcpmesh.settings import Settings

__all__ = ["Knowledge"]


@attrs.frozen(eq=False)
class Knowledge:
    """
    Everything that is known on this side.

    :ivar now: wall-clock seconds.
    :ivar defects: by workload: why it has no identity.
    :ivar failing: by workload: why its source cannot renew the identity that it has.
    :ivar unread: by workload: why nobody here can say whether it has one.
    :ivar bundle_defects: by trust domain: what is wrong with where its bundle comes from; an older one may serve.
    :ivar unread_bundles: by trust domain: why nobody here can say what is in its bundle.
    """

    settings: Settings
    state: MeshState
    contexts: TLSContexts
    upstreams: Mapping[str, Upstream]
    now: Callable[[], float]
    defects: Mapping[str, Refusal | StartError] = attrs.field(factory=dict)
    failing: Mapping[str, str] = attrs.field(factory=dict)
    unread: Mapping[str, str] = attrs.field(factory=dict)
    bundle_defects: Mapping[TrustDomain, str] = attrs.field(factory=dict)
    unread_bundles: Mapping[TrustDomain, str] = attrs.field(factory=dict)
