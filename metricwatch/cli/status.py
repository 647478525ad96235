"""metricwatch status: what the ledger knows, also while the daemon runs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from metricwatch.config.schema import Config
    from metricwatch.records import Run
    from metricwatch.store.db import Database
    from metricwatch.store.scores import SeriesChange


def command(
    config: Annotated[Path | None, typer.Option("-c", "--config", help="The configuration file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Show runs, scores, alerts, backlog and failures."""
    from metricwatch.cli import console
    from metricwatch.config.loader import load_config
    from metricwatch.store.db import Database

    loaded = load_config(config)
    db = Database.open_readonly(loaded.state)
    try:
        document = _document(loaded, db)
    finally:
        db.close()
    if as_json:
        console.print_json(document)
    else:
        _show(document)


def _document(config: Config, db: Database) -> dict[str, Any]:
    from dataclasses import asdict

    from metricwatch.cli import attention
    from metricwatch.records import JobState
    from metricwatch.store import lock
    from metricwatch.store.deliveries import Deliveries
    from metricwatch.store.ledger import Ledger
    from metricwatch.store.outbox import Outbox
    from metricwatch.store.pictures import Pictures

    now, ledger = datetime.now(UTC), Ledger(db)
    outboxes: dict[str, Outbox] = {"deliveries": Deliveries(db)}
    if db.has(Pictures.table):
        outboxes["pictures"] = Pictures(db)
    return {
        "daemon": lock.owner(config.state),
        "state": str(config.state),
        "jobs": dict(ledger.job_counts()),
        "runs": [_run(config, db, run) for run in ledger.runs()],
        "alerts": attention.alerts(db, now),
        "backlog": [
            {
                "what": what,
                "sink": item.sink,
                "run": item.run,
                "pending": item.pending,
                "oldest_pending_seconds": max(0.0, (now - item.oldest).total_seconds()),
                "reason": item.reason,
            }
            for what, outbox in outboxes.items()
            for item in outbox.backlog()
        ],
        "rejected": [
            {"what": what, "run": run, "delivery": identity, "reason": reason}
            for what, outbox in outboxes.items()
            for run, identity, reason in outbox.rejected()
        ],
        "problems": [asdict(job) for job in ledger.jobs(JobState.FAILED, JobState.QUARANTINED)],
        "skipped": [asdict(item) for item in ledger.skipped()],
        **attention.messages(db, now),
        "pages": attention.pages(db),
        **attention.figures(db, now),
    }


def _run(config: Config, db: Database, run: Run) -> dict[str, Any]:
    from metricwatch.cli import attention
    from metricwatch.store.deliveries import Deliveries
    from metricwatch.store.scores import Scores

    scores = Scores(db)
    remote = Deliveries(db).remote_run(config.tracking.sink, run.key)
    latest = []
    for key in scores.keys(run.key):
        point = scores.newest(run.key, key)
        if point is None:
            continue
        score = point.score
        latest.append(
            {
                "key": key,
                "step": point.step,
                "value": score.value,
                "stderr": score.stderr,
                "images": score.images,
                "state": score.state.value,
                "detail": score.detail,
                "provenance": dict(score.provenance),
                "series": _series(scores.last_change(run.key, key)),
            }
        )
    return {
        "name": run.name,
        "key": run.key,
        "tracking_id": remote.id if remote else None,
        "url": remote.url if remote else None,
        "evaluations": scores.evaluations(run.key),
        "latest": latest,
        "rules": attention.rules(config, db, run),
        "skipped": [{"step": step, "path": item.path, "reason": item.reason} for step, item in scores.skipped(run.key)],
    }


def _series(change: SeriesChange | None) -> dict[str, Any] | None:
    """Where the present series of a key begins, and why it is not the first."""
    from metricwatch.store.provenance import changes

    if change is None:
        return None
    differs = changes(change.before.score.provenance, change.after.score.provenance)
    return {
        "since_step": change.after.step,
        "changed": {name: {"from": old, "to": new} for name, (old, new) in differs.items()},
    }


def _show(document: dict[str, Any]) -> None:
    from metricwatch.cli import console
    from metricwatch.cli.attention import rule_lines

    screen = console.results()
    screen.print(f"daemon: {document['daemon'] or 'not running'}   state: {document['state']}")
    screen.print("jobs: " + ", ".join(f"{count} {state}" for state, count in document["jobs"].items() if count))
    for run in document["runs"]:
        known = f"run {run['tracking_id']}" if run["tracking_id"] else "not known to the tracking server yet"
        where = run["url"] or known
        screen.print(f"\n{run['name']}: {run['evaluations']} evaluations, {where}")
        if run["latest"]:
            console.print_table(
                ["metric", "step", "value", "± stderr", "images", "state"],
                [_score_row(score) for score in run["latest"]],
                console=screen,
            )
        for detail in dict.fromkeys(score["detail"] for score in run["latest"] if score["detail"]):
            keys = ", ".join(score["key"] for score in run["latest"] if score["detail"] == detail)
            # Unwrapped: it may hold a path or an address to copy.
            screen.print(f"{keys}: {detail}", soft_wrap=True)
        for key, series in _new_series(run["latest"]):
            screen.print(f"{key}: new series since step {series}", soft_wrap=True)
        for line in rule_lines(run["rules"]):
            screen.print(line, soft_wrap=True)
        for item in run["skipped"]:
            screen.print(f"skipped at step {item['step']}: {item['path']}: {item['reason']}")
    for line in _events(document):
        screen.print(line, soft_wrap=True)


def _new_series(latest: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """The keys whose present series is not the first: (fid, "500: reference_digest a1… → b2…").

    Keys that began anew together, for the same reason, share a line.
    """
    from metricwatch.store.provenance import shorten

    together: dict[str, list[str]] = {}
    for score in latest:
        if (series := score["series"]) is None:
            continue
        changed = ", ".join(
            f"{name} {shorten(change['from']) or '(none)'} → {shorten(change['to']) or '(none)'}"
            for name, change in series["changed"].items()
        )
        what = f"{series['since_step']}: {changed or 'what it depends on has changed'}"
        together.setdefault(what, []).append(score["key"])
    for what, keys in together.items():
        yield ", ".join(keys), what


def _events(document: dict[str, Any]) -> Iterator[str]:
    """What has happened and what waits, a line each."""
    from metricwatch.cli.attention import alert_lines, figure_lines, message_lines

    names = {run["key"]: run["name"] for run in document["runs"]}
    yield from alert_lines(document)
    for item in document["backlog"]:
        reason = item["reason"] or "on their way"
        age = timedelta(seconds=round(item["oldest_pending_seconds"]))
        yield f"backlog: {item['pending']} {item['what']} wait for {item['sink']}, the oldest for {age}: {reason}"
    for item in document["rejected"]:
        yield f"rejected by the sink: {item['delivery']}: {item['reason']}"
    yield from figure_lines(document)
    for job in document["problems"]:
        yield f"{job['state']}: {names[job['run']]} step {job['step']} ({job['path']}): {job['reason']}"
    for item in document["skipped"]:
        steps = f"step {item['first_step']}"
        if item["count"] > 1:
            steps = f"{item['count']} snapshots, steps {item['first_step']} to {item['last_step']}"
        yield f"skipped of {names[item['run']]}: {steps}; the newest: {item['reason']}"
    yield from message_lines(document)


def _score_row(score: dict[str, Any]) -> list[str]:
    from metricwatch.cli.console import number

    value, stderr = number(score["value"]), number(score["stderr"])
    return [score["key"], str(score["step"]), value, stderr, str(score["images"]), score["state"]]
