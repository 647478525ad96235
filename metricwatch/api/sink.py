"""Sinks: where curves go."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from metricwatch.errors import PermanentError
from metricwatch.records import Picture, Point, RemoteRun, Run


class Sink(ABC):
    """Where curves go. The daemon calls it from one thread, at least once for each delivery.

    write() raises RunGoneError when the run is deleted or unknown: the points are kept, and find_run is asked anew.

    Options is a frozen dataclass whose fields are the keys a user may write under the sink's name. A method
    raises TemporaryError when trying the very same call later may help, PermanentError when it never will.
    """

    Options: ClassVar[type[Any]]
    # True for a sink that implements write_picture(): others are given none.
    takes_pictures: ClassVar[bool] = False

    @abstractmethod
    def __init__(self, options: Any) -> None:
        """Keep the options. No network traffic yet."""

    @abstractmethod
    def find_run(self, run: Run) -> RemoteRun:
        """Find the run, or create it where it is known by name only. Calling it again finds the same run."""

    @abstractmethod
    def write(self, run_id: str, points: Sequence[Point], tags: Mapping[str, str]) -> None:
        """Write all or raise. Writing the same points again must leave one copy of each."""

    def write_picture(self, run_id: str, picture: Picture, png: bytes) -> None:
        """Write a PNG file's content, or raise as write() does. Writing the same again must leave one."""
        raise PermanentError(
            f"{type(self).__name__} takes no pictures: {picture.key} of run {run_id}, {len(png)} bytes, is not written"
        )

    @abstractmethod
    def ping(self) -> str:
        """Ask the other side for a sign of life; returns a line that says who answered."""

    def close(self) -> None:
        """Drop connections."""
