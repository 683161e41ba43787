"""
Looks at a name server's answer before it is decoded: what would make decoding it slow, or mean two things, is refused.

Ring 1, pure. The decoder of ``twisted.names`` follows names of any length as often as there are records, and takes a
message that ends too early for a shorter one.
"""

from __future__ import annotations

import struct

__all__ = ["MAX_RECORDS", "TYPES", "check_message"]

MAX_RECORDS = 1000  # in all sections of one answer
#: The records that are read, by number.
TYPES = {1: "A", 5: "CNAME", 6: "SOA", 28: "AAAA", 33: "SRV"}

_MAX_NAME = 255  # octets with the lengths of its labels (RFC 1035 section 2.3.4)
_MAX_JUMPS = 32
_MAX_LABELS = 20_000  # of all names of an answer: a thousand records at a name of twenty labels
_HEADER = struct.Struct("!HHHHHH")
_RECORD = struct.Struct("!HHIH")
_SIZES = {1: 4, 28: 16}


def check_message(data: bytes) -> None:
    """
    Walk through a whole message (RFC 1035 section 4).

    :raises ValueError: for one that is not well formed, or has more than :data:`MAX_RECORDS` records.
    """
    if len(data) < _HEADER.size:
        raise ValueError("it is shorter than a header")
    _, _, questions, *counts = _HEADER.unpack_from(data)
    if questions != 1:
        raise ValueError(f"it repeats {questions} questions instead of one")
    if sum(counts) > MAX_RECORDS:
        raise ValueError(f"it has {sum(counts)} records; at most {MAX_RECORDS} are read")
    walk = _Walk(data)
    place = walk.name(_HEADER.size) + 4
    for _ in range(sum(counts)):
        place = walk.record(place)
    if place > len(data):
        raise ValueError("it ends too early")


class _Walk:
    """Through the records and names of one message."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._labels = 0  # of all names, however often they are referred to: what decoding them costs

    def record(self, place: int) -> int:
        """Where the record that begins here ends."""
        data = self._data
        place = self.name(place)
        if place + _RECORD.size > len(data):
            raise ValueError("it ends within a record")
        number, _, _, length = _RECORD.unpack_from(data, place)
        begin = place + _RECORD.size
        end = int(begin + length)
        if end > len(data):
            raise ValueError("it ends within a record")
        name = TYPES.get(number)
        if name in ("CNAME", "SRV", "SOA"):
            found = self.name(begin + (6 if name == "SRV" else 0))
            if name == "SOA":
                found = self.name(found) + 20
            if found != end:
                raise ValueError(f"a record of type {name} is not as long as it says")
        elif length != _SIZES.get(number, length):
            raise ValueError(f"a record of type {name} has {length} bytes")
        return end

    def name(self, place: int) -> int:
        """Where the name that begins here ends; it may go on elsewhere, further back each time."""
        data = self._data
        end, begin, size, jumps = None, place, 0, 0
        while True:
            if place >= len(data):
                raise ValueError("it ends within a name")
            length = data[place]
            if length >= 0xC0:
                if place + 1 >= len(data):
                    raise ValueError("it ends within a name")
                target = (length & 0x3F) << 8 | data[place + 1]
                end = place + 2 if end is None else end
                jumps += 1
                if target >= begin or jumps > _MAX_JUMPS:
                    raise ValueError("a compressed name goes in a circle")
                place = begin = target
                continue
            if length > 63:
                raise ValueError("a name has a label of a kind that does not exist")
            size += length + 1
            if size > _MAX_NAME:
                raise ValueError(f"a name has more than {_MAX_NAME} bytes")
            place += length + 1
            if length == 0:
                return place if end is None else end
            self._labels += 1
            if self._labels > _MAX_LABELS:
                raise ValueError(f"its names have more than {_MAX_LABELS} labels together")
