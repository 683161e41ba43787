"""Programs that go install makes: where they are looked for, what is said without them, and who may lack them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.documents import ROOT
from tests.integration import GO_PROGRAMS, go_program, skip_or_fail
from tests.integration.servers import run, temporary_directory

INSTALL = ROOT / "tests" / "integration" / "install_go_program.sh"
MODULE = "example.org/tools/cmd/some-tool@v1.2.3"
REFUSING = """#!/bin/sh
test "$1" = env && { echo proxy.example; exit 0; }
echo 'go: downloading example.org/other v1.0.0' >&2
echo 'go: example.org/tools@v1.2.3: reading proxy.example: 403 Forbidden' >&2
exit 1
"""
BUILDING = """#!/bin/sh
echo "$@" > "$GOBIN/asked"
printf '#!/bin/sh\\n' > "$GOBIN/some-tool"
chmod 755 "$GOBIN/some-tool"
"""


class EnvironmentTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = temporary_directory(self)

    def set(self, **values: str | None) -> None:
        """Set variables of the environment, or take them out, for this test."""
        for name, value in values.items():
            self.addCleanup(self._put, name, os.environ.get(name))
            self._put(name, value)

    def _put(self, name: str, value: str | None) -> None:
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value

    def executable(self, path: Path, text: str = "#!/bin/sh\n") -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path


class SkippingTests(EnvironmentTestCase):
    """Who may be missing."""

    def test_skips_by_default(self) -> None:
        """On a user's machine nothing has to be there."""
        self.set(TCPMESH_REQUIRE_ALL=None, TCPMESH_LACKING=None)
        self.assertRaises(SkipTest, skip_or_fail, "no tool", "some-tool")

    def test_fails_where_all_was_promised(self) -> None:
        """Also when something else is known to be lacking, and when the reason is no program at all."""
        self.set(TCPMESH_REQUIRE_ALL="1", TCPMESH_LACKING="other-tool tool")
        self.assertRaises(AssertionError, skip_or_fail, "no tool", "some-tool")
        self.assertRaises(AssertionError, skip_or_fail, "not root")

    def test_skips_what_is_known_to_be_lacking(self) -> None:
        """What TCPMESH_LACKING names is excused."""
        self.set(TCPMESH_REQUIRE_ALL="1", TCPMESH_LACKING="other-tool some-tool")
        self.assertRaises(SkipTest, skip_or_fail, "no tool", "some-tool")


class FindingTests(EnvironmentTestCase):
    """Where they are looked for."""

    def test_the_named_directory_comes_first(self) -> None:
        """Then the cache, then the path."""
        self.set(
            TCPMESH_SPIRE=str(self.directory / "named"),
            XDG_CACHE_HOME=str(self.directory / "cache"),
            PATH=str(self.directory / "path"),
        )
        below = GO_PROGRAMS["spire-agent"][1]
        places = [self.directory / "path", self.directory / "cache" / below, self.directory / "named"]
        for place in places:
            expected = self.executable(place / "spire-agent")
            self.assertEqual(go_program("spire-agent"), str(expected))

    def test_says_how_to_get_it(self) -> None:
        """The command that installs it."""
        nowhere = str(self.directory)
        self.set(TCPMESH_SPIRE=None, XDG_CACHE_HOME=nowhere, PATH=nowhere, TCPMESH_REQUIRE_ALL=None)
        error = self.assertRaises(SkipTest, go_program, "spire-server")
        command = "go install github.com/spiffe/spire/cmd/spire-server@v1.15.3"
        self.assertEqual(str(error), f"spire-server is not installed ({command})")

    def test_make_installs_the_same(self) -> None:
        """Modules, versions and directories of the Makefile are those that the tests know."""
        lines = [line.split() for line in (ROOT / "Makefile").read_text().splitlines() if "@$(GO_PROGRAM)" in line]
        made = {(f"go install {module}", place.strip('"')) for _, module, place in lines}
        known = {(command, f"$(CACHE)/{below}") for command, below in GO_PROGRAMS.values()}
        self.assertEqual({one for one in known if one[0].startswith("go install ")}, made)
        built = re.search(r"^kafka:\n\t@\S+ \S+ \"(.+)\"$", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert built is not None
        self.assertEqual(known - made, {("make kafka", built[1])})


class InstallingTests(EnvironmentTestCase):
    """The script behind make."""

    def install(self, go: str | None) -> tuple[int, str]:
        tools = self.directory / "tools"
        for name in ("sh", "mkdir", "grep", "chmod"):
            self.executable(tools / name, f'#!/bin/sh\nexec /bin/{name} "$@"\n')
        if go is not None:
            self.executable(tools / "go", go)
        self.target = self.directory / "a place" / "v1.2.3"
        ended = run("/bin/sh", INSTALL, MODULE, self.target, status=None, environment={"PATH": str(tools)})
        return ended.returncode, ended.stderr.decode()

    def test_without_go(self) -> None:
        """It says that go is missing."""
        status, said = self.install(None)
        self.assertEqual(status, 1)
        self.assertIn("some-tool cannot be built: there is no go here", said)

    def test_a_proxy_that_refuses(self) -> None:
        """It is said who refuses, and what go said itself."""
        status, said = self.install(REFUSING)
        self.assertEqual(status, 1)
        self.assertIn("403 Forbidden\n", said)
        self.assertIn("some-tool cannot be built: the Go module proxy (proxy.example) refuses a module", said)
        self.assertNotIn("downloading", said)

    def test_any_other_failure(self) -> None:
        """What go said, and the command."""
        status, said = self.install("#!/bin/sh\necho 'gcc not found' >&2\nexit 2\n")
        self.assertEqual((status, said), (1, f"gcc not found\nsome-tool cannot be built: go install {MODULE} failed\n"))

    def test_builds_it_once(self) -> None:
        """The second time, what is there stays."""
        self.assertEqual(self.install(BUILDING), (0, ""))
        asked = self.target / "asked"
        self.assertEqual(asked.read_text(), f"install {MODULE}\n")
        asked.unlink()
        self.assertEqual(self.install(BUILDING), (0, ""))
        self.assertFalse(asked.exists())
