"""One curve of a run, read back, with its best, worst and last step."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from metricwatch import catalog
from metricwatch.api import Sink
from metricwatch.cli.progress import Show
from metricwatch.config.schema import Config
from metricwatch.errors import InputError
from metricwatch.replaying.curves import STDERR
from metricwatch.replaying.directions import Directions
from metricwatch.store.db import FILE_NAME, Database
from metricwatch.store.deliveries import Deliveries
from metricwatch.store.ledger import Ledger
from metricwatch.supervisor.tags import tag_name
from metricwatch.watch.fan_out import entries_now

_SINCE = re.compile(r"since step (-?[\d,]+):")
_STEP = re.compile(r"step (-?[\d,]+):")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepValue:
    """The newest value of a step, and the standard error that was logged with it."""

    step: int
    value: float
    timestamp_ms: int
    stderr: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BestOf:
    """The ends of a curve: of `steps` steps that compare with one another. Of equal values the lowest step counts.

    key is as the sink has it. since is the step at which the newest series begins, None where nobody says so; left_out
    counts the steps before it. assumed: nobody says which direction is better. checkpoint is the path that a daemon
    has told of the best step's, "" where it has told of none.
    """

    run_id: str
    run_name: str
    key: str
    higher_is_better: bool
    assumed: bool
    best: StepValue
    worst: StepValue
    last: StepValue
    steps: int
    left_out: int
    since: int | None
    checkpoint: str = ""


def find_run(config: Config, sink: Sink, *, run_id: str | None, name: str | None) -> str:
    """The sink's id of the run that is meant: the only one where none is named. No run is made.

    Raises InputError where none or several could be meant.
    """
    if run_id is not None:
        return run_id
    known = _known(config)
    names = sorted({run_name for run_name, _ in known})
    chosen = {found for run_name, found in known if name in {None, run_name} and found}
    if len(chosen) == 1:
        return chosen.pop()
    if name is not None and name not in names:
        raise InputError(f"--run {name}: there is no such run; {catalog.did_you_mean(name, names)}")
    if not chosen:
        files = [
            entry.target
            for entry in entries_now(config.watch)
            if entry.target.id_file and name in {None, entry.target.name}
        ]
        if len(files) == 1:
            # The id in a file: nothing is made for it.
            return sink.find_run(files[0]).id
        raise InputError("nothing has been logged yet as far as the ledger knows; name the run: --run-id ID")
    raise InputError(f"several runs could be meant: name one with --run or --run-id; known: {', '.join(names)}")


def read(
    config: Config,
    sink: Sink,
    run_id: str,
    metric: str,
    *,
    otherwise: bool,
    only: Collection[int] | None,
    show: Show,
) -> BestOf:
    """Read a metric's curve. otherwise: whether higher is better where nobody knows. only: the steps that count.

    Raises InputError for a key that is not there or has no value that counts; otherwise as Sink.read() does.
    """
    facts = sink.facts(run_id)
    keys = list(sink.keys(run_id))
    prefix = f"{config.tracking.prefix}/"
    key = next((each for each in (f"{prefix}{metric}", metric) if each in keys), None)
    if key is None:
        names = [each.removeprefix(prefix) for each in keys if not each.endswith(STDERR)]
        raise InputError(
            f"--metric {metric}: run {run_id} ({facts.name}) has no such key; {catalog.did_you_mean(metric, names)}"
        )
    rise = Directions(
        composites={name: composite.higher_is_better for name, composite in config.composites.items()},
        otherwise=otherwise,
    ).of(key)
    values = _newest(sink, run_id, key, show)
    name = key.removeprefix(prefix)
    since = _step(_SINCE, facts.tags.get(tag_name("metricwatch.series", name), ""))
    counted = [value for value in values.values() if since is None or value.step >= since]
    left_out = len(values) - len(counted)
    last = max(counted, key=lambda value: value.step, default=None)
    candidates = [value for value in counted if only is None or value.step in only]
    if last is None or not candidates:
        which = " whose checkpoint is still there" if only is not None and last is not None else " that has a value"
        raise InputError(f"{key} of run {run_id} ({facts.name}) has no step{which}")
    sign = -1.0 if rise.better else 1.0
    best = min(candidates, key=lambda value: (sign * value.value, value.step))
    worst = min(counted, key=lambda value: (-sign * value.value, value.step))
    found = BestOf(
        run_id=run_id,
        run_name=facts.name,
        key=key,
        higher_is_better=rise.better,
        assumed=rise.assumed,
        best=best,
        worst=worst,
        last=last,
        steps=len(counted),
        left_out=left_out,
        since=since,
        checkpoint=_checkpoint(facts.tags, name, best.step),
    )
    return _with_errors(sink, found) if f"{key}{STDERR}" in keys else found


def _newest(sink: Sink, run_id: str, key: str, show: Show) -> dict[int, StepValue]:
    """The newest value of each step: one that was rewritten is there more than once."""
    newest: dict[int, StepValue] = {}
    read = 0
    for page in sink.read_pages(run_id, key):
        for point in page:
            before = newest.get(point.step)
            if math.isfinite(point.value) and (before is None or point.timestamp_ms >= before.timestamp_ms):
                newest[point.step] = StepValue(step=point.step, value=point.value, timestamp_ms=point.timestamp_ms)
        read += len(page)
        show("points", read, 0)
    return newest


def _with_errors(sink: Sink, found: BestOf) -> BestOf:
    ends = {name: getattr(found, name) for name in ("best", "worst", "last")}
    wanted = {(value.step, value.timestamp_ms) for value in ends.values()}
    errors: dict[tuple[int, int], float] = {}
    for page in sink.read_pages(found.run_id, f"{found.key}{STDERR}"):
        for point in page:
            at = (point.step, point.timestamp_ms)
            if at in wanted and math.isfinite(point.value):
                errors[at] = point.value
    return replace(
        found, **{name: replace(end, stderr=errors.get((end.step, end.timestamp_ms))) for name, end in ends.items()}
    )


def _checkpoint(tags: Mapping[str, str], metric: str, step: int) -> str:
    """The path in the tags that a daemon keeps, if it is that of this step."""
    if _step(_STEP, tags.get(tag_name("metricwatch.best", metric), "")) != step:
        return ""
    return tags.get(tag_name("metricwatch.best_checkpoint", metric), "")


def _step(pattern: re.Pattern[str], text: str) -> int | None:
    told = pattern.match(text)
    return int(told[1].replace(",", "")) if told else None


def _known(config: Config) -> list[tuple[str, str]]:
    """Names of runs and their ids at the sink, "" where that is not known."""
    found = [(entry.target.name, entry.target.id or "") for entry in config.watch if not entry.fans_out]
    for state in (config.state, *sorted(config.state.glob("backfill/*"))):
        if not (state / FILE_NAME).is_file():
            continue
        db = Database.open_readonly(state)
        try:
            deliveries = Deliveries(db)
            for run in Ledger(db).runs():
                remote = deliveries.remote_run(config.tracking.sink, run.key)
                found.append((run.name, remote.id if remote else ""))
        finally:
            db.close()
    return found
