"""
What must hold after any run of the simulated network, whatever failed in it: violations, as sentences.

The judge looks at what applications and endpoints saw of their sockets, at the bytes on the wires, and at records and
counters; it knows nothing of how the proxy decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from tcpmesh.codes import CLEAN
from tests.simulated.field import Client, ClientPlan, Proxy, SimulatedField
from tests.simulated.sessions import EndpointPlan, Kind, Session, Who

_DATA = 23  # a record's type (RFC 8446 section 5.1)
_ALERT_BYTES = 19  # of such a record: level, description, type, tag (sections 5.2 and 6)
_DROPPED_OVERHEAD = 2 * 24  # bytes of the records that one read can leave in the queue, and of a close_notify


def violations(field: SimulatedField) -> list[str]:
    """Everything that is wrong; nothing, it is hoped."""
    found = []
    for client in field.clients:
        sessions = [session for session in field.sessions if session.end.client is client]
        for judge in (_delivery, _ends, _attempts, _record):
            found += [f"client {client.number}: {text}" for text in judge(field, client, sessions)]
    for name, proxy in (("outbound", field.outbound), *((str(key), each) for key, each in field.inbound.items())):
        found += [f"{name}: {text}" for text in _books(proxy)]
    return found


def _delivery(field: SimulatedField, client: Client, sessions: list[Session]) -> Iterator[str]:
    """A prefix of what was sent, by exactly one endpoint, and nothing of anybody else's."""
    receivers = [session for session in sessions if session.received]
    senders = [session for session in field.sessions if client.received[:1] == bytes([session.stream])]
    if len(receivers) > 1:
        yield f"its payload went to {len(receivers)} endpoints"
    for session in sessions:
        rightful = session.plain or session.plan.who is Who.ORDERS
        if (session.received or session.sent) and not (session.accepted and rightful):
            yield f"{session} had payload, and should have had none"
        if not client.sent.startswith(session.received):
            yield f"{session} got what is no prefix of what was sent: {bytes(session.received[:20])!r}..."
    if client.received and not senders:
        yield f"it got bytes that nobody sent: {bytes(client.received[:20])!r}..."
    for session in senders:
        if not session.sent.startswith(client.received):
            yield f"it got what is no prefix of what {session} sent: {bytes(client.received[:20])!r}..."
    last = sessions[-1:]
    if receivers and receivers != last:
        yield f"its payload went to {receivers}, and it was connected to {last} last"
    if senders and senders != last:
        yield f"it heard {senders}, and was connected to {last} last"


def _ends(_field: SimulatedField, client: Client, sessions: list[Session]) -> Iterator[str]:
    """An end is seen only where one was said, and only behind everything; what is no end is a reset."""
    last = sessions[-1] if sessions else None
    if client.saw_end and not (last is not None and last.ended and last.sent == client.received):
        yield f"it saw an end that nobody said, or before everything had come from {last}"
    if not (client.saw_end or client.saw_reset or client.left):
        yield "it is still open"
    for session in sessions:
        if session.accepted and not session.refused and session.saw_end:
            if not client.ended:
                yield f"{session} saw an end that was not said"
            elif session.received != client.sent:
                yield f"{session} saw an end behind {len(session.received)} of {len(client.sent)} bytes"
    if client.saw_end and not any(session.accepted and not session.refused for session in sessions):
        yield "it saw an end although nobody accepted it"


def _attempts(field: SimulatedField, client: Client, sessions: list[Session]) -> Iterator[str]:
    """Nothing is dialled after a payload byte has left, in either direction, and none twice while others wait."""
    dials = [dialled for dialled in field.outbound.dials if dialled.client is client]
    for dialled in dials:
        if dialled.bytes_sent or dialled.bytes_recv:
            yield f"{dialled.address} was dialled after {dialled.bytes_sent} bytes there and {dialled.bytes_recv} back"
    for session in sessions[:-1]:
        records = payload_records(session)
        if records:
            yield f"{records} records of payload left for {session}, and another endpoint was dialled"
        if session.foreign and session.accepted and session.saw_end:
            yield f"{session} was told of an end, and another endpoint was dialled"
        if session.was_heard and session.accepted and not session.foreign:
            yield f"{session} had said ok, and another endpoint was dialled"
        if session.was_heard and session.refused and session.plan.preface == "final":
            yield f"{session} had refused for good, and another endpoint was dialled"
    if field.excludes:
        first = [dialled.address for dialled in dials[: len(field.endpoints)]]
        if len(set(first)) < len(first):
            yield f"dialled {', '.join(map(str, first))}: one of them again before every other endpoint"


def _record(field: SimulatedField, client: Client, sessions: list[Session]) -> Iterator[str]:
    """The record says what happened."""
    records = [each for each in field.outbound.sink.close_records if each.src_addr == str(client.address)]
    if len(records) != 1:
        yield f"it has {len(records)} close records"
        return
    record = records[0]
    dials = [dialled for dialled in field.outbound.dials if dialled.client is client]
    if record.attempts < len(dials):
        yield f"{len(dials)} dials, and {record.attempts} attempts on record"
    if field.most_attempts is not None and record.attempts > field.most_attempts:
        yield f"{record.attempts} attempts, {field.most_attempts} allowed"
    if record.code is None:
        yield "its record has no code"
        return
    session = sessions[-1] if sessions else None
    there, back = (len(session.received), len(session.sent)) if session is not None else (0, 0)
    # Of what a reset dropped the record takes TLS's own bytes for payload, so that it never says too much.
    if not there - _DROPPED_OVERHEAD <= record.bytes_sent <= len(client.sent):
        yield f"{record.bytes_sent} bytes sent on record; {there} arrived of {len(client.sent)}"
    if not len(client.received) <= record.bytes_recv <= back:
        yield f"{record.bytes_recv} bytes received on record; {len(client.received)} arrived of {back}"
    if record.code is CLEAN:
        if session is None or not (client.ended and session.ended):
            yield f"its record is clean, and not both ended: {client.ended}, {session}"
        elif (record.bytes_sent, record.bytes_recv) != (len(client.sent), back):
            moved = f"{record.bytes_sent} of {len(client.sent)} and {record.bytes_recv} of {back}"
            yield f"its record is clean, with {moved} bytes"
        elif not (client.left or client.saw_end):
            yield "its record is clean, and it saw no end"
        elif not (session.broke or client.left or session.saw_end):
            yield f"its record is clean, and {session} saw no end"
    elif client.saw_end and session is not None and session.saw_end:
        yield f"both saw the end behind everything, and its record says {record.code}"


def _books(proxy: Proxy) -> Iterator[str]:
    """One close record for each connection, counters back at zero, nothing left behind."""
    sink = proxy.sink
    accepted, closed = [list(map(id, each)) for each in (sink.accepted_records, sink.close_records)]
    if sorted(accepted) != sorted(closed):
        yield f"{len(accepted)} connections were accepted and {len(closed)} closed"
    if len(set(map(id, sink.open_records))) != len(sink.open_records):
        yield "an open record was written twice"
    for record in sink.close_records:
        if record.established != (record in sink.open_records):
            yield f"record {record.id}: established, and no open record, or the reverse"
        if record.code is CLEAN and not record.established:
            yield f"record {record.id} is clean and never was established"
    for balancer in proxy.balancers:
        yield from balancer.complaints
        if +balancer.dialling or +balancer.open:
            yield f"the balancer still counts {+balancer.dialling} dials and {+balancer.open} connections"
    for upstream in proxy.upstreams.values():
        pool = upstream.pool
        totals = [counts.total for counts in pool.addresses.values()]
        waiting = pool.waiting + pool.unresolved
        if pool.counts.open or pool.counts.pending or any(totals) or waiting:
            yield f"the pool still counts {pool.counts}, {totals}, {waiting} waiting"
        limits = pool.limits
        for balancer in proxy.balancers:
            most = (balancer.most_connections, balancer.most_of_one, balancer.most_pending)
            for count, limit in zip(most, (limits.connections, limits.per_endpoint, limits.pending), strict=True):
                if limit is not None and count > limit:
                    yield f"there were {most} connections, of one endpoint, dials; {limits}"
    gate = proxy.plane.gate
    left = {
        "connections": gate.connections,
        "sockets": gate.sockets,
        "handshakes": gate.handshakes,
        "live": len(proxy.plane.live),
    }
    if any(left.values()):
        yield f"something is left behind: {left}"


def payload_records(session: Session) -> int:
    """How many records of payload were put on the wire towards an endpoint, whether or not it read them."""
    if session.plain:
        return int(bool(session.end.peer.written))
    if session.plan.kind is Kind.OLD:
        return len(_data_records(session))
    # In TLS 1.3 the end of the handshake looks like payload, and so does an alert.
    sizes = _data_records(session)[_handshake_records(session.plan.kind) :]
    return len([size for size in sizes if size != _ALERT_BYTES])


def _data_records(session: Session) -> list[int]:
    """The sizes of the records that look like payload."""
    written = bytes(session.end.peer.written)
    sizes = []
    while not session.plain and len(written) >= 5:
        size = int.from_bytes(written[3:5], "big")
        if written[0] == _DATA:
            sizes.append(size)
        written = written[5 + size :]
    return sizes


@cache
def _handshake_records(kind: Kind) -> int:
    """How many records of a client's handshake look like payload: all but the alerts, when nothing is sent."""
    field = SimulatedField([EndpointPlan(kind=kind, answer=0)], [ClientPlan(size=0)])
    field.run()
    return len([size for size in _data_records(field.sessions[0]) if size != _ALERT_BYTES])
