"""metricwatch backfill: score an old run's samples or checkpoints into the tracking server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from datetime import timedelta

    from metricwatch.backfill import Plan, Wanted
    from metricwatch.config.schema import Config
    from metricwatch.daemon import App, Once


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder that holds a step in each of its entries.")],
    config: Annotated[Path | None, typer.Option("-c", "--config", help="The configuration file.")] = None,
    run_id: Annotated[str | None, typer.Option("--run-id", metavar="ID", help="The MLflow run to log to.")] = None,
    run: Annotated[
        str | None,
        typer.Option("--run", metavar="NAME", help="The run to log to by its name; made where there is none."),
    ] = None,
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="DIR holds checkpoints, of which the entry's sampler makes images.")
    ] = False,
    like: Annotated[
        str | None,
        typer.Option(
            "--like", metavar="RUN", help="Score as the watch entry of this run does, where there are several."
        ),
    ] = None,
    reference: Annotated[
        Path | None, typer.Option("--reference", help="Compare with these images or statistics, not the entry's.")
    ] = None,
    every: Annotated[
        int | None, typer.Option("--every", metavar="N", min=1, help="Only steps that are multiples of N.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="At most N steps that have no scores yet.")
    ] = None,
    drain: Annotated[
        str, typer.Option("--drain", metavar="DURATION", help="How long to try to deliver when all is scored.")
    ] = "60s",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be scored.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Score the steps of an old run, with their own steps and times, and raise no alerts. Goes on where it was."""
    from metricwatch.backfill import Wanted, plan
    from metricwatch.config.loader import load_config
    from metricwatch.config.quantities import parse_duration

    if run_id is not None and run is not None:
        raise typer.BadParameter("give one of --run-id and --run", param_hint="--run")
    try:
        patience = parse_duration(drain)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--drain") from error
    loaded = load_config(config)
    wanted = Wanted(
        folder=folder,
        run_id=run_id,
        run_name=run,
        checkpoints=checkpoints,
        like=like,
        reference=reference,
        every=every,
        limit=limit,
    )
    if dry_run:
        _show_plan(plan(loaded, wanted, remote_id=run_id), as_json=as_json)
        return
    # Before a run is looked for, or made, by its name: there must be something to log to it.
    plan(loaded, wanted)
    planned = plan(loaded, wanted, remote_id=_remote_id(loaded, wanted))
    _warn(planned)
    with planned.open() as app:
        result = _run(app, patience)
        _report(planned, app, result, as_json=as_json)


def _remote_id(config: Config, wanted: Wanted) -> str | None:
    """The run as the tracking server knows it. A server that is away does not keep anything from being scored."""
    from metricwatch.assembly import load_sink
    from metricwatch.backfill import entry_for
    from metricwatch.cli import console
    from metricwatch.errors import TemporaryError

    entry = entry_for(config, wanted)
    sink = load_sink(config)
    try:
        return sink.find_run(entry.target).id
    except TemporaryError as error:
        console.messages().print(f"scoring all the same, the points are kept until they can be delivered: {error}")
        return wanted.run_id
    finally:
        sink.close()


def _run(app: App, patience: timedelta) -> Once:
    import signal
    import threading

    from metricwatch.cli.progress import bars
    from metricwatch.supervisor.stage import Progress

    for number in (signal.SIGTERM, signal.SIGINT):
        # In a thread: the handler interrupts the main thread, which may hold the very lock that stop() needs.
        signal.signal(number, lambda *_: threading.Thread(target=app.stop).start())
    with bars() as show:

        def progress(now: Progress | None, finished: int, known: int) -> None:
            show("steps", finished, known)
            if now is not None:
                show("images", now.done, now.total)

        return app.run_once(drain=patience, progress=progress)


def _show_plan(planned: Plan, *, as_json: bool) -> None:
    from metricwatch.cli import console

    steps = list(planned.steps())
    if as_json:
        console.print_json(
            {
                **_facts(planned),
                "steps": [
                    {"step": item.step, "path": item.path, "files": item.images, "time": item.time.isoformat()}
                    for item in steps
                ],
            }
        )
        return
    _warn(planned)
    if steps:
        console.print_table(
            ["step", "files", "time (UTC)", "path"],
            [
                [
                    str(item.step),
                    str(item.images),
                    f"{item.time:%Y-%m-%d %H:%M:%S}{' (now: its files have no usable time)' if item.assumed else ''}",
                    item.path,
                ]
                for item in steps
            ],
        )
    metrics = ", ".join(planned.config.metrics)
    console.messages().print(f"{len(steps)} steps would be scored for run {planned.entry.target.name}: {metrics}")


def _warn(planned: Plan) -> None:
    from metricwatch.cli import console

    screen = console.messages()
    if planned.elsewhere:
        screen.print(f"{planned.elsewhere} steps are scored already by a daemon or from another folder: left out")
    if planned.done:
        screen.print(f"{planned.done} steps are done already")
    for step, first, second in planned.clashes:
        screen.print(f"step {step} is claimed by {first} and {second}: the first counts", soft_wrap=True)
    if planned.ignored:
        screen.print(f"{len(planned.ignored)} names carry no step, {planned.ignored[0]!r} for one: left out")


def _facts(planned: Plan) -> dict[str, Any]:
    return {
        "run": planned.entry.target.name,
        "pattern": planned.entry.pattern,
        "metrics": list(planned.config.metrics),
        "done_before": planned.done,
        "scored_elsewhere": planned.elsewhere,
        "ignored": len(planned.ignored),
    }


def _report(planned: Plan, app: App, result: Once, *, as_json: bool) -> None:
    from dataclasses import asdict

    from metricwatch.backfill import assumed_times
    from metricwatch.cli import console
    from metricwatch.records import JobState
    from metricwatch.store.deliveries import Deliveries
    from metricwatch.store.ledger import Ledger

    failures = Ledger(app.db).jobs(JobState.FAILED, JobState.QUARANTINED)
    deliveries = Deliveries(app.db)
    assumed = assumed_times(app.db)
    if as_json:
        problems = [{"step": job.step, "path": job.path, "reason": job.reason} for job in failures]
        console.print_json({**_facts(planned), **asdict(result), "assumed_times": assumed, "problems": problems})
    screen = console.messages()
    screen.print(f"{result.done} evaluated, {result.failed} failed, {planned.done} were done before")
    if assumed:
        screen.print(f"{assumed} steps have files of no usable time and are shown at the time at which they were found")
    for job in failures:
        screen.print(f"step {job.step} ({job.path}): {job.reason}", soft_wrap=True)
    for item in deliveries.backlog():
        screen.print(
            f"{item.pending} deliveries wait for {item.sink}: {item.reason or 'not tried yet'}; call again to go on",
            soft_wrap=True,
        )
    for _, identity, reason in deliveries.rejected():
        screen.print(f"rejected by the tracking server: {identity}: {reason}", soft_wrap=True)
    if result.failed_scores:
        screen.print(f"{result.failed_scores} scores could not be computed: `metricwatch export` says which")
    if result.pictures:
        screen.print(f"{result.pictures} pictures wait for the tracking server; the same command goes on")
    troubles = (failures, result.failed_scores, result.rejected, result.undelivered, result.pictures, result.stopped)
    if any(troubles):
        raise typer.Exit(1)
