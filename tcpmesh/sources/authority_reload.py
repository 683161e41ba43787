"""
Reading the embedded authority's directory again, while its owner runs.

Ring 3. For what others put there in spite of the lock: files restored from a backup, a root's key brought back. All of
it is good, or nothing changes.
"""

from __future__ import annotations

import os
from contextlib import closing

from tcpmesh.codes import STATE_UNUSABLE
from tcpmesh.errors import StartError
from tcpmesh.sources.authority_files import (
    check_usable,
    has_no_authority,
    read_issuing,
    read_root,
    read_slots,
    unusable,
)
from tcpmesh.sources.authority_slots import STATE_FILE
from tcpmesh.sources.authority_state import AuthorityState
from tcpmesh.sources.private_directory import PrivateDirectory

__all__ = ["reread"]


def reread(state: AuthorityState, now: float) -> bool:
    """
    Take what the directory holds now; the bundle that follows from it is published by ``state.finish``.

    :param now: wall-clock seconds.
    :returns: whether anything is different.
    :raises StartError: STATE_UNUSABLE; what was read before goes on to be used.
    """
    state.check_owned()
    _check_same_directory(state)
    directory, trust_domain = state.directory, state.trust_domain
    slots = read_slots(directory)
    if slots is None:
        raise StartError(STATE_UNUSABLE, f"{directory.path / STATE_FILE} is missing; restore it from a backup")
    roots = {}
    for slot in slots.entries:
        root = read_root(directory, slot, trust_domain)
        if root is None:
            raise has_no_authority(directory.path)
        roots[slot.number] = root.certificate
    check_usable(directory, slots.active, roots[slots.active.number], now)
    issuing = read_issuing(directory, slots.active, roots[slots.active.number])
    if issuing is None:
        raise unusable(directory, slots.active.issuing_file, "is missing", root=False)
    before = (state.slots, state.roots, state.issuing.certificate)
    if (slots, roots, issuing.certificate) == before:
        state.publish(now)  # unless somebody took the bundle away, this writes nothing
        return False
    shown = [f"{slot.number} {slot.state.value}" for slot in slots.entries]
    state.audit.append("reread", now, {"slot": slots.active.number, "slots": shown})
    state.slots, state.roots, state.issuing = slots, roots, issuing
    state.unfinished = True  # not here: with a full disk it would look as if nothing had been taken
    return True


def _check_same_directory(state: AuthorityState) -> None:
    """Insist that the path still leads to the directory that is locked, and not to another one in its place."""
    with closing(PrivateDirectory.open(state.path, create=False)) as found:
        if found.owner() != os.getpid():
            raise StartError(
                STATE_UNUSABLE,
                f"{state.path} is not the directory any more that this process owns: another one was put in its "
                "place; restart the proxy to use that",
            )
