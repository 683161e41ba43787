"""
Changing the root of the embedded authority, step by step: prepare, activate, taint, revoke.

Ring 3. A root is in the bundle before it signs anything, and stays there until it is revoked. Each step happens when
``state.json`` is replaced; whatever comes before or after that is finished or forgotten at the next start.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from cryptography import x509

from tcpmesh.identity.authority import MIN_TTL, AuthorityError, issue, new_issuing, new_root
from tcpmesh.identity.certificates import fingerprint, moment, not_after, span
from tcpmesh.identity.material import MaterialError, load_certificates
from tcpmesh.identity.spiffe import SpiffeId
from tcpmesh.sources.authority_files import BUNDLE_FILE, check_usable, read_root, unusable
from tcpmesh.sources.authority_slots import MAX_SLOTS, Slot, SlotState
from tcpmesh.sources.authority_state import AuthorityState

__all__ = [
    "GRACE",
    "REFRESH_HINT",
    "STEPS",
    "activate",
    "change",
    "last_end",
    "overlap",
    "prepare",
    "revoke",
    "taint",
]

STEPS = ("prepare", "activate", "taint", "revoke")

REFRESH_HINT = 300.0  # seconds between two looks at a bundle, as SPIFFE suggests
GRACE = 86400.0  # seconds for which an old root stays after the last certificate under it
_MAX_REASON = 500  # characters


def overlap(ttl: float) -> float:
    """
    How long a bundle with a prepared root must have been published before that root may sign, in seconds.

    :param ttl: how long workloads' certificates last.
    """
    return max(5 * REFRESH_HINT, 2 * ttl)


def change(
    state: AuthorityState,
    step: str,
    number: int | None,
    now: float,
    *,
    ttl: float,
    force: str = "",
    by: str = "",
    cuts: Callable[[Slot], str] = lambda _: "",
) -> dict[str, Any]:
    """
    Do one of :data:`STEPS`.

    :param number: of the slot, for the last two steps.
    :param ttl: how long workloads' certificates last, in seconds.
    :param by: who wants it, if that is not an operator; kept in the audit log.
    :param cuts: tells which identities of this proxy hang on a slot.
    :returns: the slot's number, the slots as they are now, and what to do next, as plain JSON values.
    :raises AuthorityError: when the step cannot be done now.
    :raises StartError: STATE_UNUSABLE when it cannot be written.
    """
    if step == "prepare":
        slot = prepare(state, now, by=by)
        ripe = moment((slot.published or now) + overlap(ttl))
        follows = f"give {state.path / BUNDLE_FILE} to every peer; from {ripe} on: tcpmesh ca activate"
    elif step == "activate":
        slot = activate(state, now, ttl=ttl, force=force, by=by)
        follows = f"certificates are signed by slot {slot.number} as they are renewed; old slots stay in the bundle"
    elif number is None or step not in STEPS:
        raise AuthorityError(f"step {step[:20]!r} of slot {number} makes no sense; steps are {', '.join(STEPS)}")
    elif step == "taint":
        slot = taint(state, number, now)
        follows = f"once no certificate under it is in use: tcpmesh ca revoke {number}"
    else:
        if state.unfinished:  # given again, since the first time not every file could be written
            state.finish(now)
        existing = _existing(state, number)
        slot = revoke(state, number, now, cuts=cuts(existing), force=force, by=by)
        follows = f"give {state.path / BUNDLE_FILE} to every peer"
    slots = [{"slot": s.number, "state": s.state.value, "tainted": s.tainted} for s in state.slots.entries]
    return {"step": step, "slot": slot.number, "slots": slots, "next": follows}


def prepare(state: AuthorityState, now: float, *, by: str = "") -> Slot:
    """
    Make a further root and publish it in the bundle; it signs nothing yet. Finishes what was interrupted.

    :raises AuthorityError: when one is prepared already, or there are too many old ones.
    :raises StartError: STATE_UNUSABLE when it cannot be written; do it again then.
    """
    state.check_owned()
    slot = state.slots.prepared
    if slot is not None and slot.published is not None:
        state.publish(now)
        raise AuthorityError(f"slot {slot.number} is prepared already; next: tcpmesh ca activate")
    if slot is None:
        if len(state.slots.entries) >= MAX_SLOTS:
            raise AuthorityError(f"there are {MAX_SLOTS} slots already; revoke an old one first: tcpmesh ca revoke")
        slot = Slot(state.slots.following, SlotState.PREPARED, now)
        root = new_root(state.trust_domain, now)
        _audit(state, "prepare", now, slot, root.certificate, by=by)
        state.directory.write(slot.root_file, root.to_pem())
        state.roots[slot.number] = root.certificate
        state.commit(state.slots.having(slot))
    state.publish(now)
    return state.slots.prepared or slot


def activate(state: AuthorityState, now: float, *, ttl: float, force: str = "", by: str = "") -> Slot:
    """
    Let the prepared root sign from now on; the one that did so far becomes old and stays in the bundle.

    :param ttl: how long workloads' certificates last.
    :param force: why it shall be done before peers can be expected to have the bundle; kept in the audit log.
    :raises AuthorityError: when none is prepared, or it was published too short a time ago.
    :raises StartError: STATE_UNUSABLE when it cannot be written; the old one goes on to sign then.
    """
    state.check_owned()
    slot = _ready(state)
    ripe = (slot.published or 0.0) + overlap(ttl)
    if now < ripe and not force:
        raise AuthorityError(
            f"slot {slot.number} is in the bundle since {moment(slot.published or 0.0)}; peers that have no new bundle "
            f"yet would refuse what it signs. It can be activated in {span(ripe - now)}, at {moment(ripe)}; if every "
            "peer has the bundle, say so: --force REASON"
        )
    _switch(state, slot, now, "activate", force, by=by, revoked=None)
    return state.slots.active


def taint(state: AuthorityState, number: int, now: float) -> Slot:
    """
    Mark an old root as one that nobody should hang on any more: what it signed is to be replaced now.

    :raises AuthorityError: when there is no such slot, or it is not an old one.
    :raises StartError: STATE_UNUSABLE when it cannot be written.
    """
    state.check_owned()
    slot = _existing(state, number)
    if slot.state is SlotState.ACTIVE:
        raise AuthorityError(
            f"slot {number} is active: what replaced its certificates would be signed by it again; first: tcpmesh ca "
            "prepare, then tcpmesh ca activate"
        )
    if slot.state is SlotState.PREPARED:
        raise AuthorityError(f"slot {number} is only prepared and has signed nothing; to drop it: tcpmesh ca revoke")
    _audit(state, "taint", now, slot)
    state.commit(state.slots.having(attrs.evolve(slot, tainted=True)))
    return _existing(state, number)


def revoke(state: AuthorityState, number: int, now: float, *, cuts: str = "", force: str = "", by: str = "") -> Slot:
    """
    Take a root out of the bundle and destroy its key: whatever hangs on it is refused from then on.

    :param cuts: which identity of this proxy still hangs on it, if any.
    :param force: why it shall be done although something still hangs on it; kept in the audit log. The active one is
        replaced by the prepared one in the same moment.
    :returns: the slot that is gone.
    :raises AuthorityError: when there is no such slot, or something still hangs on it.
    :raises StartError: STATE_UNUSABLE when it cannot be written; if it happened all the same, the state is unfinished.
    """
    state.check_owned()
    slot = _existing(state, number)
    if slot.state is SlotState.ACTIVE:
        if state.slots.prepared is None:
            raise AuthorityError(f"slot {number} is the only one that can sign; first: tcpmesh ca prepare")
        if not force:
            raise AuthorityError(
                f"slot {number} is active, and this proxy's own identity hangs on it; first: tcpmesh ca activate, or "
                "say why it must be cut at once: --force REASON"
            )
        _switch(state, _ready(state), now, "revoke", force, revoked=slot)
    else:
        end = last_end(state, slot) + GRACE
        if cuts and not force:
            raise AuthorityError(
                f"{cuts} of this proxy still hangs on slot {number}; first: tcpmesh ca taint {number}, or say why it "
                "must be cut at once: --force REASON"
            )
        if slot.state is SlotState.OLD and not slot.tainted and now < end and not force:
            raise AuthorityError(
                f"certificates under slot {number} may be valid until {moment(end - GRACE)}; wait until {moment(end)}, "
                f"or have them replaced: tcpmesh ca taint {number}, or say why they must be cut at once: --force REASON"
            )
        _audit(state, "revoke", now, slot, state.roots[number], force=force, by=by)
        state.commit(state.slots.without(number))
    state.roots.pop(number)
    state.finish(now)
    return slot


def last_end(state: AuthorityState, slot: Slot) -> float:
    """When the last certificate that the slot's issuing authority may have signed ends, in wall-clock seconds."""
    pem = state.directory.read(slot.issuing_file)
    if pem is None:  # it never signed, or somebody took it away: then nothing says so earlier than the root
        return 0.0 if slot.state is SlotState.PREPARED else not_after(state.roots[slot.number])
    try:
        return not_after(load_certificates(pem)[0])
    except MaterialError:
        return not_after(state.roots[slot.number])


def _switch(
    state: AuthorityState, slot: Slot, now: float, step: str, force: str, *, by: str = "", revoked: Slot | None
) -> None:
    """Make the prepared slot the active one, once its issuing authority is written and has proved itself."""
    check_usable(state.directory, slot, state.roots[slot.number], now)
    root = read_root(state.directory, slot, state.trust_domain)
    if root is None:
        raise unusable(state.directory, slot.root_file, "is missing", root=True)
    issuing = new_issuing(root, now)
    proof = SpiffeId.parse(f"{state.trust_domain.id}/proof-of-slot-{slot.number}")
    issue(issuing, state.roots[slot.number], proof, ttl=MIN_TTL, now=now)
    _audit(state, step, now, revoked or slot, state.roots[(revoked or slot).number], force=force, by=by)
    state.directory.write(slot.issuing_file, issuing.to_pem())
    before = attrs.evolve(state.slots.active, state=SlotState.OLD, since=now)
    slots = state.slots.having(before, attrs.evolve(slot, state=SlotState.ACTIVE, since=now))
    state.commit(slots if revoked is None else slots.without(revoked.number))
    state.issuing = issuing


def _ready(state: AuthorityState) -> Slot:
    """The prepared slot, which peers can find in the bundle as it is on the disk."""
    slot = state.slots.prepared
    if slot is None:
        raise AuthorityError("no slot is prepared; first: tcpmesh ca prepare")
    bundle = state.directory.read(BUNDLE_FILE, secret=False)
    try:
        published = slot.published is not None and state.roots[slot.number] in load_certificates(bundle or b"")
    except MaterialError:
        published = False
    if not published:
        raise AuthorityError(
            f"slot {slot.number} is not in {state.path / BUNDLE_FILE}, so that no peer can know it; to publish it: "
            "tcpmesh ca prepare"
        )
    return slot


def _existing(state: AuthorityState, number: int) -> Slot:
    slot = state.slots.find(number)
    if slot is None:
        known = ", ".join(f"{entry.number} ({entry.state.value})" for entry in state.slots.entries)
        if number < state.slots.following:
            raise AuthorityError(
                f"slot {number} was revoked before, and {state.path / BUNDLE_FILE} is without it; there are: {known}"
            )
        raise AuthorityError(f"there is no slot {number}; there are: {known}")
    return slot


def _audit(
    state: AuthorityState,
    step: str,
    now: float,
    slot: Slot,
    root: x509.Certificate | None = None,
    *,
    force: str = "",
    by: str = "",
) -> None:
    facts: dict[str, object] = {"slot": slot.number, "was": slot.state.value}
    if root is not None:
        facts["sha256"] = fingerprint(root)
    if force:
        facts["force"] = force[:_MAX_REASON]
    if by:
        facts["by"] = by
    state.audit.append(step, now, facts)
