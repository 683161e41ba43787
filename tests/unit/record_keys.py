"""
TLS 1.3 records made by hand, from the secrets that OpenSSL's key log gives away.

For what is out of pyOpenSSL's reach: KeyUpdate messages (RFC 8446 section 4.6.3).
"""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from OpenSSL import SSL

APPLICATION_DATA, HANDSHAKE, ALERT = 23, 22, 21
CLOSE_NOTIFY = b"\x01\x00"
_KEY_UPDATE = b"\x18\x00\x00\x01"
DEMAND, ANSWER = _KEY_UPDATE + b"\x01", _KEY_UPDATE + b"\x00"

# What the key log calls the two directions' first secrets.
CLIENT, SERVER = b"CLIENT_TRAFFIC_SECRET_0", b"SERVER_TRAFFIC_SECRET_0"


def keep_secrets(context: SSL.Context) -> dict[bytes, bytes]:
    """What the context's key log will tell of its one connection."""
    secrets: dict[bytes, bytes] = {}

    def remember(_connection: object, line: bytes) -> None:
        label, _random, secret = line.split()
        secrets[label] = bytes.fromhex(secret.decode())

    context.set_keylog_callback(remember)
    return secrets


def _expand(secret: bytes, label: bytes, length: int) -> bytes:
    """HKDF-Expand-Label with an empty context (RFC 8446 section 7.1)."""
    label = b"tls13 " + label
    info = length.to_bytes(2, "big") + bytes([len(label)]) + label + b"\0"
    return HKDFExpand(SHA384(), length, info).derive(secret)


class RecordKeys:
    """
    One direction of TLS_AES_256_GCM_SHA384 after the handshake, and its keys' succession.

    :param number: how many records have gone before.
    """

    def __init__(self, secret: bytes, number: int = 0) -> None:
        self._secret = secret
        self._derive()
        self._number = number

    def _derive(self) -> None:
        self._cipher = AESGCM(_expand(self._secret, b"key", 32))
        self._iv = int.from_bytes(_expand(self._secret, b"iv", 12), "big")
        self._number = 0

    def update(self) -> None:
        """Go on to the next keys (RFC 8446 section 7.2)."""
        self._secret = _expand(self._secret, b"traffic upd", 48)
        self._derive()

    def _nonce(self) -> bytes:
        number, self._number = self._number, self._number + 1
        return (self._iv ^ number).to_bytes(12, "big")

    def seal(self, kind: int, content: bytes) -> bytes:
        """One record."""
        header = b"\x17\x03\x03" + (len(content) + 17).to_bytes(2, "big")
        return header + self._cipher.encrypt(self._nonce(), content + bytes([kind]), header)

    def key_update(self, message: bytes = DEMAND) -> bytes:
        """Announce new keys, then use them."""
        record = self.seal(HANDSHAKE, message)
        self.update()
        return record

    def open(self, ciphertext: bytes) -> list[tuple[int, bytes]]:
        """Kind and content of each record; new keys are followed."""
        found = []
        while ciphertext:
            end = 5 + int.from_bytes(ciphertext[3:5], "big")
            plain = self._cipher.decrypt(self._nonce(), ciphertext[5:end], ciphertext[:5])
            content, kind = plain[:-1], plain[-1]
            if kind == HANDSHAKE and content.startswith(_KEY_UPDATE):
                self.update()
            found.append((kind, content))
            ciphertext = ciphertext[end:]
        return found
