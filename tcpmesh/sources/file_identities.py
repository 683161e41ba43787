"""
The files of one source, read together: pairs of certificate and key, and the bundles that they must verify under.

Ring 3, without a reactor. A first reading takes all or nothing; a later one takes what is good and keeps, piece by
piece, what was good before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from tcpmesh.codes import BAD_CONFIGURATION
from tcpmesh.errors import Refusal, StartError
from tcpmesh.identity.own import verify_own
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.sources.pem_files import fingerprint, read_authorities, read_certificates, read_key
from tcpmesh.values import Svid, TrustBundle, Workload

if TYPE_CHECKING:
    from tcpmesh.identity.chain import Bundles

__all__ = ["FileIdentities", "FileSet", "FilesWorkload"]


@attrs.frozen
class FilesWorkload:
    """``certificate``: PEM, the leaf first, then intermediates. ``key``: its private key in PEM, not encrypted."""

    certificate: Path
    key: Path


@attrs.frozen(eq=False)
class FileIdentities:
    """What was good in the files: identities by workload name, and bundles."""

    svids: Mapping[str, Svid]
    bundles: Mapping[TrustDomain, TrustBundle]

    def is_as(self, other: FileIdentities) -> bool:
        """Whether these are the very pieces of the other: what has not changed is never made anew."""
        return _are(self.svids, other.svids) and _are(self.bundles, other.bundles)


class FileSet:
    """
    Which files there are, and for whom.

    :param bundles: a file for each trust domain.
    :param workloads: each with :class:`FilesWorkload` as its settings.
    """

    def __init__(self, bundles: Mapping[TrustDomain, Path], workloads: Mapping[str, Workload]) -> None:
        self._bundles = bundles
        self._workloads = dict(sorted(workloads.items()))

    def files_of(self, name: str) -> FilesWorkload:
        """The pair of a workload."""
        files: FilesWorkload = self._workloads[name].settings
        return files

    def bundle_of(self, domain: TrustDomain) -> Path:
        """The bundle of a trust domain."""
        return self._bundles[domain]

    def fingerprint(self) -> tuple[tuple[int, ...], ...]:
        """What tells one state of all these files from another; one ``stat`` a file."""
        return tuple(map(fingerprint, self._paths()))

    def read(self, now: float) -> FileIdentities:
        """
        Read everything.

        :param now: wall-clock seconds.
        :raises StartError: naming each file that cannot be used, and why.
        """
        bundles, problems = self._read_bundles(now)
        # Without its bundle a certificate cannot verify, and to say so would only hide the cause.
        trusted = None if problems else bundles
        svids = {}
        for name in self._workloads:
            try:
                svids[name] = self._read_svid(name, trusted, now)
            except StartError as error:
                problems.append(error)
        if problems:
            raise StartError(problems[0].code, "; ".join(problem.reason for problem in problems))
        return FileIdentities(svids, bundles)

    def renew(self, held: FileIdentities, now: float, *, take_bundles: bool) -> tuple[FileIdentities, list[StartError]]:
        """
        Read everything again, and keep of what is held each piece whose files are not good now.

        :param now: wall-clock seconds.
        :param take_bundles: whether to read the bundles: half a bundle may look like a whole one, so that whoever asks
            should know that nobody is writing.
        """
        if not take_bundles:
            return self._renew_svids(held, held.bundles, now)
        fresh, problems = self._read_bundles(now)
        bundles = {
            domain: fresh[domain] if domain in fresh and not _same(fresh[domain], kept) else kept
            for domain, kept in held.bundles.items()
        }
        renewed, worse = self._renew_svids(held, bundles, now)
        for domain, why in self._orphaned(held, renewed, now).items():
            bundles[domain] = held.bundles[domain]
            problems.append(StartError(BAD_CONFIGURATION, f"bundle {self._bundles[domain]}: {why}"))
            renewed, worse = self._renew_svids(held, bundles, now)
        return renewed, problems + worse

    def _paths(self) -> Iterable[Path]:
        yield from self._bundles.values()
        for name in self._workloads:
            files = self.files_of(name)
            yield files.certificate
            yield files.key

    def _read_bundles(self, now: float) -> tuple[dict[TrustDomain, TrustBundle], list[StartError]]:
        bundles, problems = {}, []
        for domain, path in self._bundles.items():
            try:
                bundles[domain] = TrustBundle(domain, read_authorities(path, domain, now))
            except StartError as error:
                problems.append(error)
        return bundles, problems

    def _renew_svids(
        self, held: FileIdentities, bundles: Bundles, now: float
    ) -> tuple[FileIdentities, list[StartError]]:
        svids, problems = dict(held.svids), []
        for name, kept in held.svids.items():
            try:
                svid = self._read_svid(name, bundles, now)
            except StartError as error:
                problems.append(error)
            else:
                if svid.chain != kept.chain:
                    svids[name] = svid
        return FileIdentities(svids, bundles), problems

    def _orphaned(self, held: FileIdentities, renewed: FileIdentities, now: float) -> dict[TrustDomain, str]:
        """The trust domains whose new bundle would leave an identity that stays in use without its authority."""
        found = {}
        for name, svid in renewed.svids.items():
            if svid is held.svids[name] and _refused(svid, held.bundles, now) is None:
                refusal = _refused(svid, renewed.bundles, now)
                if refusal is not None:
                    found[svid.id.trust_domain] = (
                        f"the identity of workload {name!r} that is in use would not verify under it, and there is no "
                        f"other: {refusal.reason}"
                    )
        return found

    def _read_svid(self, name: str, bundles: Bundles | None, now: float) -> Svid:
        workload, files = self._workloads[name], self.files_of(name)
        certificates = read_certificates(files.certificate)
        svid = Svid(workload.id, certificates, read_key(files.key))
        refusal = _refused(svid, bundles, now) if bundles is not None else None
        if refusal is not None:
            where = f"workload {name!r} ({files.certificate}, {files.key})"
            raise StartError(refusal.code, f"{where}: {refusal.reason}") from refusal
        return svid


def _refused(svid: Svid, bundles: Bundles, now: float) -> Refusal | None:
    try:
        verify_own(svid, bundles, now)
    except Refusal as refusal:
        return refusal
    return None


def _are(mine: Mapping[Any, object], theirs: Mapping[Any, object]) -> bool:
    return mine.keys() == theirs.keys() and all(mine[key] is theirs[key] for key in mine)


def _same(one: TrustBundle, other: TrustBundle) -> bool:
    return one.authorities == other.authorities
