"""Endpoints in a file: what it may hold, and what becomes of the last good ones."""

from __future__ import annotations

import json
import os
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.discovery.endpoint_document import read_endpoints
from tcpmesh.errors import ConfigurationError
from tcpmesh.identity.spiffe import SpiffeId
from tcpmesh.sources.endpoint_file import EndpointFile, EndpointFileFactory, EndpointFileSettings
from tcpmesh.testing import FakeDiscoveryObserver, plugin_context
from tcpmesh.values import Duration, Endpoint, TCPAddress, UnixAddress

A, B = TCPAddress("10.0.0.1", 4143), TCPAddress("10.0.0.2", 4143)
FULL = {
    "address": "10.0.0.2:4143",
    "weight": 3,
    "zone": "eu-1b",
    "priority": 1,
    "expect": ["spiffe://a.test/b"],
    "metadata": {"rack": "7", "host": "h2"},
}
MEANT = Endpoint(B, 3, "eu-1b", 1, (SpiffeId.parse("spiffe://a.test/b"),), (("host", "h2"), ("rack", "7")))
NOTHING = "the file lists no endpoints and does not say that there are none: for that, write []"


class DocumentTests(SynchronousTestCase):
    def read(self, text: str | bytes) -> tuple[Endpoint, ...]:
        return read_endpoints(Path("/e/x.yaml"), text if isinstance(text, bytes) else text.encode())

    def problems(self, text: str | bytes) -> list[str]:
        error = self.assertRaises(ConfigurationError, self.read, text)
        return [str(problem) for problem in error.problems]

    def test_reads_yaml_and_json(self) -> None:
        """A list, or a mapping that holds it; JSON in any indentation."""
        both = (Endpoint(A), MEANT)
        yaml = "- 10.0.0.1:4143\n- {address: '10.0.0.2:4143', weight: 3, zone: eu-1b, priority: 1,\n"
        yaml += "   expect: ['spiffe://a.test/b'], metadata: {rack: '7', host: h2}}\n"
        self.assertEqual(self.read(yaml), both)
        self.assertEqual(self.read("endpoints:\n" + yaml), both)
        for indent in (None, 2, "\t"):
            self.assertEqual(self.read(json.dumps(["10.0.0.1:4143", FULL], indent=indent)), both)
            self.assertEqual(self.read(json.dumps({"endpoints": ["10.0.0.1:4143", FULL]}, indent=indent)), both)

    def test_relative_sockets_are_beside_the_file(self) -> None:
        """As in the configuration."""
        self.assertEqual(self.read("['unix:run/a.sock']"), (Endpoint(UnixAddress("/e/run/a.sock")),))

    def test_none_has_to_be_said(self) -> None:
        """A file that was cut off does not say it."""
        self.assertEqual((self.read("[]"), self.read("endpoints: []")), ((), ()))
        for text in ("", "\n\n", "# later\n", "null", "~", "---\n"):
            self.assertEqual(self.problems(text), [f"/e/x.yaml:1:1: {NOTHING}"], text)

    def test_every_problem_has_its_place(self) -> None:
        """Unknown keys, duplicates and what nobody can connect to, all at once."""
        self.assertEqual(
            self.problems(
                "- {address: '10.0.0.1:1', wieght: 2}\n- db.test:5432\n- '10.0.0.1'\n- {weight: 3}\n"
                "- {address: '10.0.0.2:1', weight: -1}\n- {address: '10.0.0.2:1', zone: a, zone: b}\n"
            ),
            [
                "/e/x.yaml:1:27: unknown key 'wieght' in endpoints[0]; did you mean 'weight'?",
                "/e/x.yaml:2:3: endpoints[1]: 'db.test' in 'db.test:5432' is not an IP address: names are resolved by "
                "the discovery plugin dns; write an IP address",
                "/e/x.yaml:3:3: endpoints[2]: '10.0.0.1' has no port; write 127.0.0.1:5432, [::1]:5432 or "
                "unix:/run/app.sock",
                "/e/x.yaml:4:3: key 'address' is missing in endpoints[3]",
                "/e/x.yaml:5:35: endpoints[4].weight: a weight is a whole number from 0 to 65535, not '-1'",
                "/e/x.yaml:6:36: key 'zone' is given twice; first in line 6",
            ],
        )
        self.assertEqual(
            self.problems("- 10.0.0.1:1\n- 0.0.0.0:1\n- {address: '10.0.0.1:1', weight: 2}\n"),
            [
                "/e/x.yaml:2:3: endpoints[1]: 0.0.0.0:1 is an address to listen on, and none to connect to",
                "/e/x.yaml:3:3: endpoints[2]: 10.0.0.1:1 is listed twice; first in line 1",
            ],
        )

    def test_what_is_no_list_is_refused(self) -> None:
        """Whatever else YAML or JSON can be."""
        for text in ("5", "a", '"[]"', "{}", "endpoint: []", "endpoints: 5", "endpoints:", "[[]]", "[1", b"\xff", "\0"):
            self.assertTrue(self.problems(text)[0].startswith("/e/x.yaml:1:"), text)

    def test_ten_thousand_are_read_and_no_more(self) -> None:
        """With the place of the first that is too much."""
        lines = [f"- 10.0.{number // 256}.{number % 256}:4143\n" for number in range(10_001)]
        self.assertEqual(len(self.read("".join(lines[:-1]))), 10_000)
        self.assertEqual(
            self.problems("".join(lines)),
            ["/e/x.yaml:10001:3: 10001 endpoints are listed; a service has at most 10000"],
        )


class FileTests(SynchronousTestCase):
    """A file that is written, spoilt and removed while it is watched."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp()).absolute()
        self.clock = Clock()
        self.observer = FakeDiscoveryObserver()
        self.stamp = 1_000_000_000

    def write(self, text: str) -> None:
        """Write, at a time of its own: status changes within a tick of the kernel's clock look alike."""
        self.path.write_text(text)
        self.stamp += 10
        os.utime(self.path, (self.stamp, self.stamp))

    def started(self) -> EndpointFile:
        settings = EndpointFileSettings(self.path, Duration(5.0))
        discovery = EndpointFileFactory().create(settings, plugin_context("orders", clock=self.clock))
        self.addCleanup(discovery.stop)
        discovery.start(self.observer)
        return discovery

    def pass_time(self) -> None:
        self.clock.pump([1.0] * 12)

    def test_says_what_it_says_and_what_it_says_then(self) -> None:
        """Within an interval of the change."""
        self.write("['10.0.0.1:4143']")
        self.started()
        self.assertEqual(self.observer.deliveries, [(Endpoint(A),)])
        self.write("['10.0.0.2:4143']")
        self.pass_time()
        self.assertEqual(self.observer.deliveries[1:], [(Endpoint(B),)])
        self.assertEqual(self.observer.failures, [])

    def test_is_told_once_while_it_is_the_same(self) -> None:
        """Nobody is bothered by a file that nobody writes."""
        self.write("['10.0.0.1:4143']")
        self.started()
        self.pass_time()
        self.pass_time()
        self.assertEqual(len(self.observer.events), 1)

    def test_what_cannot_be_used_changes_nothing(self) -> None:
        """Each bad state is told once, and a good one ends it."""
        self.write("['10.0.0.1:4143']")
        self.started()
        for text, said in (("", NOTHING), ("[1", "is not closed"), ("['a:1']", "endpoints[0]: 'a' in")):
            self.write(text)
            self.pass_time()
            self.pass_time()
            self.assertIn(said, self.observer.failures[-1])
            self.assertIn(str(self.path), self.observer.failures[-1])
        self.path.unlink()
        self.pass_time()
        self.assertEqual(self.observer.failures[-1], f"{self.path}: there is no such file or directory")
        self.assertEqual((len(self.observer.failures), len(self.observer.deliveries)), (4, 1))
        self.write("[]")
        self.pass_time()
        self.assertEqual(self.observer.deliveries[1:], [()])
        self.assertEqual(self.observer.reasons, ["", f"{self.path} lists none"])

    def test_a_directory_is_no_file(self) -> None:
        """Whatever is in it; a pipe is none either, and nobody waits for its writer."""
        self.path.mkdir()
        for number in range(3):
            discovery = self.started()
            self.assertEqual(self.observer.events, [("failed", f"{self.path}: this is a directory; name a file in it")])
            self.assertRaises(ConfigurationError, discovery.check)
            self.path.joinpath(f"{number}.yaml").write_text("['10.0.0.1:4143']")
            self.observer = FakeDiscoveryObserver()
        self.path = Path(self.mktemp()).absolute()
        os.mkfifo(self.path)
        self.started()
        self.assertEqual(self.observer.events, [("failed", f"{self.path}: cannot be read: it is not a regular file")])

    def test_follows_links_that_are_swapped_above_it(self) -> None:
        """As a ConfigMap's volume does it: the link that is named stays, the one that it leads through is another."""
        volume = Path(self.mktemp()).absolute()
        for number in (1, 2):
            volume.joinpath(f"..{number}").mkdir(parents=True)
            volume.joinpath(f"..{number}", "endpoints.yaml").write_text(f"['10.0.0.{number}:4143']")
        volume.joinpath("..data").symlink_to("..1")
        self.path = volume / "endpoints.yaml"
        self.path.symlink_to("..data/endpoints.yaml")
        self.started()
        volume.joinpath("..data_tmp").symlink_to("..2")
        volume.joinpath("..data_tmp").rename(volume / "..data")
        self.pass_time()
        self.assertEqual(self.observer.deliveries, [(Endpoint(A),), (Endpoint(B),)])
        volume.joinpath("..2", "endpoints.yaml").unlink()
        self.pass_time()
        self.assertEqual(self.observer.failures, [f"{self.path}: there is no such file or directory"])

    def test_may_come_later(self) -> None:
        """A file that is not there at the start, or is spoilt, is waited for."""
        discovery = self.started()
        self.assertEqual(self.observer.events, [("failed", f"{self.path}: there is no such file or directory")])
        self.assertRaises(ConfigurationError, discovery.check)
        self.write("['10.0.0.1:4143']")
        discovery.check()
        self.pass_time()
        self.assertEqual(self.observer.deliveries, [(Endpoint(A),)])

    def test_reload_looks_now(self) -> None:
        """Before the interval has passed."""
        self.write("['10.0.0.1:4143']")
        discovery = self.started()
        self.write("['10.0.0.2:4143']")
        self.successResultOf(discovery.reload())
        self.assertEqual(self.observer.deliveries[1:], [(Endpoint(B),)])
        discovery.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
