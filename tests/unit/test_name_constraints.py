"""Name constraints of an authority (RFC 5280 section 4.2.1.10): OpenSSL checks them after the leaf was judged."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from cryptography import x509
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.codes import CHAIN_INVALID
from tcpmesh.errors import Refusal
from tests.unit.crafted import Extension, Leaf, bundles, dns, extension, name, uri
from tests.unit.tls_pairs import ORDERS, PIECES, WEB, Pair, World, now_authority, now_leaf

GOOD, EVIL = x509.DNSName("good.example"), x509.DNSName("evil.other")


def permits(constraint: x509.GeneralName) -> Extension:
    """Nothing else of its kind."""
    return extension(x509.NameConstraints([constraint], None), critical=True)


def excludes(constraint: x509.GeneralName) -> Extension:
    """Everything else of its kind may be."""
    return extension(x509.NameConstraints(None, [constraint]), critical=True)


def is_called(*names: x509.GeneralName) -> Extension:
    """An authority's subject alternative name."""
    return extension(x509.SubjectAlternativeName(names))


class NameConstraintTests(SynchronousTestCase):
    """Both ends hang below one root with a constraint; one of them breaks it, or its intermediate does."""

    def setUp(self) -> None:
        self.world = World()
        self.generations = itertools.count(2)  # contexts are made once for each

    def constrain(self, constraint: Extension) -> None:
        """Make the root anew; both ends get leaves below it that keep to the constraint."""
        world = self.world
        world.root = now_authority("root of a.test", more=[constraint])
        world.issuing = now_authority("issuing of a.test", world.root)
        world.bundles = bundles(a=world.root)
        world.web, world.orders = now_leaf(world.issuing, uri(WEB)), now_leaf(world.issuing, uri(ORDERS))

    def below(self, intermediate: Sequence[Extension], common_name: str, workload: str, *more: bytes) -> Leaf:
        """A leaf below an intermediate with these extensions."""
        return now_leaf(now_authority(common_name, self.world.root, more=intermediate), uri(workload), *more)

    def assert_refused(self, intermediate: Sequence[Extension], common_name: str, *more: bytes) -> None:
        """By a server and by a client, with the chain's code, the workload's name and nobody as the peer."""
        for piece in PIECES:
            state = self.world.state(next(self.generations), web=self.below(intermediate, common_name, WEB, *more))
            server = self.world.server(state=state)
            refusal = self.assertRaises(Refusal, Pair(self.world.client(state=state), server, piece).handshake)
            self.assertEqual((refusal.code, server.verification.peer), (CHAIN_INVALID, None), refusal.reason)
            self.assertIn(WEB, refusal.reason)
            state = self.world.state(
                next(self.generations), orders=self.below(intermediate, common_name, ORDERS, *more)
            )
            client = self.world.client(state=state)
            refusal = self.assertRaises(Refusal, Pair(client, self.world.server(state=state), piece).handshake)
            self.assertEqual((refusal.code, client.verification.peer), (CHAIN_INVALID, None), refusal.reason)
            self.assertIn(ORDERS, refusal.reason)

    def test_who_keeps_to_them_is_welcome(self) -> None:
        """A leaf and an intermediate with names inside the constraint."""
        self.constrain(permits(GOOD))
        state = self.world.state(
            web=self.below([is_called(GOOD)], "named", WEB, dns("a.good.example")),
            orders=self.below([is_called(GOOD)], "named", ORDERS, dns("b.good.example")),
        )
        pair = Pair(self.world.client(state=state), self.world.server(state=state)).handshake()
        self.assertEqual((str(pair.server.verification.peer), str(pair.client.verification.peer)), (WEB, ORDERS))

    def test_refuses_a_leaf_that_breaks_them(self) -> None:
        """Its DNS name is outside of what the root permits."""
        self.constrain(permits(GOOD))
        self.assert_refused([], "issuing", dns("evil.other"))

    def test_refuses_an_intermediate_that_breaks_them(self) -> None:
        """By a DNS name, by its trust domain, by its subject: the leaf, judged before, is good by itself."""
        for constraint, intermediate, common_name in (
            (permits(GOOD), [is_called(EVIL)], "issuing"),
            (
                permits(x509.UniformResourceIdentifier("a.test")),
                [is_called(x509.UniformResourceIdentifier("spiffe://c.test"))],
                "issuing",
            ),
            (excludes(x509.DirectoryName(name("forbidden"))), [], "forbidden"),
        ):
            self.constrain(constraint)
            self.assert_refused(intermediate, common_name)
