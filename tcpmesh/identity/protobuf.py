"""
Reads messages in the wire format of Protocol Buffers: as much of it as a handful of small messages need.

Ring 1, no I/O. Stricter than the format asks for: a length that does not fit is an error, and so is more than a
bounded number of fields.
"""

from __future__ import annotations

from tcpmesh.errors import TcpmeshError

__all__ = ["MAX_FIELDS", "ProtobufError", "read_fields"]

MAX_FIELDS = 10_000  # in one message, not counting those of messages inside it

_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5
_VARINT_BYTES = 10  # of 7 bits each, for 64
_MAX_TAG = 2**32 - 1


class ProtobufError(TcpmeshError):
    """Bytes that are not a message; the text says where and why."""


def read_fields(data: bytes) -> list[tuple[int, bytes | None]]:
    """
    The number and the value of each field, in their order.

    Strings, bytes and messages come as bytes; numbers, which no message of ours has, are read over and come as None.
    (protobuf.dev, Encoding)

    :raises ProtobufError: for anything that does not end where it should, for groups, and for too many fields.
    """
    fields: list[tuple[int, bytes | None]] = []
    position = 0
    while position < len(data):
        if len(fields) == MAX_FIELDS:
            raise ProtobufError(f"more than {MAX_FIELDS} fields in one message")
        start = position
        tag, position = _read_varint(data, position)
        number, wire_type = tag >> 3, tag & 7
        if tag > _MAX_TAG or number == 0:
            raise ProtobufError(f"field number {number} at byte {start}, not from 1 to {_MAX_TAG >> 3}")
        value = None
        if wire_type == _LENGTH_DELIMITED:
            length, position = _read_varint(data, position)
            if length > len(data) - position:
                left = len(data) - position
                raise ProtobufError(f"field {number} at byte {start} is {length} bytes long, and {left} follow")
            value = data[position : position + length]
            position += length
        elif wire_type == _VARINT:
            _, position = _read_varint(data, position)
        elif wire_type in (_FIXED64, _FIXED32):
            position += 8 if wire_type == _FIXED64 else 4
            if position > len(data):
                raise ProtobufError(f"the number in field {number} at byte {start} is cut off")
        else:
            raise ProtobufError(f"field {number} at byte {start} has the wire type {wire_type}, which nothing uses")
        fields.append((number, value))
    return fields


def _read_varint(data: bytes, start: int) -> tuple[int, int]:
    """The number at ``start``, and where the next thing begins."""
    value = 0
    for index in range(_VARINT_BYTES):
        position = start + index
        if position == len(data):
            raise ProtobufError(f"the number at byte {start} is cut off")
        value |= (data[position] & 0x7F) << (7 * index)
        if data[position] < 0x80:
            if value >= 1 << 64:
                break
            return value, position + 1
    raise ProtobufError(f"the number at byte {start} does not fit into 64 bits")
