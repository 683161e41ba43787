"""
The embedded authority on disk: what is kept in its state directory, and who may change it.

Ring 3. ``root.pem`` and ``issuing.pem`` each hold a key and its certificate in one file, so that a crash leaves both or
neither; ``bundle.pem`` is the root's certificate, for others; ``lock`` is held by the one process that may write. What
cannot be read is reported and never made anew: with the root go all certificates that hang on it.
"""

from __future__ import annotations

from pathlib import Path

from tcpmesh.codes import STATE_UNUSABLE
from tcpmesh.errors import StartError
from tcpmesh.identity.authority import (
    ISSUING_LIFETIME,
    Authority,
    AuthorityError,
    check_issuing,
    check_root,
    load_authority,
    new_issuing,
    new_root,
)
from tcpmesh.identity.certificates import not_after, not_before, pem_of
from tcpmesh.identity.material import MaterialError
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.sources.private_directory import PrivateDirectory

__all__ = ["BUNDLE_FILE", "ISSUING_FILE", "ROOT_FILE", "AuthorityState"]

ROOT_FILE = "root.pem"
ISSUING_FILE = "issuing.pem"
BUNDLE_FILE = "bundle.pem"
_WORTH_RENEWING = 3600.0  # seconds that a new issuing authority must last longer than the present one


class AuthorityState:
    """
    A root and its issuing authority, backed by a directory. Make it with :meth:`own` or :meth:`read`.

    :ivar root: stays the same for the life of the object.
    :ivar issuing: replaced by :meth:`renew_issuing`.
    """

    def __init__(self, directory: PrivateDirectory, root: Authority, issuing: Authority) -> None:
        self._directory = directory
        self.root = root
        self.issuing = issuing

    @classmethod
    def own(cls, path: Path, trust_domain: TrustDomain | None, now: float) -> AuthorityState:
        """
        Open the state as its only writer, and make what is not there yet.

        :param trust_domain: the one that the root must be of; None takes whatever is there and creates no root.
        :raises StartError: STATE_IN_USE, or STATE_UNUSABLE naming the file and what to do.
        """
        directory = PrivateDirectory.open(path, create=trust_domain is not None)
        try:
            directory.lock()
            root = _read_root(directory, trust_domain)
            if root is None:
                root = _make_root(directory, trust_domain, now)
            _usable(directory, ROOT_FILE, root, now)
            issuing = _read_issuing(directory, root)
            state = cls(directory, root, issuing) if issuing is not None else _with_new_issuing(directory, root, now)
            state._publish()
            if state.issuing_renewal_due(now):
                state.renew_issuing(now)
        except BaseException:
            directory.close()
            raise
        return state

    @classmethod
    def read(cls, path: Path, trust_domain: TrustDomain | None = None) -> AuthorityState:
        """
        Open the state without becoming its owner: nothing is written, and whoever owns it goes on.

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
            root = _read_root(directory, trust_domain)
            issuing = _read_issuing(directory, root) if root is not None else None
            if root is None or issuing is None:
                raise StartError(STATE_UNUSABLE, f"{path} holds no authority; make one: tcpmesh ca init")
        except BaseException:
            directory.close()
            raise
        return cls(directory, root, issuing)

    @property
    def path(self) -> Path:
        """The state directory."""
        return self._directory.path

    @property
    def trust_domain(self) -> TrustDomain:
        """The trust domain of the root."""
        return self.root.trust_domain

    @property
    def owned(self) -> bool:
        """Whether this object may write."""
        return self._directory.locked

    def owner(self) -> int | None:
        """The process that owns the state: its id, 0 when not known, None when nobody does."""
        return self._directory.owner()

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
        if not self.owned:
            raise StartError(STATE_UNUSABLE, f"{self.path} is open for reading only")
        self.issuing = _make_issuing(self._directory, self.root, now)

    def close(self) -> None:
        """Give up the lock and the directory."""
        self._directory.close()

    def _publish(self) -> None:
        """Write the bundle if it is not what the root says: a crash may have come in between."""
        bundle = pem_of([self.root.certificate])
        if self._directory.read(BUNDLE_FILE, secret=False) != bundle:
            self._directory.write(BUNDLE_FILE, bundle)


def _read_root(directory: PrivateDirectory, trust_domain: TrustDomain | None) -> Authority | None:
    pem = directory.read(ROOT_FILE)
    if pem is None:
        for name in (ISSUING_FILE, BUNDLE_FILE):
            if directory.read(name, secret=False) is not None:
                raise _unusable(directory, ROOT_FILE, f"is missing, although {name} is there", root=True)
        return None
    try:
        root = load_authority(pem)
        found = root.trust_domain
    except MaterialError as error:
        raise _unusable(directory, ROOT_FILE, str(error), root=True) from None
    if trust_domain is not None and found != trust_domain:
        raise StartError(
            STATE_UNUSABLE,
            f"{directory.path / ROOT_FILE} is the authority of {found}, and the trust domain here is {trust_domain}: "
            "correct trust_domain, or give this trust domain a state of its own",
        )
    return root


def _read_issuing(directory: PrivateDirectory, root: Authority) -> Authority | None:
    pem = directory.read(ISSUING_FILE)
    if pem is None:
        return None
    try:
        issuing = load_authority(pem)
        # Whether it is still valid is asked when it is used: an expired one is renewed.
        check_issuing(issuing, root, not_before(issuing.certificate))
    except (MaterialError, AuthorityError) as error:
        raise _unusable(directory, ISSUING_FILE, str(error), root=False) from None
    return issuing


def _usable(directory: PrivateDirectory, name: str, root: Authority, now: float) -> None:
    try:
        check_root(root, now)
    except AuthorityError as error:
        raise _unusable(directory, name, f"cannot be used: {error}", root=True) from None


def _make_root(directory: PrivateDirectory, trust_domain: TrustDomain | None, now: float) -> Authority:
    if trust_domain is None:
        raise StartError(STATE_UNUSABLE, f"{directory.path} holds no authority; make one: tcpmesh ca init")
    root = new_root(trust_domain, now)
    directory.write(ROOT_FILE, root.to_pem())
    return root


def _make_issuing(directory: PrivateDirectory, root: Authority, now: float) -> Authority:
    try:
        issuing = new_issuing(root, now)
    except AuthorityError as error:
        raise _unusable(directory, ROOT_FILE, f"cannot be used: {error}", root=True) from None
    directory.write(ISSUING_FILE, issuing.to_pem())
    return issuing


def _with_new_issuing(directory: PrivateDirectory, root: Authority, now: float) -> AuthorityState:
    return AuthorityState(directory, root, _make_issuing(directory, root, now))


def _unusable(directory: PrivateDirectory, name: str, what: str, *, root: bool) -> StartError:
    if root:
        advice = (
            "restore it from a backup, or move the directory away to start with a new authority; every certificate "
            "must then be issued anew and every peer needs the new bundle"
        )
    else:
        advice = "restore it from a backup, or move it away: the root will sign a new one at the next start"
    return StartError(STATE_UNUSABLE, f"{directory.path / name} {what}; {advice}")
