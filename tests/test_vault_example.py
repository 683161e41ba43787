"""The example of an identity source on HashiCorp Vault or OpenBao, installed beside the product."""

from __future__ import annotations

import json
import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.environments import ROOT, Environment, run, source_copy

README = (ROOT / "examples" / "vault_source" / "README.md").read_text()
REST = """
version: 1
trust_domain: example.org
inbound: [{name: in, listen: "127.0.0.1:14143", target: "127.0.0.1:5000", workload: web}]
authorization:
  - {plugin: rules, policies: [{name: web, action: allow, from: [{ids: ["spiffe://example.org/web"]}]}]}
"""


class VaultExampleTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.environment = Environment(Path(self.mktemp()))
        self.environment.install(source_copy())
        self.environment.install(source_copy() / "examples" / "vault_source")

    def test_is_found_tested_and_configured_as_it_says(self) -> None:
        """Its own tests pass against the installed product, and its README's configuration is good."""
        listing = json.loads(self.environment.module("tcpmesh", "plugins", "--json"))
        (plugin,) = [plugin for plugin in listing["plugins"] if plugin["name"] == "vault"]
        self.assertEqual((plugin["kind"], plugin["distribution"]), ("identity", "tcpmesh-vault"))
        self.assertEqual((listing["failed"], plugin["problem"]), ([], ""))

        result = run(self.environment.python, "-m", "twisted.trial", "tcpmesh_vault", directory=self.environment.work)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        self.assertRegex(result.stdout, r"PASSED \(successes=\d{2,}\)")

        (example,) = re.findall(r"^```yaml\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
        mesh = self.environment.work / "mesh.yaml"
        mesh.write_text(REST + example)
        self.assertIn("OK ", self.environment.module("tcpmesh", "check", "mesh.yaml"))
        mesh.write_text(REST + example.replace("https:", "http:"))
        wrong = run(self.environment.python, "-m", "tcpmesh", "check", "mesh.yaml", directory=self.environment.work)
        self.assertEqual(wrong.returncode, 1)
        self.assertIn("without TLS the token can be read on the way", wrong.stderr)

    def test_every_key_is_in_its_readme(self) -> None:
        """The table names what the settings read, and nothing else."""
        source = "import attrs, tcpmesh_vault.settings as s; print(*[f.name for f in attrs.fields(s.VaultSettings)])"
        ended = run(self.environment.python, "-c", source, directory=self.environment.work)
        table = re.findall(r"^\| (`.*?) \|", README.partition("| key |")[2].partition("\n\n")[0], re.MULTILINE)
        named = re.findall(r"`(\w+)`", " ".join(table))
        self.assertEqual(sorted(named), sorted(ended.stdout.split()), ended.stderr)
