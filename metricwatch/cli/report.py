"""metricwatch report: a run on one page, as a file or beside the run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from metricwatch.records import WindowPoint
    from metricwatch.reporting.content import Report

# Longer than any server takes: nobody is left to end what the daemon has started and forgotten.
_BACKGROUND_SECONDS = 900
_NICE = 10
_LONGEST_NAME = 80


def command(
    run_id: Annotated[str, typer.Option("--run-id", metavar="ID", help="The MLflow run.")],
    config: Annotated[
        Path | None, typer.Option("-c", "--config", help="The configuration file. [default: metricwatch.yaml]")
    ] = None,
    uri: Annotated[
        str | None, typer.Option("--uri", help="The tracking server, instead of the configuration's.")
    ] = None,
    prefix: Annotated[
        str | None, typer.Option("--prefix", help="What the curves' names begin with. [default: the configuration's]")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Where to write the page. [default: report-<run name>.html]"),
    ] = None,
    artifact: Annotated[
        bool, typer.Option("--artifact", help="Store it beside the run as report.html; a file only with --out.")
    ] = False,
    metric: Annotated[
        str, typer.Option("--metric", metavar="KEY", help="The metric by which steps are best and worst.")
    ] = "",
    higher_is_better: Annotated[
        bool | None,
        typer.Option("--higher-is-better/--lower-is-better", help="Of keys that no metric or composite is known for."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
    background: Annotated[bool, typer.Option("--background", hidden=True)] = False,
) -> None:
    """Write a page about a run: its curves, alerts, best and worst step with pictures, and where the values come from.

    The page needs no other file and no network: it can be mailed.
    """
    from metricwatch.cli import console
    from metricwatch.cli.progress import bars
    from metricwatch.cli.replay import settings
    from metricwatch.clock import SystemClock
    from metricwatch.reporting.collect import Wanted, collect
    from metricwatch.reporting.content import REPORT_PAGE
    from metricwatch.reporting.making import make

    if background:
        _step_back()
    if out is not None and not out.parent.is_dir():
        raise typer.BadParameter(f"the folder {out.parent} does not exist; make it first", param_hint="--out")
    if out is not None and out.is_dir():
        raise typer.BadParameter(f"{out} is a folder; name a file in it", param_hint="--out")
    chosen = settings.of_run(config, uri, prefix=prefix)
    sink = chosen.sink()
    try:
        with bars() as show:
            wanted = Wanted(
                run_id=run_id,
                where=chosen.tracking.redacted_uri,
                prefix=chosen.tracking.prefix,
                run_name=chosen.recorded(sink, run_id).name,
                metrics=chosen.metrics,
                metric=metric,
                rises=higher_is_better,
                rules=chosen.rules,
                composites=chosen.composites,
            )
            report = collect(sink, wanted, now=SystemClock().now(), show=show)
            page, notes = make(sink, report, show=show)
            if artifact:
                sink.write_page(run_id, REPORT_PAGE, page)
    finally:
        sink.close()
    file = out or (None if artifact else Path(f"report-{_plain(report.run.name)}.html"))
    if file is not None:
        _write(file, page)
    if as_json:
        console.print_json(_document(report, notes, file, len(page), stored=REPORT_PAGE if artifact else None))
        return
    screen = console.results()
    for place in ([f"{REPORT_PAGE} beside run {report.run.name}"] if artifact else []) + ([str(file)] if file else []):
        screen.print(f"{place}: {len(page) / 1e6:.1f} MB", soft_wrap=True)
    for note in notes:
        console.messages().print(f"note: {note}", soft_wrap=True)


def _step_back() -> None:
    """Give way to the training job, and end some day whatever happens."""
    import contextlib
    import os
    import signal

    with contextlib.suppress(OSError):
        os.nice(_NICE)
    signal.alarm(_BACKGROUND_SECONDS)


def _plain(name: str) -> str:
    """The run's name as part of a file's name."""
    import re

    return re.sub(r"[^\w.\-]+", "_", name)[:_LONGEST_NAME].strip("._") or "run"


def _write(file: Path, page: bytes) -> None:
    """Write the file whole or not at all. Raises InputError."""
    import contextlib
    import os
    import tempfile

    from metricwatch.errors import InputError

    made = ""
    try:
        descriptor, made = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name[:40]}.")
        with open(descriptor, "wb") as opened:
            opened.write(page)
        # As if it had been opened under its own name: mkstemp's is for one's own eyes.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(made, 0o666 & ~mask)
        os.replace(made, file)
    except OSError as error:
        if made:
            with contextlib.suppress(OSError):
                os.unlink(made)
        raise InputError(f"--out: {file} cannot be written: {error.strerror}; name another place") from error


def _document(report: Report, notes: tuple[str, ...], file: Path | None, size: int, *, stored: str | None) -> Any:
    return {
        "run": {"id": report.run.id, "name": report.run.name, "status": report.run.status, "url": report.run.url},
        "file": str(file) if file else None,
        "artifact": stored,
        "bytes": size,
        "evaluations": report.evaluations,
        "by": report.by or None,
        "metrics": [
            {
                "metric": series.name,
                "key": series.key,
                "higher_is_better": series.rises,
                "evaluations": series.evaluations,
                "last": _point(series.last),
                "best": _point(series.best) if series.rises is not None else None,
                "worst": _point(series.worst) if series.rises is not None else None,
            }
            for series in report.series
        ],
        "alerts": [
            {
                "rule": episode.rule,
                "metric": episode.metric,
                "severity": episode.severity,
                "direction": episode.direction,
                "fired_step": episode.fired,
                "resolved_step": episode.until,
            }
            for episode in report.episodes
        ],
        "notes": list(notes),
    }


def _point(point: WindowPoint | None) -> dict[str, Any] | None:
    return None if point is None else {"step": point.step, "value": point.value, "stderr": point.stderr}
