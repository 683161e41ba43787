"""Whatever is in a file of policies, reading it gives policies or says what is wrong and where."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.errors import ConfigurationError
from tcpmesh.policy.files import PolicyReader

FILE = Path("policies.yaml")
SAMPLE = """\
policies:
  - name: a
    action: allow
    mode: dry-run
    from:
      - ids: ["spiffe://example.org/*/x"]
        networks: [10.0.0.0/8, "fd00::/8"]
        except: [{prefixes: ["spiffe://example.org/y/"]}]
    to: {inbound: [orders-in], ports: [5000], sni: ["*.example.org"]}
    when: {windows: [{days: [mon], hours: ["08:00-18:00"], timezone: UTC}], certificate: {max_age: 1h}}
"""
_KEYS = st.sampled_from(
    [
        "ids",
        "prefixes",
        "trust_domains",
        "dns",
        "networks",
        "any",
        "except",
        "from",
        "to",
        "when",
        "name",
        "action",
        "mode",
    ]
)
_WORDS = st.one_of(
    st.sampled_from(["spiffe://a/*", "spiffe://a/b/", "a.test", "*.a.test", "::/0", "authenticated", "allow", "deny"]),
    st.text(max_size=8),
    st.integers(-1, 99999),
    st.booleans(),
    st.none(),
)
_ANYTHING = st.recursive(
    _WORDS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_KEYS, inner, max_size=4)),
    max_leaves=12,
)


class ReaderTests(SynchronousTestCase):
    def read(self, data: bytes) -> tuple[Any, ...]:
        return PolicyReader([], ["orders-in"], ["orders"]).read([(FILE, data)])

    @settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(_ANYTHING)
    def test_any_value_is_read_or_refused(self, value: Any) -> None:
        """Nothing else is raised, and every problem names the file."""
        for text in (json.dumps({"policies": value}), json.dumps({"policies": [value]}), json.dumps(value)):
            try:
                self.read(text.encode())
            except ConfigurationError as error:
                for problem in error.problems:
                    self.assertTrue(problem.mark is None or problem.mark.file == str(FILE), problem)

    @settings(max_examples=200, deadline=None)
    @given(st.integers(0, len(SAMPLE)), st.integers(0, 12), st.text(max_size=4))
    def test_a_damaged_file_is_read_or_refused(self, start: int, length: int, text: str) -> None:
        """Wherever something is missing or was put in."""
        with contextlib.suppress(ConfigurationError):
            self.read((SAMPLE[:start] + text + SAMPLE[start + length :]).encode("utf-8", "surrogatepass"))

    @given(st.binary(max_size=60))
    def test_any_bytes_are_read_or_refused(self, data: bytes) -> None:
        """Also those that are no text."""
        with contextlib.suppress(ConfigurationError):
            self.read(data)

    def test_the_sample_is_good(self) -> None:
        """What is damaged above is not damaged to begin with."""
        self.assertEqual(len(self.read(SAMPLE.encode())), 1)
