"""metricwatch score: one directory of images, by the same worker as the daemon's."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from metricwatch.cli import console
from metricwatch.errors import InputError, MetricwatchError
from metricwatch.protocol import Configure, Evaluate


def command(
    samples: Annotated[Path, typer.Argument(help="A directory of images, or one image.")],
    reference: Annotated[
        Path | None, typer.Option(help="What to compare with: images, or statistics as .npz (mu, sigma).")
    ] = None,
    metrics: Annotated[str | None, typer.Option(help="Metrics, separated by commas; see `plugins list`.")] = None,
    content: Annotated[Path | None, typer.Option(help="Content images, matched by file stem.")] = None,
    style: Annotated[Path | None, typer.Option(help="Style images, matched by file stem.")] = None,
    prompt: Annotated[str, typer.Option(help="The prompt of all images, for the CLIP metrics.")] = "",
    manifest: Annotated[
        Path | None, typer.Option(help="JSON lines with image, content, style, prompt, where the samples bring none.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="METRIC.KEY=VALUE, as in gram_style_loss.normalise=hw; repeatable.")
    ] = None,
    composite: Annotated[
        list[str] | None, typer.Option(help='NAME=EXPRESSION over the scores, as in "q=0.5*(1 - ssim) + fid/100".')
    ] = None,
    p: Annotated[
        float | None, typer.Option("--p", min=0.0, max=1.0, help="The training's progress, for composites that use p.")
    ] = None,
    weights: Annotated[list[str] | None, typer.Option(help="EXTRACTOR=FILE, as in inception-v3=PATH.")] = None,
    protocol: Annotated[
        list[str] | None, typer.Option(help="EXTRACTOR=NAME, as in inception-v3=clean; repeatable.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[
        str,
        typer.Option(help="exact: float32 without TF32; fast: float16 on GPUs, bfloat16 on CPUs; both, to compare."),
    ] = "exact",
    engine: Annotated[str, typer.Option(help="auto, eager, folded, compile, openvino or tensorrt.")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Images in one forward pass.")] = 32,
    cache: Annotated[Path | None, typer.Option(help="Where features and statistics of references are kept.")] = None,
    feature_cache: Annotated[str, typer.Option(help="How much of features is kept there: 500MB, 2GB, 0.")] = "2GB",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Score a set of images now. Leaves with 0 when every metric asked for has a value."""
    from metricwatch.cli.score import options
    from metricwatch.cli.score.evaluation import evaluate
    from metricwatch.cli.score.precisions import compare
    from metricwatch.cli.score.table import show
    from metricwatch.supervisor.composites import with_composites

    try:
        names = options.metric_names(metrics, reference=bool(reference), content=bool(content), prompt=bool(prompt))
        places = {
            "SAMPLES": samples,
            "--reference": reference,
            "--content": content,
            "--style": style,
            "--manifest": manifest,
        }
        for where, path in places.items():
            if path is not None and not path.exists():
                raise InputError(f"{path}: no such file or directory ({where})")
        composites = options.composites(composite or [], names, p=p)
        settings = Configure(
            device=device,
            precision=options.one_of("--precision", precision, ("exact", "fast", "both")),
            engine=options.one_of("--engine", engine, ("auto", "eager", "folded", "compile", "openvino", "tensorrt")),
            cache=str(cache or _default_cache()),
            feature_cache_bytes=options.size("--feature-cache", feature_cache),
            weights=options.weights(weights or []),
            protocols=options.protocols(protocol or []),
            batch_size=batch_size,
        )
        request = Evaluate(
            job=1,
            path=str(samples.resolve()),
            metrics=names,
            options=options.metric_options(option or [], names),
            reference=_resolved(reference),
            content=_resolved(content),
            style=_resolved(style),
            manifest=_resolved(manifest),
            prompt=options.prompt(prompt),
        )
        finish = partial(with_composites, composites=composites, p=p)
        if precision == "both":
            compare(settings, request, finish, as_json=as_json)
            return
        evaluation = evaluate(settings, request)
    except MetricwatchError as error:
        if as_json:
            console.print_json({"scores": [], "provenance": {}, "skipped": [], "error": str(error)})
        raise
    show(evaluation, finish(evaluation.scores), request, as_json=as_json)


def _resolved(path: Path | None) -> str | None:
    return None if path is None else str(path.resolve())


def _default_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "metricwatch"
