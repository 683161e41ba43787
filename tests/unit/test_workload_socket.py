"""Where a Workload API answers: the vectors of the SPIFFE libraries."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.addresses import MAX_UNIX_PATH_BYTES, TCPAddress, UnixAddress
from tcpmesh.identity.workload_socket import parse_workload_socket

REFUSED = """\
blah
blah:///foo
///foo
/run/agent.sock
unix:opaque
unix:
unix:/
unix://
unix:///
unix:////run/agent.sock
unix://foo
unix://foo/p
unix:///p?q
unix:///p#f
unix://user:pw@/p
unix:///run/
UNIX:///p
tcp:opaque
tcp:127.0.0.1:5
tcp://
tcp:///x
tcp://foo:9000
tcp://localhost:9000
tcp://1.2.3.4
tcp://1.2.3.4:
tcp://1.2.3.4:0
tcp://1.2.3.4:65536
tcp://1.2.3.4:05
tcp://1.2.3.4:5/path
tcp://1.2.3.4:5/
tcp://1.2.3.4:5?q
tcp://1.2.3.4:5#f
tcp://user:pw@1.2.3.4:5
tcp://unix:x
http://1.2.3.4:5
1.2.3.4:5
""".splitlines()


class ParsingTests(SynchronousTestCase):
    def test_unix_sockets(self) -> None:
        """With three slashes or one."""
        self.assertEqual(parse_workload_socket("unix:///run/agent.sock"), UnixAddress("/run/agent.sock"))
        self.assertEqual(parse_workload_socket("unix:/p"), UnixAddress("/p"))

    def test_tcp_sockets(self) -> None:
        """A literal address of either family, and a port."""
        self.assertEqual(parse_workload_socket("tcp://1.2.3.4:5"), TCPAddress("1.2.3.4", 5))
        self.assertEqual(parse_workload_socket("tcp://[::1]:8081"), TCPAddress("::1", 8081))

    def test_everything_else_is_refused(self) -> None:
        """With one line that quotes it."""
        for text in REFUSED:
            error = self.assertRaises(ValueError, parse_workload_socket, text)
            self.assertTrue(str(error).isprintable() and str(error), text)

    def test_nothing_and_spaces_are_refused(self) -> None:
        """An empty variable, a tab, a newline at the end."""
        for text in ("", "\t", " ", "unix:///p\n", "unix:///p q", " unix:///p", "tcp://1.2.3.4:5\n"):
            self.assertIn("; write unix:///", str(self.assertRaises(ValueError, parse_workload_socket, text)))

    def test_paths_have_a_largest_length(self) -> None:
        """The kernel's."""
        longest = "/" + "x" * (MAX_UNIX_PATH_BYTES - 1)
        self.assertEqual(parse_workload_socket(f"unix://{longest}"), UnixAddress(longest))
        self.assertRaises(ValueError, parse_workload_socket, f"unix://{longest}x")

    def test_says_what_is_missing(self) -> None:
        """Two mistakes that are easily made."""
        for text, reason in (
            ("unix://run/agent.sock", "'unix://run/agent.sock' names 'run' before the path; a third slash is missing"),
            ("unix:agent.sock", "'unix:agent.sock' has no absolute path"),
        ):
            self.assertIn(reason, str(self.assertRaises(ValueError, parse_workload_socket, text)))
