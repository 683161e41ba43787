"""
The layers between a workload and a service, from our own certificate to the peer's acceptance, one after the other.

Ring 3, no I/O: whoever dials and shakes hands tells what came of it. The first layer that is broken ends the check:
whatever lies behind is not looked at, and nothing is said of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from cryptography import x509

from tcpmesh.checking.acceptance import Acceptance
from tcpmesh.checking.approach import Approach, approach
from tcpmesh.checking.defects import defect_of, layer_of
from tcpmesh.checking.findings import Finding, Outcome, Pair
from tcpmesh.checking.knowledge import Knowledge
from tcpmesh.codes import HANDSHAKE_TRUNCATED, NO_ENDPOINT, NO_IDENTITY, PEER_ALERT, PEER_DENIED, SOURCE_STALE
from tcpmesh.config.places import ROOT, Place
from tcpmesh.dataplane.contexts import own_svid
from tcpmesh.dataplane.verification import expects_dns, expects_keys
from tcpmesh.errors import Refusal
from tcpmesh.identity.certificates import moment, name_text, not_after, not_before, presented_name, span
from tcpmesh.identity.own import verify_own
from tcpmesh.identity.profile import check_leaf, readable
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.settings import TLSSettings
from tcpmesh.values import ExpectedIdentity, Svid

__all__ = ["LayerCheck", "Over"]

_SOURCE, _SELF, _MAP, _REACH, _PRESENT, _TRUST, _MATCH, _ACCEPT = range(1, 9)
_NEARLY_OVER = 0.1  # of a certificate's life: a source that works has renewed it before


class Over(Exception):
    """A layer is broken, or could not be looked at: what lies behind it is not looked at."""


class LayerCheck:
    """
    One pair. Its methods are called in their order, until one of them raises :class:`Over`.

    :ivar findings: what was found so far.
    """

    def __init__(self, pair: Pair, knowledge: Knowledge) -> None:
        self._pair = pair
        self._knowledge = knowledge
        self._approach: Approach | None = None
        self.findings: list[Finding] = []

    def begin(self) -> Approach:
        """Look at our own side (source, self, map), and say where to go and how."""
        svid = self._own()
        if self._pair.service is None and self._pair.endpoint is None:
            raise Over
        if self._pair.unclear:
            self._add(_MAP, Outcome.UNKNOWN, self._pair.unclear)
            raise Over
        self._map()
        if self._pair.endpoint is None:
            if self._pair.service not in self._knowledge.state.endpoints:
                self._add(_REACH, Outcome.UNKNOWN, "its endpoints are found while the proxy runs")
                raise Over
            reason = f"discovery has found no endpoint of service {self._pair.service}"
            self._broken(_REACH, Refusal(NO_ENDPOINT, reason), "an endpoint", self._service("discovery"))
        self._approach = approach(self._pair, svid, self._knowledge)
        return self._approach

    def unreached(self, refusal: Refusal) -> Any:
        """Nobody took the connection, or not for long enough to be seen."""
        if refusal.code is HANDSHAKE_TRUNCATED:
            self._left(refusal)
        self._broken(_REACH, refusal, "a server that accepts connections", self._service("discovery"))

    def out_of_time(self) -> Any:
        """There was no time to go there, or to hear what the peer says."""
        text = "there was no time left for it: ask for fewer, with --service or --peer"
        self._add(len(self.findings) + 1, Outcome.UNKNOWN, text, unfinished=True)
        raise Over

    def shaken(self, failure: Refusal | None, leaf: x509.Certificate | None, *, proved: bool = False) -> None:
        """
        Say what the handshake proved, layer by layer: it stops at the first that is broken, in its own order.

        :param failure: why there was no handshake with whom is expected.
        :param leaf: the peer's certificate, if it came so far.
        :param proved: whether it is one that is expected, although there was no handshake.
        """
        assert self._approach is not None, "somebody went there"
        expected = self._approach.expected
        layer = layer_of(failure.code) if failure is not None else _ACCEPT
        if failure is not None and failure.code is PEER_ALERT and proved:
            # Up to TLS 1.2 the server judges us before the handshake is complete, behind its own certificate.
            failure, layer = self._approach.asker.not_taken(failure, "during our handshake"), _ACCEPT
        if failure is not None and failure.code is HANDSHAKE_TRUNCATED:
            self._left(failure)
        if failure is not None and layer <= _REACH:
            self._broken(_REACH, failure, "a complete TLS handshake", self._service("discovery"))
        self._add(_REACH, Outcome.GOOD, f"{self._approach.address} speaks TLS")
        pinned = expects_keys(expected or ())
        if leaf is not None and layer > _PRESENT:
            # A chain without a known authority is refused before its leaf is looked into: a defect there comes first.
            defect = defect_of(leaf, self._knowledge.now(), expects_dns(expected or ()), pinned)
            failure, layer = defect or (failure, layer)
        if failure is not None and layer == _PRESENT:
            what = f"a certificate of {_listed(expected)}" if expected is not None else "an X.509-SVID"
            self._broken(_PRESENT, failure, what, self._peer())
        assert leaf is not None, "it is beyond that layer"
        self._add(_PRESENT, Outcome.GOOD, f"{presented_name(leaf)}, valid until {moment(not_after(leaf))}")
        if failure is not None and layer == _TRUST:
            self._not_trusted(failure, leaf)
        if pinned:
            self._add(_TRUST, Outcome.GOOD, "its key is pinned, so no authority is asked")
        else:
            self._trusted(leaf)
        if failure is not None and layer == _MATCH:
            self._broken(_MATCH, failure, _listed(expected or ()), self._service("expect"))
        if expected is None:
            self._add(_MATCH, Outcome.UNKNOWN, "nobody is expected there")
            if failure is not None:
                self._broken(_ACCEPT, failure, "the peer takes us in", self._peer())
            self._add(_ACCEPT, Outcome.UNKNOWN, "not looked at: whether to ask an unknown peer is not for a check")
            raise Over
        self._add(_MATCH, Outcome.GOOD, "it is one of those expected")
        if failure is not None:
            self._broken(_ACCEPT, failure, "the peer takes us in", self._peer())

    def accepted(self, answer: Acceptance) -> None:
        """The last layer: what the peer makes of us."""
        if answer.refusal is not None:
            self._broken(_ACCEPT, answer.refusal, "the peer takes us in", self._peer())
        told = Outcome.ODD if answer.odd else Outcome.GOOD
        self._add(
            _ACCEPT, told if answer.told else Outcome.UNKNOWN, answer.text, **(self._peer() if answer.odd else {})
        )

    # --- our own side

    def _own(self) -> Svid:
        knowledge, name = self._knowledge, self._pair.workload
        if name in knowledge.unread:
            self._add(_SOURCE, Outcome.UNKNOWN, knowledge.unread[name])
            raise Over
        place = _place(ROOT.key("identity").key("workloads").entry(name))
        expected = f"a certificate for {knowledge.settings.identity.workloads[name].id}, and its key"
        defect = knowledge.defects.get(name)
        if defect is not None:
            own = defect.code.id.startswith("TM-I")
            refusal = Refusal(defect.code if own else NO_IDENTITY, defect.reason)
            layer = layer_of(refusal.code)
            if layer == _SELF:
                self._add(_SOURCE, Outcome.GOOD, "certificate and key are there and can be read")
            self._broken(layer, refusal, expected, place)
        svid = knowledge.state.svids[name]
        try:
            own_svid(knowledge.state, name)
            verify_own(svid, knowledge.state.bundles, knowledge.now())
            knowledge.contexts.client(knowledge.state, name, TLSSettings(), "mesh")
        except Refusal as refusal:
            if layer_of(refusal.code) > _SOURCE:
                self._source(svid, place)
            self._broken(layer_of(refusal.code), refusal, expected, place)
        self._source(svid, place)
        self._add(_SELF, Outcome.GOOD, "its key belongs to it, and its own bundle vouches for it")
        return svid

    def _source(self, svid: Svid, place: dict[str, str]) -> None:
        now, ends = self._knowledge.now(), not_after(svid.leaf)
        text = f"{svid.id}, valid until {moment(ends)}, {span(ends - now)} left"
        failing = self._knowledge.failing.get(self._pair.workload)
        if failing is not None:
            odd = f"{text}; but its source fails: {failing}"
            self._add(_SOURCE, Outcome.ODD, odd, code=SOURCE_STALE, **place)
        elif ends - now < _NEARLY_OVER * (ends - not_before(svid.leaf)):
            self._add(_SOURCE, Outcome.ODD, f"{text}: it should have been renewed by now", **place)
        else:
            self._add(_SOURCE, Outcome.GOOD, text)

    def _map(self) -> None:
        service, endpoint = self._pair.service, self._pair.endpoint
        if service is None:
            self._add(_MAP, Outcome.UNKNOWN, "no service lists this address, so nobody is expected there")
            return
        upstream = self._knowledge.upstreams[service]
        expected = upstream.expected(endpoint) if endpoint is not None else tuple(upstream.settings.expect)
        at = f" at {endpoint.address}" if endpoint is not None else ""
        text = f"service {service}{at} expects {_listed(expected)}"
        if self._pair.listener:
            self._add(_MAP, Outcome.GOOD, text)
        else:
            odd = f"{text}; no outbound listener leads to it as workload {self._pair.workload}"
            self._add(_MAP, Outcome.ODD, odd, **self._service("expect"))

    # --- the peer's authority

    def _trusted(self, leaf: x509.Certificate) -> None:
        knowledge, domain = self._knowledge, self._vouching(leaf)
        bundle = knowledge.state.bundles.get(domain) if domain is not None else None
        now = knowledge.now()
        ended = [one for one in bundle.authorities if not_after(one) < now] if bundle is not None else []
        defect = knowledge.bundle_defects.get(domain) if domain is not None else None
        whose = f"that vouches for {domain}" if domain is not None else f"of services.{self._pair.service}.trust"
        text = f"an authority {whose} signed it"
        if defect is not None:
            text += f"; but its bundle cannot be refreshed: {defect}"
        if ended:
            text += f"; another one there has expired: {name_text(ended[0].subject)}"
        odd = bool(ended or defect)
        self._add(_TRUST, Outcome.ODD if odd else Outcome.GOOD, text, **(self._bundle(domain) if odd else {}))

    def _not_trusted(self, failure: Refusal, leaf: x509.Certificate) -> None:
        if failure.code is PEER_DENIED:
            self._broken(_TRUST, failure, "nobody whom we deny", _place(ROOT.key("identity").key("deny_list")))
        knowledge, domain = self._knowledge, self._vouching(leaf)
        if domain is not None and domain in knowledge.unread_bundles:
            self._add(_TRUST, Outcome.UNKNOWN, knowledge.unread_bundles[domain])
            raise Over
        if domain is not None and domain in knowledge.bundle_defects:
            failure = Refusal(failure.code, f"{failure.reason}; {knowledge.bundle_defects[domain]}")
        what = f"an authority of {domain} behind it" if domain is not None else "an authority that is trusted"
        self._broken(_TRUST, failure, what, self._bundle(domain))

    def _vouching(self, leaf: x509.Certificate) -> TrustDomain | None:
        """Whose bundle must hold the peer's authority; None when it is not a bundle's business."""
        assert self._approach is not None, "somebody went there"
        trust = self._approach.trust
        if trust != "mesh":
            return trust if isinstance(trust, TrustDomain) else None
        with readable("the peer's certificate"):
            return check_leaf(leaf).trust_domain

    # --- findings

    def _add(self, layer: int, outcome: Outcome, text: str, **more: Any) -> None:
        self.findings.append(Finding(layer, outcome, text, **more))

    def _broken(self, layer: int, refusal: Refusal, expected: str, where: dict[str, str]) -> Any:
        self._add(layer, Outcome.BROKEN, refusal.reason, code=refusal.code, expected=expected, **where)
        raise Over

    def _left(self, refusal: Refusal) -> Any:
        why = "a tcpmesh ends connections so when it has no valid certificate to show, or no room: its log says which"
        self._broken(
            _REACH, Refusal(refusal.code, f"{refusal.reason}; {why}"), "a complete TLS handshake", self._peer()
        )

    # --- what the fix is for

    def _service(self, key: str) -> dict[str, str]:
        if self._pair.service is None:
            return self._peer()
        return _place(ROOT.key("services").entry(self._pair.service).key(key))

    def _peer(self) -> dict[str, str]:
        return {"where": f"the peer at {self._pair.endpoint.address}"} if self._pair.endpoint is not None else {}

    def _bundle(self, domain: TrustDomain | None) -> dict[str, str]:
        settings, identity = self._knowledge.settings, ROOT.key("identity")
        if domain is None:
            return self._service("trust")
        if domain in settings.identity.federation:
            return _place(identity.key("federation").entry(str(domain)))
        return _place(identity.key("sources" if domain == settings.trust_domain else "federation"))


def _place(place: Place) -> dict[str, str]:
    return {"place": str(place.path)}


def _listed(expected: Sequence[ExpectedIdentity] | None) -> str:
    return " or ".join(map(str, _some(expected or ()))) or "nobody"


def _some(expected: Sequence[ExpectedIdentity]) -> Iterator[object]:
    yield from expected[:5]
    if len(expected) > 5:
        yield f"{len(expected) - 5} others"
