"""
The identity source ``vault``: HashiCorp Vault or OpenBao signs, this machine keeps the keys.

Keys are made here and only certificate signing requests are sent, so no private key crosses the network, and Vault
never has one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from zope.interface import implementer

from tcpmesh.errors import Refusal
from tcpmesh.identity.certificates import name_text, not_after, not_before
from tcpmesh.identity.material import MaterialError, load_certificates, new_key
from tcpmesh.identity.own import verify_own
from tcpmesh.identity.spiffe import SpiffeId
from tcpmesh.interfaces import IIdentitySourceFactory, PluginContext
from tcpmesh.sources.polling import PollingIdentitySource
from tcpmesh.values import IdentitySnapshot, Svid, TrustBundle, Workload
from tcpmesh.wall_clock import wall_clock
from tcpmesh_vault.client import Budget, VaultClient, VaultError
from tcpmesh_vault.credentials import AppRole, Credential, TokenFile
from tcpmesh_vault.explain import explained
from tcpmesh_vault.settings import VaultSettings

__all__ = ["VaultFactory", "VaultSource", "VaultWorkload"]

_MAX_CHAIN = 10  # certificates in one answer
_SHARE = 0.9  # of the deadline: so that what takes too long is said here, with what it was


@attrs.frozen
class VaultWorkload:
    """``role``: for this workload, instead of the source's."""

    role: str = attrs.field(default="", validator=attrs.validators.matches_re(r"[A-Za-z0-9._-]*"))


class VaultSource(PollingIdentitySource):
    """
    Looks at the issuers every ``interval``, and has each certificate signed anew at half of its life.

    :param now: wall-clock seconds.
    """

    def __init__(self, settings: VaultSettings, context: PluginContext, now: Callable[[], float] = wall_clock) -> None:
        super().__init__(context)
        self.interval = settings.interval
        self.deadline = settings.timeout
        self._settings = settings
        self._now = now
        self._client = VaultClient(settings.address, settings.namespace, settings.ca)
        self._credential = _credential(settings)
        self._held: dict[SpiffeId, Svid] = {}
        self._told = ""

    def fetch(self) -> IdentitySnapshot:
        """The bundle as it is now, and for each workload the certificate that it has, or a new one."""
        try:
            snapshot = self._look()
        except VaultError as error:
            self._tell(error)
            raise
        self._told = ""
        due = min((_half_life(svid) for svid in snapshot.svids), default=float("inf"))
        self.interval = max(1.0, min(self._settings.interval, due - self._now()))
        return snapshot

    def _look(self) -> IdentitySnapshot:
        budget = Budget(self.deadline * _SHARE)
        own = self.context.trust_domain
        bundle = TrustBundle(own, self._roots(budget))
        for workload in self.context.workloads.values():
            held = self._held.get(workload.id)
            if held is None or self._is_due(held, bundle):
                self._held[workload.id] = self._signed(budget, workload, bundle)
        svids = tuple(self._held[workload.id] for workload in self.context.workloads.values())
        return IdentitySnapshot(svids, {own: bundle})

    def _tell(self, error: VaultError) -> None:
        """Log what does not fit into the one line of a state's reason; once, not at each attempt."""
        said = f"{error}; {error.details}"
        if said != self._told:
            self._told = said
            self.context.log.warn(
                "{reason}; Vault says: {details}; next: {next_step}",
                reason=str(error),
                details=error.details or "nothing",
                next_step=error.next_step or "look into Vault's log",
            )

    def _roots(self, budget: Budget) -> tuple[x509.Certificate, ...]:
        """The self-signed ends of the issuers' chains. Anybody may ask for these: no token is sent."""
        roots: dict[x509.Certificate, None] = {}
        for issuer in self._settings.issuers:
            path = f"{self._settings.mount}/issuer/{issuer}/json"
            try:
                data = _data_of(self._client.ask(budget, "GET", path), path)
            except VaultError as error:
                raise explained(error, "the issuer", path, "") from None
            chain = _certificates(data, "ca_chain", path)
            found = [each for each in chain if _is_self_signed(each)]
            if not found:
                raise VaultError(
                    f"the chain of issuer {issuer} has no root, {name_text(chain[-1].issuer)} is missing in {path}",
                    next_step="import the root's certificate into the mount: "
                    f"vault write {self._settings.mount}/issuers/import/cert pem_bundle=@root.pem",
                )
            roots.update(dict.fromkeys(found))
        return tuple(roots)

    def _is_due(self, svid: Svid, bundle: TrustBundle) -> bool:
        """Half of its life is over, or the bundle of today does not verify it any more."""
        if self._now() >= _half_life(svid):
            return True
        try:
            verify_own(svid, {bundle.trust_domain: bundle}, self._now())
        except Refusal:
            return True
        return False

    def _signed(self, budget: Budget, workload: Workload, bundle: TrustBundle) -> Svid:
        """Have a certificate signed for a fresh key, and verify it as a peer would."""
        key = new_key()
        name = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(workload.id))])
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        csr = request.add_extension(name, critical=False).sign(key, SHA256())
        role = (workload.settings.role if workload.settings else "") or self._settings.role
        path = f"{self._settings.mount}/sign/{role}"
        body = {
            "csr": csr.public_bytes(Encoding.PEM).decode(),
            "uri_sans": str(workload.id),  # for roles with use_csr_sans=false
            "ttl": f"{self._settings.ttl:.0f}s",
            "format": "pem",
        }
        data = _data_of(self._permitted(budget, path, body, f"a certificate for {workload.id}"), path)
        leaf = _certificates({"chain": [data.get("certificate")]}, "chain", path)
        # Vault gives the whole chain, with the root, which a peer has already.
        chain = _certificates({"ca_chain": data.get("ca_chain") or [data.get("issuing_ca")]}, "ca_chain", path)
        above = [each for each in chain if not _is_self_signed(each)]
        svid = Svid(workload.id, (*leaf, *above), key)
        try:
            verify_own(svid, {bundle.trust_domain: bundle}, self._now())
        except Refusal as refusal:
            raise VaultError(
                f"what {path} signed for {workload.id} cannot be used: {refusal.reason}",
                next_step=f"look at the role: vault read {self._settings.mount}/roles/{role}; and whether the issuer "
                "that it signs with is among 'issuers', and the clocks agree",
            ) from None
        return svid

    def _permitted(self, budget: Budget, path: str, body: dict[str, Any], doing: str) -> dict[str, Any]:
        """A request with a token; a second one when the token was refused and another can be had."""
        again = True
        while True:
            token = self._credential.token(self._client, budget)
            try:
                return self._client.ask(budget, "POST", path, token=token, body=body)
            except VaultError as error:
                if error.status == 403 and again and self._credential.refused():
                    again = False
                    continue
                if error.status == 400:
                    raise _refused_by_role(error, doing, path) from None
                raise explained(error, doing, path, self._credential.words) from None


def _credential(settings: VaultSettings) -> Credential:
    if settings.token is not None and not settings.role_id and settings.secret_id is None:
        return TokenFile(settings.token)
    if settings.token is None and settings.role_id and settings.secret_id is not None:
        return AppRole(settings.approle, settings.role_id, settings.secret_id)
    raise ValueError("write either token, or role_id and secret_id")


def _refused_by_role(error: VaultError, doing: str, path: str) -> VaultError:
    role = path.replace("/sign/", "/roles/")
    return VaultError(
        f"Vault refused {doing}: HTTP 400, the role of {path} does not allow it",
        status=error.status,
        details=error.details,
        next_step=f"vault read {role}; it needs allowed_uri_sans with this ID, require_cn=false and key_type=ec",
    )


def _data_of(answer: dict[str, Any], path: str) -> dict[str, Any]:
    data = answer.get("data")
    if not isinstance(data, dict):
        raise VaultError(f"the answer for {path} has no data", next_step="see whether 'mount' is a PKI secrets engine")
    return data


def _certificates(data: dict[str, Any], key: str, path: str) -> tuple[x509.Certificate, ...]:
    """
    Read a list of PEM certificates.

    :raises VaultError: when it is something else, empty, or long.
    """
    listed = data.get(key)
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed) or not listed:
        raise VaultError(f"the answer for {path} has no list of certificates ({key})", next_step=f"vault read {path}")
    if len(listed) > _MAX_CHAIN:
        raise VaultError(f"the answer for {path} has {len(listed)} certificates, more than {_MAX_CHAIN}")
    try:
        found = tuple(each for text in listed for each in load_certificates(text.encode()))
    except (MaterialError, UnicodeEncodeError) as error:
        raise VaultError(f"the answer for {path} has a {key} that {ascii(str(error))[1:-1]}") from None
    if len(found) > _MAX_CHAIN:
        raise VaultError(f"the answer for {path} has {len(found)} certificates, more than {_MAX_CHAIN}")
    return found


def _is_self_signed(certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _half_life(svid: Svid) -> float:
    """Wall-clock seconds."""
    return (not_before(svid.leaf) + not_after(svid.leaf)) / 2


@implementer(IIdentitySourceFactory)
class VaultFactory:
    """Makes sources that ask Vault."""

    name = "vault"
    description = "certificates that HashiCorp Vault or OpenBao signs"
    settings = VaultSettings
    workload_settings = VaultWorkload

    def create(self, settings: VaultSettings, context: PluginContext) -> VaultSource:
        """Make one source."""
        return VaultSource(settings, context)
