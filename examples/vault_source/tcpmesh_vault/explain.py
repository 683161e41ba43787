"""What to do when Vault says no."""

from __future__ import annotations

from tcpmesh_vault.client import VaultError

__all__ = ["explained"]

_STATES = {
    429: (
        "a standby, or a quota is used up",
        "ask the active node, or raise the quota: vault list sys/quotas/rate-limit",
    ),
    472: ("a disaster recovery standby", "name the primary cluster with 'address'"),
    473: ("a performance standby", "name the active node with 'address'"),
    501: ("not initialised", "run: vault operator init"),
    503: ("sealed or in maintenance", "look with: vault status; then: vault operator unseal"),
}


def explained(error: VaultError, doing: str, path: str, credential: str) -> VaultError:
    """
    The same error with what it means here, short, and what to do.

    :param doing: what was asked for, in a few words.
    :param path: what was asked, below ``/v1/``.
    :param credential: whose permission it was asked with; empty without one.
    """
    status = error.status
    if not status:
        return error
    words = f"Vault refused {doing}: HTTP {status}"
    next_step = error.next_step or "look into Vault's audit log"
    if status == 403 and credential:
        words = f"Vault refused {doing}: HTTP 403, {credential} expired, was revoked or lacks 'update' on {path}"
        next_step = (
            f"vault token lookup says whether it lives; if it does, its policy needs: "
            f'path "{path}" {{ capabilities = ["update"] }}'
        )
    elif status == 403:
        # Vault says this of every path that it does not know, to callers without a token.
        words = f"Vault knows no {path}, or gives it to nobody: HTTP 403"
        next_step = "correct 'mount' or 'namespace'; look with: vault secrets list; or a quota or proxy forbids it"
    elif status == 500 and "unable to find PKI issuer" in error.details:
        words = f"Vault knows no issuer of the name in {path}: HTTP 500"
        next_step = "correct 'issuers'; look with: vault list MOUNT/issuers"
    elif status == 404:
        words = f"Vault knows no {path}: HTTP 404"
        next_step = "correct 'mount', 'role', 'issuers' or 'namespace'; look with: vault secrets list"
    elif 300 <= status < 400:
        words = f"Vault answered with a redirect (HTTP {status}), which is not followed with a token"
        next_step = "name the active node, or a load balancer that finds it, with 'address'"
    elif status in _STATES:
        state, next_step = _STATES[status]
        words = f"Vault cannot answer: HTTP {status}, it is {state}"
    return VaultError(words, status=status, details=error.details, next_step=next_step)
