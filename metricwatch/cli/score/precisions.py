"""What `fast` costs in accuracy: the same images scored at both precisions."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import typer

from metricwatch.cli import console
from metricwatch.cli.score.evaluation import evaluate
from metricwatch.cli.score.table import document_of, tell_trouble
from metricwatch.protocol import Configure, Evaluate
from metricwatch.records import Evaluation, Score


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scored:
    """One precision's scores. seconds is the wall time with the start of the worker."""

    evaluation: Evaluation
    scores: Sequence[Score]
    seconds: float


def compare(
    settings: Configure, request: Evaluate, finish: Callable[[Sequence[Score]], Sequence[Score]], *, as_json: bool
) -> None:
    """Score exactly, then fast; print both values of each metric and what fast adds to the exact one.

    finish adds the composites to scores. Raises Exit(1) when a score has no value.
    """
    exact, fast = (_score(replace(settings, precision=precision), request, finish) for precision in ("exact", "fast"))
    missing = tell_trouble(exact.evaluation, exact.scores, request)
    # What is wrong with the images is the same at both.
    missing += [score for score in fast.scores if score.value is None]
    pairs = list(zip(exact.scores, fast.scores, strict=True))
    if as_json:
        console.print_json(
            {
                "exact": document_of(exact.evaluation, exact.scores) | {"seconds": exact.seconds},
                "fast": document_of(fast.evaluation, fast.scores) | {"seconds": fast.seconds},
                "effect": [
                    {"key": one.key, "difference": _difference(one, other), "relative": _relative(one, other)}
                    for one, other in pairs
                ],
            }
        )
    else:
        console.print_table(
            ["metric", "exact", "fast", "difference", "relative", "± stderr", "images"],
            [_row(one, other) for one, other in pairs],
        )
        console.messages().print(f"exact took {exact.seconds:.1f} s, fast {fast.seconds:.1f} s", soft_wrap=True)
    if missing:
        raise typer.Exit(1)


def _score(settings: Configure, request: Evaluate, finish: Callable[[Sequence[Score]], Sequence[Score]]) -> _Scored:
    began = time.monotonic()
    evaluation = evaluate(settings, request)
    return _Scored(evaluation=evaluation, scores=finish(evaluation.scores), seconds=time.monotonic() - began)


def _row(exact: Score, fast: Score) -> list[str]:
    relative = _relative(exact, fast)
    return [
        exact.key,
        console.number(exact.value),
        console.number(fast.value),
        console.number(_difference(exact, fast)),
        "-" if relative is None else f"{relative:+.2%}",
        console.number(exact.stderr),
        str(exact.images),
    ]


def _difference(exact: Score, fast: Score) -> float | None:
    return None if exact.value is None or fast.value is None else fast.value - exact.value


def _relative(exact: Score, fast: Score) -> float | None:
    difference = _difference(exact, fast)
    return None if difference is None or not exact.value else difference / abs(exact.value)
