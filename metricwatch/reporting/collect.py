"""Collects what a report says from the sink that holds the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from metricwatch import catalog
from metricwatch.api import Sink
from metricwatch.clock import from_ms
from metricwatch.config.composites import PREFIX
from metricwatch.config.rules import Rule
from metricwatch.config.wording import bounds_of, in_words
from metricwatch.drawing.curve import Curve, Span
from metricwatch.drawing.thin import thinned, thinned_steps
from metricwatch.errors import InputError, MetricwatchError, RunGoneError
from metricwatch.records import RunFacts
from metricwatch.replaying.curves import ALERTS, STDERR, Show
from metricwatch.replaying.directions import Directions
from metricwatch.reporting import origins
from metricwatch.reporting.choice import Choice
from metricwatch.reporting.content import Episode, Report, Series, Shown, StepView
from metricwatch.reporting.episodes import TAG, episodes_of, metric_of
from metricwatch.reporting.reading import Newest, read_series

# What the daemon logs of an evaluation as a whole.
_IMAGES, _SECONDS = "images", "evaluation_seconds"
_MOST_METRICS, _MOST_CURVES, _MOST_EPISODES, _MOST_TAGS = 100, 16, 100, 60
# Of each curve, as it is drawn: a third of the columns that it has on a page for two of them.
_MOST_POINTS, _MOST_GAPS = 400, 100
_PREFIXES_NAMED = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the report is to be about. run_name is the run's name to rules, where it has another one than in the sink.

    metrics are the names that come first, in this order; metric is that by which steps are best and worst, "" for the
    first composite or else the first of the others. rises says which way is better for keys of which nothing is known;
    None leaves them without a best and a worst. rules give alerts their words and bounds.
    """

    run_id: str
    where: str
    prefix: str
    run_name: str = ""
    metrics: Sequence[str] = ()
    metric: str = ""
    rises: bool | None = None
    rules: Sequence[Rule] = ()
    composites: Mapping[str, bool] = field(default_factory=dict)


def collect(sink: Sink, wanted: Wanted, *, now: datetime, show: Show = lambda *_: None) -> Report:
    """The report but for its drawings. Raises as Sink.read() does, and InputError where the run has no such curves.

    A store of pictures that does not answer costs the pictures alone.
    """
    run = sink.facts(wanted.run_id)
    return _Collector(sink, wanted, run, show).report(now)


class _Collector:
    def __init__(self, sink: Sink, wanted: Wanted, run: RunFacts, show: Show) -> None:
        self._sink = sink
        self._wanted = wanted
        self._run = run
        self._show = show
        self._keys = frozenset(sink.keys(wanted.run_id))
        self._notes: list[str] = []
        self._done = 0

    def report(self, now: datetime) -> Report:
        names = self._names()
        run = self._wanted.run_name or self._run.name
        rules = {rule.name: own for rule in self._wanted.rules if (own := rule.for_run(run)) is not None}
        said = sorted(key.removeprefix(ALERTS) for key in self._keys if key.startswith(ALERTS))
        self._total = len(names) + len(said) + 2
        by = self._by(names)
        # First the one that says which steps are looked at: the others keep their values there.
        main = self._series(by, ())
        pinned = {point.step for point in (main.best, main.worst, main.last) if point is not None}
        series = [main if name == by else self._series(name, pinned) for name in names]
        images, seconds = self._latest(_IMAGES), self._latest(_SECONDS)
        episodes = [episode for rule in said for episode in self._episodes(rule, rules.get(rule), names, series)]
        episodes.sort(key=lambda episode: (episode.until is not None, -episode.fired, episode.rule))
        self._show("reading curves", self._total, self._total)
        steps = _steps(main)
        last_step = max((each.last.step for each in series if each.last is not None), default=None)
        choice = self._pictures()
        drawn = [each for each in series if each.points or each.gaps]
        if len(drawn) > _MOST_CURVES:
            left = ", ".join(each.name for each in drawn[_MOST_CURVES:][:_PREFIXES_NAMED])
            self._notes.append(f"{len(drawn) - _MOST_CURVES} curves are in the table alone: {left} …")
        self._notes += [
            f"{each.name} has {each.evaluations:,} evaluations: those in between are left out where nothing stands out"
            for each in series
            if not each.whole
        ]
        tags = list(origins.others(self._run.tags))
        return Report(
            run=self._run,
            where=self._wanted.where,
            made_at=now,
            series=series,
            by=by if main.points else "",
            evaluations=max((each.evaluations for each in series), default=0),
            last_step=last_step,
            last_at=from_ms(max(moments))
            if (moments := [e.last_ms for e in series if e.last_ms is not None])
            else None,
            images=None if images is None else round(images),
            seconds=seconds,
            curves={each.name: self._curve(each, episodes, rules) for each in drawn[:_MOST_CURVES]},
            rule_words={name: in_words(rule) for name, rule in rules.items()},
            episodes=episodes[:_MOST_EPISODES],
            episodes_left_off=max(0, len(episodes) - _MOST_EPISODES),
            steps=[
                StepView(step=step, labels=tuple(labels), pictures=choice.of_step(step))
                for step, labels in steps.items()
            ],
            closing=self._closing(choice, last_step),
            depends=origins.depends(self._run.tags)[:_MOST_METRICS],
            tags=tags[:_MOST_TAGS],
            notes=tuple(self._notes),
        )

    # --- which metrics ---------------------------------------------------------------------------------------

    def _names(self) -> list[str]:
        """The metrics of the run, those that were asked for first. Raises InputError where it has none of ours."""
        start = f"{self._wanted.prefix}/"
        keys = [key for key in sorted(self._keys) if key.startswith(start) and not self._beside(key)]
        found = [key.removeprefix(start) for key in keys]
        found = [name for name in found if name not in {_IMAGES, _SECONDS}]
        if not found:
            raise InputError(
                f"run {self._wanted.run_id} ({self._run.name}) has no curves under {self._wanted.prefix!r};"
                f" {self._prefixes()}"
            )
        found.sort(key=lambda name: (self._rank(name), name))
        if len(found) > _MOST_METRICS:
            self._notes.append(f"{len(found) - _MOST_METRICS} metrics are left out: {_MOST_METRICS} have room here")
        return found[:_MOST_METRICS]

    def _beside(self, key: str) -> bool:
        return key.endswith(STDERR) and key.removesuffix(STDERR) in self._keys

    def _rank(self, name: str) -> int:
        """Composites, then what was asked for, then what else is known, then the rest."""
        if name.startswith(PREFIX):
            return -1
        metrics = self._wanted.metrics
        place = next((at for at, metric in enumerate(metrics) if name == metric or name.startswith(f"{metric}_")), None)
        if place is not None:
            return place
        return len(metrics) + (self._rises(name) is None)

    def _prefixes(self) -> str:
        prefixes = sorted({key.rpartition("/")[0] for key in self._keys if "/" in key and not key.startswith(ALERTS)})
        if not self._keys:
            return "it has no metrics at all yet"
        if not prefixes:
            return "its metrics have no prefix: metricwatch has not logged to it"
        more = " …" if len(prefixes) > _PREFIXES_NAMED else ""
        return f"it has some under {', '.join(map(repr, prefixes[:_PREFIXES_NAMED]))}{more}: --prefix names another one"

    def _by(self, names: Sequence[str]) -> str:
        wished = self._wanted.metric.removeprefix(f"{self._wanted.prefix}/")
        if wished and wished not in names:
            raise InputError(
                f"--metric {self._wanted.metric}: run {self._wanted.run_id} ({self._run.name}) has no such curve;"
                f" {catalog.did_you_mean(wished, names)}"
            )
        return wished or next((name for name in names if self._rises(name) is not None), names[0])

    def _rises(self, name: str) -> bool | None:
        rise = Directions(composites=self._wanted.composites).of(name)
        return self._wanted.rises if rise.assumed else rise.better

    # --- reading ---------------------------------------------------------------------------------------------

    def _series(self, name: str, pinned: set[int] | tuple[()]) -> Series:
        self._step()
        key = f"{self._wanted.prefix}/{name}"
        return read_series(
            self._sink,
            self._wanted.run_id,
            key,
            name=name,
            rises=self._rises(name),
            with_stderr=f"{key}{STDERR}" in self._keys,
            pinned=pinned,
        )

    def _latest(self, name: str) -> float | None:
        """The value of a curve at its last step."""
        self._step()
        key = f"{self._wanted.prefix}/{name}"
        if key not in self._keys:
            return None
        series = read_series(self._sink, self._wanted.run_id, key, name=name, rises=None, with_stderr=False)
        return series.last.value if series.last else None

    def _episodes(
        self, rule: str, configured: Rule | None, names: Sequence[str], series: Sequence[Series]
    ) -> list[Episode]:
        self._step()
        newest = Newest()
        for page in self._sink.read_pages(self._wanted.run_id, f"{ALERTS}{rule}"):
            newest.add(page)
        metric = metric_of(rule, configured, self._run.tags.get(f"{TAG}{rule}", ""), names)
        about = next((each for each in series if each.name == metric), None)
        said = [(step, value) for step, _, value in newest.rows()]
        return episodes_of(rule, said, configured, metric, about)

    def _pictures(self) -> Choice:
        try:
            return Choice(self._sink.pictures(self._wanted.run_id), self._wanted.prefix)
        except RunGoneError:
            raise
        except MetricwatchError as error:
            self._notes.append(f"pictures are left out: {error}")
            return Choice((), self._wanted.prefix)

    def _closing(self, choice: Choice, step: int | None) -> tuple[Shown, ...]:
        return choice.of_end(step) if step is not None else ()

    def _step(self) -> None:
        self._show("reading curves", self._done, self._total)
        self._done += 1

    # --- drawing ---------------------------------------------------------------------------------------------

    def _curve(self, series: Series, episodes: Sequence[Episode], rules: Mapping[str, Rule]) -> Curve:
        about = [rule for rule in rules.values() if rule.metric == series.name]
        return Curve(
            title=series.name,
            key=series.name,
            points=tuple(thinned(series.points, _MOST_POINTS)),
            spans=tuple(
                Span(
                    rule=episode.rule,
                    severity=episode.severity,
                    direction=episode.direction or "worse",
                    fired=episode.fired,
                    until=episode.until,
                )
                for episode in episodes
                if episode.metric == series.name
            ),
            bounds=tuple(sorted({bound for rule in about for bound in bounds_of(rule)})),
            gaps=tuple(thinned_steps(series.gaps, _MOST_GAPS)),
        )


def _steps(main: Series) -> dict[int, list[str]]:
    """The steps to look at, each with what it is."""
    known = main.rises is not None
    found: dict[int, list[str]] = {}
    for label, point in (
        ("best" if known else "highest", main.best),
        ("worst" if known else "lowest", main.worst),
        ("last", main.last),
    ):
        if point is not None:
            found.setdefault(point.step, []).append(label)
    return found
