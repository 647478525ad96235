"""Log lines on stderr: coloured at a terminal, key=value or JSON elsewhere. Ours and every library's alike."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor


_TRACEBACKS = frozenset({"exc_info", "exception", "stack"})


class LogFormat(StrEnum):
    """auto is console at a terminal and logfmt elsewhere."""

    AUTO = "auto"
    CONSOLE = "console"
    LOGFMT = "logfmt"
    JSON = "json"


def set_up(log_format: LogFormat = LogFormat.AUTO, *, debug: bool = False, stream: TextIO | None = None) -> None:
    """Send structlog's and the standard library's records to a stream, by default stderr.

    Ours from INFO on, libraries' from WARNING on; with debug ours from DEBUG, libraries' from INFO. Calling it
    again replaces what was set up before.
    """
    import logging

    import structlog

    stream = stream or sys.stderr
    colour = stream.isatty()
    if log_format is LogFormat.AUTO:
        log_format = LogFormat.CONSOLE if colour else LogFormat.LOGFMT

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        _time_stamper(),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.PositionalArgumentsFormatter()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_rendering(log_format, colour=colour),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO if debug else logging.WARNING)
    logging.getLogger("metricwatch").setLevel(logging.DEBUG if debug else logging.INFO)


def _time_stamper() -> Processor:
    """The time of each line, in UTC; it never runs backwards, whatever the machine's clock does."""
    from metricwatch.clock import SteadyClock, SystemClock

    clock = SteadyClock(SystemClock())

    def stamp(_logger: object, _method: str, fields: EventDict) -> EventDict:
        fields["time"] = clock.now().isoformat(timespec="microseconds").replace("+00:00", "Z")
        return fields

    return stamp


def _visible(_logger: object, _method: str, fields: EventDict) -> EventDict:
    """Spell out control characters: file names and servers' answers stand in log lines, and people read those."""
    from metricwatch.cli.console import visible

    for key, value in fields.items():
        if key not in _TRACEBACKS and isinstance(value, str | os.PathLike | BaseException):
            fields[key] = visible(str(value))
    return fields


def _rendering(log_format: LogFormat, *, colour: bool) -> list[Processor]:
    import structlog

    order = ["time", "level", "event", "logger"]
    if log_format is LogFormat.CONSOLE:
        # Not the rich one: it shows local variables, and a secret may be among them.
        plain = structlog.dev.plain_traceback
        renderer = structlog.dev.ConsoleRenderer(
            colors=colour, timestamp_key="time", exception_formatter=plain, sort_keys=False
        )
        return [_visible, renderer]
    if log_format is LogFormat.JSON:
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    return [
        structlog.processors.format_exc_info,
        _visible,
        structlog.processors.LogfmtRenderer(key_order=order, drop_missing=True, bool_as_flag=False),
    ]
