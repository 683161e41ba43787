"""
The identity source ``files``: certificates, keys and bundles that somebody else puts on the disk, and renews there.

Ring 3, without a reactor: it looks at the files again and again with the clock of its context. It asks for their status
and does not wait to be told (inotify): a file that another machine writes, or that a link swapped at any level of its
path leads to, tells nobody, and a look that costs one ``stat`` a file is needed anyway to see that writing has ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs
from twisted.internet.interfaces import IDelayedCall
from zope.interface import implementer

from tcpmesh.errors import StartError
from tcpmesh.identity.certificates import moment, not_after, not_before, serial_text, span
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.interfaces import (
    ICheckable,
    IIdentityObserver,
    IIdentitySource,
    IIdentitySourceFactory,
    IReloadable,
    PluginContext,
)
from tcpmesh.sources.file_identities import FileIdentities, FileSet, FilesWorkload
from tcpmesh.values import Duration, IdentitySnapshot, format_duration
from tcpmesh.wall_clock import WallClock, wall_clock

__all__ = ["FilesFactory", "FilesSettings", "FilesSource", "FilesWorkload"]

_MIN_INTERVAL, _MAX_INTERVAL = 0.1, 60.0  # seconds
_SETTLE = 1.0  # seconds until the second look at files that have changed
_RESTLESS = 10  # looks at files that change each time, until they are taken for what they are
_WARN_SHARE = 0.25  # of a certificate's life
_MAX_TOLD = 5  # problems in one line


def _check_trust_domains(_instance: object, _attribute: object, value: dict[str, Path]) -> None:
    if not value:
        raise ValueError("bundles is empty; name the own trust domain and its bundle: {example.org: bundle.pem}")
    for name in value:
        TrustDomain(name)


def _check_interval(_instance: object, _attribute: object, value: float) -> None:
    if not _MIN_INTERVAL <= value <= _MAX_INTERVAL:
        raise ValueError(
            f"an interval of {format_duration(value)} is outside "
            f"{format_duration(_MIN_INTERVAL)} to {format_duration(_MAX_INTERVAL)}"
        )


@attrs.frozen
class FilesSettings:
    """
    ``bundles``: for each trust domain the PEM file with its authorities; the own trust domain must be there.

    ``interval``: how often to look whether a file has changed.
    """

    bundles: dict[str, Path] = attrs.field(validator=_check_trust_domains)
    interval: Duration = attrs.field(default=Duration(5.0), validator=_check_interval)


@implementer(IIdentitySource, ICheckable, IReloadable)
class FilesSource:
    """
    Delivers what the files hold, after verifying it as a peer will, and again whenever they have changed.

    A certificate and a key that verify together are taken at the first look. What does not verify, and a bundle, is
    judged at a second look that finds nothing written since: then a bad file is reported, and everything that was good
    before goes on to serve. It is looked at again each time, since the clock may be what was wrong.

    Warns when a quarter of a certificate's life is left, and when it has expired.
    """

    def __init__(self, settings: FilesSettings, context: PluginContext, wall_clock: WallClock = wall_clock) -> None:
        self._interval = settings.interval
        self._files = FileSet({TrustDomain(name): path for name, path in settings.bundles.items()}, context.workloads)
        self._context = context
        self._wall_clock = wall_clock
        self._observer: IIdentityObserver | None = None
        self._held = FileIdentities({}, {})
        self._call: IDelayedCall | None = None
        self._warned: dict[str, str] = {}
        self._seen: object = None  # the files' fingerprint at the last look
        self._settled = False  # whether that look found them as the one before
        self._restless = 0  # looks in a row that did not
        self._problems: Sequence[StartError] = ()  # of the last look that found the files still
        self._told: object = None  # what the observer knows of them

    def start(self, observer: IIdentityObserver) -> None:
        """
        Read everything and deliver.

        :raises StartError: naming each file that cannot be used, and why.
        """
        self._seen = self._files.fingerprint()
        self._held = self._files.read(self._wall_clock())
        self._observer = observer
        observer.identity_changed(_snapshot(self._held))
        self._warn()
        self._wait()

    def check(self) -> None:
        """Read and verify everything, deliver nothing. (ICheckable)"""
        self._files.read(self._wall_clock())

    def reload(self) -> None:
        """Look now, and take or report what is there without a second look. (IReloadable)"""
        if self._observer is not None:
            self._look(asked=True)

    def stop(self) -> None:
        """Forget the keys. Safe in every order."""
        self._observer = None
        self._held = FileIdentities({}, {})
        self._cancel()

    # --- looking

    def _cancel(self) -> None:
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None

    def _wait(self) -> None:
        self._cancel()
        wait = self._interval if self._settled else min(self._interval, _SETTLE)
        self._call = self._context.clock.callLater(wait, self._look)

    def _look(self, *, asked: bool = False) -> None:
        observer = self._observer
        if observer is None:
            return
        try:
            self._compare(observer, asked=asked)
            self._warn()
        except Exception as error:  # noqa: BLE001  the next look must come all the same
            self._context.log.failure("looking at the files failed")
            observer.identity_failed(f"looking at the files failed: {type(error).__name__}; see the traceback above")
        if self._observer is not None:
            self._wait()

    def _compare(self, observer: IIdentityObserver, *, asked: bool) -> None:
        seen = self._files.fingerprint()
        still = seen == self._seen
        self._restless = 0 if still else self._restless + 1
        steady = still or asked or self._restless == _RESTLESS
        self._restless %= _RESTLESS
        known = still and self._settled
        # What was still once before is not written any longer: all later looks would find the same in the files.
        self._seen, self._settled = seen, still
        if not known or self._problems or asked:
            self._take(observer, steady=steady)

    def _take(self, observer: IIdentityObserver, *, steady: bool) -> None:
        before = self._held
        self._held, problems = self._files.renew(before, self._wall_clock(), take_bundles=steady)
        if steady:
            self._problems = problems
        changed = not self._held.is_as(before)
        if changed:
            self._log_changes(before)
        if changed or (self._told is not None and not self._problems):
            self._told = None
            observer.identity_changed(_snapshot(self._held))
        # Not compared by their words, which may say how long ago something ended: others at each look.
        told = (self._seen, [problem.code for problem in self._problems])
        if steady and self._problems and told != self._told:
            self._told = told
            observer.identity_failed(_reason(self._problems))

    # --- telling

    def _log_changes(self, before: FileIdentities) -> None:
        log = self._context.log
        for name, svid in self._held.svids.items():
            if svid is not before.svids.get(name):
                log.info(
                    "workload {workload}: the certificate in {file} is in use now, serial {serial}, valid until {end}",
                    workload=name,
                    file=str(self._files.files_of(name).certificate),
                    serial=serial_text(svid.leaf),
                    end=moment(not_after(svid.leaf)),
                )
        for domain, bundle in self._held.bundles.items():
            if bundle is not before.bundles.get(domain):
                log.info(
                    "trust domain {domain}: the bundle in {file} is in use now, authorities: {count}",
                    domain=str(domain),
                    file=str(self._files.bundle_of(domain)),
                    count=len(bundle.authorities),
                )

    def _warn(self) -> None:
        """Warn once per certificate and stage; the wall clock may have been set since."""
        now = self._wall_clock()
        for name, svid in self._held.svids.items():
            start, end = not_before(svid.leaf), not_after(svid.leaf)
            if now > end:
                stage = "expired"
            elif end - now < _WARN_SHARE * (end - start):
                stage = "ending"
            else:
                stage = ""
            if stage and self._warned.get(name) != stage:
                self._context.log.warn(
                    "the certificate of workload {workload}, {file}, {what}; put a new one there with its key: it is "
                    "taken within seconds",
                    workload=name,
                    file=str(self._files.files_of(name).certificate),
                    what=f"expired at {moment(end)}" if now > end else f"ends at {moment(end)}, in {span(end - now)}",
                )
            self._warned[name] = stage


def _snapshot(held: FileIdentities) -> IdentitySnapshot:
    return IdentitySnapshot(tuple(held.svids.values()), held.bundles)


def _reason(problems: Sequence[StartError]) -> str:
    more = len(problems) - _MAX_TOLD
    return "; ".join(problem.reason for problem in problems[:_MAX_TOLD]) + (f"; and {more} more" if more > 0 else "")


@implementer(IIdentitySourceFactory)
class FilesFactory:
    """
    Makes sources that read files.

    :param wall_clock: for tests.
    """

    name = "files"
    description = "certificates, keys and bundles from PEM files, taken anew when they change"
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
