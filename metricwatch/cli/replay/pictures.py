"""The curves of a replay as pictures, the alerts on them marked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import typer

from metricwatch.config.wording import bounds_of
from metricwatch.drawing.curve import Curve, Form, Span
from metricwatch.errors import InputError
from metricwatch.records import WindowPoint
from metricwatch.replaying.replay import Look

_FORMS: dict[str, Form] = {".png": "png", ".svg": "svg"}
_NOT_IN_NAMES = re.compile(r"[^\w.\-]+")


def form_of(file: Path | None) -> Form:
    """PNG or SVG, as the file's name ends. Raises a usage error for another ending, or a folder that is not there."""
    if file is None:
        return "png"
    form = _FORMS.get(file.suffix.lower())
    if form is None:
        raise typer.BadParameter("must end in .png or .svg", param_hint="--plot")
    if not file.parent.is_dir():
        raise typer.BadParameter(f"the folder {file.parent} does not exist; make it first", param_hint="--plot")
    return form


def draw_to(file: Path, form: Form, looks: Iterable[Look], run_name: str) -> list[Path]:
    """Draw each curve that rules have looked at; returns the files. Raises TemporaryError, InputError."""
    from metricwatch.drawing.process import draw

    together: dict[str, list[Look]] = {}
    for look in looks:
        if look.key and look.series:
            together.setdefault(look.key, []).append(look)
    curves = [_curve(key, found, run_name) for key, found in together.items()]
    files = _files(file, [curve.key for curve in curves])
    for target, picture in zip(files, draw(curves, form), strict=True):
        try:
            target.write_bytes(picture)
        except OSError as error:
            raise InputError(f"--plot: {target} cannot be written: {error.strerror}; name another place") from error
    return files


def _files(file: Path, keys: Sequence[str]) -> list[Path]:
    if len(keys) <= 1:
        return [file][: len(keys)]
    names = [_NOT_IN_NAMES.sub("_", key) for key in keys]
    # Keys that differ in other characters only get a number.
    return [
        file.with_name(f"{file.stem}-{name}{f'-{place}' if name in names[:place] else ''}{file.suffix}")
        for place, name in enumerate(names)
    ]


def _curve(key: str, looks: Sequence[Look], run_name: str) -> Curve:
    series = looks[0].series
    bounds = {bound for look in looks for bound in bounds_of(look.rule)}
    return Curve(
        title=f"{run_name}: {looks[0].metric}",
        key=key,
        points=tuple(
            WindowPoint(step=item.step, value=item.value, stderr=item.stderr)
            for item in series
            if item.value is not None
        ),
        spans=tuple(
            Span(
                rule=alert.rule,
                severity=alert.severity,
                direction=alert.direction,
                fired=alert.fired_step,
                until=alert.resolved_step,
                window=alert.window,
            )
            for look in looks
            for alert in look.alerts
        ),
        bounds=tuple(sorted(bounds)),
        gaps=tuple(item.step for item in series if item.value is None),
    )
