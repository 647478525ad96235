"""Draws samples beside their partners, and where they depart from them. Imports matplotlib: for the drawing process
alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from PIL import Image

from metricwatch.drawing.canvas import LINE, Canvas, title_height
from metricwatch.drawing.figures import Comparison
from metricwatch.drawing.photographs import Pixels, fitted, read_picture, shape
from metricwatch.drawing.style import FAINT, GREY
from metricwatch.records import Compared

_WIDTH, _MARGIN, _GAP, _BAR = 672, 8, 6, 12
_WIDEST_CELL, _NARROWEST_SHEET = 210, 420
_MOST = 12
_COLUMNS = ("content", "style", "output", "difference")
# How much of the heat's colour is seen, and the greys that are left of the picture below it.
_OPACITY, _DARKEST, _LIGHTEST = 0.72, 60, 200
_SCALE = "inferno"


def draw_comparison(comparison: Comparison) -> Figure:
    """A row for each of the first 12 samples, 672 pixels wide at most. Says where there are more.

    The heat is drawn with a colour map of even steps in lightness, from dark (alike) to light; the bar below has the
    same colours over a middle grey.
    """
    rows = comparison.rows[:_MOST]
    columns = [name for name in _COLUMNS if any(_path(row, name) for row in rows)]
    note = f"the first {len(rows)} of {len(comparison.rows):,} samples" if len(comparison.rows) > len(rows) else ""
    pictures = [{name: read_picture(path) for name in columns if (path := _path(row, name))} for row in rows]
    slenderness = shape(found.get("output") for found in pictures)
    count = max(1, len(columns))
    across = min(_WIDEST_CELL, (_WIDTH - 2 * _MARGIN + _GAP) // count - _GAP)
    down = round(across * slenderness)
    width = max(_NARROWEST_SHEET, 2 * _MARGIN + count * (across + _GAP) - _GAP)
    hot = "difference" in columns
    foot = _BAR + 2 * LINE if hot else 0
    canvas = Canvas(width, title_height(note) + LINE + max(1, len(rows)) * (LINE + down + _GAP) + foot + _MARGIN)
    top = canvas.title(comparison.title, note, margin=_MARGIN)
    if not rows:
        canvas.write(width / 2, top + LINE, "no samples", ha="center", colour=GREY)
        return canvas.finish()
    lefts = {name: _MARGIN + place * (across + _GAP) for place, name in enumerate(columns)}
    for name, x in lefts.items():
        canvas.write(x + across / 2, top + LINE - 6, name, ha="center", weight="bold")
    for place, (row, found) in enumerate(zip(rows, pictures, strict=True)):
        y = top + LINE + place * (LINE + down + _GAP)
        _row(canvas, row, found, lefts, (y, across, down))
    if hot:
        y = canvas.height - _MARGIN - foot + 2
        _bar(canvas, comparison, (lefts["difference"], y, across))
    return canvas.finish()


def _path(row: Compared, column: str) -> str:
    return {"content": row.content, "style": row.style, "output": row.image, "difference": row.heat}[column]


def _row(
    canvas: Canvas,
    row: Compared,
    found: Mapping[str, Image.Image | None],
    lefts: Mapping[str, int],
    place: tuple[int, int, int],
) -> None:
    y, across, down = place
    mean = ""
    if "difference" in lefts and row.heat_mean is not None and math.isfinite(row.heat_mean):
        mean = f"mean {row.heat_mean:.3g}"
        canvas.write(lefts["difference"] + across / 2, y + LINE - 5, mean, ha="center")
    room = (lefts["difference"] if mean else canvas.width - _MARGIN) - _MARGIN - _GAP
    canvas.write(_MARGIN, y + LINE - 5, canvas.cut(row.name, room, where="middle"))
    for name, x in lefts.items():
        if name not in found:
            canvas.frame(x, y + LINE, across, down, colour=FAINT)
            canvas.write(x + across / 2, y + LINE + down / 2, "none", ha="center", colour=GREY)
            continue
        picture = found[name]
        if name == "difference" and picture is not None:
            picture = _warmed(picture, found.get("output"), across, down)
        canvas.picture(x, y + LINE, across, down, picture)


def _warmed(heat: Image.Image, below: Image.Image | None, across: int, down: int) -> Image.Image:
    """The heat over the output in grey, of the output's shape."""
    grey = (fitted(below, across, down) if below else Image.new("RGB", (across, down), "grey")).convert("L")
    heats = np.asarray(heat.convert("L").resize(grey.size, Image.Resampling.BILINEAR))
    return Image.fromarray(_coloured(heats, np.asarray(grey)))


def _coloured(heats: Pixels, greys: Pixels) -> Pixels:
    colours: npt.NDArray[np.float64] = np.asarray(mpl.colormaps[_SCALE](heats))[..., :3]
    below = (_DARKEST + greys.astype(float) * (_LIGHTEST - _DARKEST) / 255)[..., None]
    return np.round(_OPACITY * 255 * colours + (1 - _OPACITY) * below).astype(np.uint8)


def _bar(canvas: Canvas, comparison: Comparison, place: tuple[int, int, int]) -> None:
    """The colours of the heat, from 0 to the hottest, with the metric's name before them."""
    x, y, across = place
    ramp = np.tile(np.linspace(0, 255, across).round().astype(np.uint8), (_BAR, 1))
    canvas.picture(x, y, across, _BAR, Image.fromarray(_coloured(ramp, np.full_like(ramp, 128))))
    canvas.write(x, y + _BAR + LINE - 3, "0")
    canvas.write(x + across, y + _BAR + LINE - 3, f"≥ {comparison.heat_most:.3g}", ha="right")
    if x > _MARGIN:
        metric = f"difference from the content, {comparison.heat_of}" if comparison.heat_of else "difference"
        words = canvas.cut(metric, x - 2 * _MARGIN)
        canvas.write(x - _MARGIN, y + _BAR - 1, words, ha="right")
    elif comparison.heat_of:
        canvas.write(x + across / 2, y + _BAR + LINE - 3, canvas.cut(comparison.heat_of, across / 2), ha="center")
