"""From a job to the worker's request, and from its evaluation to the points and tags that the sinks get."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metricwatch.config.watching import WatchEntry
from metricwatch.protocol import Evaluate, Looking
from metricwatch.records import Evaluation, Job, KeptSample, Picture, Point, Score, ScoreState
from metricwatch.store.provenance import comparable, describe_changes, shorten, telling
from metricwatch.store.scores import Scores
from metricwatch.supervisor.tags import tag_name

# More than anybody reads in a tag's value.
_MAX_VALUE = 480

# Beside the metrics' own curves.
SECONDS = "evaluation_seconds"
IMAGES = "images"


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """What was said of a key last: its newest evaluation, and the newest that had a value. None where there is none."""

    any: Score | None = None
    with_value: Score | None = None


def points_of(evaluation: Evaluation, *, prefix: str, step: int, timestamp_ms: int) -> list[Point]:
    """The curves' next points: `<prefix>/<key>` and, where there is one, `<prefix>/<key>_stderr`."""
    values = [
        (f"{score.key}{suffix}", value)
        for score in evaluation.scores
        for suffix, value in (("", score.value), ("_stderr", score.stderr))
        if value is not None
    ]
    return _points(values, prefix, step, timestamp_ms)


def effort_of(evaluation: Evaluation, *, prefix: str, step: int, timestamp_ms: int) -> list[Point]:
    """What an evaluation took, `<prefix>/evaluation_seconds`, and how many images it read, `<prefix>/images`.

    A metric that has one of these names keeps it, whether it has a value or not: no curve holds both.
    """
    taken = {f"{score.key}{suffix}" for score in evaluation.scores for suffix in ("", "_stderr")}
    values = [(SECONDS, evaluation.seconds), (IMAGES, float(evaluation.images))]
    return _points([(key, value) for key, value in values if key not in taken], prefix, step, timestamp_ms)


def _points(values: Sequence[tuple[str, float]], prefix: str, step: int, timestamp_ms: int) -> list[Point]:
    return [Point(key=f"{prefix}/{key}", value=value, timestamp_ms=timestamp_ms, step=step) for key, value in values]


def picture_of(sample: KeptSample, *, prefix: str, step: int, timestamp_ms: int) -> Picture:
    """A sample on its way to a sink: `<prefix>/samples/<name>`, under which people find it at every step."""
    return Picture(key=f"{prefix}/samples/{sample.name}", step=step, timestamp_ms=timestamp_ms)


def kept(known: Mapping[str, Score], scores: tuple[Score, ...]) -> tuple[Score, ...]:
    """The scores, with those in the place of their likes that the same files have already: they are logged by now."""
    return tuple(
        old
        if (old := known.get(score.key)) is not None and None not in {old.value, score.value} and comparable(old, score)
        else score
        for score in scores
    )


def scored_before(scores: Scores, run: str, step: int, evaluation: Evaluation) -> dict[str, Before]:
    """By key, what was scored before. Keys with a newer step are left out: a late arrival is no news."""
    found = {}
    for score in evaluation.scores:
        newest = scores.newest(run, score.key)
        if newest is None:
            found[score.key] = Before()
        elif newest.step <= step:
            valued = scores.newest(run, score.key, with_value=True)
            found[score.key] = Before(any=newest.score, with_value=valued.score if valued else None)
    return found


def series_changes(evaluation: Evaluation, before: Mapping[str, Before]) -> Iterator[tuple[str, str]]:
    """The keys whose values can no longer be compared with those before, each with what has changed."""
    for score in evaluation.scores:
        last = before.get(score.key, Before()).with_value
        if score.value is not None and last is not None and not comparable(last, score):
            yield score.key, describe_changes(last.provenance, score.provenance) or "what it depends on has changed"


def tags_of(evaluation: Evaluation, before: Mapping[str, Before], step: int) -> dict[str, str]:
    """What is new since the evaluations before, for the run's page; nothing of keys that `before` leaves out.

    `metricwatch.series.<key>` says what the values depend on from this step on, where that is new; a score without a
    value belongs to no series. `metricwatch.state.<key>` says why there is no value, or that there is one again.
    """
    tags: dict[str, str] = {}
    for score in evaluation.scores:
        last = before.get(score.key)
        if last is None:
            continue
        if (state := _state(score)) != (_state(last.any) if last.any else ScoreState.OK.value):
            tags[tag_name("metricwatch.state", score.key)] = _cut(state)
        if score.value is not None and (last.with_value is None or not comparable(last.with_value, score)):
            tags[tag_name("metricwatch.series", score.key)] = _cut(f"since step {step}: {_said(score)}")
    return tags


def _state(score: Score) -> str:
    return f"{score.state.value}: {score.detail}" if score.value is None and score.detail else score.state.value


def _said(score: Score) -> str:
    shown = telling(score.provenance)
    shown |= {key: value for key, value in score.provenance.items() if key == "pairs_digest"}
    said = ", ".join(f"{key}={shorten(value)}" for key, value in shown.items())
    return said or f"series {score.series}"


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MAX_VALUE else f"{text[: _MAX_VALUE - 1]}…"


def request_for(
    job: Job,
    entry: WatchEntry,
    metrics: tuple[str, ...],
    options: Mapping[str, Mapping[str, Any]],
    *,
    patient: bool,
    look: Looking | None = None,
) -> Evaluate:
    """What the worker is asked to do for a job of this watch entry. options: by metric, where it has any.

    patient: whether a full GPU is a reason to wait. look: the small pictures that are wanted as well.
    """
    pairs = entry.pairs
    return Evaluate(
        job=job.id,
        path=job.snapshot.path,
        step=job.snapshot.step,
        members=job.snapshot.members,
        digest=job.snapshot.digest,
        metrics=metrics,
        options=options,
        reference=str(entry.reference) if entry.reference else None,
        content=str(pairs.content) if pairs and pairs.content else None,
        style=str(pairs.style) if pairs and pairs.style else None,
        manifest=str(pairs.manifest) if pairs and pairs.manifest else None,
        prompt=pairs.prompt or "" if pairs else "",
        patient=patient,
        look=look,
    )
