"""
The layers between a workload and a service, from our own certificate to the peer's acceptance, one after the other.

Ring 4. Blocking. The handshake is that of the data path, with its contexts and its verification; no byte of payload is
sent. The first layer that is broken ends it: whatever lies behind is not looked at, and nothing is said of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from typing import Any

from cryptography import x509

from tcpmesh.cli.check_findings import Finding, Outcome, Pair
from tcpmesh.cli.check_material import Material
from tcpmesh.cli.peer_handshake import Acceptance, PeerHandshake
from tcpmesh.cli.presented import Target
from tcpmesh.codes import EXPIRED, NO_IDENTITY, NOT_YET_VALID, Code
from tcpmesh.config.places import ROOT, Place
from tcpmesh.dataplane.contexts import Trust, trust_for
from tcpmesh.dataplane.verification import expects_dns, expects_keys
from tcpmesh.errors import Refusal
from tcpmesh.identity.certificates import moment, name_text, not_after, not_before, presented_name, span
from tcpmesh.identity.profile import check_leaf, check_signature, readable
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.settings import TLSSettings
from tcpmesh.values import Endpoint, ExpectedIdentity, Svid, UnixAddress
from tcpmesh.wall_clock import wall_clock

__all__ = ["check_pair"]

_SOURCE, _SELF, _MAP, _REACH, _PRESENT, _TRUST, _MATCH, _ACCEPT = range(1, 9)
_NEARLY_OVER = 0.1  # of a certificate's life: a source that works has renewed it before


class _Over(Exception):
    """A layer is broken, or could not be looked at: what lies behind it is not looked at."""


def check_pair(pair: Pair, material: Material, seconds: float) -> list[Finding]:
    """
    Look at each layer, up to the first that is broken or cannot be looked at.

    :param seconds: for the connection and all that is exchanged over it.
    """
    check = _Check(pair, material, seconds)
    with suppress(_Over):
        check.run()
    return check.findings


class _Check:
    def __init__(self, pair: Pair, material: Material, seconds: float) -> None:
        self._pair = pair
        self._material = material
        self._seconds = seconds
        self._trust: Trust = "mesh"
        self.findings: list[Finding] = []

    def run(self) -> None:
        svid = self._own()
        if self._pair.endpoint is None:
            return
        expected = self._map()
        handshake = self._handshake(svid, expected)
        deadline = time.monotonic() + self._seconds
        try:
            stream = handshake.connect(deadline)
        except Refusal as refusal:
            self._broken(_REACH, refusal, "a server that accepts connections", self._at_service("discovery"))
        with closing(stream):
            failure = handshake.shake_hands(stream, deadline)
            self._judge(failure, handshake, expected)
            if expected is None:
                self._add(_ACCEPT, Outcome.UNKNOWN, "not looked at: whether to ask an unknown peer is not for a check")
                return
            self._accepted(handshake.acceptance(stream, deadline))

    # --- our own side

    def _own(self) -> Svid:
        name = self._pair.workload
        if name in self._material.unread:
            self._add(_SOURCE, Outcome.UNKNOWN, self._material.unread[name])
            raise _Over
        defect = self._material.defects.get(name)
        where = self._place(ROOT.key("identity").key("workloads").entry(name))
        expected = f"a certificate for {self._material.settings.identity.workloads[name].id}, and its key"
        if defect is not None:
            own = defect.code.id.startswith("TM-I")
            refusal = Refusal(defect.code if own else NO_IDENTITY, defect.reason)
            layer = _layer_of(refusal.code)
            if layer == _SELF:
                self._add(_SOURCE, Outcome.GOOD, "certificate and key are there and can be read")
            self._broken(layer, refusal, expected, where)
        svid = self._material.state.svids[name]
        now, ends = wall_clock(), not_after(svid.leaf)
        left = f"{svid.id}, valid until {moment(ends)}, {span(ends - now)} left"
        late = ends - now < _NEARLY_OVER * (ends - not_before(svid.leaf))
        self._add(
            _SOURCE,
            Outcome.ODD if late else Outcome.GOOD,
            left + (": it should have been renewed by now" if late else ""),
            where=where if late else "",
        )
        try:
            self._material.composition.contexts.client(self._material.state, name, TLSSettings(), "mesh")
        except Refusal as refusal:
            self._broken(_SELF, refusal, expected, where)
        self._add(_SELF, Outcome.GOOD, "its key belongs to it, and its own bundle vouches for it")
        return svid

    def _map(self) -> Sequence[ExpectedIdentity] | None:
        service = self._pair.service
        if service is None:
            self._add(_MAP, Outcome.UNKNOWN, "no service lists this address, so nobody is expected there")
            return None
        upstream = self._material.composition.upstreams[service]
        assert self._pair.endpoint is not None, "there is one"
        expected = upstream.expected(self._pair.endpoint)
        text = f"service {service} at {self._pair.endpoint.address} expects {_listed(expected)}"
        if self._pair.listener:
            self._add(_MAP, Outcome.GOOD, text)
        else:
            odd = f"{text}; no outbound listener leads to it, looked at as workload {self._pair.workload}"
            self._add(_MAP, Outcome.ODD, odd, where=self._at_service("expect"))
        return expected

    def _handshake(self, svid: Svid, expected: Sequence[ExpectedIdentity] | None) -> PeerHandshake:
        endpoint, service = self._pair.endpoint, self._pair.service
        assert endpoint is not None, "there is one"
        composition, state = self._material.composition, self._material.state
        target = _target(endpoint)
        if service is None:
            context = composition.contexts.client(state, self._pair.workload, TLSSettings(), "mesh")
            return PeerHandshake(target, context, state.bundles, None)
        settings = composition.upstreams[service].settings
        trust = trust_for(settings, expected or (), svid.id.trust_domain)
        self._trust = trust
        return PeerHandshake(
            target,
            composition.contexts.client(state, self._pair.workload, settings.tls, trust),
            state.bundles,
            expected,
            voucher=trust if isinstance(trust, TrustDomain) else None,
            sni=composition.upstreams[service].sni(endpoint),
            preface=settings.preface == "auto",
        )

    # --- the peer

    def _judge(
        self, failure: Refusal | None, handshake: PeerHandshake, expected: Sequence[ExpectedIdentity] | None
    ) -> None:
        """Say what the handshake proved, layer by layer: it stops at the first that is broken, in its own order."""
        layer = _layer_of(failure.code) if failure is not None else _ACCEPT
        if failure is not None and layer <= _REACH:
            self._broken(_REACH, failure, "a complete TLS handshake", self._at_service("discovery"))
        self._add(_REACH, Outcome.GOOD, f"{handshake.target} speaks TLS")
        leaf, pinned = handshake.leaf, expects_keys(expected or ())
        if leaf is not None and layer > _PRESENT:
            # A chain without a known authority is refused before its leaf is looked into: a defect there comes first.
            failure, layer = _defect_of(leaf, expects_dns(expected or ()), pinned) or (failure, layer)
        if failure is not None and layer == _PRESENT:
            what = f"a certificate of {_listed(expected)}" if expected is not None else "an X.509-SVID"
            self._broken(_PRESENT, failure, what, self._at_peer())
        assert leaf is not None, "it is beyond that layer"
        self._add(_PRESENT, Outcome.GOOD, f"{presented_name(leaf)}, valid until {moment(not_after(leaf))}")
        if failure is not None and layer == _TRUST:
            self._not_trusted(failure, leaf)
        if pinned:
            self._add(_TRUST, Outcome.GOOD, "its key is pinned, so no authority is asked")
        else:
            self._trusted(leaf)
        if failure is not None:
            self._broken(_MATCH, failure, _listed(expected or ()), self._at_service("expect"))
        if expected is None:
            self._add(_MATCH, Outcome.UNKNOWN, "nobody is expected there")
        else:
            self._add(_MATCH, Outcome.GOOD, "it is one of those expected")

    def _trusted(self, leaf: x509.Certificate) -> None:
        domain = self._vouching(leaf)
        bundle = self._material.state.bundles.get(domain) if domain is not None else None
        ended = [one for one in bundle.authorities if not_after(one) < wall_clock()] if bundle is not None else []
        whose = f"that vouches for {domain}" if domain is not None else f"of services.{self._pair.service}.trust"
        text = f"an authority {whose} signed it"
        if ended:
            text += f"; another one there has expired: {name_text(ended[0].subject)}"
        self._add(_TRUST, Outcome.ODD if ended else Outcome.GOOD, text, where=self._at_bundle(domain) if ended else "")

    def _not_trusted(self, failure: Refusal, leaf: x509.Certificate) -> None:
        domain = self._vouching(leaf)
        unread = self._material.unread_bundles.get(domain) if domain is not None else None
        relation = self._material.settings.identity.federation.get(domain) if domain is not None else None
        if unread and relation is not None and relation.bundle is None:
            self._add(_TRUST, Outcome.UNKNOWN, unread)
            raise _Over
        if unread:
            failure = Refusal(failure.code, f"{failure.reason}; {unread}")
        what = f"an authority of {domain} behind it" if domain is not None else "an authority that is trusted"
        self._broken(_TRUST, failure, what, self._at_bundle(domain))

    def _vouching(self, leaf: x509.Certificate) -> TrustDomain | None:
        """Whose bundle must hold the peer's authority; None when it is not a bundle's business."""
        if self._trust != "mesh":
            return self._trust if isinstance(self._trust, TrustDomain) else None
        with readable("the peer's certificate"):
            return check_leaf(leaf).trust_domain

    def _accepted(self, answer: Acceptance) -> None:
        if answer.refusal is not None:
            self._broken(_ACCEPT, answer.refusal, "the peer takes us in", self._at_peer())
        self._add(_ACCEPT, Outcome.GOOD if answer.told else Outcome.UNKNOWN, answer.text)

    # --- findings

    def _add(self, layer: int, outcome: Outcome, text: str, **more: Any) -> None:
        self.findings.append(Finding(layer, outcome, text, **more))

    def _broken(self, layer: int, refusal: Refusal, expected: str, where: str) -> Any:
        self._add(layer, Outcome.BROKEN, refusal.reason, code=refusal.code, expected=expected, where=where)
        raise _Over

    # --- places

    def _place(self, place: Place) -> str:
        mark = self._material.marks.get(place.path)
        return f"{place.path} at {mark}" if mark is not None else f"{place.path} in {self._material.settings.file}"

    def _at_service(self, key: str) -> str:
        if self._pair.service is None:
            return self._at_peer()
        return self._place(ROOT.key("services").entry(self._pair.service).key(key))

    def _at_peer(self) -> str:
        return f"the peer at {self._pair.endpoint.address}" if self._pair.endpoint is not None else ""

    def _at_bundle(self, domain: TrustDomain | None) -> str:
        identity = ROOT.key("identity")
        if domain is None:
            return self._at_service("trust")
        if domain in self._material.settings.identity.federation:
            return self._place(identity.key("federation").entry(str(domain)))
        return self._place(identity.key("sources" if domain == self._material.settings.trust_domain else "federation"))


def _layer_of(code: Code) -> int:
    """Codes of identity have it as their first digit; all others are about the connection."""
    return int(code.id[4]) if code.id.startswith("TM-I") else _REACH


def _defect_of(leaf: x509.Certificate, dns: bool, pinned: bool) -> tuple[Refusal, int] | None:
    """What is wrong with a leaf by itself, as the data path would say if nothing else were."""
    now = wall_clock()
    try:
        with readable("the peer's certificate"):
            if not (dns or pinned):
                check_leaf(leaf)
            if not pinned:
                check_signature(leaf)
            if now > not_after(leaf):
                ago = span(now - not_after(leaf))
                raise Refusal(EXPIRED, f"{presented_name(leaf)} expired {ago} ago, at {moment(not_after(leaf))}")
            if now < not_before(leaf):
                raise Refusal(NOT_YET_VALID, f"{presented_name(leaf)} is valid only from {moment(not_before(leaf))}")
    except Refusal as refusal:
        return refusal, _layer_of(refusal.code)
    return None


def _target(endpoint: Endpoint) -> Target:
    address = endpoint.address
    if isinstance(address, UnixAddress):
        return Target("", path=address.path)
    return Target(address.host, address.port)


def _listed(expected: Sequence[ExpectedIdentity]) -> str:
    return " or ".join(map(str, _some(expected))) or "nobody"


def _some(expected: Sequence[ExpectedIdentity]) -> Iterator[object]:
    yield from expected[:5]
    if len(expected) > 5:
        yield f"{len(expected) - 5} others"
