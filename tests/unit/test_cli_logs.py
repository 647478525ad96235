"""Log lines: one form for ours and for the libraries', no secret in any."""

from __future__ import annotations

import io
import json
import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog

from metricwatch.api import Secret
from metricwatch.cli.logs import LogFormat, set_up
from metricwatch.clock import SystemClock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restore():
    root = logging.getLogger()
    ours = logging.getLogger("metricwatch")
    kept = (root.handlers, root.level, ours.level)
    yield
    root.handlers = kept[0]
    root.setLevel(kept[1])
    ours.setLevel(kept[2])
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


def test_without_a_terminal_lines_are_key_value_pairs_without_colour():
    stream = io.StringIO()
    set_up(stream=stream)
    structlog.get_logger("metricwatch.watch").info("snapshot.settled", step=7, path="a b", whole=True)
    (line,) = lines(stream)
    assert line.endswith('level=info event=snapshot.settled logger=metricwatch.watch step=7 path="a b" whole=true')
    assert line.startswith("time=20")


def test_json_lines_are_documents():
    stream = io.StringIO()
    set_up(LogFormat.JSON, stream=stream)
    structlog.get_logger("metricwatch.watch").info("snapshot.settled", step=7, key=Secret("hunter2"))
    document = json.loads(stream.getvalue())
    assert (document["event"], document["level"], document["step"]) == ("snapshot.settled", "info", 7)
    assert document["key"] == "******"


def test_a_terminal_gets_colours():
    stream = Terminal()
    set_up(stream=stream)
    structlog.get_logger("metricwatch.watch").info("snapshot.settled")
    assert "\x1b[" in stream.getvalue()


def test_libraries_speak_in_the_same_form_from_warnings_on():
    stream = io.StringIO()
    set_up(stream=stream)
    logging.getLogger("somebody.else").info("chatter")
    logging.getLogger("somebody.else").warning("slow: %s", "yes")
    (line,) = lines(stream)
    assert line.endswith('level=warning event="slow: yes" logger=somebody.else')


def test_debug_lets_more_through():
    stream = io.StringIO()
    set_up(stream=stream)
    structlog.get_logger("metricwatch.watch").debug("scan")
    assert lines(stream) == []
    set_up(debug=True, stream=stream)
    structlog.get_logger("metricwatch.watch").debug("scan")
    assert len(lines(stream)) == 1


@pytest.mark.parametrize("log_format", list(LogFormat))
def test_a_file_name_cannot_command_the_terminal(log_format):
    stream = io.StringIO()
    set_up(log_format, stream=stream)
    structlog.get_logger("metricwatch.watch").info("a.b", path="x\x1b[31m\ny\x9b", other=Path("\x1b]0;z"))
    logging.getLogger("somebody.else").warning("got %s", "\x1b[2J\r")
    assert len(stream.getvalue().split("\n")) == 3
    assert not set("\x1b\x9b\r") & set(stream.getvalue())


@pytest.mark.parametrize("log_format", list(LogFormat))
def test_a_logged_traceback_does_not_show_local_variables(log_format):
    stream = Terminal()
    set_up(log_format, stream=stream)

    def connect(password: str) -> None:
        raise RuntimeError("gone")

    try:
        connect("hunter" + str(2))
    except RuntimeError:
        structlog.get_logger("metricwatch.watch").exception("watch.failed")
    assert "RuntimeError: gone" in stream.getvalue()
    assert "hunter2" not in stream.getvalue()


def test_the_time_of_the_lines_never_runs_backwards(monkeypatch):
    walls = iter([datetime(2026, 1, 1, hour, tzinfo=UTC) for hour in (3, 3, 2, 4)])
    monkeypatch.setattr(SystemClock, "now", lambda _: next(walls))
    monkeypatch.setattr(SystemClock, "monotonic", lambda _: 0.0)
    stream = io.StringIO()
    set_up(LogFormat.LOGFMT, stream=stream)
    for _ in range(3):
        structlog.get_logger("metricwatch").info("turn")
    times = [line.split()[0] for line in stream.getvalue().splitlines()]
    assert times == [f"time=2026-01-01T0{hour}:00:00.000000Z" for hour in (3, 3, 4)]
