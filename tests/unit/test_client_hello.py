"""What a client offers, read from its first message."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.dataplane.client_hello import InvalidClientHelloError, supported_groups
from tests.unit.tls_pairs import client_hello, foreign_client, foreign_context, take


def hello(extensions: bytes) -> bytes:
    """A record with the least ClientHello and these extensions."""
    body = b"\x03\x03" + bytes(32) + b"\0" + b"\0\x02\x13\x01" + b"\x01\0" + extensions
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message


def extension(kind: int, content: bytes) -> bytes:
    return kind.to_bytes(2, "big") + len(content).to_bytes(2, "big") + content


class SupportedGroupsTests(SynchronousTestCase):
    def test_gives_the_groups_in_their_order(self) -> None:
        """Wherever the extension stands."""
        groups = extension(10, b"\0\x06\x11\xec\0\x1d\0\x17")
        for extensions in (groups, extension(0, b"abc") + groups, groups + extension(51, b"\0\0")):
            whole = len(extensions).to_bytes(2, "big") + extensions
            self.assertEqual(supported_groups(hello(whole)), (0x11EC, 0x1D, 0x17))

    def test_a_client_may_name_none(self) -> None:
        """Without the extension, and without any."""
        self.assertEqual(supported_groups(hello(b"")), ())
        self.assertEqual(supported_groups(hello(b"\0\x04" + extension(23, b""))), ())

    def test_reads_what_openssl_sends(self) -> None:
        """P-256 alone, and the library's own list, which has X25519 and P-256."""
        self.assertTrue({0x1D, 0x17} <= set(supported_groups(client_hello())))
        context = foreign_context()

        context.set_tmp_ecdh(ec.SECP256R1())
        client = foreign_client(context)
        self.assertRaises(SSL.WantReadError, client.do_handshake)
        self.assertEqual(supported_groups(take(client)), (0x17,))

    def test_refuses_everything_else(self) -> None:
        """Other records and messages, and a ClientHello that ends anywhere before its end."""
        whole = client_hello()
        for data in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x15" + whole[1:], whole[:5] + b"\x02" + whole[6:]):
            self.assertRaises(InvalidClientHelloError, supported_groups, data)
        for end in range(len(whole)):
            self.assertRaises(InvalidClientHelloError, supported_groups, whole[:end])
        odd = extension(10, b"\0\x03\0\x1d\0")
        self.assertRaises(InvalidClientHelloError, supported_groups, hello(len(odd).to_bytes(2, "big") + odd))
