"""metricwatch retry: have what failed tried again, by the daemon that runs or by the next one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    config: Annotated[Path | None, typer.Option("-c", "--config", help="The configuration file.")] = None,
    run: Annotated[str | None, typer.Option("--run", metavar="NAME", help="Only this run's.")] = None,
    step: Annotated[list[int] | None, typer.Option("--step", metavar="N", help="Only this step. Repeatable.")] = None,
    skipped: Annotated[
        bool, typer.Option("--skipped", help="Also what the backlog's policy passed over and is still on disk.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Try again what failed: snapshots without scores, metrics that failed, points and messages that were refused.

    Scores that a snapshot has already are kept, and not logged a second time. Points and messages belong to no step:
    with --step they are left alone. What was skipped is scored with --skipped, or when its --step is named.
    """
    from metricwatch.cli import console
    from metricwatch.config.loader import load_config
    from metricwatch.errors import InputError
    from metricwatch.store import lock
    from metricwatch.store.db import Database
    from metricwatch.store.failures import failures
    from metricwatch.store.ledger import Ledger
    from metricwatch.store.retries import Retries
    from metricwatch.watch.fan_out import entries_now

    loaded = load_config(config)
    watched = {entry.target.key for entry in entries_now(loaded.watch)}
    db = Database.open_beside(loaded.state)
    try:
        known = Ledger(db).runs()
        chosen = [item for item in known if run in {None, item.name, item.key}]
        if run is not None and not chosen:
            names = ", ".join(sorted(item.name for item in known)) or "none yet"
            raise InputError(f"--run {run}: the ledger has no such run; it has {names}")
        # Of the others nobody would take it up.
        runs = [item.key for item in chosen if item.key in watched]
        found = failures(db, runs=runs, steps=step or None, skipped=skipped)
        retries = Retries(db)
        for kind, targets in found.ids.items():
            retries.request(kind, targets)
    finally:
        db.close()
    counts = {kind: len(targets) for kind, targets in found.ids.items()}
    unwatched = sorted(item.name for item in chosen if item.key not in watched)
    owner = lock.owner(loaded.state)
    if as_json:
        console.print_json(
            {
                "daemon": owner,
                "requested": counts,
                "gone": found.gone,
                "skipped_left": found.left,
                "unwatched_runs": unwatched,
            }
        )
        return
    screen = console.messages()
    if found.gone:
        screen.print(f"{found.gone} snapshots are no longer on disk and stay as they are")
    if unwatched:
        screen.print(f"left alone, because the configuration does not watch them: {', '.join(unwatched)}")
    if found.left:
        screen.print(f"left alone, because they were skipped: {found.left} snapshots; with --skipped they are scored")
    if not any(counts.values()):
        screen.print("nothing has failed that could be tried again; `metricwatch status` shows what waits by itself")
        return
    words = {
        "job": "snapshots without scores",
        "revision": "snapshots with failed metrics",
        "delivery": "refused deliveries",
        "notification": "refused messages",
    }
    screen.print("to be tried again: " + ", ".join(f"{count} {words[kind]}" for kind, count in counts.items() if count))
    screen.print("the running daemon does it now" if owner else "no daemon runs: `metricwatch run` will do it")
