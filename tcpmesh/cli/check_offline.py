"""
``tcpmesh identity check`` without a proxy: from the configuration's files, over blocking sockets.

Ring 4.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from tcpmesh.checking.acceptance import Acceptance, Hearing
from tcpmesh.checking.approach import Approach
from tcpmesh.checking.choice import Choice, choose
from tcpmesh.checking.findings import as_mapping
from tcpmesh.checking.layers import LayerCheck, Over
from tcpmesh.cli.check_material import read_material
from tcpmesh.cli.peer_handshake import PeerHandshake
from tcpmesh.errors import Mark, Refusal

__all__ = ["check_offline"]

_SECONDS = 10.0  # for each connection and all that is exchanged over it


def check_offline(config: Path, choice: Choice) -> tuple[dict[str, Any], Mapping[str, Mark]]:
    """
    Look at what is chosen: plain JSON values, as the proxy answers, and where in the file each key stands.

    :raises ConfigurationError: when the configuration cannot be used.
    :raises WrongChoiceError: when what is chosen is not there.
    """
    knowledge, marks = read_material(config)
    workloads = knowledge.settings.identity.workloads
    checks = []
    for pair in choose(knowledge.settings, knowledge.state.endpoints, choice):
        check = LayerCheck(pair, knowledge)
        with suppress(Over):
            _check(check)
        checks.append(as_mapping(pair, str(workloads[pair.workload].id), check.findings))
    return {"file": str(knowledge.settings.file), "left_out": 0, "checks": checks}, marks


def _check(check: LayerCheck) -> None:
    approach = check.begin()
    core = approach.core(probe=True)
    handshake = PeerHandshake(approach.address, core)
    deadline = time.monotonic() + _SECONDS
    try:
        stream = handshake.connect(deadline)
    except Refusal as refusal:
        check.unreached(refusal)
    with closing(stream):
        failure = handshake.shake_hands(stream, deadline)
        check.shaken(failure, approach.leaf(core), proved=core.verification.peer is not None)
        hearing = Hearing(core.alpn, approach.asker, asked=approach.preface)
        acceptance = handshake.listen(stream, hearing, deadline)
    check.accepted(_again(approach) if acceptance.not_for_us else acceptance)


def _again(approach: Approach) -> Acceptance:
    """The peer tells others how it sees them: ask as the data path does."""
    core = approach.core(probe=False)
    handshake = PeerHandshake(approach.address, core)
    deadline = time.monotonic() + _SECONDS
    try:
        stream = handshake.connect(deadline)
    except Refusal as refusal:
        return Acceptance(refusal=refusal)
    with closing(stream):
        failure = handshake.shake_hands(stream, deadline)
        if failure is not None:
            return Acceptance(refusal=failure)
        return handshake.listen(stream, Hearing(core.alpn, approach.asker, refused_probe=True), deadline)
