"""The best step of each curve so far, as tags of the run say it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from metricwatch.records import Score
from metricwatch.store.best import Extremes
from metricwatch.store.db import Database
from metricwatch.store.evaluated import Evaluated
from metricwatch.store.scores import Scores
from metricwatch.supervisor.tags import tag_name

_BEST = "metricwatch.best"
_BEST_CHECKPOINT = "metricwatch.best_checkpoint"
_NO_LONGER = "none: no step has a value"


class BestSteps:
    """Reads the ledger; asked before and after an evaluation is recorded, in its transaction, it tells what changed."""

    def __init__(self, db: Database) -> None:
        self._scores = Scores(db)
        self._extremes = Extremes(db)
        self._evaluated = Evaluated(db)

    def tags(self, run: str, keys: Iterable[str]) -> dict[str, str]:
        """`metricwatch.best.<key>` for each key that has a value: "step 3,000: 12.34 ± 0.21"; and where the run is
        watched for its checkpoints, `metricwatch.best_checkpoint.<key>`, the path of that step's.

        Of the steps that may be compared with the highest one that has a value.
        """
        tags = {}
        for key in keys:
            newest = self._scores.newest(run, key, with_value=True)
            extreme = self._extremes.of(run, newest.score) if newest else None
            if extreme is None:
                continue
            best = extreme.best
            tags[tag_name(_BEST, key)] = f"step {best.step:,}: {_number(best.score)}"
            source = self._evaluated.source_of(best.id)
            if source is not None and source[0] == f"{run} checkpoints":
                # A file's name need not be text.
                tags[tag_name(_BEST_CHECKPOINT, key)] = source[1].encode(errors="replace").decode()
        return tags


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str]:
    """What is to be said anew. A tag cannot be taken back: one whose step was rewritten to no value says so."""
    gone = {name: _NO_LONGER for name in before if name not in after}
    return {**gone, **{name: value for name, value in after.items() if before.get(name) != value}}


def _number(score: Score) -> str:
    return f"{score.value:.6g}" + ("" if score.stderr is None else f" ± {score.stderr:.2g}")
