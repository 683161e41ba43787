"""The log observers: one event is one line, in text and in JSON."""

from __future__ import annotations

import io
import json
import os
import pty
from typing import Any

from twisted.internet.protocol import Factory
from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel, LogPublisher
from twisted.python import log as legacy
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tcpmesh.observe.log import MAX_MESSAGE, JSONLogObserver, TextLogObserver, observer_for
from tcpmesh.settings import LogSettings
from tests.unit.record_samples import HOSTILE


def a_failure(text: str) -> Failure:
    """A failure with a traceback."""
    try:
        raise RuntimeError(text)
    except RuntimeError:
        return Failure()


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Claim it."""
        return True


class LogCase(SynchronousTestCase):
    """Lines that an observer of one kind writes."""

    def setUp(self) -> None:
        self.written: list[str] = []
        self.text = Logger(namespace="tcpmesh.test", observer=TextLogObserver(self.written.append))
        self.json = Logger(namespace="tcpmesh.test", observer=JSONLogObserver(self.written.append))

    def at(self, observer: Any, **event: Any) -> str:
        """What is written for an event at the beginning of 1970."""
        observer({"log_time": 1.5, "log_level": LogLevel.info, "log_namespace": "tcpmesh.test"} | event)
        return self.written.pop()


class TextTests(LogCase):
    """For people."""

    def test_provides_the_interface(self) -> None:
        """twistd asks for it by interface."""
        self.assertTrue(verifyObject(ILogObserver, TextLogObserver(self.written.append)))

    def test_writes_time_level_and_message(self) -> None:
        """In that order, levels aligned."""
        observer = TextLogObserver(self.written.append)
        self.assertEqual(
            self.at(observer, log_format="hello {who}", who="you"), "1970-01-01T00:00:01.500Z INFO  hello you"
        )
        self.assertEqual(
            self.at(observer, log_format="oh", log_level=LogLevel.critical), "1970-01-01T00:00:01.500Z CRIT  oh"
        )

    def test_colours_levels_on_request(self) -> None:
        """A warning is yellow, an error red; information has no colour."""
        observer = TextLogObserver(self.written.append, colour=True)
        self.assertIn(" \x1b[33mWARN \x1b[0m oh", self.at(observer, log_format="oh", log_level=LogLevel.warn))
        self.assertIn(" \x1b[31mERROR\x1b[0m oh", self.at(observer, log_format="oh", log_level=LogLevel.error))
        self.assertEqual(self.at(observer, log_format="oh"), "1970-01-01T00:00:01.500Z INFO  oh")

    def test_keeps_hostile_text_on_its_line(self) -> None:
        """A message is one line of printable ASCII."""
        for text in HOSTILE:
            self.text.info("{what}", what=text)
            line = self.written.pop()
            self.assertTrue(line.isascii() and line.isprintable(), line)

    def test_cuts_what_is_too_long(self) -> None:
        """A message has a bound."""
        self.text.info("{what}", what="x" * 1_000_000)
        self.assertTrue(self.written[0].endswith("x...(1000000 characters)"))
        self.assertLess(len(self.written[0]), MAX_MESSAGE + 100)

    def test_indents_tracebacks(self) -> None:
        """They stay readable, and no line of an exception's text passes for an event."""
        self.text.failure("it broke", a_failure("first\n1970-01-01T00:00:01.500Z INFO  forged\x1b[2J\u2028second"))
        head, *body = self.written[0].split("\n")
        self.assertTrue(head.endswith(" CRIT  it broke"), head)
        self.assertTrue(all(line.startswith("    ") for line in body))
        self.assertTrue(all(line.isascii() and line.isprintable() for line in body))
        self.assertTrue(any("raise RuntimeError" in line for line in body))
        self.assertIn("    1970-01-01T00:00:01.500Z INFO  forged\\x1b[2J", body)
        self.assertEqual(body[-1], "    second")


class JSONTests(LogCase):
    """For programs."""

    def test_provides_the_interface(self) -> None:
        """twistd asks for it by interface."""
        self.assertTrue(verifyObject(ILogObserver, JSONLogObserver(self.written.append)))

    def test_writes_the_event_and_its_plain_fields(self) -> None:
        """Objects stay out, and so does what would replace our own fields."""
        line = self.at(
            JSONLogObserver(self.written.append),
            log_format="{line}",
            line="listening on 4143",
            port=4143,
            ratio=0.5,
            ready=True,
            source=object(),
            level="forged",
            log_secret="no",
        )
        self.assertEqual(
            list(json.loads(line).items()),
            [
                ("time", "1970-01-01T00:00:01.500Z"),
                ("level", "info"),
                ("logger", "tcpmesh.test"),
                ("message", "listening on 4143"),
                ("port", 4143),
                ("ratio", 0.5),
                ("ready", True),
            ],
        )

    def test_takes_summary_and_fields_in_place_of_the_text(self) -> None:
        """An event that carries its fields does not say everything twice."""
        line = self.at(
            JSONLogObserver(self.written.append),
            log_format="{line}",
            line="refused: code=TM-I501",
            summary="refused",
            fields={"code": "TM-I501"},
        )
        self.assertEqual(
            json.loads(line),
            {
                "time": "1970-01-01T00:00:01.500Z",
                "level": "info",
                "logger": "tcpmesh.test",
                "message": "refused",
                "code": "TM-I501",
            },
        )

    def test_keeps_hostile_text_in_its_field(self) -> None:
        """Message and fields alike."""
        for text in HOSTILE:
            self.json.info("peer {what}", what=text)
            line = self.written.pop()
            self.assertTrue(line.isascii() and line.isprintable(), line)
            self.assertEqual(set(json.loads(line)), {"time", "level", "logger", "message", "what"})

    def test_makes_a_traceback_one_field(self) -> None:
        """The line stays one."""
        self.json.failure("it broke", a_failure("first\nsecond"))
        [line] = self.written
        self.assertNotIn("\n", line)
        event = json.loads(line)
        self.assertEqual((event["level"], event["message"]), ("critical", "it broke"))
        self.assertIn("RuntimeError: first\nsecond", event["traceback"])


class ObserverForTests(SynchronousTestCase):
    """What the configuration makes of it."""

    def lines(self, stream: io.StringIO, level: str = "info", format: str = "auto") -> Logger:  # noqa: A002
        """A logger whose events go to the stream as configured."""
        settings = LogSettings(level=level, format=format)  # type: ignore[arg-type]
        return Logger(namespace="tcpmesh.test", observer=observer_for(settings, stream))

    def test_writes_json_unless_it_is_a_terminal(self) -> None:
        """format: auto."""
        stream, terminal = io.StringIO(), Terminal()
        self.lines(stream).info("hello")
        self.lines(terminal).info("hello")
        self.assertEqual(json.loads(stream.getvalue())["message"], "hello")
        self.assertTrue(terminal.getvalue().endswith("Z INFO  hello\n"), terminal.getvalue())

    def test_does_as_it_is_told(self) -> None:
        """format: text and json hold everywhere."""
        stream, terminal = io.StringIO(), Terminal()
        self.lines(stream, format="text").info("hello")
        self.lines(terminal, format="json").info("hello")
        self.assertTrue(stream.getvalue().endswith("Z INFO  hello\n"))
        self.assertEqual(json.loads(terminal.getvalue())["message"], "hello")

    def test_respects_no_color(self) -> None:
        """A terminal, but no colour."""
        self.patch(os, "environ", {})
        coloured, plain = Terminal(), Terminal()
        self.lines(coloured).warn("hello")
        self.patch(os, "environ", {"NO_COLOR": "1"})
        self.lines(plain).warn("hello")
        self.assertIn("\x1b[33m", coloured.getvalue())
        self.assertNotIn("\x1b", plain.getvalue())

    def test_leaves_out_what_is_below_the_level(self) -> None:
        """Each level passes itself and what is above."""
        for level, count in (("debug", 5), ("info", 4), ("warn", 3), ("error", 2)):
            stream = io.StringIO()
            logger = self.lines(stream, level=level)
            for name in ("debug", "info", "warn", "error", "critical"):
                logger.emit(LogLevel.lookupByName(name), "hello")
            self.assertEqual(len(stream.getvalue().splitlines()), count, level)

    def test_takes_twisteds_own_chatter_as_debugging(self) -> None:
        """Factories and ports are not what an operator watches; errors of Twisted are."""
        stream = io.StringIO()
        observer = observer_for(LogSettings(), stream)
        events: list[LogEvent] = []
        publisher = LogPublisher(observer, events.append)
        Logger(namespace="twisted.internet.base", observer=publisher).info("Received SIGTERM")
        Logger(namespace="tests.unit", observer=publisher).info("Starting factory {factory!r}", factory=Factory())
        self.assertEqual((len(events), stream.getvalue()), (2, ""))
        Logger(namespace="twisted.internet.defer", observer=publisher).critical("Unhandled error in Deferred:")
        Logger(namespace="stdout", observer=publisher).info("printed by a plugin")
        self.assertEqual(
            [json.loads(line)["message"] for line in stream.getvalue().splitlines()],
            ["Unhandled error in Deferred:", "printed by a plugin"],
        )

    def test_writes_old_style_events_once(self) -> None:
        """twisted.python.log.msg is chatter, log.err an error with one traceback."""
        stream = io.StringIO()
        observer = observer_for(LogSettings(), stream)
        legacy.addObserver(observer)
        self.addCleanup(legacy.removeObserver, observer)
        legacy.msg("(TCP Port 4143 Closed)")
        legacy.err(a_failure("oh"), "while we worked")
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        [line] = stream.getvalue().splitlines()
        event = json.loads(line)
        self.assertEqual((event["level"], event["message"]), ("critical", "while we worked"))
        self.assertEqual(event["traceback"].count("RuntimeError: oh"), 1)

    def test_writes_to_a_rotating_file(self) -> None:
        """What twistd --logfile gives has no descriptor."""
        path = self.mktemp()
        file = LogFile.fromFullPath(path)
        self.addCleanup(file.close)
        settings = LogSettings()
        Logger(namespace="tcpmesh.test", observer=observer_for(settings, file)).info("hello")  # type: ignore[arg-type]
        with open(path) as written:
            self.assertEqual(json.loads(written.read())["message"], "hello")

    def test_does_not_wait_for_a_pipe_that_nobody_reads(self) -> None:
        """The proxy goes on when its log does not."""
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        with os.fdopen(writer, "w") as stream:
            logger = Logger(namespace="tcpmesh.test", observer=observer_for(LogSettings(), stream))
            for _ in range(100):
                logger.info("{what}", what="x" * 1000)
        self.assertEqual(os.read(reader, 8)[:8], b'{"time":')

    def test_writes_to_a_terminals_descriptor(self) -> None:
        """Text, through the descriptor."""
        primary, secondary = pty.openpty()
        self.addCleanup(os.close, primary)
        with os.fdopen(secondary, "w") as stream:
            Logger(namespace="tcpmesh.test", observer=observer_for(LogSettings(), stream)).info("hello")
            self.assertTrue(os.read(primary, 4096).endswith(b" INFO  hello\r\n"))
