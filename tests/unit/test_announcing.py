"""The PROXY headers that we send, and that nothing overtakes them."""

from __future__ import annotations

import contextlib
import datetime
import socket
import warnings

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.dataplane.proxy_header import ProxyHeader, TlvType, encode_local, encode_v2
from tcpmesh.dataplane.proxy_reader import MAX_HEADER_BYTES, ProxyHeaderReader
from tcpmesh.identity.spiffe import SpiffeId
from tcpmesh.net.announcing import header_for_application, header_for_check, header_for_server
from tcpmesh.net.dialled_leg import AnnouncedLeg, DialledLeg, dialled_leg
from tcpmesh.net.reset_watch import ResetWatch
from tcpmesh.net.tcp import MeshStream
from tcpmesh.observe.records import ConnectionRecord
from tcpmesh.values import PeerIdentity, TCPAddress, UnixAddress

PEER, OWN = TCPAddress("192.0.2.1", 40000), TCPAddress("192.0.2.2", 4143)


@attrs.define
class Wire:
    peer: TCPAddress = PEER
    own: TCPAddress = OWN


@attrs.define
class Verified:
    """What a header asks of a verification."""

    peer: PeerIdentity | None = None
    presented_leaf: x509.Certificate | None = None


def leaf(*names: str) -> x509.Certificate:
    """A certificate with these common names, however long."""
    key = ec.generate_private_key(ec.SECP256R1())
    with warnings.catch_warnings(action="ignore"):
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each, _validate=False) for each in names])
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    return builder.sign(key, hashes.SHA256())


def identity(path: str = "web") -> PeerIdentity:
    return PeerIdentity(SpiffeId.parse(f"spiffe://mesh.test/{path}"), "1", 0.0, 1.0)


def record(**values: object) -> ConnectionRecord:
    return ConnectionRecord(1, "inbound", "in", "", 0.0, **values)  # type: ignore[arg-type]


def read(header: bytes) -> ProxyHeader:
    found = ProxyHeaderReader().feed(header)
    assert found is not None
    return found


class HeaderTests(SynchronousTestCase):
    """What is in them."""

    def header(self, verified: Verified | None, carried: ProxyHeader | None = None, **values: object) -> ProxyHeader:
        return read(header_for_application("v2", carried, Wire(), record(**values), verified))  # type: ignore[arg-type]

    def test_what_has_no_value_is_absent(self) -> None:
        """A peer without ALPN, server name and common name."""
        header = self.header(Verified(identity(), leaf()), tls_version="TLSv1.2", tls_cipher="X")
        self.assertEqual([kind for kind, _ in header.tlvs], [TlvType.SSL, TlvType.SPIFFE_ID, TlvType.CRC32C])
        assert header.client_tls is not None
        self.assertEqual((header.client_tls.version, header.client_tls.common_name), ("TLSv1.2", ""))

    def test_nothing_is_claimed_of_who_was_not_verified(self) -> None:
        """Neither with passthrough nor before a verification came to an end."""
        for verified in (None, Verified(None, leaf("web"))):
            header = self.header(verified, sni="a.test")
            self.assertEqual([kind for kind, _ in header.tlvs], [TlvType.AUTHORITY, TlvType.CRC32C])
            self.assertIsNone(header.client_tls)

    def test_the_common_name_is_the_certificates(self) -> None:
        """One that can be printed; of several, or of one with control characters or beyond all length, none is."""
        for names, expected in (
            (("web",), "web"),
            (("w\u00e9b",), "w\u00e9b"),
            ((), ""),
            (("web", "admin"), ""),
            (("admin\0.example.com",), ""),
            (("admin\n",), ""),
            (("x" * 257,), ""),
        ):
            header = self.header(Verified(identity(), leaf(*names)))
            assert header.client_tls is not None
            self.assertEqual(header.client_tls.common_name, expected, names)

    def test_carried_addresses_go_before_the_connections_own(self) -> None:
        """Each by itself; LOCAL carries none."""
        source, front = TCPAddress("198.51.100.1", 1), TCPAddress("198.51.100.2", 2)
        for carried, expected in (
            (None, (PEER, OWN)),
            (ProxyHeader(2, local=True), (PEER, OWN)),
            (ProxyHeader(2, source, front), (source, front)),
        ):
            header = self.header(None, carried)
            self.assertEqual((header.source, header.destination), expected)

    def test_the_longest_can_be_read(self) -> None:
        """Everything as long as it can be is within what a reader of ours takes."""
        path = "/".join(["x" * 200] * 10)
        carried = ProxyHeader(2, UnixAddress("/" + "s" * 107), UnixAddress("/" + "d" * 107))
        verified = Verified(identity(path), leaf("n" * 64))
        whole = header_for_application(
            "v2",
            carried,
            Wire(),
            record(sni="s" * 255, alpn="a" * 255, conn="c" * 16, tls_version="TLSv1.3"),
            verified,  # type: ignore[arg-type]
        )
        self.assertGreater(len(whole), 2500)
        self.assertLessEqual(len(whole), MAX_HEADER_BYTES)
        self.assertEqual(read(whole).tlv(TlvType.SPIFFE_ID), f"spiffe://mesh.test/{path}".encode())

    def test_none_is_nothing(self) -> None:
        """Nor is there anything to be said where no header is wanted."""
        self.assertEqual(header_for_server("none", PEER, OWN), b"")
        self.assertEqual(header_for_server("v2", PEER, OWN), encode_v2(PEER, OWN))
        self.assertIsNone(header_for_check("none"))

    def test_our_own_checks_relay_for_nobody(self) -> None:
        """Version 1 cannot say so, and servers refuse UNKNOWN: it gets the addresses of the check's own connection."""
        wire = Wire(peer=TCPAddress("192.0.2.20", 443), own=TCPAddress("192.0.2.9", 50000))
        said = [announcement(wire) for announcement in map(header_for_check, ("v1", "v2")) if announcement is not None]
        self.assertEqual(said, [b"PROXY TCP4 192.0.2.9 192.0.2.20 50000 443\r\n", encode_local()])


class Core:
    """Speaks first."""

    def feed_handshake(self, data: bytes) -> None:
        pass

    def handshake(self) -> bool:
        return False

    def take_output(self) -> bytes:
        return b"ClientHello"


@attrs.define
class Turns:
    def take(self, step: object) -> bool:
        step()  # type: ignore[operator]
        return True


class Plane:
    handshake_turns = Turns()


class Owner:
    def __init__(self) -> None:
        self.told: list[str] = []

    def connected(self) -> None:
        self.told.append("connected")

    def leg_lost(self, leg: object, loss: object) -> None:
        self.told.append("lost")

    def leg_closed(self, leg: object) -> None:
        self.told.append("closed")


class LegTests(SynchronousTestCase):
    """The leg to a server that wants a header."""

    def test_is_an_ordinary_leg_without_one(self) -> None:
        """Nobody pays for what others want."""
        owner = Owner()
        leg = dialled_leg(None, owner, owner, Core(), None, Plane(), client=True)
        self.assertIs(type(leg), DialledLeg)

    def test_an_error_of_ours_ends_what_was_counted(self) -> None:
        """The owner hears that it is connected before anything can fail: else it would count down what it never did."""

        def fail(_transport: object) -> bytes:
            raise ArithmeticError("no header")

        owner = Owner()
        leg = dialled_leg(fail, owner, owner, Core(), None, Plane(), client=True)
        transport = StringTransport()
        leg.makeConnection(transport)
        self.assertEqual(owner.told, ["connected", "lost"])
        self.assertTrue(transport.disconnected)
        self.assertEqual(len(self.flushLoggedErrors(ArithmeticError)), 1)

    def test_nothing_overtakes_a_header_that_the_kernel_does_not_take_whole(self) -> None:
        """What is queued is header, then ClientHello, however little goes at a time."""
        reactor = MemoryReactorClock()
        watch = ResetWatch(reactor)
        self.addCleanup(watch.close)
        ours, theirs = socket.socketpair()
        self.addCleanup(theirs.close)
        for each in (ours, theirs):
            each.setblocking(False)
        filler = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                filler += ours.send(b"." * 100)
        owner, header = Owner(), encode_v2(PEER, OWN)
        leg = dialled_leg(lambda _transport: header, owner, owner, Core(), None, Plane(), client=True)
        self.assertIs(type(leg), AnnouncedLeg)
        stream = MeshStream(ours, leg, UnixAddress(""), watch, reactor)
        self.addCleanup(stream.connectionLost, Failure(ConnectionDone()))
        leg._plane.liveness = self  # type: ignore[attr-defined]
        leg.makeConnection(stream)
        self.assertEqual(stream.unsent, len(header) + len(b"ClientHello"))
        received = b""
        while len(received) < filler + len(header) + len(b"ClientHello"):
            with contextlib.suppress(BlockingIOError):
                received += theirs.recv(100)
            stream.doWrite()
        self.assertEqual(received[filler:], header + b"ClientHello")
        self.assertEqual(owner.told, ["connected"])

    def discard(self, transport: object) -> None:
        """As the liveness watch."""
