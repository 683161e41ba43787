"""The judge of the simulated network sees what is wrong, and the breakages that it is tried with still can be made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.codes import CLEAN, RESET
from tcpmesh.observe.records import ConnectionRecord
from tests.simulated.field import ClientPlan, SimulatedField
from tests.simulated.mutants import MUTANTS, ROOT
from tests.simulated.oracle import payload_records, violations
from tests.simulated.sessions import Cut, EndpointPlan, How, Kind, Stage, Who


def run(*endpoints: EndpointPlan, clients: tuple[ClientPlan, ...] = (ClientPlan(size=100),)) -> SimulatedField:
    """A run to its end."""
    service = (
        "    retry: {plugin: exponential, attempts: 3, base: 1ms, max: 2ms}\n    health: {ejection: {failures: 0}}\n"
    )
    field = SimulatedField(endpoints or (EndpointPlan(answer=50),), clients, service=service)
    field.run()
    return field


class OracleTests(SynchronousTestCase):
    def test_has_nothing_to_say_about_what_went_well(self) -> None:
        """Every kind of endpoint, after one that refuses."""
        for kind in Kind:
            if kind is not Kind.RAW:
                field = run(EndpointPlan(dial="refused"), EndpointPlan(kind=kind, answer=50))
                self.assertEqual(violations(field), [])
                self.assertEqual((len(field.clients[0].received), len(field.sessions[0].received)), (50, 100))

    def test_notices_each_thing_that_can_be_wrong(self) -> None:
        """What a run wrote down is changed in one place, and the judge says so."""

        def answer_of_another(field: SimulatedField) -> None:
            field.clients[0].received[:] = field.sessions[1].sent

        tampered: dict[str, tuple[Callable[[SimulatedField], object], str]] = {
            "a byte too many": (lambda f: f.sessions[0].received.append(7), "no prefix of what was sent"),
            "a byte twice": (lambda f: f.sessions[0].received.insert(0, 1), "no prefix of what was sent"),
            "bytes from nowhere": (lambda f: f.clients[0].received.insert(0, 1), "it got bytes that nobody sent"),
            "another connection's answer": (answer_of_another, "and was connected to"),
            "an end too early": (lambda f: f.clients[0].received.pop(), "before everything had come"),
            "an end at the endpoint too early": (lambda f: f.sessions[0].received.pop(), "of 100 bytes"),
            "an end that was not said": (lambda f: setattr(f.clients[0], "ended", False), "an end that was not said"),
            "a stranger": (lambda f: _plan(f, who=Who.WEB), "had payload, and should have had none"),
            "no end": (lambda f: setattr(f.clients[0], "saw_end", False), "it is still open"),
            "two records": (lambda f: _records(f).append(_records(f)[0]), "2 close records"),
            "no record": (lambda f: _records(f).pop(0), "0 close records"),
            "a wrong count": (lambda f: setattr(_records(f)[0], "bytes_recv", 49), "49 bytes received on record"),
            "a wrong code": (lambda f: setattr(_records(f)[0], "code", RESET), "both saw the end"),
            "a dial after payload": (
                lambda f: setattr(f.outbound.dials[0], "bytes_sent", 1),
                "was dialled after 1 bytes",
            ),
            "a place not given back": (lambda f: f.outbound.balancers[0].open.update([f.endpoints[0]]), "still counts"),
            "a connection left behind": (
                lambda f: setattr(f.outbound.plane.gate, "connections", 1),
                "something is left behind",
            ),
        }
        for what, (tamper, said) in tampered.items():
            field = run(EndpointPlan(answer=50), EndpointPlan(answer=60), clients=(ClientPlan(100), ClientPlan(90)))
            self.assertEqual(violations(field), [])
            tamper(field)
            self.assertIn(said, " ".join(violations(field)), what)

    def test_notices_a_clean_record_of_what_was_none(self) -> None:
        """A truncated stream that somebody calls clean."""
        field = run(EndpointPlan(kind=Kind.FOREIGN, answer=50, cut=Cut(Stage.SENT, 20, How.FIN), wants=0))
        self.assertEqual(violations(field), [])
        _records(field)[0].code = CLEAN
        self.assertIn("its record is clean, and not both ended", " ".join(violations(field)))

    def test_tells_payload_on_the_wire_from_what_looks_like_it(self) -> None:
        """The end of a handshake and close_notify are no payload; what is, is counted without being decrypted."""
        for kind in (Kind.MESH, Kind.FOREIGN, Kind.OLD):
            for size in (0, 100):
                field = run(EndpointPlan(kind=kind), clients=(ClientPlan(size=size),))
                self.assertEqual(payload_records(field.sessions[0]), bool(size), kind)


def _records(field: SimulatedField) -> list[ConnectionRecord]:
    return field.outbound.sink.close_records


def _plan(field: SimulatedField, **changes: Any) -> None:
    field.sessions[0].plan = attrs.evolve(field.sessions[0].plan, **changes)


class MutantsTests(SynchronousTestCase):
    def test_each_breakage_still_can_be_made(self) -> None:
        """
        What it replaces is in the source once.

        When the source has changed: say in tests/simulated/mutants.py how it is broken now, and try that one.
        """
        for mutant in MUTANTS:
            text = (ROOT / "tcpmesh" / mutant.file).read_text()
            self.assertEqual(text.count(mutant.old), 1, f"{mutant.name}: {mutant.file} has not, once: {mutant.old}")
            self.assertNotEqual(mutant.old, mutant.new)
