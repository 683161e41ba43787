"""
An authority that issues identities for tests.

Public. The certificates are real, verified like any other; the keys are gone with the process.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tcpmesh.addresses import parse_dns_name
from tcpmesh.identity.authority import issue, new_issuing, new_root
from tcpmesh.identity.certificates import pem_of
from tcpmesh.identity.material import pem_of_key
from tcpmesh.identity.spiffe import SpiffeId, TrustDomain
from tcpmesh.values import IdentitySnapshot, Svid, TrustBundle, Workload
from tcpmesh.wall_clock import wall_clock

__all__ = ["TestAuthority"]


class TestAuthority:
    """
    A root and an issuing authority of one trust domain.

    :param now: wall-clock seconds at which the authorities begin; the present by default.
    """

    __test__ = False  # not a test case, whatever pytest makes of the name

    def __init__(self, trust_domain: str | TrustDomain = "example.test", *, now: float | None = None) -> None:
        name = trust_domain if isinstance(trust_domain, TrustDomain) else TrustDomain(trust_domain)
        self._now = now
        self.trust_domain = name
        self.root = new_root(name, self.now())
        self.issuing = new_issuing(self.root, self.now())

    def now(self) -> float:
        """The wall-clock time at which certificates are issued unless the test says otherwise."""
        return wall_clock() if self._now is None else self._now

    @property
    def bundle(self) -> TrustBundle:
        """What peers verify the trust domain's certificates with."""
        return TrustBundle(self.trust_domain, (self.root.certificate,))

    def svid(
        self, spiffe_id: str | SpiffeId, *, ttl: float = 3600.0, now: float | None = None, dns: Sequence[str] = ()
    ) -> Svid:
        """
        Issue an SVID with a fresh key, valid from a minute before ``now`` for ``ttl`` seconds.

        :param spiffe_id: an ID of this trust domain; ``/web`` is short for the path in it.
        """
        if isinstance(spiffe_id, str):
            text = f"{self.trust_domain.id}{spiffe_id}" if spiffe_id.startswith("/") else spiffe_id
            spiffe_id = SpiffeId.parse(text)
        moment = self.now() if now is None else now
        return issue(
            self.issuing,
            self.root.certificate,
            spiffe_id,
            ttl=ttl,
            now=moment,
            dns=[parse_dns_name(name) for name in dns],
        )

    def workload(self, name: str, settings: object = None) -> Workload:
        """A workload whose ID is that path of the trust domain, for the context of an identity source."""
        return Workload(name, SpiffeId.from_segments(self.trust_domain, name), settings)

    def snapshot(self, *ids: str | SpiffeId, ttl: float = 3600.0, now: float | None = None) -> IdentitySnapshot:
        """What a healthy source delivers: an SVID for each ID, and the bundle."""
        svids = tuple(self.svid(each, ttl=ttl, now=now) for each in ids)
        return IdentitySnapshot(svids, {self.trust_domain: self.bundle})

    def write_bundle(self, path: Path) -> Path:
        """Write the bundle as PEM."""
        path.write_bytes(pem_of(self.bundle.authorities))
        return path

    def write_svid(self, svid: Svid, directory: Path, name: str = "workload") -> tuple[Path, Path]:
        """Write ``NAME.pem``, the chain with the leaf first, and ``NAME.key``, which only the owner can read."""
        certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
        certificate.write_bytes(pem_of(svid.chain))
        key.touch(mode=0o600)
        key.write_bytes(pem_of_key(svid.private_key))
        return certificate, key
