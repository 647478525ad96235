"""Draws the samples of one step in a grid. Imports matplotlib: for the drawing process alone."""

from __future__ import annotations

import math

from matplotlib.figure import Figure

from metricwatch.drawing.canvas import LINE, Canvas, title_height
from metricwatch.drawing.figures import ContactSheet
from metricwatch.drawing.photographs import read_picture, shape
from metricwatch.drawing.style import GREY

_WIDTH, _MARGIN, _GAP = 660, 8, 6
# A few samples make a smaller sheet: thumbnails have no more pixels to show.
_WIDEST_CELL, _NARROWEST_SHEET = 256, 420
# Smaller ones show nothing, and the slider's picture would take its time.
_MOST = 64


def draw_contact_sheet(sheet: ContactSheet) -> Figure:
    """At most 660 pixels wide, about as high as it is wide. Of more than 64 samples the first are shown, which it says.

    Cells are equal, whatever the pictures' sizes, in rows from the left; names are cut in their middle.
    """
    samples = sheet.samples[:_MOST]
    if not samples:
        return _empty(sheet)
    pictures = [read_picture(sample.path) for sample in samples]
    slenderness = shape(pictures)
    columns = _columns(len(samples), slenderness)
    rows = math.ceil(len(samples) / columns)
    across = min(_WIDEST_CELL, (_WIDTH - 2 * _MARGIN + _GAP) // columns - _GAP)
    down = round(across * slenderness)
    width = max(_NARROWEST_SHEET, 2 * _MARGIN + columns * (across + _GAP) - _GAP)
    more = len(sheet.samples) - len(samples)
    note = f"the first {len(samples)} of {len(sheet.samples):,} samples" if more else ""
    canvas = Canvas(width, title_height(note) + rows * (down + LINE + _GAP) + _MARGIN - _GAP)
    top = canvas.title(sheet.title, note, margin=_MARGIN)
    for place, (sample, picture) in enumerate(zip(samples, pictures, strict=True)):
        x = _MARGIN + place % columns * (across + _GAP)
        y = top + place // columns * (down + LINE + _GAP)
        canvas.picture(x, y, across, down, picture)
        name = canvas.cut(sample.name, across, where="middle")
        canvas.write(x + across / 2, y + down + LINE - 4, name, ha="center")
    return canvas.finish()


def _empty(sheet: ContactSheet) -> Figure:
    canvas = Canvas(_NARROWEST_SHEET, title_height() + 60)
    top = canvas.title(sheet.title, margin=_MARGIN)
    canvas.write(canvas.width / 2, top + 24, "no samples", ha="center", colour=GREY)
    return canvas.finish()


def _columns(count: int, slenderness: float) -> int:
    """As many that the sheet is as square as can be, empty cells being no help."""

    def odd(columns: int) -> tuple[float, int]:
        rows = math.ceil(count / columns)
        empty = (rows * columns - count) / count
        return abs(math.log(rows * (slenderness + 0.1) / columns)) + empty, columns

    return min(range(1, count + 1), key=odd)
