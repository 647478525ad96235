"""What a report says, before it is a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from metricwatch.drawing.curve import Curve
from metricwatch.records import Direction, RunFacts, Severity, StoredPicture, WindowPoint

REPORT_PAGE = "report.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One curve, the newest value of each step. rises: whether higher is better, None where nobody says so.

    points have finite values and are in the order of steps: all of them, or those that tell most where there are very
    many (whole is False then). gaps are steps with a value that is not finite; evaluations counts both. best and worst
    are the highest and the lowest point where rises is None; the earliest of equal ones.
    """

    key: str
    name: str
    rises: bool | None
    points: tuple[WindowPoint, ...]
    gaps: tuple[int, ...] = ()
    evaluations: int = 0
    whole: bool = True
    last_ms: int | None = None

    @property
    def first(self) -> WindowPoint | None:
        return self.points[0] if self.points else None

    @property
    def last(self) -> WindowPoint | None:
        return self.points[-1] if self.points else None

    @property
    def best(self) -> WindowPoint | None:
        return self._extreme(highest=self.rises is not False)

    @property
    def worst(self) -> WindowPoint | None:
        return self._extreme(highest=self.rises is False)

    def at(self, step: int) -> WindowPoint | None:
        """The point at a step, None where it has none."""
        return next((point for point in self.points if point.step == step), None)

    def _extreme(self, *, highest: bool) -> WindowPoint | None:
        if not self.points:
            return None
        choose = max if highest else min
        return choose(self.points, key=lambda point: point.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """An alert from the step that fired it to the one at which it was over; until None: it fires still.

    metric is the name of the curve that it is about, None where that is not known or it is about the run as a whole.
    """

    rule: str
    metric: str | None
    severity: Severity
    direction: Direction | None
    fired: int
    until: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A picture on the page: what it is called, the step that it is of, and what the sink calls it."""

    title: str
    picture: StoredPicture


@dataclass(frozen=True, slots=True, kw_only=True)
class StepView:
    """One step as a column of the page. labels say what it is: "best", "last"; a step may be several things."""

    step: int
    labels: tuple[str, ...]
    pictures: tuple[Shown, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Depends:
    """What a metric's values depend on, `since` says from where on: "since step 0"."""

    metric: str
    since: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that the page says of a run.

    by names the metric by which steps are best and worst, "" where the run has no value. curves are those to draw, by
    name. closing are pictures of the last step that stand for the whole run. depends, states, tags and facts are what
    is known of where the values come from; notes say what was left out and why.
    """

    run: RunFacts
    where: str
    made_at: datetime
    series: Sequence[Series]
    by: str = ""
    evaluations: int = 0
    last_step: int | None = None
    last_at: datetime | None = None
    images: int | None = None
    seconds: float | None = None
    curves: Mapping[str, Curve] = field(default_factory=dict)
    rule_words: Mapping[str, str] = field(default_factory=dict)
    episodes: Sequence[Episode] = ()
    episodes_left_off: int = 0
    steps: Sequence[StepView] = ()
    closing: Sequence[Shown] = ()
    depends: Sequence[Depends] = ()
    tags: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()

    def of(self, name: str) -> Series | None:
        """The series of a metric."""
        return next((series for series in self.series if series.name == name), None)
