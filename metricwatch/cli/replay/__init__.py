"""metricwatch replay: what rules would have said over a run that MLflow has recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    run_id: Annotated[str, typer.Option("--run-id", metavar="ID", help="The MLflow run, whoever logged it.")],
    config: Annotated[
        Path | None, typer.Option("-c", "--config", help="The configuration file. [default: metricwatch.yaml]")
    ] = None,
    rules: Annotated[
        Path | None,
        typer.Option("--rules", help="Take the rules from this file, and read no configuration but the one in -c."),
    ] = None,
    rule: Annotated[
        list[str] | None, typer.Option("--rule", metavar="NAME", help="Only this rule. Repeatable.")
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", metavar="KEY", help="Try the rules on this key instead of their own. Repeatable."),
    ] = None,
    higher_is_better: Annotated[
        bool, typer.Option("--higher-is-better", help="Of keys that no metric or composite is known for.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE",
            help="Draw the curves with their alerts, as .png or .svg; of several FILE-KEY.png.",
        ),
    ] = None,
    uri: Annotated[
        str | None, typer.Option("--uri", help="The tracking server, instead of the configuration's.")
    ] = None,
) -> None:
    """Show what rules would have said over a recorded run. Leaves with 1 only when nothing could be looked at."""
    from metricwatch.cli.progress import bars
    from metricwatch.cli.replay import pictures, report, settings
    from metricwatch.clock import SystemClock
    from metricwatch.errors import InputError, MetricwatchError
    from metricwatch.replaying.curves import Curves
    from metricwatch.replaying.directions import Directions
    from metricwatch.replaying.replay import nearest, replay

    form = pictures.form_of(plot)
    chosen = settings.read(config, rules, uri, only=rule or ())
    sink = chosen.sink()
    try:
        with bars() as show:
            curves = Curves(sink, run_id, prefix=chosen.tracking.prefix)
            run = chosen.recorded(sink, run_id)
            if not curves.keys:
                raise InputError(f"run {run_id} ({run.name}) has no metrics: there is nothing to look at yet")
            metrics = list(dict.fromkeys(metric or ()))
            for key in metrics:
                if curves.key_of(key) is None:
                    raise InputError(
                        f"--metric {key}: run {run_id} ({run.name}) has no such key; {nearest(key, curves)}"
                    )
            directions = Directions(composites=chosen.composites, otherwise=higher_is_better)
            looks = replay(chosen.rules, run, curves, directions, now=SystemClock().now(), metrics=metrics, show=show)
    finally:
        sink.close()
    drawn: list[Path] = []
    undrawn: MetricwatchError | None = None
    if plot is not None:
        try:
            drawn = pictures.draw_to(plot, form, looks, run.name)
        except MetricwatchError as error:
            # What was found out is shown all the same.
            undrawn = error
    told = report.Report(
        run_id=run_id, run=run, where=chosen.tracking.redacted_uri, looks=looks, ours=curves.ours(), pictures=drawn
    )
    report.print_document(told) if as_json else report.show(told)
    if undrawn is not None:
        raise undrawn
    if not any(look.evaluations for look in looks):
        raise typer.Exit(1)
