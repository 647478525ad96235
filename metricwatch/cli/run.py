"""metricwatch run: the daemon."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from datetime import timedelta

    from metricwatch.daemon import App, Once


def command(
    config: Annotated[Path | None, typer.Option("-c", "--config", help="The configuration file.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Score what is there, deliver it, and leave.")] = False,
    drain: Annotated[
        str, typer.Option("--drain", metavar="DURATION", help="With --once: how long to try to deliver.")
    ] = "60s",
    as_json: Annotated[bool, typer.Option("--json", help="With --once: print a JSON summary on stdout.")] = False,
) -> None:
    """Watch, score, log and alert until stopped (SIGTERM or Ctrl-C), or once over what is there."""
    import signal
    import threading

    from metricwatch.config.loader import load_config
    from metricwatch.config.quantities import parse_duration
    from metricwatch.daemon import App

    try:
        patience = parse_duration(drain)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--drain") from error
    with App(load_config(config)) as app:
        for number in (signal.SIGTERM, signal.SIGINT):
            # In a thread: the handler interrupts the main thread, which may hold the very lock that stop() needs.
            signal.signal(number, lambda *_: threading.Thread(target=app.stop).start())
        if not once:
            app.run()
            return
        result = _run_once(app, patience)
    _report(result, as_json=as_json)


def _run_once(app: App, patience: timedelta) -> Once:

    from metricwatch.cli.progress import bars
    from metricwatch.supervisor.stage import Progress

    with bars() as show:

        def progress(now: Progress | None, finished: int, known: int) -> None:
            show("snapshots", finished, known)
            if now is not None:
                show("images", now.done, now.total)

        return app.run_once(drain=patience, progress=progress)


def _report(result: Once, *, as_json: bool) -> None:
    from dataclasses import asdict

    from metricwatch.cli import console

    if as_json:
        console.print_json(asdict(result))
    screen = console.messages()
    skipped = f", {result.skipped} skipped" if result.skipped else ""
    screen.print(f"{result.done} evaluated, {result.failed} failed{skipped}")
    if not (result.done or result.failed or result.skipped):
        screen.print("nothing new to score; `metricwatch check` shows what the configuration matches")
    problems = {
        "snapshots could not be evaluated": result.failed,
        "scores could not be computed": result.failed_scores,
        "deliveries were rejected by the tracking server": result.rejected,
        "deliveries wait for the tracking server": result.undelivered,
        "pictures wait for the tracking server": result.pictures,
        "messages could not be sent yet": result.unsent,
    }
    for text, count in problems.items():
        if count:
            screen.print(f"{count} {text}; `metricwatch status` says why")
    if result.stopped or any(problems.values()):
        raise typer.Exit(1)
