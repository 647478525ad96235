"""The curve as it stands in MLflow, and whether it is all there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from metricwatch.cli.demo.messages import Message
from metricwatch.cli.demo.tracking import CURVES, History

_OF_SOUND_STEPS = frozenset({"distance", "distance_stderr"})


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """What MLflow holds for one step, None where it holds no value.

    rule is "inactive" or "firing (direction)", "" where it said nothing yet.
    """

    step: int
    distance: float | None
    distance_stderr: float | None
    similarity: float | None
    perceptual: float | None
    style: float | None
    composite: float
    rule: str


def curve(history: History, messages: Sequence[Message]) -> list[CurvePoint]:
    """The curve by step, as far as the composite goes.

    MLflow knows that the rule was firing; which way it did so, the messages say.
    """
    columns = {name: dict(rows) for name, rows in history.items()}
    started = sorted((item.step, item.direction) for item in messages if item.kind != "resolved" and item.step)
    points = []
    for step, composite in columns["composite"].items():
        rule = ""
        if (firing := columns["firing"].get(step)) is not None:
            directions = [direction for since, direction in started if since <= step]
            way = f" ({directions[-1]})" if directions else ""
            rule = f"firing{way}" if firing else "inactive"
        points.append(
            CurvePoint(
                step=step,
                distance=columns["distance"].get(step),
                distance_stderr=columns["distance_stderr"].get(step),
                similarity=columns["similarity"].get(step),
                perceptual=columns["perceptual"].get(step),
                style=columns["style"].get(step),
                composite=composite,
                rule=rule,
            )
        )
    return points


def gaps(history: History, expected: Sequence[int], *, sound: Sequence[int]) -> Iterator[str]:
    """What is wrong with the curves: steps that are missing, there twice, or not the training job's.

    A broken model may give the same picture every time, which has no distance: that curve need be there for the sound
    steps only.
    """
    for name, rows in history.items():
        counts = Counter(step for step, _ in rows)
        wanted = sound if name in _OF_SOUND_STEPS else expected
        for fault, steps in (
            ("lacks", [step for step in wanted if not counts[step]]),
            ("holds more than once", [step for step, count in counts.items() if count > 1]),
            ("holds, though nothing was saved there,", [step for step in counts if step not in expected]),
        ):
            if steps:
                listed = ", ".join(map(str, steps))
                yield f"the curve {CURVES[name]} in MLflow {fault} step{'s'[: len(steps) > 1]} {listed}"


def missing_pictures(found: Mapping[int, int], expected: Sequence[int], count: int) -> Iterator[str]:
    """The steps of which not exactly `count` samples can be looked at."""
    wrong = [step for step in expected if found.get(step, 0) != count]
    if wrong:
        listed = ", ".join(f"{step} ({found.get(step, 0)})" for step in wrong)
        yield f"MLflow should show {count} samples of each step, and shows another number of steps {listed}"
