"""
Reading the files of the embedded authority, each checked against the others before it is used.

Ring 3. What is missing or damaged is reported with what to do about it; nothing is changed here.
"""

from __future__ import annotations

from pathlib import Path

from cryptography import x509

from tcpmesh.codes import STATE_UNUSABLE
from tcpmesh.errors import StartError
from tcpmesh.identity.authority import Authority, AuthorityError, check_issuing, check_root, load_authority
from tcpmesh.identity.certificates import not_before
from tcpmesh.identity.material import MaterialError
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.sources.authority_slots import STATE_FILE, Slot, Slots
from tcpmesh.sources.private_directory import PrivateDirectory

__all__ = [
    "BUNDLE_FILE",
    "ISSUING_FILE",
    "ROOT_FILE",
    "check_usable",
    "has_no_authority",
    "read_issuing",
    "read_root",
    "read_slots",
    "unusable",
]

ROOT_FILE = "root.pem"  # of the first slot, as below
ISSUING_FILE = "issuing.pem"
BUNDLE_FILE = "bundle.pem"


def read_slots(directory: PrivateDirectory) -> Slots | None:
    """
    Read which slots there are; None when the directory is of the first format, or empty.

    :raises StartError: STATE_UNUSABLE.
    """
    data = directory.read(STATE_FILE)
    if data is None:
        for name in directory.names():
            if name.startswith("root-") and name.endswith(".pem"):
                raise _restore(directory, STATE_FILE, f"is missing, although {name} is there")
        return None
    try:
        return Slots.parse(data)
    except MaterialError as error:
        raise _restore(directory, STATE_FILE, str(error)) from None


def read_root(directory: PrivateDirectory, slot: Slot, trust_domain: TrustDomain | None) -> Authority | None:
    """
    Read the slot's root; None when there is no authority in the directory at all.

    :raises StartError: STATE_UNUSABLE.
    """
    pem = directory.read(slot.root_file)
    if pem is None:
        for name in (slot.issuing_file, BUNDLE_FILE, STATE_FILE):
            if directory.read(name, secret=False) is not None:
                raise unusable(directory, slot.root_file, f"is missing, although {name} is there", root=True)
        return None
    try:
        root = load_authority(pem, keyless=True)
        found = root.trust_domain
    except MaterialError as error:
        raise unusable(directory, slot.root_file, str(error), root=True) from None
    if trust_domain is not None and found != trust_domain:
        raise StartError(
            STATE_UNUSABLE,
            f"{directory.path / slot.root_file} is the authority of {found}, and the trust domain here is "
            f"{trust_domain}: correct trust_domain, or give this trust domain a state of its own",
        )
    return root


def read_issuing(directory: PrivateDirectory, slot: Slot, root: x509.Certificate) -> Authority | None:
    """
    Read the slot's issuing authority; None when there is none yet.

    :raises StartError: STATE_UNUSABLE, also when the root did not sign it.
    """
    pem = directory.read(slot.issuing_file)
    if pem is None:
        return None
    try:
        issuing = load_authority(pem)
        # Whether it is still valid is asked when it is used: an expired one is renewed.
        check_issuing(issuing, Authority(root, None), not_before(issuing.certificate))
    except (MaterialError, AuthorityError) as error:
        raise unusable(directory, slot.issuing_file, str(error), root=False) from None
    return issuing


def check_usable(directory: PrivateDirectory, slot: Slot, root: x509.Certificate, now: float) -> None:
    """
    Say whether the slot's root can be used now.

    :raises StartError: STATE_UNUSABLE.
    """
    try:
        check_root(Authority(root, None), now)
    except AuthorityError as error:
        raise unusable(directory, slot.root_file, f"cannot be used: {error}", root=True) from None


def has_no_authority(path: Path, lacking: str = "") -> StartError:
    """
    There is nothing to read.

    :param lacking: the issuing authority's file, when it is only that.
    """
    if lacking:
        reason = (
            f"{path / lacking} is missing; the root signs another one when the proxy starts, or now: tcpmesh ca init"
        )
        return StartError(STATE_UNUSABLE, reason)
    return StartError(STATE_UNUSABLE, f"{path} holds no authority; make one: tcpmesh ca init")


def unusable(directory: PrivateDirectory, name: str, what: str, *, root: bool) -> StartError:
    """
    What is wrong with a file that holds keys, and what to do.

    :param root: whether it is a root's, which nothing replaces.
    """
    if root:
        advice = (
            "restore it from a backup, or move the directory away to start with a new authority; every certificate "
            "must then be issued anew and every peer needs the new bundle"
        )
    else:
        advice = "restore it from a backup, or move it away: the root will sign a new one at the next start"
    return StartError(STATE_UNUSABLE, f"{directory.path / name} {what}; {advice}")


def _restore(directory: PrivateDirectory, name: str, what: str) -> StartError:
    return StartError(
        STATE_UNUSABLE,
        f"{directory.path / name} {what}; restore the whole directory from a backup: this file says which root signs",
    )
