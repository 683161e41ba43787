"""What identity show makes of a deny-list, and of a workload whose own certificate is on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tcpmesh.deny_control import DenyControl
from tcpmesh.identity.certificates import serial_text
from tcpmesh.identity.deny_list import DenyEntry, DenyListSettings
from tcpmesh.identity.spiffe import SpiffeId
from tcpmesh.identity_report import identity_report
from tcpmesh.moments import Moment
from tests.unit.record_samples import HOSTILE
from tests.unit.test_identity_report import ReportCase

LAPTOP = SpiffeId.parse("spiffe://example.test/laptop")


class ShownDenyListTests(ReportCase):
    """The last block of the command's output."""

    def show(self, *arguments: Any) -> Any:
        """As often as a test likes: each time it is another proxy that answers."""
        Path(self.path).unlink(missing_ok=True)
        return super().show(*arguments)

    def told(self, *entries: DenyEntry, text: str | None = None) -> Any:
        """What the proxy says with these entries, and those of a file with this text."""
        file = self.directory / "denied.yaml" if text is not None else None
        if file is not None:
            file.write_text(text or "")
        self.denials = DenyControl(DenyListSettings(list(entries), file), self.cell, self.timers, lambda: 1.8e9)
        self.addCleanup(self.denials.stop)
        self.denials.start()
        self.control.start()
        report = self.report()
        report["workloads"] = [one for one in report["workloads"] if one["name"] == "web"]
        report["trust_domains"] = [one for one in report["trust_domains"] if one["trust_domain"] != "far.test"]
        return {**report, "deny_list": self.denials.report()}

    def test_shows_each_entry(self) -> None:
        """With the moment and the reason, if there is one; all is well."""
        status, out, _ = self.show(
            self.told(
                DenyEntry(id=LAPTOP, issued_before=Moment(1.7e9), reason="stolen"),
                text='entries: [{serial: "0a1b", trust_domain: example.test}]\n',
            )
        )
        self.assertTrue(
            out.endswith(
                "deny-list, 2 entries\n"
                f"  from      {self.directory / 'denied.yaml'}, good at 2027-01-15T08:00:00Z\n"
                "  denied    id spiffe://example.test/laptop issued before 2023-11-14T22:13:20Z, because: stolen\n"
                "  denied    serial 0a1b of example.test\n"
            ),
            out,
        )
        self.assertEqual(status, 0)

    def test_says_nothing_when_nobody_is_denied(self) -> None:
        """A file that denies nobody is there all the same; so is one that cannot be used."""
        self.assertNotIn("deny-list", self.show(self.told())[1])
        answer = self.told(text="entries: []\n")
        self.assertIn("deny-list, 0 entries\n", self.show(answer)[1])
        answer["deny_list"]["failure"] = "denied.yaml:1:1: the file is empty"
        status, out, _ = self.show(answer)
        self.assertIn("  PROBLEM   the file cannot be used, what it said before goes on: denied.yaml:1:1: the", out)
        self.assertEqual(status, 1)

    def test_shows_twenty(self) -> None:
        """And how many more there are."""
        out = self.show(self.told(*(DenyEntry(serial=f"{number + 1:02x}") for number in range(25))))[1]
        self.assertEqual(out.count("\n  denied    "), 20)
        self.assertTrue(out.endswith("            and 5 more: --json\n"))

    def test_a_workload_that_is_denied(self) -> None:
        """Is a problem, with the entry."""
        serial = serial_text(self.svid.leaf)
        status, out, _ = self.show(self.told(DenyEntry(serial=serial, reason="test")))
        self.assertEqual(status, 1)
        self.assertRegex(
            out, rf"PROBLEM   denied.*: TM-I105 spiffe://example.test/web, serial {serial}, is on the deny-"
        )

    def test_since_when_a_workload_is_denied(self) -> None:
        """Not since when it has its certificate; another reason is no other beginning, a certificate that is not is."""
        self.told(text="entries: []\n")
        self.timers.advance(100)
        file, serial = self.directory / "denied.yaml", serial_text(self.svid.leaf)

        def shown(*entries: str) -> tuple[str, int | None, float | None]:
            file.write_text(f"entries: [{', '.join(entries)}]\n")
            self.denials.reload()
            [web] = [
                one
                for one in identity_report(
                    self.settings, self.cell.current, self.control, self.wall, self.denials.entered
                )["workloads"]
                if one["name"] == "web"
            ]
            return web["state"], web["state_generation"], web["state_s"]

        first = shown(f'{{serial: "{serial}"}}')
        generation = self.cell.current.generation
        self.assertEqual(first, ("denied", generation, 0.0))
        self.timers.advance(7)
        self.assertEqual(shown(f'{{serial: "{serial}", reason: more}}'), ("denied", generation, 7.0))
        state, _, age = shown()
        self.assertEqual((state, age), ("ready", 107.0))
        self.assertEqual(shown(f'{{serial: "{serial}"}}')[2], 0.0)

    def test_an_older_proxy_has_no_deny_list(self) -> None:
        """That is no problem; one that says nonsense is not believed."""
        answer = self.told()
        del answer["deny_list"]
        self.assertEqual(self.show(answer)[0], 0)
        answer["deny_list"] = {"entries": 7}
        self.assertEqual(self.show(answer)[0], 2)

    def test_shows_hostile_text_as_it_is_written(self) -> None:
        """An operator's words go through the same door as a stranger's."""
        for text in HOSTILE:
            answer = self.told()
            answer["deny_list"] = {
                "file": text, "loaded": text, "failure": text, "failures": 1,
                "entries": [{"what": text, "issued_before": text, "reason": text, "place": text}],
            }  # fmt: skip
            out = self.show(answer)[1]
            self.assertTrue(all(character.isprintable() for character in out.replace("\n", "")), text)
            self.assertEqual(len(out[out.index("deny-list") :].splitlines()), 4, text)
