"""
What a failed attempt says of the endpoint.

Ring 1, pure. The rule is this table and nothing else; it is in docs/upstream-health.md word for word.
"""

from __future__ import annotations

from tcpmesh.codes import Code

__all__ = ["ANSWERS", "FAULTS", "is_answer", "is_fault"]

#: Codes, or beginnings of codes, that speak against the endpoint: nobody takes the connection, the handshake fails,
#: somebody else answers, the application behind it does not, or it closes before it has accepted.
FAULTS = (
    "TM-I4",  # the handshake
    "TM-I5",  # the certificate
    "TM-I6",  # who vouches for it
    "TM-I7",  # whom it names
    "TM-T101",  # no answer to connect, handshake, preface
    "TM-T102",
    "TM-T103",
    "TM-T110",  # cut off by the end of the connection's time; who asks leaves out attempts that had hardly any
    "TM-U101",  # nobody takes the connection
    "TM-U102",
    "TM-U104",
    "TM-U106",  # its application is not reachable
    "TM-U109",  # a preface that nobody can read
    "TM-U110",  # closed before the ok, or before the first payload byte
)

#: Codes with which a verified peer refuses this client: it works, and says no.
ANSWERS = ("TM-P101", "TM-P102", "TM-P103", "TM-P104", "TM-L106", "TM-L107", "TM-U111")


def is_fault(code: Code) -> bool:
    """Whether a failure with this code counts against the endpoint, and against its service."""
    return code.id.startswith(FAULTS)


def is_answer(code: Code) -> bool:
    """Whether it shows that the endpoint works. What is neither fault nor answer is our own doing, and says nothing."""
    return code.id in ANSWERS
