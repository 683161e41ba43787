"""
Endpoints in a file: a list, or a mapping with the key ``endpoints``, in YAML or JSON.

Ring 1. Files come as bytes.
"""

from __future__ import annotations

import json
from pathlib import Path

import attrs

from tcpmesh.addresses import shown
from tcpmesh.config.nodes import ListNode, MapNode, Node, Scalar, compose
from tcpmesh.config.places import Place
from tcpmesh.config.problems import Problems
from tcpmesh.config.structure import SettingsReader
from tcpmesh.config.syntax import decode
from tcpmesh.discovery.endpoint_list import ListedEndpoint, check_list, endpoints_of
from tcpmesh.discovery.endpoint_rules import MAX_ENDPOINTS
from tcpmesh.errors import Mark
from tcpmesh.policy.files import NoPlugins
from tcpmesh.values import Address, Endpoint

__all__ = ["EndpointDocument", "read_endpoints"]

_MAX_VALUES = 40 * MAX_ENDPOINTS  # each endpoint has a dozen at most, with its metadata


@attrs.frozen
class EndpointDocument:
    """The file when it is a mapping."""

    endpoints: list[Address | ListedEndpoint]


def read_endpoints(path: Path, data: bytes) -> tuple[Endpoint, ...]:
    """
    The endpoints that a file lists, in its order; none for ``[]``.

    :raises tcpmesh.errors.ConfigurationError: with everything that is wrong, each at its file, line and column; a
        file with nothing in it is none that lists nothing.
    """
    problems = Problems(str(path))
    text = decode(data, problems)
    root = compose(_without_tabs(text), problems, _MAX_VALUES)
    if root is None or (isinstance(root, Scalar) and not root.quoted and root.tag == "null"):
        problems.fail(
            "the file lists no endpoints and does not say that there are none: for that, write []",
            Mark(problems.file, 1, 1),
        )
    reader = SettingsReader(path.parent, NoPlugins(), problems)
    place = Place("endpoints", "services.*.discovery:file.endpoints")
    entries: list[Address | ListedEndpoint]
    if isinstance(root, MapNode):
        found = reader.read(root, EndpointDocument, Place("", "services.*.discovery:file"))
        problems.raise_if_any()
        assert isinstance(found, EndpointDocument), "a failed read leaves a problem"
        entries, listed = found.endpoints, root.entries["endpoints"].value
    else:
        entries, listed = reader.read(root, list[Address | ListedEndpoint], place), root
        problems.raise_if_any()
    _check(entries, listed, place, problems)
    return endpoints_of(entries)


def _check(entries: list[Address | ListedEndpoint], listed: Node, place: Place, problems: Problems) -> None:
    """Find what the entries have against each other, at the place of the one that is too much."""
    assert isinstance(listed, ListNode), "a list was read from it"
    if len(entries) > MAX_ENDPOINTS:
        problems.fail(
            f"{len(entries)} endpoints are listed; a service has at most {MAX_ENDPOINTS}",
            listed.items[MAX_ENDPOINTS].mark,
        )
    first: dict[Address, Node] = {}
    for index, (entry, node) in enumerate(zip(entries, listed.items, strict=True)):
        address = entry.address if isinstance(entry, ListedEndpoint) else entry
        try:
            check_list([entry])
        except ValueError as error:
            problems.add(f"{place.item(index)}: {error}", node.mark)
        if first.setdefault(address, node) is not node:
            earlier = first[address].mark.line
            problems.add(f"{place.item(index)}: {address} is listed twice; first in line {earlier}", node.mark)
    problems.raise_if_any()


def _without_tabs(text: str) -> str:
    """JSON may be indented by tabs, which YAML refuses; they are the only thing in JSON that this changes."""
    if "\t" not in text or not text.lstrip().startswith(("[", "{")):
        return text
    try:
        json.loads(text, parse_constant=lambda word: shown(word))
    except (ValueError, RecursionError):
        return text
    return text.replace("\t", " ")  # within texts JSON has none
