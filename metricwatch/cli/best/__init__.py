"""metricwatch best: the step at which a metric was best, and its checkpoint as a model version."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from metricwatch.api import ModelVersion
    from metricwatch.cli.best.checkpoints import Kept
    from metricwatch.cli.best.curve import BestOf


def command(
    metric: Annotated[str, typer.Option("--metric", metavar="KEY", help="The metric, or a composite's key.")],
    config: Annotated[Path | None, typer.Option("-c", "--config", help="The configuration file.")] = None,
    run: Annotated[str | None, typer.Option("--run", metavar="NAME", help="The run, where there are several.")] = None,
    run_id: Annotated[
        str | None, typer.Option("--run-id", metavar="ID", help="The MLflow run, whoever logged it.")
    ] = None,
    higher_is_better: Annotated[
        bool, typer.Option("--higher-is-better", help="Of a key that no metric or composite is known for.")
    ] = False,
    available: Annotated[bool, typer.Option("--available", help="Only steps whose checkpoint is still there.")] = False,
    register: Annotated[
        str | None,
        typer.Option("--register", metavar="NAME", help="Upload the checkpoint and make it a version of this model."),
    ] = None,
    link: Annotated[
        str | None,
        typer.Option("--link", metavar="URI", help="With --register: the checkpoint is there, upload nothing."),
    ] = None,
    alias: Annotated[
        str | None, typer.Option("--alias", metavar="NAME", help="With --register: give the version this alias.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Say at which step a metric was best, of the steps that compare with the newest one."""
    from metricwatch.assembly import load_sink
    from metricwatch.cli.best.checkpoints import Checkpoints
    from metricwatch.cli.best.curve import find_run, read
    from metricwatch.cli.best.registering import registration
    from metricwatch.cli.progress import bars
    from metricwatch.config.loader import load_config

    if run is not None and run_id is not None:
        raise typer.BadParameter("give one of --run and --run-id", param_hint="--run")
    if register is None and (link is not None or alias is not None):
        raise typer.BadParameter("goes with --register NAME", param_hint="--link" if link is not None else "--alias")
    loaded = load_config(config)
    sink = load_sink(loaded)
    try:
        with bars() as show:
            target = find_run(loaded, sink, run_id=run_id, name=run)
            checkpoints = Checkpoints(loaded.state, target)
            only = checkpoints.available() if available else None
            found = read(loaded, sink, target, metric, otherwise=higher_is_better, only=only, show=show)
            kept = checkpoints.of(found.best.step, told=found.checkpoint)
            version = None
            if register is not None:
                made = registration(found, kept, checkpoints, name=register, link=link, alias=alias, show=show)
                version = sink.register(target, made, show)
    finally:
        sink.close()
    if as_json:
        _print_document(found, kept, version)
    else:
        _show(found, kept, version)


def _print_document(found: BestOf, kept: Kept | None, version: ModelVersion | None) -> None:
    from dataclasses import asdict

    from metricwatch.cli import console

    console.print_json(
        {
            "run_id": found.run_id,
            "run": found.run_name,
            "metric": found.key,
            "higher_is_better": found.higher_is_better,
            "direction_assumed": found.assumed,
            **{name: _point(getattr(found, name)) for name in ("best", "worst", "last")},
            "steps": found.steps,
            "left_out": found.left_out,
            "series_since_step": found.since,
            "checkpoint": None if kept is None else {"path": kept.path, "there": kept.there},
            "version": None if version is None else asdict(version),
        }
    )


def _point(point: Any) -> dict[str, Any]:
    return {"step": point.step, "value": point.value, "stderr": point.stderr}


def _show(found: BestOf, kept: Kept | None, version: ModelVersion | None) -> None:
    from metricwatch.cli import console

    screen, notes = console.results(), console.messages()
    better = "higher" if found.higher_is_better else "lower"
    assumed = " (assumed: nobody knows this metric; or give --higher-is-better)" if found.assumed else ""
    screen.print(f"{found.key} of {found.run_name}: {better} is better{assumed}", soft_wrap=True)
    rows = [
        [name, str(point.step), console.number(point.value), console.number(point.stderr)]
        for name, point in (("best", found.best), ("worst", found.worst), ("last", found.last))
    ]
    console.print_table(["", "step", "value", "± stderr"], rows, console=screen)
    if found.since is not None and found.left_out:
        notes.print(
            f"{found.left_out} steps before {found.since} are left out: what {found.key} depends on has changed there,"
            " and they do not compare",
            soft_wrap=True,
        )
    if kept is not None:
        gone = "" if kept.there else " (it is not there any more; --available finds the best of those that are)"
        screen.print(f"checkpoint: {kept.path}{gone}", soft_wrap=True)
    if version is not None:
        what = "registered as" if version.created else "is already"
        screen.print(f"step {found.best.step} {what} version {version.version} of {version.name}", soft_wrap=True)
        if version.url:
            screen.print(version.url, soft_wrap=True)
