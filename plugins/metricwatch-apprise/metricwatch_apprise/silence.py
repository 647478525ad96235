"""Keeps addresses out of the log: apprise and the libraries under it print them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_TALKERS = ("apprise", "urllib3", "requests", "requests_oauthlib", "oauthlib", "MARKDOWN", "markdown")


class _ThisThread(logging.Filter):
    """Drops what is logged by the thread that made it; other threads may use the same libraries."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def filter(self, record: logging.LogRecord) -> bool:
        return record.thread != self._thread


@contextmanager
def silence() -> Iterator[None]:
    """Nothing that apprise, urllib3 and their like log in this thread reaches a handler, at no level."""
    # A filter of a logger does not hold for its children: urllib3 logs through urllib3.connectionpool.
    names = [name for name in list(logging.root.manager.loggerDict) if name.partition(".")[0] in _TALKERS]
    loggers = [logging.getLogger(name) for name in dict.fromkeys((*_TALKERS, "urllib3.connectionpool", *names))]
    mute = _ThisThread()
    for logger in loggers:
        logger.addFilter(mute)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(mute)


__all__ = ["silence"]
