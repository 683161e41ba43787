"""
Changing a running proxy's embedded authority, as ``tcpmesh ca`` asks for on the admin socket.

Ring 4. Finds the source that owns the directory and lets it do the step; every refusal is an answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from twisted.logger import Logger

from tcpmesh.errors import Refusal, StartError, TcpmeshError
from tcpmesh.interfaces import IAuthority

__all__ = ["change_authority"]

_log = Logger()


def change_authority(sources: Iterable[object], arguments: Mapping[str, str]) -> dict[str, Any]:
    """
    Do one step, and say what came of it: plain JSON values, with ``done`` and, if that is false, ``reason``.

    :param sources: the proxy's identity sources.
    :param arguments: ``step``, ``state`` (the directory), and where they apply ``slot`` and ``force``.
    """
    state, slot = arguments.get("state", ""), arguments.get("slot", "")
    if slot and not (slot.isascii() and slot.isdigit() and len(slot) < 10):
        return _refused("a slot is a number")
    for source in sources:
        if IAuthority.providedBy(source) and _same(source.authority_state, Path(state)):  # type: ignore[attr-defined]
            try:
                done = source.change_authority(  # type: ignore[attr-defined]
                    arguments.get("step", ""), int(slot) if slot else None, arguments.get("force", "")
                )
            except (Refusal, StartError) as error:
                return _refused(f"{error.code.id} {error.reason}")
            except TcpmeshError as error:
                return _refused(str(error))
            except Exception as error:  # noqa: BLE001  a plugin's failure is an answer
                _log.failure("changing the authority in {state} failed", state=state)
                return _refused(f"it failed: {type(error).__name__}; the proxy's log has the rest")
            return {"done": True, **done}
    return _refused(f"no running identity source of this proxy has its authority in {state}")


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except (OSError, ValueError):
        return False


def _refused(reason: str) -> dict[str, Any]:
    return {"done": False, "reason": reason}
