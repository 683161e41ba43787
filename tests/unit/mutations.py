"""What an attacker may do to a flight of bytes, for property tests."""

from __future__ import annotations

import attrs
from hypothesis import strategies as st

_POSITIONS = st.integers(0, 1 << 16)


@attrs.frozen
class Mutation:
    """One change; the position is taken modulo the length."""

    kind: str
    position: int
    data: bytes

    def apply(self, flight: bytes) -> bytes:
        """The changed flight."""
        at = self.position % (len(flight) + 1)
        end = at + len(self.data)
        match self.kind:
            case "replace":
                return flight[:at] + self.data + flight[end:]
            case "insert":
                return flight[:at] + self.data + flight[at:]
            case "remove":
                return flight[:at] + flight[end:]
            case "repeat":
                return flight[:end] + flight[at:]
            case _:
                return flight[:at]


MUTATIONS = st.lists(
    st.builds(
        Mutation,
        st.sampled_from(("replace", "insert", "remove", "repeat", "cut")),
        _POSITIONS,
        st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=4,
)
# How large the pieces are in which the bytes arrive.
SIZES = st.sampled_from((1, 2, 5, 64, 1000, 1 << 20))


def mutated(flight: bytes, mutations: list[Mutation]) -> bytes:
    """The flight after all of these, one after the other."""
    for mutation in mutations:
        flight = mutation.apply(flight)
    return flight
