"""metricwatch score: one directory of images, by the same worker as the daemon's."""

from __future__ import annotations

import math
import os
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from metricwatch.cli import console
from metricwatch.errors import InputError, MetricwatchError, PermanentError, WorkerError
from metricwatch.protocol import Configure, Evaluate, Failure, Heartbeat, Log, Result
from metricwatch.records import Evaluation, Score, ScoreState

# A worker that says nothing for this long hangs.
_SILENCE_SECONDS = 180.0
_SHOWN = 10


def command(
    samples: Annotated[Path, typer.Argument(help="A directory of images, or one image.")],
    reference: Annotated[
        Path | None, typer.Option(help="What to compare with: images, or statistics as .npz (mu, sigma).")
    ] = None,
    metrics: Annotated[str | None, typer.Option(help="Metrics, separated by commas; see `plugins list`.")] = None,
    content: Annotated[Path | None, typer.Option(help="Content images, matched by file stem.")] = None,
    style: Annotated[Path | None, typer.Option(help="Style images, matched by file stem.")] = None,
    weights: Annotated[list[str] | None, typer.Option(help="EXTRACTOR=FILE, as in inception-v3=PATH.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[str, typer.Option(help="exact: float32 without TF32.")] = "exact",
    engine: Annotated[str, typer.Option(help="auto or eager.")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Images in one forward pass.")] = 32,
    cache: Annotated[Path | None, typer.Option(help="Where statistics of references are kept.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Score a set of images now. Leaves with 0 when every metric asked for has a value."""
    names = _metric_names(metrics, reference, content)
    for option, path in (("SAMPLES", samples), ("--reference", reference), ("--content", content), ("--style", style)):
        if path is not None and not path.exists():
            raise InputError(f"{path}: no such file or directory ({option})")
    folder = cache or _default_cache()
    settings = Configure(
        device=device,
        precision=_one_of("--precision", precision, ("exact",)),
        engine=_one_of("--engine", engine, ("auto", "eager")),
        cache=str(folder),
        weights=_weights(weights or []),
        batch_size=batch_size,
    )
    request = Evaluate(
        job=1,
        path=str(samples.resolve()),
        metrics=names,
        reference=None if reference is None else str(reference.resolve()),
        content=None if content is None else str(content.resolve()),
        style=None if style is None else str(style.resolve()),
    )
    try:
        evaluation = _evaluate(settings, request)
    except MetricwatchError as error:
        if as_json:
            console.print_json({"scores": [], "provenance": {}, "skipped": [], "error": str(error)})
        raise
    _show(evaluation, request, as_json=as_json)


def _metric_names(metrics: str | None, reference: Path | None, content: Path | None) -> tuple[str, ...]:
    from metricwatch import catalog

    if metrics is None:
        wanted = [*(["fid"] if reference else []), *(["ssim"] if content else [])]
        if not wanted:
            raise typer.BadParameter("give --reference (for fid) or --content (for ssim), or name --metrics")
        return tuple(wanted)
    wanted = [name.strip() for name in metrics.split(",") if name.strip()]
    known = catalog.names("metrics")
    for name in wanted:
        if name not in known:
            raise typer.BadParameter(f"unknown metric {name!r}; {catalog.did_you_mean(name, known)}")
    if not wanted:
        raise typer.BadParameter("--metrics names none")
    return tuple(dict.fromkeys(wanted))


def _one_of(option: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise typer.BadParameter(f"must be {' or '.join(allowed)}, not {value!r}", param_hint=option)
    return value


def _weights(pairs: list[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        name, equals, path = pair.partition("=")
        if not (name and equals and path):
            raise typer.BadParameter(f"{pair!r} is not of the form EXTRACTOR=FILE", param_hint="--weights")
        if not Path(path).is_file():
            raise InputError(f"{path}: no such file (--weights {name})")
        found[name] = str(Path(path).resolve())
    return found


def _default_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "metricwatch"


def _evaluate(settings: Configure, request: Evaluate) -> Evaluation:
    import threading

    import structlog

    from metricwatch.cli.progress import bars
    from metricwatch.supervisor.process import WorkerProcess

    said = threading.Event()
    error = ""
    with tempfile.TemporaryDirectory(prefix="metricwatch-") as folder, bars() as show:
        worker = WorkerProcess(settings, log_file=Path(folder) / "worker.log", wake=said.set)
        heard = time.monotonic()
        try:
            worker.send(request)
            while True:
                said.wait(1.0)
                said.clear()
                try:
                    replies = worker.poll()
                except WorkerError as death:
                    raise WorkerError(f"{death}{f'; {error}' if error else ''}") from death
                heard = time.monotonic() if replies else heard
                if time.monotonic() - heard > _SILENCE_SECONDS:
                    raise WorkerError(f"the worker gave no sign of life for {_SILENCE_SECONDS:.0f} s")
                for reply in replies:
                    match reply:
                        case Heartbeat():
                            show(reply.phase or "starting", reply.done, reply.total)
                        case Log(level="error"):
                            # Told once, with the failure that follows from it.
                            error = " ".join((reply.event, *reply.fields.values()))
                        case Log(level="warning"):
                            structlog.get_logger(__name__).warning(reply.event, **reply.fields)
                        case Result():
                            return reply.evaluation
                        case Failure():
                            raise PermanentError(reply.reason)
        finally:
            worker.kill()


def _show(evaluation: Evaluation, request: Evaluate, *, as_json: bool) -> None:
    from dataclasses import asdict

    screen = console.messages()
    for item in evaluation.skipped[:_SHOWN]:
        screen.print(f"skipped {item.path}: {item.reason}", soft_wrap=True)
    if len(evaluation.skipped) > _SHOWN:
        screen.print(f"and {len(evaluation.skipped) - _SHOWN} more; --json names them all")
    missing = [score for score in evaluation.scores if score.state is not ScoreState.OK]
    for score in missing:
        hint = _hint(score, request)
        screen.print(f"{score.key}: no value ({score.state.value}): {score.detail}{hint}", soft_wrap=True)
    if as_json:
        console.print_json(
            {
                "scores": [_as_dict(score) for score in evaluation.scores],
                "provenance": dict(evaluation.provenance),
                "skipped": [asdict(item) for item in evaluation.skipped],
            }
        )
    else:
        console.print_table(
            ["metric", "value", "± stderr", "images"],
            [
                [score.key, _number(score.value), _number(score.stderr), str(score.images)]
                for score in evaluation.scores
            ],
        )
    if missing:
        raise typer.Exit(1)


def _hint(score: Score, request: Evaluate) -> str:
    if score.state is ScoreState.NO_REFERENCE:
        return "; give --reference"
    if score.state is ScoreState.NO_PAIRS and request.content is None and request.style is None:
        return "; give --content or --style"
    return ""


def _as_dict(score: Score) -> dict[str, object]:
    document: dict[str, object] = {
        "key": score.key,
        "value": score.value,
        "stderr": score.stderr,
        "images": score.images,
        "provenance": dict(score.provenance),
    }
    if score.state is not ScoreState.OK:
        document |= {"state": score.state.value, "detail": score.detail}
    return document


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if math.fabs(value) >= 0.001 or value == 0 else f"{value:.3e}"  # noqa: PLR2004
