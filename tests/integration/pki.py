"""An authority for tests, and certificates in files."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tcpmesh.identity.authority import Authority, issue, new_issuing, new_root
from tcpmesh.identity.spiffe import SpiffeId, TrustDomain
from tcpmesh.values import DNSName
from tcpmesh.wall_clock import wall_clock

TRUST_DOMAIN = "mesh.test"


class Pki:
    """An authority for one trust domain, whose certificates lie in files as the ``files`` source wants them."""

    def __init__(self, directory: Path, trust_domain: str = TRUST_DOMAIN) -> None:
        self.directory = directory
        self.trust_domain = TrustDomain(trust_domain)
        self.root: Authority = new_root(self.trust_domain, wall_clock())
        self.issuing: Authority = new_issuing(self.root, wall_clock())
        directory.mkdir(parents=True, exist_ok=True)
        self.bundle = directory / "bundle.pem"
        self.bundle.write_bytes(self.root.certificate.public_bytes(Encoding.PEM))

    def id(self, name: str) -> SpiffeId:
        """The SPIFFE ID of a workload by its short name."""
        return SpiffeId.parse(f"spiffe://{self.trust_domain}/{name}")

    def issue(self, name: str, *, dns: tuple[str, ...] = (), ttl: float = 3600) -> tuple[Path, Path]:
        """Write NAME.pem (leaf and issuing authority) and NAME.key; give both paths."""
        svid = issue(
            self.issuing,
            self.root.certificate,
            self.id(name),
            dns=[DNSName(each) for each in dns],
            ttl=ttl,
            now=wall_clock(),
        )
        key = svid.private_key
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        certificate_path, key_path = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        certificate_path.write_bytes(b"".join(c.public_bytes(Encoding.PEM) for c in svid.chain))
        key_path.touch(mode=0o600)
        key_path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return certificate_path, key_path
