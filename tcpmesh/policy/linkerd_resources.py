"""
Files with Linkerd's policy resources to values, every complaint with file, line and column.

Ring 1. A file holds any number of documents, each a resource or a ``List`` of them, as ``kubectl get -o yaml`` writes.
Of ``metadata`` only what decides is read; ``spec`` is read strictly, since a key that is ignored could be a limit that
is not kept.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from tcpmesh.addresses import shown
from tcpmesh.config.nodes import ListNode, MapNode, Node, Scalar, compose_all
from tcpmesh.config.places import ROOT
from tcpmesh.config.problems import Problems, did_you_mean, enumerate_words
from tcpmesh.config.structure import FAILED, SettingsReader
from tcpmesh.config.syntax import decode
from tcpmesh.errors import ConfigurationError, Mark, Problem
from tcpmesh.interfaces import IPluginFactory, PluginKind
from tcpmesh.policy.linkerd_schema import GROUP, KINDS, LATER_KEYS, Resource, check_identity
from tcpmesh.policy.networks import Network, parse_network

__all__ = ["MAX_VALUES", "mark_of", "read_network", "read_resources"]

MAX_VALUES = 500_000

_TIMESTAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_ROUTES = ("HTTPRoute", "GRPCRoute")


class _NoPlugins:
    """Resources choose none."""

    def find(self, kind: PluginKind, name: str) -> IPluginFactory:
        raise LookupError(f"there is no {kind.name} plugin {shown(name)}")

    def names(self, kind: PluginKind) -> Sequence[str]:
        return []


def read_resources(files: Sequence[tuple[Path, bytes]]) -> list[Resource]:
    """
    Read all files.

    :raises ConfigurationError: with everything that is wrong in any of them.
    """
    found: dict[tuple[str, str, str], Resource] = {}
    wrong: list[Problem] = []
    for path, data in files:
        problems = Problems(str(path))
        try:
            for resource in _read_file(data, problems):
                key = (resource.kind, resource.namespace, resource.name)
                if key in found:
                    problems.add(f"{resource} is defined twice; first at {found[key].mark}", resource.mark)
                found.setdefault(key, resource)
            problems.raise_if_any()
        except ConfigurationError as error:
            wrong += error.problems
    if wrong:
        raise ConfigurationError(wrong)
    return list(found.values())


def _read_file(data: bytes, problems: Problems) -> Iterator[Resource]:
    for document in compose_all(decode(data, problems), problems, MAX_VALUES):
        if isinstance(document, Scalar) and document.tag == "null":
            continue
        if isinstance(document, MapNode) and _text(document, "kind").endswith("List") and "items" in document.entries:
            items = document.entries["items"].value
            nodes: Sequence[Node] = items.items if isinstance(items, ListNode) else [items]
        else:
            nodes = [document]
        for node in nodes:
            resource = _read_resource(node, problems)
            if resource is not None:
                yield resource


def _read_resource(node: Node, problems: Problems) -> Resource | None:
    if not isinstance(node, MapNode):
        problems.add("this is no resource: expected apiVersion, kind, metadata and spec", node.mark)
        return None
    kind, version = _text(node, "kind"), _text(node, "apiVersion")
    if not _is_served(node, kind, version, problems):
        return None
    metadata = node.entries["metadata"].value if "metadata" in node.entries else None
    spec = node.entries["spec"].value if "spec" in node.entries else None
    if not isinstance(metadata, MapNode) or not isinstance(spec, MapNode):
        problems.add(f"this {kind} has no {'spec' if isinstance(metadata, MapNode) else 'metadata'}", node.mark)
        return None
    for key in node.entries.keys() - {"apiVersion", "kind", "metadata", "spec", "status"}:
        problems.add(f"unknown key {shown(key)} in a {kind}", node.entries[key].key.mark)
    name, namespace = _text(metadata, "name"), _text(metadata, "namespace")
    for key, value in (("name", name), ("namespace", namespace)):
        if not value:
            problems.add(f"key {key!r} is missing in metadata, or no text", metadata.mark)
    known = len(problems)
    created = _text(metadata, "creationTimestamp")
    if created and not _TIMESTAMP.fullmatch(created):
        problems.add(f"creationTimestamp {shown(created)} is not of the form 2026-01-31T23:59:59Z", metadata.mark)
    reader = SettingsReader(Path(), _NoPlugins(), problems)
    labels: Any = {}
    if "labels" in metadata.entries:
        labels = reader.read(metadata.entries["labels"].value, dict[str, str], ROOT.key("metadata").key("labels"))
    read = _read_spec(reader, spec, kind, version, problems)
    if len(problems) > known or read is FAILED or labels is FAILED or not (name and namespace):
        return None
    return Resource(kind, namespace, name, labels, created, read, node.mark, reader.marks)


def _is_served(node: MapNode, kind: str, version: str, problems: Problems) -> bool:
    """Whether it is one of those that are read; else a problem says why not."""
    if kind in _ROUTES:
        problems.add(
            f"a {kind} is about requests, and this proxy never looks at the data; move it out of the resources",
            node.mark,
        )
    elif kind not in KINDS:
        what = f"{shown(kind)} is no kind of Linkerd's inbound policy" if kind else "key 'kind' is missing"
        problems.add(f"{what}{did_you_mean(kind, KINDS, 'those that are read')}", node.mark)
    elif version not in (served := [f"{GROUP}/{each}" for each in KINDS[kind][1]]):
        came = shown(version) if version else "nothing"
        problems.add(f"the apiVersion of a {kind} is {enumerate_words(served)}; got {came}", node.mark)
    else:
        return True
    return False


def _read_spec(reader: SettingsReader, spec: MapNode, kind: str, version: str, problems: Problems) -> Any:
    declared, versions = KINDS[kind]
    for key, first in LATER_KEYS.items() if kind == "Server" else ():
        order = list(versions)
        if key in spec.entries and order.index(version.partition("/")[2]) < order.index(first):
            problems.add(
                f"{key} is known from {GROUP}/{first} on, and ignored in {version}", spec.entries[key].key.mark
            )
    read = reader.read(spec, declared, ROOT.key("spec"))
    if read is not FAILED:
        _check_texts(spec, kind, problems)
    return read


def _check_texts(spec: MapNode, kind: str, problems: Problems) -> None:
    """Identities and networks, each at its own place."""
    lists: list[tuple[Node, Any]] = []
    if kind == "MeshTLSAuthentication":
        lists.append((_below(spec, "identities"), check_identity))
    elif kind == "ServerAuthorization":
        lists.append((_below(spec, "client", "meshTLS", "identities"), check_identity))
    networks = {"NetworkAuthentication": ("networks",), "ServerAuthorization": ("client", "networks")}.get(kind)
    if networks:
        for network in _items(_below(spec, *networks)):
            lists.append((ListNode(network.mark, (_below(network, "cidr"),)), read_network))
            lists.append((_below(network, "except"), read_network))
    for texts, check in lists:
        for item in _items(texts):
            assert isinstance(item, Scalar), "it was read as text"
            try:
                check(item.text)
            except ValueError as error:
                problems.add(str(error), item.mark)


def read_network(text: str) -> Network:
    """
    Read a network as Linkerd does, which does not mind bits behind the prefix.

    :raises ValueError: for what is none.
    """
    address, slash, length = text.partition("/")
    parse_network(address)
    if slash and length.isascii() and length.isdigit():
        try:
            whole = ipaddress.ip_network(text, strict=False)
        except ValueError:
            return parse_network(text)  # which says what is wrong with it
        return attrs.evolve(parse_network(f"{whole.network_address}{slash}{length}"), text=text)
    return parse_network(text)


def _below(node: Node, *keys: str) -> Node:
    """The value behind some keys, an empty list if there is none."""
    for key in keys:
        if not isinstance(node, MapNode) or key not in node.entries:
            return ListNode(node.mark, ())
        node = node.entries[key].value
    return node


def _items(node: Node) -> Sequence[Node]:
    return node.items if isinstance(node, ListNode) else ()


def _text(node: MapNode, key: str) -> str:
    """The text of a key; empty if it has none. A time needs no quotes."""
    entry = node.entries.get(key)
    value = entry.value if entry is not None else None
    return value.text if isinstance(value, Scalar) and value.tag in ("str", "timestamp") else ""


def mark_of(resource: Resource, path: str) -> Mark:
    """Where a value below "spec" stands, the resource itself if it is not written."""
    marks: Mapping[str, Mark] = resource.marks
    return marks.get(path, resource.mark)
