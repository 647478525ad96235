"""The outcome, for people and as JSON."""

from __future__ import annotations

import os
import shlex
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metricwatch.cli import console
from metricwatch.cli.demo.configuration import COMPOSITE, METRIC, PERCEPTUAL, RULE, SIMILARITY, STYLE
from metricwatch.cli.demo.curve import CurvePoint, curve
from metricwatch.cli.demo.folder import RUN_NAME, DemoFolder
from metricwatch.cli.demo.messages import Message
from metricwatch.cli.demo.play import Play
from metricwatch.cli.demo.processes import shown
from metricwatch.cli.demo.stage import Ending

if TYPE_CHECKING:
    from rich.console import Console

_STYLES = {"firing (worse)": "bold red", "firing (better)": "cyan", "inactive": "dim"}


def print_report(folder: DemoFolder, play: Play, ending: Ending) -> None:
    """The curve, the alerts as delivered, how to look at it again, and what is wrong if anything is."""
    screen = console.results()
    screen.print(f"\nThe curve, read back from MLflow (run {RUN_NAME}, id {ending.run_id}):\n")
    console.print_table(
        ["step", METRIC, "± stderr", SIMILARITY, PERCEPTUAL, STYLE, COMPOSITE, f"rule {RULE}"],
        [_row(point) for point in curve(ending.history, ending.messages)],
        styles=_STYLES,
        console=screen,
    )
    screen.print(f"\nThe alerts as delivered (the accident happened at step {play.accident_at}):")
    for message in ending.messages:
        _print_message(screen, message)
    if not ending.messages:
        screen.print("\n  none")
    screen.print("\nTo look at the curves again:\n")
    # Not wrapped: it is there to be copied.
    screen.print(f"  {ui_command(folder)}", soft_wrap=True)
    screen.print(f"  then open http://127.0.0.1:5000{ending.run_page}")
    screen.print(f"\nThe configuration it ran with: {shown(folder / folder.config_inside)}")
    screen.print(f"Logs: {', '.join(shown(path) for path in _logs(folder))}")
    if ending.problems:
        screen.print(f"\nThe demo failed after {ending.seconds:.0f} s:")
        for problem in ending.problems:
            screen.print(f"  - {problem}")
    else:
        screen.print(f"\nAll went as it should, in {ending.seconds:.0f} s.")


def document(folder: DemoFolder, play: Play, ending: Ending) -> dict[str, Any]:
    """The same as one JSON document."""
    return {
        "ok": not ending.problems,
        "problems": list(ending.problems),
        "seconds": round(ending.seconds, 1),
        "folder": str(folder.root),
        "run_id": ending.run_id,
        "metric": METRIC,
        "rule": RULE,
        "accident_at": play.accident_at,
        "breaks_at": play.breaks_at,
        "curve": [_point(point) for point in curve(ending.history, ending.messages)],
        "alerts": [asdict(item) | {"received_at": item.received_at.isoformat()} for item in ending.messages],
        "mlflow_ui": ui_command(folder),
        "logs": [str(path) for path in _logs(folder)],
    }


def ui_command(folder: DemoFolder) -> str:
    """The command that shows the demo's MLflow database in a browser, to be typed where the demo was."""
    beside = Path(sys.executable).with_name("mlflow")
    program = [shown(beside)] if beside.exists() else [sys.executable, "-m", "mlflow"]
    database, artifacts = shown(folder / folder.database_inside), shown(folder / folder.artifacts_inside)
    options = ["--backend-store-uri", f"sqlite:///{database}", "--artifacts-destination", artifacts]
    # One web worker is up in seconds; the default of four is not, and serves nobody better here.
    return shlex.join([*program, "ui", *options, "--workers", "1"])


def _row(point: CurvePoint) -> list[str]:
    return [
        str(point.step),
        "collapsed" if point.distance is None else f"{point.distance:.2f}",
        "" if point.distance_stderr is None else f"± {point.distance_stderr:.2f}",
        _number(point.similarity, ".3f"),
        _number(point.perceptual, ".3f"),
        _number(point.style, ".2e"),
        _number(point.composite, ".3f"),
        point.rule,
    ]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _point(point: CurvePoint) -> dict[str, Any]:
    return {
        "step": point.step,
        METRIC: point.distance,
        f"{METRIC}_stderr": point.distance_stderr,
        SIMILARITY: point.similarity,
        PERCEPTUAL: point.perceptual,
        STYLE: point.style,
        COMPOSITE: point.composite,
        "rule": point.rule,
    }


def _print_message(screen: Console, message: Message) -> None:
    screen.print(f"\n  {message.channel}, {message.received_at:%H:%M:%S}")
    for line in (message.title, *message.text.splitlines()):
        screen.print(textwrap.fill(line, screen.width, initial_indent="    ", subsequent_indent="    "))


def _logs(folder: DemoFolder) -> Sequence[Path]:
    found = sorted((folder / Path("logs")).glob("*.log"))
    worker = folder / folder.state_inside / "worker.log"
    return [*found, *([worker] if os.path.exists(worker) else [])]
