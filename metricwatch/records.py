"""The frozen records that stages exchange. They carry facts, never behaviour that needs a library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal

Severity = Literal["critical", "warning", "info"]
# What is told of an alert: that it began, that it is over, or once more that it lasts.
AlertEvent = Literal["firing", "resolved", "reminder"]
Direction = Literal["worse", "better"]


class ScoreState(StrEnum):
    """Why a score has, or has not, a value. Everything but OK has value None and is never compared."""

    OK = "ok"
    TOO_FEW_IMAGES = "too_few_images"
    NON_FINITE = "non_finite"
    NO_PAIRS = "no_pairs"
    NO_REFERENCE = "no_reference"
    COLLAPSED = "collapsed"
    NO_INPUT = "no_input"
    FAILED = "failed"


class JobState(StrEnum):
    """A job is queued, leased by one worker, and ends done, failed (bad input), quarantined or skipped.

    Superseded: its step was rewritten. Skipped: the backlog's policy passed it over, or its files had gone.
    """

    QUEUED = "queued"
    LEASED = "leased"
    DONE = "done"
    FAILED = "failed"
    QUARANTINED = "quarantined"
    SUPERSEDED = "superseded"
    SKIPPED = "skipped"


class AlertState(StrEnum):
    """The states of a rule at one step, and of an alert over its life."""

    INACTIVE = "inactive"
    PENDING = "pending"
    FIRING = "firing"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training job, as the configuration names it. At least one of id, id_file and name is set."""

    key: str
    name: str
    id: str | None = None
    id_file: str | None = None
    total_steps: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteRun:
    """A run as a sink knows it: its identifier there, and the page a person can open (or None)."""

    id: str
    url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What one step left on disk, settled. A rewritten step is the same snapshot with a higher revision.

    path is the directory of the images, or that of the checkpoint (for a checkpoint of many files the checkpoint
    itself); members names the files of it that belong to the step, or is None where the whole directory does. digest
    changes whenever a member's name, size or mtime does. images counts the images, or a checkpoint's files.
    """

    id: int
    source: str
    run: str
    step: int
    revision: int
    path: str
    members: tuple[str, ...] | None
    digest: str
    images: int
    settled_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One snapshot to evaluate. attempt counts from 1; a lease not renewed before it expires lapses."""

    id: int
    snapshot: Snapshot
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One key and value of an evaluation.

    value is finite when state is OK and None otherwise. stderr has the unit of value. images is the number of
    images that entered this score. provenance holds what the number depends on (see Provenance keys in
    metricwatch.api); two scores may be compared only when series is equal.
    """

    key: str
    value: float | None
    images: int
    higher_is_better: bool
    stderr: float | None = None
    state: ScoreState = ScoreState.OK
    detail: str = ""
    series: str = ""
    provenance: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A file that was left out of an evaluation, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptSample:
    """A sample that was kept to be looked at: its name, the same at every step, and its PNG file."""

    name: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A sample beside its partners, as PNG files of the same small size; "" where there is no such picture.

    heat is a grey picture of where the sample departs from its content: 0 where they are alike, 255 where they differ
    by heat_most or more. heat_mean is the mean of that map in its own unit, None without one.
    """

    name: str
    image: str
    content: str = ""
    style: str = ""
    heat: str = ""
    heat_mean: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """An image of the reference near a sample: its file's name, a small PNG of it, and the distance."""

    name: str
    image: str
    distance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookalike:
    """A sample and the images of the reference that are nearest to it, the nearest first."""

    name: str
    image: str
    nearest: tuple[Neighbour, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What an evaluation looks like: small PNG files in one folder, from which figures are drawn.

    samples are the same ones at every step. heat_of is the metric whose map the heat is, heat_most the value that is
    drawn as the hottest. lookalikes are the samples nearest to the reference, in the features of the extractor
    `space`, among `searched` images of it; usual_distance is the median distance of an image of the reference to the
    nearest other one, None where it is not known.
    """

    samples: tuple[KeptSample, ...] = ()
    compared: tuple[Compared, ...] = ()
    heat_of: str = ""
    heat_most: float = 1.0
    lookalikes: tuple[Lookalike, ...] = ()
    space: str = ""
    searched: int = 0
    usual_distance: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One snapshot scored. images counts those that could be read; seconds is the worker's wall time.

    work counts what was done for it: pictures decoded ("decodes"), pictures through each network ("passes
    <extractor>"), rows of features and measures found in the cache ("cached"). phases are the seconds that a
    checkpoint took to "load", to "sample" and to "score". kept are some of its samples. look is None where nobody asked
    for pictures, or there are none.
    """

    scores: tuple[Score, ...]
    skipped: tuple[Skipped, ...]
    images: int
    seconds: float
    provenance: Mapping[str, str]
    work: Mapping[str, int] = field(default_factory=dict)
    phases: Mapping[str, float] = field(default_factory=dict)
    kept: tuple[KeptSample, ...] = ()
    look: Look | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A point of a curve as it is sent: fixed before the first send and replayed verbatim ever after."""

    key: str
    value: float
    timestamp_ms: int
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture as it is sent: fixed before the first send and replayed verbatim ever after.

    key is what a slider over steps is made for: the same at every step.
    """

    key: str
    step: int
    timestamp_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPicture:
    """A picture that a sink holds. place is where the sink finds it."""

    key: str
    step: int
    timestamp_ms: int
    place: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What a sink knows of a run beside its curves. status is the sink's own word (MLflow: RUNNING, FINISHED ...)."""

    id: str
    name: str
    status: str = ""
    url: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """An outbox row: points and tags that one sink must receive for one run. attempts made so far."""

    id: int
    sink: str
    run: str
    points: tuple[Point, ...]
    tags: Mapping[str, str]
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowPoint:
    """One evaluation inside a rule's window."""

    step: int
    value: float
    stderr: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One episode of a rule on a run, from the step that fired it to the step that resolved it.

    change is the movement that fired it, as a fraction of the window's first value, positive when the value
    rose; threshold is the bound it passed, in the same unit. window holds the evaluations that the rule looked at,
    moved the two between which it moved. resolved_value is the metric's value at resolved_step, None where that
    evaluation has none. fired_at and resolved_at are when that was seen.

    An alert that is not about a movement says `what` happened, in words that follow the metric's name ("has no value:
    collapsed"), and in detail why. change is then 0, threshold the bound in the metric's own unit (0 without one),
    moved empty, and window perhaps too. One about the run as a whole has no metric: metric is "".

    kind is the kind of the rule: its telling key in the configuration (moves, above, stale ...). labels are the rule's
    own.
    """

    id: int
    run: str
    rule: str
    metric: str
    direction: Direction
    severity: Severity
    state: AlertState
    fired_step: int
    change: float
    threshold: float
    window: tuple[WindowPoint, ...]
    moved: tuple[WindowPoint, ...] = ()
    resolved_step: int | None = None
    resolved_value: float | None = None
    reason: str = ""
    what: str = ""
    detail: str = ""
    kind: str = "moves"
    labels: Mapping[str, str] = field(default_factory=dict)
    fired_at: datetime | None = None
    resolved_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One alert as a message tells it, with what a reader needs to act on it.

    title is one line; summary one or two plain sentences, the same through every notifier. labels are those that
    routes and silences go by: alertname, run, metric, severity, direction, kind and the rule's own. picture is the
    metric's curve as a PNG with the alert marked, None where none was drawn.
    """

    event: AlertEvent
    alert: Alert
    run_name: str
    run_url: str | None
    title: str
    summary: str
    labels: Mapping[str, str] = field(default_factory=dict)
    picture: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """One message to one receiver: the alerts of a group that it is to hear of, the gravest first, never none.

    event is what the message as a whole reports: `firing` when any alert began, else `reminder` when any lasts, else
    `resolved`; `digest` for what was held back during quiet hours, `test` for a test. group holds the labels that
    its alerts share. title and summary are those of a single notice, or speak of all. note says what a reader should
    know of the message itself, "" mostly: that a template failed, or that another receiver refused it.
    """

    id: int
    event: Literal["firing", "resolved", "reminder", "digest", "test"]
    notices: tuple[Notice, ...]
    created_at: datetime
    title: str
    summary: str
    receiver: str = ""
    group: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    @property
    def alert(self) -> Alert:
        """The gravest alert."""
        return self.notices[0].alert

    @property
    def run_name(self) -> str:
        return self.notices[0].run_name

    @property
    def run_url(self) -> str | None:
        return self.notices[0].run_url
