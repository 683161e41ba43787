"""Where the token comes from: a file, or an AppRole login. Tokens and secret IDs are never shown."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from tcpmesh_vault.client import Budget, VaultClient, VaultError
from tcpmesh_vault.explain import explained

__all__ = ["AppRole", "Credential", "TokenFile", "read_secret"]

_MAX_SECRET = 1 << 14  # bytes; batch tokens and JWTs in them are long
_SECRET = re.compile(rb"[!-~]+\Z")  # printable, one word: nothing that could end a header


class Credential(Protocol):
    """What a request is permitted by."""

    words: str  # what it is called in a message

    def token(self, client: VaultClient, budget: Budget) -> str:
        """The token to use now."""

    def refused(self) -> bool:
        """Take note that the token was refused; True when another one can be had at once."""


class TokenFile:
    """A token that somebody else renews, such as Vault Agent; read for each request: a new one counts at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.words = f"the token in {path}"

    def token(self, client: VaultClient, budget: Budget) -> str:
        """What the file holds now."""
        return read_secret(self._path)

    def refused(self) -> bool:
        """The next look reads the file again."""
        return False


class AppRole:
    """Logs in with a role ID and a secret ID, and again when half of the token's lease is over."""

    def __init__(self, mount: str, role_id: str, secret_id: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = f"auth/{mount}/login"
        self._role_id = role_id
        self._secret_id = secret_id
        self._clock = clock
        self._token = ""
        self._until = 0.0  # on the clock
        self.words = f"the token of {self._path}"

    def token(self, client: VaultClient, budget: Budget) -> str:
        """The token of the last login, or of a new one."""
        if not self._token or self._clock() >= self._until:
            self._log_in(client, budget)
        return self._token

    def refused(self) -> bool:
        """Forget the token."""
        self._token = ""
        return True

    def _log_in(self, client: VaultClient, budget: Budget) -> None:
        started = self._clock()
        body = {"role_id": self._role_id, "secret_id": read_secret(self._secret_id)}
        try:
            answer = client.ask(budget, "POST", self._path, body=body)
        except VaultError as error:
            if error.status not in (400, 403):
                raise explained(error, "the login", self._path, "") from None
            raise VaultError(
                f"Vault refused the login at {self._path}: HTTP {error.status}, role_id or {self._secret_id}",
                status=error.status,
                details=error.details,
                next_step="the secret ID has expired, was used up or is of another role; write a new one into the "
                "file: vault write -f auth/approle/role/NAME/secret-id",
            ) from None
        auth = answer.get("auth")
        token = auth.get("client_token") if isinstance(auth, dict) else None
        lease = auth.get("lease_duration") if isinstance(auth, dict) else None
        if not isinstance(token, str) or not _SECRET.match(token.encode()) or not isinstance(lease, int) or lease < 0:
            raise VaultError(
                f"the answer of {self._path} has no token with a lease", next_step="see whether it is Vault"
            )
        self._token = token
        self._until = started + lease / 2 if lease else float("inf")  # 0: it never ends


def read_secret(path: Path) -> str:
    """
    Read a file that holds one secret.

    :raises VaultError: when it cannot be read, when others can read it too, or when it holds something else.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise VaultError(f"{path}: {error.strerror}", next_step="see whether who writes this file runs") from None
    with open(descriptor, "rb") as file:  # noqa: PTH123  a descriptor
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise VaultError(f"{path} is not a regular file", next_step="name the file that holds the secret")
        if status.st_mode & 0o027:
            mode = stat.S_IMODE(status.st_mode)
            raise VaultError(
                f"{path} can be read or changed by others (mode {mode:04o})", next_step=f"chmod 600 {path}"
            )
        data = file.read(_MAX_SECRET + 1).strip()
    if len(data) > _MAX_SECRET or not _SECRET.match(data):
        what = "is empty" if not data else "does not hold one word"
        raise VaultError(f"{path} {what}", next_step="write the secret into it, and nothing else")
    return data.decode("ascii")
