"""What `metricwatch score` shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import typer

from metricwatch.cli import console
from metricwatch.protocol import Evaluate
from metricwatch.records import Evaluation, Score, ScoreState

_SHOWN = 10


def show(evaluation: Evaluation, scores: Sequence[Score], request: Evaluate, *, as_json: bool) -> None:
    """Print the scores; what went wrong goes to stderr. Raises Exit(1) when a score has no value."""
    missing = tell_trouble(evaluation, scores, request)
    if as_json:
        console.print_json(document_of(evaluation, scores))
    else:
        console.print_table(
            ["metric", "value", "± stderr", "images"],
            [
                [score.key, console.number(score.value), console.number(score.stderr), str(score.images)]
                for score in scores
            ],
        )
    if missing:
        raise typer.Exit(1)


def tell_trouble(evaluation: Evaluation, scores: Sequence[Score], request: Evaluate) -> list[Score]:
    """Say on stderr what went wrong. Returns the scores that have no value."""
    screen = console.messages()
    for item in evaluation.skipped[:_SHOWN]:
        screen.print(f"skipped {item.path}: {item.reason}", soft_wrap=True)
    if len(evaluation.skipped) > _SHOWN:
        screen.print(f"and {len(evaluation.skipped) - _SHOWN} more; --json names them all")
    missing = [score for score in scores if score.state is not ScoreState.OK]
    for score in scores:
        if score.state is ScoreState.OK and score.detail:
            screen.print(f"{score.key}: {score.detail}", soft_wrap=True)
    for score in missing:
        hint = _hint(score, request)
        screen.print(f"{score.key}: no value ({score.state.value}): {score.detail}{hint}", soft_wrap=True)
    return missing


def document_of(evaluation: Evaluation, scores: Sequence[Score]) -> dict[str, object]:
    """What --json prints."""
    return {
        "scores": [_as_dict(score) for score in scores],
        "provenance": dict(evaluation.provenance),
        "work": dict(evaluation.work),
        "skipped": [asdict(item) for item in evaluation.skipped],
    }


def _hint(score: Score, request: Evaluate) -> str:
    if score.state is ScoreState.NO_REFERENCE:
        return "; give --reference"
    if score.state is ScoreState.NO_PAIRS and not (request.content or request.style or request.manifest):
        return "; give --content, --style, --prompt or --manifest"
    return ""


def _as_dict(score: Score) -> dict[str, object]:
    document: dict[str, object] = {
        "key": score.key,
        "value": score.value,
        "stderr": score.stderr,
        "images": score.images,
        "provenance": dict(score.provenance),
    }
    if score.state is not ScoreState.OK:
        document["state"] = score.state.value
    if score.detail:
        document["detail"] = score.detail
    return document
