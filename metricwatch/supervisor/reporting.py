"""What the log says of an evaluation, and of the jobs that nobody evaluates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog

from metricwatch.records import Evaluation, ScoreState
from metricwatch.store.waiting import PassedOver
from metricwatch.supervisor.exchange import Before, series_changes

log = structlog.get_logger(__name__)

_PHASES = ("load", "sample", "score")


def report(evaluation: Evaluation, before: Mapping[str, Before], *, run: str, step: int) -> None:
    """One line for the evaluation, one for each thing about it that somebody should look at."""
    # One field: a plugin's key may be called `step`, too.
    values = ", ".join(
        f"{score.key} {score.state.value if score.value is None else format(score.value, '.6g')}"
        for score in evaluation.scores
    )
    took = {f"{phase}_s": round(evaluation.phases[phase], 3) for phase in _PHASES if phase in evaluation.phases}
    log.info("evaluated", run=run, step=step, images=evaluation.images, scores=values, **took)
    for score in evaluation.scores:
        # Of failed ones the worker has said why.
        if score.state is ScoreState.OK and score.detail:
            log.warning("score.incomplete", key=score.key, step=step, reason=score.detail)
        elif score.state not in {ScoreState.OK, ScoreState.FAILED}:
            log.warning("score.missing", key=score.key, step=step, reason=score.detail)
    for key, change in series_changes(evaluation, before):
        log.warning("series.changed", run=run, step=step, key=key, reason=change)
    for item in evaluation.skipped:
        log.warning("image.skipped", step=step, path=item.path, reason=item.reason)


def report_passed_over(passed: Sequence[PassedOver], names: Mapping[str, str]) -> None:
    """One line for all jobs of a source that were skipped together. names: the run of each source."""
    for item in passed:
        log.info(
            "jobs.passed_over",
            run=names[item.source],
            count=item.count,
            first_step=item.first,
            last_step=item.last,
            reason=item.reason,
        )
