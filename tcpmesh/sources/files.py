"""
The identity source ``files``: certificates, keys and bundles that somebody else puts on the disk.

Ring 3, without a reactor. Everything is read once, at the start: nothing reloads in this version, so it warns before
a certificate runs out.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
from cryptography import x509
from twisted.internet.interfaces import IDelayedCall
from zope.interface import implementer

from tcpmesh.codes import BAD_CONFIGURATION, Code
from tcpmesh.errors import Refusal, StartError
from tcpmesh.identity.certificates import moment, not_after, not_before, span
from tcpmesh.identity.material import MaterialError, load_certificates, load_private_key
from tcpmesh.identity.own import verify_own
from tcpmesh.identity.profile import check_authority, readable
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.interfaces import ICheckable, IIdentityObserver, IIdentitySource, IIdentitySourceFactory, PluginContext
from tcpmesh.values import IdentitySnapshot, Svid, TrustBundle, Workload
from tcpmesh.wall_clock import WallClock, wall_clock

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

__all__ = ["FilesFactory", "FilesSettings", "FilesSource", "FilesWorkload"]

_MAX_FILE = 1 << 20  # bytes
_TICK = 60.0  # seconds between two looks at the wall clock
_WARN_SHARE = 0.25  # of a certificate's life


def _check_trust_domains(_instance: object, _attribute: object, value: dict[str, Path]) -> None:
    if not value:
        raise ValueError("bundles is empty; name the own trust domain and its bundle: {example.org: bundle.pem}")
    for name in value:
        TrustDomain(name)


@attrs.frozen
class FilesSettings:
    """``bundles``: for each trust domain the PEM file with its authorities; the own trust domain must be there."""

    bundles: dict[str, Path] = attrs.field(validator=_check_trust_domains)


@attrs.frozen
class FilesWorkload:
    """``certificate``: PEM, the leaf first, then intermediates. ``key``: its private key in PEM, not encrypted."""

    certificate: Path
    key: Path


@implementer(IIdentitySource, ICheckable)
class FilesSource:
    """
    Delivers what the files hold, once, after verifying it as a peer will.

    Warns when a quarter of a certificate's life is left, and when it has expired.
    """

    def __init__(self, settings: FilesSettings, context: PluginContext, wall_clock: WallClock = wall_clock) -> None:
        self._settings = settings
        self._context = context
        self._wall_clock = wall_clock
        self._svids: Mapping[str, Svid] = {}
        self._warned: dict[str, str] = {}
        self._call: IDelayedCall | None = None

    def start(self, observer: IIdentityObserver) -> None:
        """
        Read everything and deliver.

        :raises StartError: naming each file that cannot be used, and why.
        """
        self._svids, bundles = self._load()
        observer.identity_changed(IdentitySnapshot(tuple(self._svids.values()), bundles))
        self._look()

    def check(self) -> None:
        """Read and verify everything, deliver nothing. (ICheckable)"""
        self._load()

    def _load(self) -> tuple[Mapping[str, Svid], Mapping[TrustDomain, TrustBundle]]:
        """The identities by workload name, and the bundles."""
        problems: list[StartError] = []
        bundles = self._read_bundles(problems)
        # Without its bundle a certificate cannot verify, and to say so would only hide the cause.
        trusted = None if problems else bundles
        svids = {}
        for name, workload in sorted(self._context.workloads.items()):
            try:
                svids[name] = _read_svid(name, workload, trusted, self._wall_clock())
            except StartError as error:
                problems.append(error)
        if problems:
            raise StartError(problems[0].code, "; ".join(problem.reason for problem in problems))
        return svids, bundles

    def stop(self) -> None:
        """Forget the keys. Safe in every order."""
        self._svids = {}
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _read_bundles(self, problems: list[StartError]) -> Mapping[TrustDomain, TrustBundle]:
        bundles = {}
        for name, path in self._settings.bundles.items():
            trust_domain = TrustDomain(name)
            try:
                bundles[trust_domain] = TrustBundle(trust_domain, _read_authorities(path, self._wall_clock()))
            except StartError as error:
                problems.append(error)
        return bundles

    def _look(self) -> None:
        """Warn once per certificate and stage; the wall clock may have been set since."""
        now = self._wall_clock()
        for name, svid in self._svids.items():
            start, end = not_before(svid.leaf), not_after(svid.leaf)
            if now > end:
                stage = "expired"
            elif end - now < _WARN_SHARE * (end - start):
                stage = "ending"
            else:
                stage = ""
            if stage and self._warned.get(name) != stage:
                self._context.log.warn(
                    "the certificate of workload {workload}, {file}, {what}; it is not reloaded in this version: "
                    "replace the file and restart",
                    workload=name,
                    file=str(self._context.workloads[name].settings.certificate),
                    what=f"expired at {moment(end)}" if now > end else f"ends at {moment(end)}, in {span(end - now)}",
                )
            self._warned[name] = stage
        self._call = self._context.clock.callLater(_TICK, self._look)


def _read_svid(name: str, workload: Workload, bundles: Mapping[TrustDomain, TrustBundle] | None, now: float) -> Svid:
    files: FilesWorkload = workload.settings
    certificates = _certificates(files.certificate)
    svid = Svid(workload.id, certificates, _key(files.key))
    try:
        if bundles is not None:
            verify_own(svid, bundles, now)
    except Refusal as refusal:
        where = f"workload {name!r} ({files.certificate}, {files.key})"
        raise StartError(refusal.code, f"{where}: {refusal.reason}") from refusal
    return svid


def _read_authorities(path: Path, now: float) -> tuple[x509.Certificate, ...]:
    authorities = tuple(dict.fromkeys(_certificates(path)))
    for authority in authorities:
        try:
            with readable("an authority"):
                check_authority(authority, anchor=True)
                ended = now - not_after(authority)
        except Refusal as refusal:
            raise StartError(BAD_CONFIGURATION, f"bundle {path}: {refusal.reason}") from refusal
        if ended > 0 and len(authorities) == 1:
            reason = f"bundle {path}: its only authority expired {span(ended)} ago, at {moment(not_after(authority))}"
            raise StartError(BAD_CONFIGURATION, reason)
    return authorities


def _certificates(path: Path) -> tuple[x509.Certificate, ...]:
    try:
        return load_certificates(_read(path)[0])
    except MaterialError as error:
        raise _unusable(path, str(error)) from None


def _key(path: Path) -> CertificateIssuerPrivateKeyTypes:
    data, status = _read(path)
    mode = stat.S_IMODE(status.st_mode)
    # A group may read a key that root lends to it (Debian's ssl-cert); in all other cases the owner alone.
    if mode & 0o037 or (mode & 0o040 and (status.st_uid != 0 or os.geteuid() == 0)):
        raise _unusable(path, f"has mode {mode:04o}, so that others can get at the private key; type: chmod 600 {path}")
    try:
        return load_private_key(data)
    except MaterialError as error:
        raise _unusable(path, str(error)) from None


def _read(path: Path) -> tuple[bytes, os.stat_result]:
    """What is in the file, with the status of the very file that was read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise _unusable(path, "is not a regular file")
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(_MAX_FILE + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise _unusable(path, "does not exist") from None
    except OSError as error:
        raise _unusable(path, f"cannot be read: {error.strerror}") from error
    if len(data) > _MAX_FILE:
        raise _unusable(path, f"is larger than {_MAX_FILE} bytes")
    return data, status


def _unusable(path: Path, what: str, code: Code = BAD_CONFIGURATION) -> StartError:
    return StartError(code, f"{path} {what}")


@implementer(IIdentitySourceFactory)
class FilesFactory:
    """
    Makes sources that read files.

    :param wall_clock: for tests.
    """

    name = "files"
    description = "certificates, keys and bundles from PEM files, read at start"
    settings = FilesSettings
    workload_settings = FilesWorkload

    def __init__(self, wall_clock: WallClock = wall_clock) -> None:
        self._wall_clock = wall_clock

    def create(self, settings: FilesSettings, context: PluginContext) -> FilesSource:
        """
        Make one source.

        :raises ValueError: when there is no bundle for the proxy's own trust domain.
        """
        own = context.trust_domain
        if str(own) not in settings.bundles:
            raise ValueError(f"bundles names no file for {own}, the trust domain of this proxy's own certificates")
        return FilesSource(settings, context, self._wall_clock)
