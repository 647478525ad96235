"""Sinks: where curves go."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from metricwatch.errors import PermanentError
from metricwatch.records import Picture, Point, RemoteRun, Run, RunFacts, StoredPicture


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """A step's checkpoint that is to become a version of the model `name`.

    files are paths on this machine by their names below the step's folder, of which the last part is the file's own;
    link is where the checkpoint is instead, as the sink's model registry shall know it. digest is that of the content
    ("" for a link): the same step and digest again is the same version. tags and description are for people.
    """

    name: str
    step: int
    files: Mapping[str, str]
    link: str = ""
    digest: str = ""
    alias: str = ""
    description: str = ""
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """A version of a model. created is False for one that was there already."""

    name: str
    version: str
    source: str
    created: bool
    url: str | None = None


class Sink(ABC):
    """Where curves go. The daemon calls it from one thread, at least once for each delivery.

    write() raises RunGoneError when the run is deleted or unknown: the points are kept, and find_run is asked anew.

    Options is a frozen dataclass whose fields are the keys a user may write under the sink's name. A method
    raises TemporaryError when trying the very same call later may help, PermanentError when it never will.
    """

    Options: ClassVar[type[Any]]
    # True for a sink that implements write_picture(): others are given none.
    takes_pictures: ClassVar[bool] = False
    # True for a sink that implements write_page().
    takes_pages: ClassVar[bool] = False

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

    def write_page(self, run_id: str, name: str, content: bytes) -> None:
        """Put a file (`alerts.html`) beside the run in the place of the one of that name, or raise as write() does."""
        raise PermanentError(f"{type(self).__name__} takes no pages: {name} of run {run_id}, {len(content)} bytes")

    def ended(self, run_id: str) -> bool:
        """True when the other side says that the training job has finished well. Raises as write() does."""
        del run_id
        return False

    def run_name(self, run_id: str) -> str:
        """The name of a run as people know it. Raises RunGoneError where there is no such run."""
        return run_id

    def keys(self, run_id: str) -> Sequence[str]:
        """The keys of all curves of a run, also of those that others wrote. Raises as write() does."""
        raise PermanentError(f"{type(self).__name__} cannot be read: the curves of run {run_id} are not known")

    def read(self, run_id: str, key: str) -> Sequence[Point]:
        """All points of one curve in the order of their timestamps; a step that was written twice is there twice.

        Values may be NaN or infinite. Raises as write() does.
        """
        raise PermanentError(f"{type(self).__name__} cannot be read: {key} of run {run_id} is not known")

    def read_pages(self, run_id: str, key: str) -> Iterator[Sequence[Point]]:
        """What read() gives, some thousands at a time, so that nobody must hold all; within a page in any order."""
        yield self.read(run_id, key)

    def facts(self, run_id: str) -> RunFacts:
        """The run's name, state and tags. Raises RunGoneError where there is no such run."""
        return RunFacts(id=run_id, name=self.run_name(run_id))

    def pictures(self, run_id: str) -> Sequence[StoredPicture]:
        """The pictures of a run that write_picture() wrote, by step. Raises as write() does."""
        raise PermanentError(f"{type(self).__name__} cannot be read: the pictures of run {run_id} are not known")

    def read_picture(self, run_id: str, picture: StoredPicture) -> bytes:
        """The PNG file's content. Raises as write() does, PermanentError where it is not there."""
        raise PermanentError(f"{type(self).__name__} cannot be read: {picture.key} of run {run_id} is not known")

    def register(
        self, run_id: str, registration: Registration, show: Callable[[str, int, int], None] = lambda *_: None
    ) -> ModelVersion:
        """Make a model version of a run's checkpoint; a second call finds the first one's. Raises as write() does.

        show(what, done, total) is called as an upload proceeds.
        """
        del show
        raise PermanentError(
            f"{type(self).__name__} has no models: {registration.name} of run {run_id} is not registered"
        )

    @abstractmethod
    def ping(self) -> str:
        """Ask the other side for a sign of life; returns a line that says who answered."""

    def close(self) -> None:
        """Drop connections."""
