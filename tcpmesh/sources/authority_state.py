"""
The embedded authority on disk: what is kept in its state directory, and who may change it.

Ring 3. Each slot's root and issuing authority are files that hold a key and its certificate in one, so that a crash
leaves both or neither; ``state.json`` says which slot is active; ``bundle.pem`` has the roots of all, for others;
``audit.jsonl`` what was signed; ``lock`` is held by the one process that may write. What cannot be read is reported and
never made anew: with a root go all certificates that hang on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
from cryptography import x509

from tcpmesh.codes import STATE_UNUSABLE
from tcpmesh.errors import Refusal, StartError
from tcpmesh.identity.authority import (
    ISSUING_LIFETIME,
    Authority,
    AuthorityError,
    issue,
    new_issuing,
    new_root,
)
from tcpmesh.identity.certificates import not_after, not_before, pem_of
from tcpmesh.identity.spiffe import SpiffeId, TrustDomain
from tcpmesh.sources.audit_chain import certificate_facts
from tcpmesh.sources.audit_log import AuditLog
from tcpmesh.sources.authority_files import (
    BUNDLE_FILE,
    ISSUING_FILE,
    ROOT_FILE,
    check_usable,
    has_no_authority,
    read_issuing,
    read_root,
    read_slots,
    unusable,
)
from tcpmesh.sources.authority_slots import STATE_FILE, Slot, Slots, first_format
from tcpmesh.sources.private_directory import PrivateDirectory
from tcpmesh.values import DNSName, Svid

__all__ = ["BUNDLE_FILE", "ISSUING_FILE", "ROOT_FILE", "AuthorityState"]

_WORTH_RENEWING = 3600.0  # seconds that a new issuing authority must last longer than the present one


class AuthorityState:
    """
    The roots and the issuing authority, backed by a directory. Make it with :meth:`own` or :meth:`read`.

    :ivar slots: which roots there are, and which one signs.
    :ivar roots: their certificates, by number of the slot; no key of a root is kept in memory.
    :ivar issuing: the active slot's; replaced by :meth:`renew_issuing`.
    :ivar audit: what was signed and changed.
    :ivar unfinished: whether a step has happened whose files are not all as they should be; see :meth:`finish`.
    """

    def __init__(
        self, directory: PrivateDirectory, slots: Slots, roots: Mapping[int, x509.Certificate], issuing: Authority
    ) -> None:
        self.directory = directory
        self.slots = slots
        self.roots = dict(roots)
        self.issuing = issuing
        self.audit = AuditLog(directory)
        self.unfinished = False

    @classmethod
    def own(cls, path: Path, trust_domain: TrustDomain | None, now: float) -> AuthorityState:
        """
        Open the state as its only writer, make what is not there yet, and finish what a crash interrupted.

        :param trust_domain: the one that the roots must be of; None takes whatever is there and creates no root.
        :raises StartError: STATE_IN_USE, or STATE_UNUSABLE naming the file and what to do.
        """
        directory = PrivateDirectory.open(path, create=trust_domain is not None)
        try:
            directory.lock()
            slots = read_slots(directory)
            first = slots or first_format(now)
            roots = _read_roots(directory, first, trust_domain)
            if roots is None:
                if trust_domain is None:
                    raise has_no_authority(path)
                root = new_root(trust_domain, now)
                directory.write(ROOT_FILE, root.to_pem())
                roots = {1: root.certificate}
            active = first.active
            check_usable(directory, active, roots[active.number], now)
            _write_bundle(directory, first, roots)  # before anything is signed
            issuing = read_issuing(directory, active, roots[active.number])
            if issuing is None:
                issuing = _new_issuing(directory, active, now)
                directory.write(active.issuing_file, issuing.to_pem())
            state = cls(directory, first, roots, issuing)
            if slots is None:
                directory.write(STATE_FILE, first.to_bytes())
            state.finish(now)
            if state.issuing_renewal_due(now):
                state._renew_if_possible(now)
        except BaseException:
            directory.close()
            raise
        return state

    @classmethod
    def read(cls, path: Path, trust_domain: TrustDomain | None = None) -> AuthorityState:
        """
        Open the state without becoming its owner: nothing is changed, and whoever owns it goes on.

        :raises StartError: STATE_UNUSABLE, also when there is no authority in it.
        """
        try:
            directory = PrivateDirectory.open(path, create=False)
        except StartError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                reason = f"{path} does not exist; make an authority there: tcpmesh ca init"
                raise StartError(STATE_UNUSABLE, reason) from error
            raise
        try:
            slots = read_slots(directory) or first_format(0.0)
            roots = _read_roots(directory, slots, trust_domain)
            issuing = read_issuing(directory, slots.active, roots[slots.active.number]) if roots is not None else None
            if roots is None or issuing is None:
                raise has_no_authority(path, slots.active.issuing_file if roots is not None else "")
        except BaseException:
            directory.close()
            raise
        return cls(directory, slots, roots, issuing)

    @property
    def path(self) -> Path:
        """The state directory."""
        return self.directory.path

    @property
    def root(self) -> Authority:
        """The active slot's root, without its key."""
        return Authority(self.roots[self.slots.active.number], None)

    @property
    def authorities(self) -> tuple[x509.Certificate, ...]:
        """The roots of all slots, which are the bundle."""
        return tuple(self.roots[slot.number] for slot in self.slots.entries)

    @property
    def trust_domain(self) -> TrustDomain:
        """The trust domain of the roots."""
        return self.root.trust_domain

    @property
    def owned(self) -> bool:
        """Whether this object may write."""
        return self.directory.locked

    def owner(self) -> int | None:
        """The process that owns the state: its id, 0 when not known, None when nobody does."""
        return self.directory.owner()

    def issue(
        self, identity: SpiffeId, *, ttl: float, now: float, dns: Sequence[DNSName] = (), to: str = "proxy"
    ) -> Svid:
        """
        Make a certificate as :func:`tcpmesh.identity.authority.issue` does, and give it away once the log has it.

        :param to: who gets it, for the audit log.
        :raises AuthorityError: when it cannot be made.
        :raises Refusal: when what was made does not verify.
        :raises StartError: STATE_UNUSABLE when the audit log does not take it.
        """
        slot = self.slots.active
        facts = {"spiffe_id": str(identity), "to": to, "slot": slot.number}
        try:
            svid = issue(self.issuing, self.roots[slot.number], identity, ttl=ttl, now=now, dns=dns)
        except (AuthorityError, Refusal) as error:
            self.audit.append("issue", now, {**facts, "outcome": "refused", "reason": str(error)[:500]})
            raise
        self.audit.append("issue", now, {**facts, "outcome": "issued", **certificate_facts(svid.leaf)})
        return svid

    def issuing_renewal_due(self, now: float) -> bool:
        """Whether half of the issuing authority's life is over, and a new one would last longer."""
        certificate = self.issuing.certificate
        start, end = not_before(certificate), not_after(certificate)
        if now < start:  # the clock was set back behind it
            return True
        gain = min(now + ISSUING_LIFETIME, not_after(self.root.certificate)) - end
        return now >= start + (end - start) / 2 and gain > _WORTH_RENEWING

    def renew_issuing(self, now: float) -> None:
        """
        Make a new issuing authority under the same root, and use it once it is safely on disk.

        :raises StartError: STATE_UNUSABLE; the present one stays in use.
        """
        self.check_owned()
        slot = self.slots.active
        issuing = _new_issuing(self.directory, slot, now)
        self.audit.append("renew-issuing", now, {"slot": slot.number, **certificate_facts(issuing.certificate)})
        self.directory.write(slot.issuing_file, issuing.to_pem())
        self.issuing = issuing

    def check_owned(self) -> None:
        """Insist on being the one that may write; :raises StartError: STATE_UNUSABLE."""
        if not self.owned:
            raise StartError(STATE_UNUSABLE, f"{self.path} is open for reading only")

    def commit(self, slots: Slots) -> None:
        """
        Make these the slots: the moment at which a step happens. Their roots must be known.

        :raises StartError: STATE_UNUSABLE; nothing has happened then.
        """
        self.directory.write(STATE_FILE, slots.to_bytes())
        self.slots = slots
        self.unfinished = True

    def finish(self, now: float) -> None:
        """
        Publish what the slots say and destroy the keys of those that are gone; whoever owns the state tries it again.

        :raises StartError: STATE_UNUSABLE.
        """
        self.publish(now)
        self._remove_revoked()
        self.unfinished = False

    def publish(self, now: float) -> None:
        """
        Write the bundle if it is not what the slots say, and note what is published by that.

        :raises StartError: STATE_UNUSABLE.
        """
        _write_bundle(self.directory, self.slots, self.roots)
        prepared = self.slots.prepared
        if prepared is not None and prepared.published is None:
            self.commit(self.slots.having(attrs.evolve(prepared, published=now)))

    def close(self) -> None:
        """Give up the lock and the directory."""
        self.directory.close()

    def _renew_if_possible(self, now: float) -> None:
        """At the start: an issuing authority that is valid is enough, and whoever runs tries again and tells."""
        try:
            self.renew_issuing(now)
        except StartError:
            certificate = self.issuing.certificate
            if not not_before(certificate) <= now < not_after(certificate):
                raise

    def _remove_revoked(self) -> None:
        """Remove the keys of slots that are gone: a crash may have come in between."""
        known = {name for slot in self.slots.entries for name in (slot.root_file, slot.issuing_file)}
        present = set(self.directory.names())
        for number in range(1, self.slots.following):
            gone = Slot(number, self.slots.active.state, 0.0)
            for name in {gone.root_file, gone.issuing_file} & present - known:
                self.directory.remove(name)


def _read_roots(
    directory: PrivateDirectory, slots: Slots, trust_domain: TrustDomain | None
) -> dict[int, x509.Certificate] | None:
    """The root of each slot; None when there is no authority yet."""
    roots = {}
    for slot in slots.entries:
        root = read_root(directory, slot, trust_domain)
        if root is None:
            return None
        roots[slot.number] = root.certificate
    return roots


def _write_bundle(directory: PrivateDirectory, slots: Slots, roots: Mapping[int, x509.Certificate]) -> None:
    bundle = pem_of([roots[slot.number] for slot in slots.entries])
    if directory.read(BUNDLE_FILE, secret=False) != bundle:
        directory.write(BUNDLE_FILE, bundle)


def _new_issuing(directory: PrivateDirectory, slot: Slot, now: float) -> Authority:
    """Sign an issuing authority with the slot's root; the key of that is in memory for this moment only."""
    root = read_root(directory, slot, None)
    if root is None:
        raise unusable(directory, slot.root_file, "is missing", root=True)
    if root.private_key is None:
        raise StartError(
            STATE_UNUSABLE,
            f"{directory.path / slot.root_file} holds no private key, which is needed to sign an issuing authority: "
            "put the file with the key back there until that is done",
        )
    try:
        return new_issuing(root, now)
    except AuthorityError as error:
        raise unusable(directory, slot.root_file, f"cannot be used: {error}", root=True) from None
