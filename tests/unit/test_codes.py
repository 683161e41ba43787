"""Codes: unique, well-formed, and documented exactly as they are."""

from __future__ import annotations

import re

import click
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import codes
from tcpmesh.cli import entry
from tests import refusal_matrix
from tests.documents import section


class CodeTests(SynchronousTestCase):
    """The table of codes."""

    def test_are_well_formed(self) -> None:
        """A family and three digits; texts that fit into a sentence of a log line."""
        for code in codes.all_codes():
            self.assertRegex(code.id, r"\ATM-[CDILOPTU][1-9][0-9]{2}\Z")
            for text in (code.summary, code.next_step):
                self.assertTrue(text.isascii() and text.isprintable() and text == text.strip(), code.id)
                self.assertFalse(text.endswith((".", ":", ";")), code.id)
                self.assertTrue(0 < len(text) <= 120, code.id)
            self.assertEqual(str(code), code.id)

    def test_are_found_by_id(self) -> None:
        """What a peer's preface names; None for what this version does not know."""
        for code in codes.all_codes():
            self.assertIs(codes.by_id(code.id), code)
        self.assertIsNone(codes.by_id("TM-X999"))

    def test_mean_one_thing_each(self) -> None:
        """No number and no meaning is used twice."""
        self.assertEqual(len({code.summary for code in codes.all_codes()}), len(codes.all_codes()))
        failure = self.assertRaises(ValueError, codes._code, "TM-D100", "another meaning", "nothing")
        self.assertEqual(str(failure), "code TM-D100 is defined twice")

    def test_are_in_order(self) -> None:
        """By number, so that a listing can be read."""
        ids = [code.id for code in codes.all_codes()]
        self.assertEqual(ids, sorted(ids))

    def test_never_retry_what_another_endpoint_cannot_mend(self) -> None:
        """A denial is a denial everywhere, and a connection that carried payload is never repeated."""
        for code in codes.all_codes():
            if code.id.startswith(("TM-P", "TM-D", "TM-C", "TM-I1", "TM-I2")):
                self.assertFalse(code.retryable, code.id)
            # A stale bundle refuses nobody.
            if code.id.startswith(("TM-I4", "TM-I5", "TM-I6", "TM-I7")) and code is not codes.BUNDLE_STALE:
                self.assertTrue(code.retryable, code.id)


class DocumentTests(SynchronousTestCase):
    """docs/codes.md."""

    def test_has_a_section_for_every_code(self) -> None:
        """In the same order, with the same words, and three causes."""
        sections = refusal_matrix.sections()
        self.assertEqual(list(sections), [code.id for code in codes.all_codes()])
        for code in codes.all_codes():
            section = sections[code.id]
            self.assertEqual(section.meaning, code.summary)
            self.assertEqual(section.next_step, code.next_step)
            self.assertEqual(section.retried, "yes" if code.retryable else "no", code.id)
            self.assertEqual(len(section.causes), 3, code.id)
            self.assertEqual(len(set(section.causes)), 3, code.id)

    def test_mentions_no_code_that_does_not_exist(self) -> None:
        """Anywhere in the text."""
        mentioned = set(re.findall(r"TM-[A-Z][0-9]{3}", refusal_matrix.FILE.read_text(encoding="utf-8")))
        self.assertEqual(mentioned, {code.id for code in codes.all_codes()})


class CommandTests(SynchronousTestCase):
    """The commands that are named for who has a code and wants to know more."""

    def commands(self, text: str) -> list[click.Command]:
        """Each command that a text names; fails for one that does not exist."""
        found = []
        for words in re.findall(r"tcpmesh((?: [a-z]+)+)", text):
            command: click.Command = entry
            for word in words.split():
                if not isinstance(command, click.Group):
                    break
                inner = command.get_command(click.Context(command), word)
                assert inner is not None, f"there is no command 'tcpmesh{words}'"
                command = inner
            self.assertTrue(not isinstance(command, click.Group) or command.invoke_without_command, words)
            found.append(command)
        return found

    def test_every_identity_code_names_one(self) -> None:
        """That looks closer at what the code is about."""
        for code in codes.all_codes():
            found = self.commands(code.next_step)
            if code.id.startswith("TM-I"):
                self.assertTrue(found, code.id)

    def test_every_option_that_is_named_exists(self) -> None:
        """Of the command before it."""
        for code in codes.all_codes():
            for words, option in re.findall(r"tcpmesh((?: [a-z]+)+)(?: [A-Z:]+)* (--[a-z-]+)", code.next_step):
                (command,) = self.commands(f"tcpmesh{words}")
                self.assertIn(option, [name for each in command.params for name in each.opts], code.id)

    def test_says_which_command_is_for_what(self) -> None:
        """Those for identities, policies and endpoints, where one looks first."""
        text = section(refusal_matrix.FILE.read_text(encoding="utf-8"), "Where to look")
        named = {f"{command.name}" for command in self.commands(text)}
        self.assertEqual(named, {"check", "show", "inspect", "diff", "map", "resolve", "explain", "endpoints"})


class MatrixTests(SynchronousTestCase):
    """The refusal matrix."""

    def test_uses_the_words_that_are_explained(self) -> None:
        """Each cell is one of few, so that a test can hold the proxies against it."""
        rows = refusal_matrix.rows()
        self.assertEqual({row.application for row in rows}, {"RST", "-"})
        self.assertEqual(
            {row.wire for row in rows}, {"nothing", "RST", "FIN", "alert, FIN", "preface, close_notify, FIN"}
        )
        for row in rows:
            for cell in (row.outbound_log, row.inbound_log):
                self.assertRegex(cell, r"\A(-|foreign|TM-[A-Z][0-9]{3}( DEBUG)?)\Z")

    def test_has_each_cause_once_and_a_code_for_it(self) -> None:
        """In the log of the side that refused, and never for an application that sees a clean end."""
        rows = refusal_matrix.rows()
        self.assertEqual(len({(row.refused_by, row.cause) for row in rows}), len(rows))
        for row in rows:
            own = row.outbound_log if row.refused_by == "outbound" else row.inbound_log
            self.assertTrue(own.startswith("TM-"), row)
            if row.refused_by == "outbound":
                self.assertEqual(row.application, "RST", row)

    def test_says_the_same_code_on_both_sides_of_a_preface(self) -> None:
        """That is what it is for."""
        told = [row for row in refusal_matrix.rows() if row.wire.startswith("preface") and row.refused_by == "inbound"]
        self.assertGreater(len(told), 4)
        for row in told:
            self.assertEqual(row.outbound_log, row.inbound_log)

    def test_covers_every_way_to_be_refused(self) -> None:
        """What is not in it ends no connection; a new code has to find its place here."""
        text = " ".join(f"{row.outbound_log} {row.inbound_log}" for row in refusal_matrix.rows())
        text += " ".join(" ".join(cells) for cells in refusal_matrix.endings())
        covered = set(re.findall(r"TM-[A-Z][0-9]{3}", text))
        self.assertEqual(
            {code.id for code in codes.all_codes()} - covered,
            {
                *("TM-C101", "TM-C102", "TM-C103", "TM-C104", "TM-C105", "TM-C106"),  # the proxy does not start
                *("TM-I103", "TM-I201", "TM-I202", "TM-I203"),  # an identity that is not put into use
                *("TM-I301", "TM-I302"),  # a name that is asked for on the command line
                "TM-I603",  # costs nothing while the last bundle serves; without one, TM-I601
                "TM-L104",  # costs a line, not a connection
                *("TM-U115", "TM-U116"),  # cost an endpoint its connections; when it is the last, TM-U105
                "TM-U113",  # the same; a connection that finds no endpoint has TM-U103
            },
        )
