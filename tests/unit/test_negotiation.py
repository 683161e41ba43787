"""Groups and cipher suites of our contexts, through pyOpenSSL's public interface and through what lies below it."""

from __future__ import annotations

import contextlib
from importlib import metadata

import attrs
from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import codes
from tcpmesh.dataplane.client_hello import supported_groups
from tcpmesh.dataplane.contexts import TLSContexts
from tcpmesh.dataplane.negotiation import complaints, default_groups, effective_groups, knows, nothing_in_common
from tcpmesh.dataplane.openssl_private import GROUP_SETTER, GroupSetter, UnsupportedError, set_groups
from tcpmesh.errors import Refusal
from tcpmesh.settings import TLSSettings
from tcpmesh.tls_names import GROUPS, SUITES, CipherSuite, SuiteFacts, TLSGroup
from tests.unit.tls_pairs import World, foreign_client, foreign_context, joined, meet, take

INSTALLED = f"pyopenssl {metadata.version('pyopenssl')} and cryptography {metadata.version('cryptography')}"
# Why a test cannot be run here, for trial.
NO_SETTER = None if GROUP_SETTER is not None else "cryptography has this function since 47"
OPENSSL = " ".join(SSL.OpenSSL_version(SSL.OPENSSL_VERSION).decode().split()[:2])
DEFAULT = (0x11EC, 0x1D)  # how a library's own order begins that has a post-quantum group
TLS12 = ("1.2", "1.2")
# As a record shows a group; the post-quantum ones as they are configured.
SHOWN = {"X25519": "x25519", "X448": "x448", "P-256": "secp256r1", "P-384": "secp384r1", "P-521": "secp521r1"}


def groups(*names: str) -> tuple[TLSGroup, ...]:
    return tuple(map(TLSGroup, names))


def ciphers(*names: str) -> tuple[CipherSuite, ...]:
    return tuple(map(CipherSuite, names))


def knows_none(_context: SSL.Context, _names: bytes) -> bool:
    """A library that takes no group."""
    return False


def forgets(_context: SSL.Context, _names: bytes) -> bool:
    """A library that says that it took them."""
    return True


def before_ml_kem(_context: SSL.Context, names: bytes) -> bool:
    """A library that knows no post-quantum group, as OpenSSL before 3.5."""
    return b"MLKEM" not in names


class LayerMixin:
    """What holds whichever way groups are set; ``setter`` is the way."""

    setter: GroupSetter | None
    settable: tuple[tuple[TLSGroup, ...], ...]  # lists that this way can set

    def world(self) -> World:
        """Two workloads whose contexts are made that way."""
        world = World()
        world.contexts = TLSContexts(group_setter=self.setter)
        return world

    def test_two_ends_meet_in_the_group_that_is_configured(self) -> None:
        """In the first of the list, and both ends say so."""
        world = self.world()
        for listed in self.settable:
            pair = joined(world, tls=TLSSettings(groups=listed))
            self.assertEqual([pair.client.group, pair.server.group], [SHOWN.get(listed[0], listed[0])] * 2)

    def test_two_ends_meet_in_tls_1_2(self) -> None:
        """There an ECDSA certificate needs its own curve among the groups, too."""
        world = self.world()
        for listed in self.settable:
            classical = [name for name in listed if not GROUPS[name].post_quantum]
            if "P-256" in classical:
                pair = joined(world, tls=TLSSettings(*TLS12, groups=tuple(classical)))
                self.assertEqual([pair.client.group, pair.server.group], [SHOWN.get(classical[0], classical[0])] * 2)

    def test_a_client_offers_nothing_else(self) -> None:
        """The ClientHello names the configured groups in their order."""
        world = self.world()
        for listed in self.settable:
            client = world.client(TLSSettings(groups=listed))
            client.handshake(b"")
            offered = supported_groups(bytes(client.take_output()))
            self.assertEqual(offered, tuple(GROUPS[name].number for name in listed))

    def test_a_server_takes_nothing_else(self) -> None:
        """A client of any other group is refused."""
        world = self.world()
        for listed in self.settable:
            stranger = next(name for name in ("P-256", "P-384") if name not in listed)
            context = foreign_context(world.web)
            set_groups(context, groups(stranger), None)
            server = world.server(TLSSettings(groups=listed))
            refusal = self.assertRaises(Refusal, meet, foreign_client(context), server)
            self.assertIs(refusal.code, codes.TLS_FAILED)
            self.assertIsNone(server.verification.peer)

    def test_nothing_is_complained_of(self) -> None:
        """What can be set can be used."""
        for listed in self.settable:
            self.assertEqual(list(complaints(TLSSettings(groups=listed), self.setter)), [])
        self.assertEqual(list(complaints(TLSSettings(), self.setter)), [])

    def test_the_default_is_the_librarys_own(self) -> None:
        """With X25519MLKEM768 first; and so both ends agree on that."""
        pair = joined(self.world())
        self.assertEqual((pair.client.group, pair.server.group), ("X25519MLKEM768", "X25519MLKEM768"))
        self.assertEqual(effective_groups(TLSSettings(), self.setter)[0], "X25519MLKEM768")
        self.assertNotIn("X25519MLKEM768", effective_groups(TLSSettings(*TLS12), self.setter))

    def test_suites_need_nothing_private(self) -> None:
        """Both ends meet in the suite that is configured."""
        world = self.world()
        for name, facts in SUITES.items():
            if "RSA" in name.replace("ECDSA", ""):
                continue  # the certificates here are ECDSA
            tls = TLSSettings(facts.version, facts.version, ciphers=(name,))
            self.assertEqual(list(complaints(tls, self.setter)), [])
            pair = joined(world, tls=tls)
            self.assertEqual((pair.client.cipher, pair.server.cipher), (facts.openssl, facts.openssl))


class PrivateLayerTests(LayerMixin, SynchronousTestCase):
    """The function that OpenSSL has for it."""

    skip = NO_SETTER
    setter = staticmethod(GROUP_SETTER)  # type: ignore[assignment,arg-type]
    settable = (
        *((name,) for name in GROUPS),
        groups("X25519", "P-256"),
        groups("X448", "P-256"),
        groups("X25519MLKEM768", "SecP256r1MLKEM768", "X25519", "P-256"),
    )

    def test_an_unknown_group_is_refused_and_nothing_is_left_behind(self) -> None:
        """By name; the next call on any connection finds no error of this one."""
        context = SSL.Context(SSL.TLS_METHOD)
        assert GROUP_SETTER is not None
        self.assertFalse(GROUP_SETTER(context, b"X25519:no-such-group"))
        pair = joined(World())
        self.assertEqual(pair.server.decrypt(pair.client.encrypt(b"hello")), b"hello")

    def test_says_which_group_the_library_does_not_know(self) -> None:
        """And since when there are post-quantum groups."""
        error = self.assertRaises(
            UnsupportedError,
            set_groups,
            SSL.Context(SSL.TLS_METHOD),
            groups("X25519MLKEM768", "X25519", "P-256"),
            before_ml_kem,
        )
        self.assertEqual(str(error), f"{OPENSSL} does not know X25519MLKEM768, which came with OpenSSL 3.5")
        tls = TLSSettings(groups=groups("X25519", "P-256"))
        self.assertEqual(list(complaints(tls, knows_none)), [f"groups: {OPENSSL} does not know X25519, P-256"])

    def test_does_not_believe_a_library(self) -> None:
        """What a client really offers decides, not what a call returned."""
        (complaint,) = complaints(TLSSettings(groups=groups("X25519")), forgets)
        self.assertIn("groups: the TLS library was asked for X25519 and offers X25519MLKEM768, ", complaint)


class PublicLayerTests(LayerMixin, SynchronousTestCase):
    """``Context.set_tmp_ecdh``, which takes one curve; OpenSSL then uses it for TLS 1.3 too."""

    setter = None
    settable = (groups("P-256"), groups("P-384"), groups("P-521"))

    def test_refuses_everything_else(self) -> None:
        """Naming pyOpenSSL's version; no other group takes the place of one that cannot be set."""
        for listed in (groups("X25519"), groups("X25519MLKEM768"), groups("P-256", "P-384")):
            context = SSL.Context(SSL.TLS_METHOD)
            error = self.assertRaises(UnsupportedError, set_groups, context, listed, None)
            text = (
                f"tcpmesh cannot set {', '.join(listed)} with {INSTALLED}, only one of P-256, P-384, P-521 alone; "
                "leave the key out, or use cryptography 47 or newer"
            )
            self.assertEqual(str(error), text)
            self.assertEqual(list(complaints(TLSSettings(groups=listed), None)), [f"groups: {text}"])


class SuiteTests(SynchronousTestCase):
    """What the library knows of cipher suites."""

    def test_knows_those_that_can_be_configured(self) -> None:
        """And none that there is not, in either version of TLS."""
        for name, facts in SUITES.items():
            self.assertTrue(knows(facts), name)
        for facts in (SuiteFacts("1.3", "TLS_AES_512_GCM_SHA512"), SuiteFacts("1.2", "ECDHE-ECDSA-AES512-GCM-SHA512")):
            self.assertFalse(knows(facts), facts)


class DefaultTests(SynchronousTestCase):
    """What is set where nothing is configured, by what a library offers by itself."""

    def test_nothing_where_a_post_quantum_group_comes_first(self) -> None:
        """OpenSSL since 3.5."""
        self.assertEqual(default_groups(DEFAULT), ())

    def test_it_is_put_first_where_the_library_knows_it(self) -> None:
        """Before what the library has, as a system's own settings may say."""
        for library, wanted in (((0x1D, 0x17, 0x100), b"X25519:P-256"), ((0x18, 0x11EC, 0x1D), b"P-384:X25519")):
            asked: list[bytes] = []
            found = default_groups(library, lambda _context, names, asked=asked: asked.append(names) is None)
            self.assertEqual(asked, [b"X25519MLKEM768/" + wanted])
            self.assertEqual(found, ("X25519MLKEM768", *wanted.decode().split(":")))

    def test_nothing_where_it_is_not_known(self) -> None:
        """The library's order stays, in which X25519 is first since OpenSSL 1.1."""
        self.assertEqual(default_groups((0x1D, 0x17), before_ml_kem), ())
        self.assertEqual(default_groups((0x1D, 0x17), None), ())


class PreferenceTests(SynchronousTestCase):
    """Whose order counts."""

    skip = NO_SETTER

    def setUp(self) -> None:
        self.world = World()

    def met(self, client: SSL.Context, tls: TLSSettings) -> tuple[str, str]:
        """Group and suite that a foreign client and a server of ours agree on."""
        server = self.world.server(tls)
        self.assertTrue(meet(foreign_client(client), server))
        return server.group, server.cipher

    def foreign(self, names: bytes = b"", suites: bytes = b"") -> SSL.Context:
        context = foreign_context(self.world.web)
        assert GROUP_SETTER is not None
        if names:
            self.assertTrue(GROUP_SETTER(context, names))
        if suites:
            context.set_tls13_ciphersuites(suites)
        return context

    def test_the_listeners_order_of_suites_counts(self) -> None:
        """Where it has one; else the client's does."""
        client = self.foreign(suites=b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384")
        ours = TLSSettings(ciphers=ciphers("TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256"))
        self.assertEqual(self.met(client, ours)[1], "TLS_AES_256_GCM_SHA384")
        self.assertEqual(self.met(client, TLSSettings())[1], "TLS_AES_128_GCM_SHA256")

    def test_a_listener_insists_on_a_post_quantum_group(self) -> None:
        """It asks for another share rather than take the classical one that came, when it prefers that."""
        client = self.foreign(b"X25519:X25519MLKEM768")
        for order, group in (
            (groups("X25519MLKEM768", "X25519"), "X25519MLKEM768"),
            (groups("X25519", "X25519MLKEM768"), "x25519"),
        ):
            self.assertEqual(self.met(client, TLSSettings(groups=order))[0], group)

    def test_a_listener_takes_the_classical_group_that_came(self) -> None:
        """Another one of its own kind is not worth a round trip."""
        ours = TLSSettings(groups=groups("P-256", "X25519"))
        self.assertEqual(self.met(self.foreign(b"X25519:P-256"), ours)[0], "x25519")

    def test_a_client_comes_to_a_server_of_its_second_choice(self) -> None:
        """By the server's wish for another share (HelloRetryRequest), also one byte at a time."""
        order = groups("X25519MLKEM768", "P-384", "X25519")
        for piece in (1 << 30, 1):
            client = self.world.client(TLSSettings(groups=order))
            server = foreign_context(self.world.orders)
            assert GROUP_SETTER is not None
            GROUP_SETTER(server, b"X25519")
            end = SSL.Connection(server, None)
            end.set_accept_state()
            done = False
            client.handshake(b"")
            for _ in range(4):
                end.bio_write(bytes(client.take_output()))
                with contextlib.suppress(SSL.WantReadError):
                    end.do_handshake()
                answer = take(end)
                for start in range(0, len(answer), piece):
                    done = done or client.handshake(answer[start : start + piece])
                if done:
                    break
            self.assertEqual((done, client.group), (True, "x25519"))


class NothingInCommonTests(SynchronousTestCase):
    """The words for a failed handshake, at both ends."""

    skip = NO_SETTER

    def setUp(self) -> None:
        self.world = World()

    def fail_both(self, client: TLSSettings, server: TLSSettings) -> tuple[str, str]:
        """What is added to OpenSSL's words at the client and at the server."""
        state = self.world.state()
        ends = (
            SSL.Connection(self.world.contexts.client(state, "web", client, "mesh"), None),
            SSL.Connection(self.world.contexts.server(state, "orders", server), None),
        )
        ends[0].set_connect_state()
        ends[1].set_accept_state()
        said = {}
        for _ in range(2):
            for number, end in enumerate(ends):
                try:
                    end.do_handshake()
                except SSL.WantReadError:
                    pass
                except SSL.Error as error:
                    said.setdefault(number, nothing_in_common(end, [entry[-1] for entry in error.args[0]]))
                with contextlib.suppress(SSL.WantReadError):
                    ends[1 - number].bio_write(end.bio_read(65536))
        return said[0], said[1]

    def test_no_group(self) -> None:
        """The server knows it; the client hears an alert that says little, and guesses."""
        client, server = self.fail_both(
            TLSSettings(groups=groups("X25519", "X448")), TLSSettings(groups=groups("P-256", "P-384"))
        )
        self.assertEqual(server, "; no key exchange group in common: we take P-256, P-384")
        self.assertEqual(
            client,
            "; perhaps nothing in common: we offer groups X25519, X448 and cipher suites TLS_AES_128_GCM_SHA256, "
            "TLS_AES_256_GCM_SHA384, TLS_CHACHA20_POLY1305_SHA256",
        )

    def test_no_suite(self) -> None:
        """The same for suites; the library's own groups are many, and not all are listed."""
        client, server = self.fail_both(
            TLSSettings(ciphers=ciphers("TLS_AES_128_GCM_SHA256")),
            TLSSettings(ciphers=ciphers("TLS_AES_256_GCM_SHA384")),
        )
        self.assertEqual(server, "; no cipher suite in common: we take TLS_AES_256_GCM_SHA384")
        self.assertRegex(
            client,
            r"^; perhaps nothing in common: we offer groups X25519MLKEM768, \S+, .* and [0-9]+ more and cipher suites "
            "TLS_AES_128_GCM_SHA256$",
        )

    def test_no_suite_in_tls_1_2(self) -> None:
        """Where a missing group shows as a missing suite."""
        settings = TLSSettings("1.2", "1.2", ciphers=ciphers("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"))
        _, server = self.fail_both(
            attrs.evolve(settings, groups=groups("X25519")), attrs.evolve(settings, groups=groups("P-256"))
        )
        self.assertTrue(server.startswith("; no cipher suite in common: we take "), server)
        self.assertTrue(server.endswith("ECDHE-ECDSA-AES128-GCM-SHA256, with groups P-256"), server)

    def test_other_failures_are_not_explained_so(self) -> None:
        """Another error, a connection whose hellos have agreed, a context of somebody else."""
        context = self.world.contexts.server(self.world.state(), "orders", TLSSettings())
        self.assertEqual(nothing_in_common(SSL.Connection(context, None), ["unsupported protocol"]), "")
        self.assertEqual(nothing_in_common(SSL.Connection(foreign_context(), None), ["no shared cipher"]), "")
        server = SSL.Connection(context, None)
        server.set_accept_state()
        client = foreign_client(self.world.web)
        self.assertRaises(SSL.WantReadError, client.do_handshake)
        server.bio_write(take(client))
        self.assertRaises(SSL.WantReadError, server.do_handshake)
        self.assertEqual(nothing_in_common(server, ["tls alert handshake failure"]), "")
