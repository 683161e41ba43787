"""
Which name servers the system asks: ``nameserver`` lines of resolv.conf(5).

Ring 3, without a reactor. ``search`` and ``options`` are not followed: a name in the configuration is written in full.
"""

from __future__ import annotations

from pathlib import Path

from tcpmesh.sources.pem_files import fingerprint
from tcpmesh.values import TCPAddress, parse_address

__all__ = ["ResolvConf"]

_MAX_SERVERS = 3  # resolv.conf(5): MAXNS
_MAX_BYTES = 65536
_DEFAULT = (TCPAddress("127.0.0.1", 53),)  # resolv.conf(5): the name server on the local machine


class ResolvConf:
    """Reads the file, and again when it has changed."""

    def __init__(self, path: Path = Path("/etc/resolv.conf")) -> None:
        self._path = path
        self._read: object = None
        self._servers: tuple[TCPAddress, ...] = _DEFAULT

    def __call__(self) -> tuple[TCPAddress, ...]:
        """The servers now; one on this machine when the file names none, or is not there."""
        now = fingerprint(self._path)
        if now != self._read:
            self._read = now
            self._servers = self._parse() or _DEFAULT
        return self._servers

    def _parse(self) -> tuple[TCPAddress, ...]:
        try:
            with self._path.open("rb") as file:
                text = file.read(_MAX_BYTES).decode("utf-8", "replace")
        except OSError:
            return ()
        found = []
        for line in text.splitlines():
            words = line.split()
            if len(words) >= 2 and words[0] == "nameserver":
                host = f"[{words[1]}]" if ":" in words[1] else words[1]
                try:
                    address = parse_address(f"{host}:53")
                except ValueError:
                    continue  # as the C library does
                if isinstance(address, TCPAddress):
                    found.append(address)
        return tuple(found[:_MAX_SERVERS])
