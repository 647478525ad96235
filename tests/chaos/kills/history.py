"""The whole history that a daemon leaves behind, in a form in which two daemons' can be compared."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from mlflow import MlflowClient

from tests.chaos.kills.ledger import LedgerReader, Row

History = Mapping[str, list[Row]]

_SHOWN = 6
# Exact numbers come from SSIM; a network's features may differ in the last digits of a float32.
_INEXACT, _TOLERANCE = "fd_", 1e-6

_LEDGER = {
    "snapshots": "SELECT id, step, revision, images FROM snapshots ORDER BY id",
    "jobs": """SELECT s.step, s.revision, j.state FROM jobs AS j JOIN snapshots AS s ON s.id = j.snapshot
               ORDER BY j.id""",
    "evaluations": "SELECT id, job, step, revision, images, skipped FROM evaluations ORDER BY id",
    "scores": "SELECT id, key, step, revision, state, images, value, stderr FROM scores ORDER BY id",
    "rule states": "SELECT rule, step, state, direction, note, change FROM rule_states ORDER BY rule, step",
    "alerts": """SELECT id, rule, metric, direction, severity, state, fired_step, resolved_step, reason, announce,
                 change, resolved_value, window, moved FROM alerts ORDER BY id""",
    # In how many messages they were told it depends on how often a daemon was there to look.
    "told": "SELECT alert, receiver, told, held, closed FROM alert_receivers ORDER BY alert, receiver",
    "notifications": "SELECT DISTINCT receiver, state FROM notifications ORDER BY receiver, state",
    "remote runs": "SELECT sink, run FROM remote_runs",
}


def collect(ledger: LedgerReader, uri: str, experiment: str) -> History:
    """Everything that a ledger and its experiment in MLflow hold, except times."""
    found = {name: [tuple(_plain(row)) for row in ledger.rows(sql)] for name, sql in _LEDGER.items()}
    deliveries = ledger.rows("SELECT sink, identity, state, points, tags FROM deliveries ORDER BY identity")
    found["deliveries"] = [_delivery(*row) for row in deliveries]
    runs = _runs(uri, experiment)
    tags = sorted(item for run in runs for item in run.data.tags.items())
    found["MLflow runs"] = [(run.info.run_name,) for run in runs]
    found["MLflow tags"] = [(name, _said(name, text)) for name, text in tags if not name.startswith("mlflow.")]
    found["MLflow rows"] = sorted((key, step, _counted(key, value)) for key, _, step, value in _logged(uri, experiment))
    # Every key of a run begins with the experiment.
    return {name: [tuple(_without(experiment, item) for item in row) for row in rows] for name, rows in found.items()}


def _runs(uri: str, experiment: str) -> list[Any]:
    client = MlflowClient(uri)
    return list(client.search_runs([client.get_experiment_by_name(experiment).experiment_id]))


def _logged(uri: str, experiment: str) -> list[Row]:
    """Every row of every curve: (key, timestamp, step, value)."""
    client = MlflowClient(uri)
    return [
        (row.key, row.timestamp, row.step, row.value)
        for run in _runs(uri, experiment)
        for key in run.data.metrics
        for row in client.get_metric_history(run.info.run_id, key)
    ]


def _without(text: str, item: Any) -> Any:
    return item.replace(text, "") if isinstance(item, str) else item


def _plain(row: Row) -> Iterator[Any]:
    """Windows are JSON lists of numbers, which are compared as such."""
    for value in row:
        if isinstance(value, str) and value.startswith("[["):
            yield from (number for point in json.loads(value) for number in point)
        else:
            yield value


def _delivery(sink: str, identity: str, state: str, points: str, tags: str) -> Row:
    # The identity of what a rule says ends with the time it said it.
    name = re.sub(r"/\d{13}$", "", identity)
    values = [item for key, value, _, step in json.loads(points) for item in (key, step, _counted(key, value))]
    said = json.dumps({tag: _said(tag, text) for tag, text in json.loads(tags).items()})
    return (sink, name, state, *values, said)


def _counted(key: str, value: float) -> float:
    """The value, except where it is a time."""
    return 0.0 if key.endswith("/evaluation_seconds") else value


def _said(tag: str, text: str) -> str:
    """What a tag says, a value that is not exact left out."""
    return text.partition(":")[0] if tag.startswith("metricwatch.best.") and _INEXACT in tag else text


def differences(wanted: History, found: History) -> list[str]:
    """What stands in one history and not in the other, a line each; [] where they are equal."""
    lines = []
    for name in wanted:
        if len(wanted[name]) == len(found[name]) and all(map(_equal, wanted[name], found[name])):
            continue
        missing, extra = Counter(wanted[name]) - Counter(found[name]), Counter(found[name]) - Counter(wanted[name])
        for what, rows in (("missing", missing), ("too much", extra)):
            lines += [f"{name}: {what}: {count} x {row}" for row, count in list(rows.items())[:_SHOWN]]
        if not missing and not extra:
            lines.append(f"{name}: the same in another order")
    return lines


def _equal(wanted: Row, found: Row) -> bool:
    inexact = any(isinstance(item, str) and _INEXACT in item for item in wanted)
    return len(wanted) == len(found) and all(
        math.isclose(a, b, rel_tol=_TOLERANCE) if inexact and isinstance(a, float) and isinstance(b, float) else a == b
        for a, b in zip(wanted, found, strict=True)
    )


def unlike_the_outbox(ledger: LedgerReader, uri: str, experiment: str) -> list[str]:
    """MLflow must hold each point of the outbox as it was born, once, and nothing else; time never runs backwards."""
    lines: list[str] = []
    born: Counter[Row] = Counter()
    newest = 0
    for identity, points in ledger.rows("SELECT identity, points FROM deliveries ORDER BY id"):
        for key, value, timestamp, step in json.loads(points):
            born[key, timestamp, step, value] += 1
            if timestamp < newest:
                lines.append(f"time runs backwards by {newest - timestamp} ms at {identity}")
            newest = timestamp
    logged = Counter(_logged(uri, experiment))
    for what, rows in (("never arrived", born - logged), ("never born", logged - born)):
        lines += [f"MLflow and the outbox: {what}: {count} x {row}" for row, count in list(rows.items())[:_SHOWN]]
    return lines
