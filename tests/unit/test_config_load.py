"""Tests for loading as a whole: files, versions, everything at once, and whatever bytes may come."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tcpmesh.config import load, loads
from tcpmesh.config.later import KEYS
from tcpmesh.config.load import MAX_FILE_BYTES
from tcpmesh.errors import ConfigurationError
from tcpmesh.identity.spiffe import SpiffeId
from tcpmesh.settings import (
    InboundSettings,
    OutboundSettings,
    ServiceSettings,
    Settings,
    keys,
)
from tcpmesh.values import TCPAddress, format_duration
from tests.unit.config_samples import FILE, PLUGINS, SAMPLE, ConfigTestCase, located, variant


class FileTests(ConfigTestCase):
    """Files."""

    def file(self, data: bytes) -> Path:
        path = Path(self.mktemp())
        path.write_bytes(data)
        return path

    def refusal(self, path: Path) -> str:
        return str(self.assertRaises(ConfigurationError, load, path, PLUGINS))

    def test_reads_a_file(self) -> None:
        """The settings say where they were read from, and what exactly was read."""
        path = self.file(SAMPLE.encode())
        found = load(path, PLUGINS)
        self.assertEqual(found.file, path.absolute())
        self.assertEqual(found.digest, hashlib.sha256(SAMPLE.encode()).hexdigest())
        self.assertEqual(found.trust_domain.name, "example.org")
        self.assertEqual(found.identity.sources["local"].settings.state, path.absolute().parent / "state")

    def test_places_name_the_file_as_it_was_named(self) -> None:
        """A relative path stays short in messages."""
        path = self.file(b"version: 2")
        self.assertFalse(path.is_absolute())
        self.assertEqual(
            self.refusal(path),
            f"{path}:1:10: version 2 is not in this version of tcpmesh, which reads version 1",
        )

    def test_says_why_a_file_cannot_be_read(self) -> None:
        """Missing, a directory, not permitted, too large, impossible."""
        directory = Path(self.mktemp())
        directory.mkdir()
        missing = directory / "missing.yaml"
        self.assertEqual(self.refusal(missing), f"{missing}: there is no such file")
        nobody_said = directory / "tcpmesh.yaml"
        self.assertEqual(
            self.refusal(nobody_said),
            f"{nobody_said}: there is no such file; name one with --config FILE or TCPMESH_CONFIG",
        )
        self.assertEqual(self.refusal(directory), f"{directory}: this is a directory; name the file in it")
        self.assertEqual(self.refusal(Path("a\0b")), "a\0b: cannot be read: embedded null byte")
        large = self.file(b"#" * (MAX_FILE_BYTES + 1))
        self.assertEqual(self.refusal(large), f"{large}: the file is larger than 1 MiB; is it a configuration?")
        below = self.file(b"") / "x"
        self.assertEqual(self.refusal(below), f"{below}: cannot be read: Not a directory")
        if os.geteuid() != 0:
            secret = self.file(b"")
            secret.chmod(0)
            self.assertEqual(self.refusal(secret), f"{secret}: cannot be read: Permission denied")

    def test_an_endless_file_is_not_read_to_its_end(self) -> None:
        """Only one byte more than is allowed."""
        self.assertEqual(
            self.refusal(Path("/dev/zero")), "/dev/zero: the file is larger than 1 MiB; is it a configuration?"
        )

    def test_the_largest_file_is_read(self) -> None:
        """The limit itself is allowed."""
        padding = MAX_FILE_BYTES - len(SAMPLE.encode()) - 1
        self.assertEqual(load(self.file(SAMPLE.encode() + b"#" * padding + b"\n"), PLUGINS).version, 1)

    def test_what_is_no_configuration(self) -> None:
        """Empty, or another kind of file."""
        for text, message in {
            "‸": "the file is empty; a configuration begins with 'version: 1'",
            "‸# nothing\n": "the file is empty; a configuration begins with 'version: 1'",
            "‸~": "the file is empty; a configuration begins with 'version: 1'",
            "‸- a": "this is no configuration: expected keys and values, beginning with 'version: 1'",
            "‸hello": "this is no configuration: expected keys and values, beginning with 'version: 1'",
            "\n‸<html></html>": "this is no configuration: expected keys and values, beginning with 'version: 1'",
        }.items():
            self.check_problems(text, message)

    def test_another_programs_file_is_not_shown(self) -> None:
        """Named by mistake, it may hold secrets; a file with one known key is ours, and gets all its errors."""
        self.check_problems(
            "‸DB_PASSWORD: hunter2\nTOKEN: abc\n",
            "this is no configuration: none of its keys is one; it begins with 'version: 1'",
        )
        self.assertEqual(len(self.problems("DB_PASSWORD: hunter2\nversion: 1\n")), 3)

    def test_version(self) -> None:
        """Of another version nothing else is said, as its keys would be others."""
        self.check_problems("version: ‸2\nfoo: 1", "version 2 is not in this version of tcpmesh, which reads version 1")
        self.check_problems(variant("version: 1", "version: ‸1.0"), "version: expected 1, got the number 1.0")
        self.check_problems(
            variant("version: 1", "version: ‸'1'"), 'version: expected 1, got the text "1"; remove the quotes'
        )
        self.check_problems(variant("version: 1", "version:‸"), "version: there is no value; expected 1")
        self.check_problems(variant("version: 1\n", "‸"), "key 'version' is missing")


class WholeTests(ConfigTestCase):
    """Everything together."""

    def test_all_problems_at_once(self) -> None:
        """Syntax apart, one reading finds them all, in the order of the file."""
        self.check_problems(
            """\
version: 1
trust_domain: ‸Example.org
identity:
  sources: {local: {plugin: own, ‸stat: state}}
  workloads:
    web: {id: "spiffe://example.org/web", ‸dsn: []}
services:
  orders:
    expect: ["dns:a.example"]
    discovery: {plugin: ‸dns}
  spare:
    expect: ‸[]
    discovery: {plugin: static, endpoints: ["127.0.0.1:4143"]}
outbound:
  - {name: out, listen: ‸22:22, service: ‸order, workload: web}
  - {name: net, listen: ‸"0.0.0.0:1", service: orders, workload: web}
inbound:
  - {name: in, listen: "127.0.0.1:4143", ‸tagret: "127.0.0.1:5000", workload: web}
  - {name: ‸net, listen: "127.0.0.1:4144", target: ‸"127.0.0.1:4144", workload: ‸wep}
limits: {connections: ‸0}
‸limit: {}
""",
            "trust_domain: trust domain 'Example.org' is not lower case: did you mean 'example.org'?",
            "unknown key 'stat' in identity.sources.local; did you mean 'state'?",
            "unknown key 'dsn' in identity.workloads.web; did you mean 'dns'?",
            "services.orders.discovery: no discovery plugin is called 'dns'",
            "services.spare.expect: the list is empty; name at least one identity that may answer",
            'outbound[0].listen: YAML reads 22:22 as the number 1342 unless it is written "22:22"; '
            'expected an address such as "127.0.0.1:5432", "[::1]:5432" or "unix:/run/app.sock"',
            "outbound[0].service: there is no service 'order'; did you mean 'orders'?",
            "outbound[1].listen: 0.0.0.0:1 accepts plaintext from the network; listen on loopback or a unix socket, "
            "or, if everybody there may act as this workload, add plaintext_network: allow",
            "unknown key 'tagret' in inbound[0]; did you mean 'target'?",
            "a listener named 'net' exists already, in line 16; logs and metrics tell listeners apart by name",
            "inbound[1].target: 127.0.0.1:4144 is this proxy's own listener inbound[1].listen "
            "(127.0.0.1:4144, line 19), so connections would run in a circle; write the application's address",
            "inbound[1].workload: there is no workload 'wep'; did you mean 'web'?",
            "limits.connections: 0 is not between 1 and 1000000",
            "unknown key 'limit'; did you mean 'limits'?",
        )

    def test_missing_and_misplaced_keys(self) -> None:
        """A missing key is shown at its mapping, unless a misspelt one explains it; a misplaced one with its place."""
        self.check_problems(
            variant('{name: in, listen: "127.0.0.1:4143",', "‸{name: in, ‸connect: 1s,"),
            "key 'listen' is missing in inbound[0]",
            "unknown key 'connect' in inbound[0]; did you mean 'timeouts.connect'?",
        )

    def test_the_message_of_the_error_is_all_of_them(self) -> None:
        """One per line, as a terminal shows them."""
        error = self.assertRaises(ConfigurationError, self.load, "version: 1\nidentity: 1\n")
        self.assertEqual(
            str(error),
            f"{FILE}:1:1: key 'trust_domain' is missing\n"
            f"{FILE}:2:11: identity: expected a mapping with the keys sources, workloads, got the number 1",
        )

    def test_anchors_and_merges_may_be_used(self) -> None:
        """They save repetition in long files."""
        text = variant("workload: web}\ninbound", "workload: web, timeouts: &t {connect: 1s}}\ninbound")
        text = text.replace("target:", "timeouts: {<<: *t, idle: 1h}, target:")
        [inbound] = self.load(text).inbound
        self.assertEqual((inbound.timeouts.connect, inbound.timeouts.idle), (1.0, 3600.0))

    def test_a_mistake_under_an_anchor_is_shown_where_it_is(self) -> None:
        """Once for each place that repeats it."""
        text = variant("workload: web}\ninbound", "workload: web, timeouts: &t {connect: ‸1}}\ninbound")
        text, marks = located(text.replace("target:", "timeouts: *t, target:"))
        self.assertEqual(
            [message.partition(":")[0] for message, _ in self.problems(text)],
            ["outbound[0].timeouts.connect", "inbound[0].timeouts.connect"],
        )
        self.assertEqual({mark for _, mark in self.problems(text)}, set(marks))

    def test_the_table_of_later_keys_holds_no_present_one(self) -> None:
        """An entry leaves the table when its key is built."""
        classes: dict[str, type] = {
            "": Settings,
            "services.*": ServiceSettings,
            "outbound.*": OutboundSettings,
            "inbound.*": InboundSettings,
        }
        self.assertLessEqual({pattern for pattern in KEYS if ":" not in pattern}, set(classes))
        for pattern, declared in classes.items():
            self.assertEqual(set(keys(declared)) & KEYS.get(pattern, frozenset()), set(), pattern)


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
durations = st.integers(min_value=1, max_value=3_600_000).map(lambda milliseconds: milliseconds / 1000)


@st.composite
def configurations(draw: Any) -> dict[str, Any]:
    """Valid configurations as plain data; yaml.safe_dump decides what needs quotes."""
    workloads = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    services = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    listeners = draw(st.lists(names, min_size=1, max_size=5, unique=True))
    times = st.fixed_dictionaries(
        {}, optional={name: durations.map(format_duration) for name in ("connect", "handshake", "idle", "half_close")}
    )
    return {
        "version": 1,
        "trust_domain": "example.org",
        "identity": {
            "sources": {draw(names): {"plugin": "own", "state": draw(names)}},
            "workloads": {name: {"id": f"spiffe://example.org/{name}"} for name in workloads},
        },
        "services": {
            name: {
                "expect": [f"spiffe://example.org/{name}"],
                "discovery": {"plugin": "static", "endpoints": ["127.0.0.1:4143"]},
                "timeouts": draw(times),
                "truncation": draw(st.sampled_from(["reset", "eof"])),
            }
            for name in services
        },
        "outbound": [
            {
                "name": name,
                "listen": draw(st.sampled_from(["127.0.0.1", "[::1]"])) + f":{1000 + index}",
                "service": draw(st.sampled_from(services)),
                "workload": draw(st.sampled_from(workloads)),
                "timeouts": draw(times),
            }
            for index, name in enumerate(listeners)
        ],
    }


class PropertyTests(ConfigTestCase):
    """Whatever comes."""

    @settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
    @given(configurations())
    def test_what_is_valid_is_read_as_it_was_meant(self, data: dict[str, Any]) -> None:
        """Names, references and times of random configurations survive YAML and the reading."""
        found = loads(yaml.safe_dump(data).encode(), FILE, PLUGINS)
        self.assertEqual(list(found.services), sorted(data["services"]))
        for name, workload in data["identity"]["workloads"].items():
            self.assertEqual(found.identity.workloads[name].id, SpiffeId.parse(workload["id"]))
        for name, service in data["services"].items():
            timeouts = found.services[name].timeouts
            for key in ("connect", "handshake", "idle", "half_close"):
                value = getattr(timeouts, key)
                self.assertEqual(None if value is None else format_duration(value), service["timeouts"].get(key))
            self.assertEqual(found.services[name].truncation, service["truncation"])
        for outbound, read in zip(data["outbound"], found.outbound, strict=True):
            assert isinstance(read.listen, TCPAddress)
            self.assertEqual(
                (read.name, str(read.listen), read.service, read.workload),
                (outbound["name"], outbound["listen"], outbound["service"], outbound["workload"]),
            )

    @settings(deadline=None, max_examples=300)
    @given(st.one_of(st.binary(), st.text().map(str.encode)))
    def test_any_bytes_give_settings_or_a_configuration_error(self, data: bytes) -> None:
        """Nothing else ever comes out."""
        self.assertRaises(ConfigurationError, loads, data, FILE, PLUGINS)

    @settings(deadline=None, max_examples=300)
    @given(
        st.integers(min_value=0, max_value=len(SAMPLE)),
        st.integers(min_value=0, max_value=40),
        st.one_of(
            st.text("[]{}:,-?&*#|>!%'\"\\ \nab<=~01", max_size=6),
            st.sampled_from(
                ["null", "off", "22:22", "{}", "[]", "[[]]", "{a: {b: c}}", "&a [*a]", "<<: {}", "\n---\n", "!x"]
            ),
        ),
    )
    def test_a_damaged_file_is_refused_with_places(self, start: int, length: int, new: str) -> None:
        """Every problem of a file with any part replaced has a place in it."""
        text = SAMPLE[:start] + new + SAMPLE[start + length :]
        try:
            loads(text.encode(), FILE, PLUGINS)
        except ConfigurationError as error:
            self.assertNotEqual(error.problems, ())
            for problem in error.problems:
                assert problem.mark is not None
                self.assertLessEqual(problem.mark.line, text.count("\n") + 1)
                self.assertTrue(problem.message.isprintable(), problem.message)

    @settings(deadline=None, max_examples=150)
    @given(
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.dates()),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
            max_leaves=6,
        ),
        st.sampled_from(
            ["version", "trust_domain", "identity", "services", "outbound", "inbound", "authorization", "log"]
        ),
    )
    def test_any_value_of_any_section_is_refused_with_places(self, value: Any, section: str) -> None:
        """Also well-formed YAML of the wrong shape."""
        data = {**yaml.safe_load(SAMPLE), section: value}
        try:
            loads(yaml.safe_dump(data, allow_unicode=True).encode("utf-8", "surrogatepass"), FILE, PLUGINS)
        except ConfigurationError as error:
            for problem in error.problems:
                self.assertNotIdentical(problem.mark, None)
