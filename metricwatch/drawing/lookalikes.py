"""Draws samples beside the images of the reference that are nearest to them. Imports matplotlib: for the drawing
process alone.
"""

from __future__ import annotations

import math

from matplotlib.figure import Figure

from metricwatch.drawing.canvas import LINE, Canvas, title_height
from metricwatch.drawing.figures import Lookalikes
from metricwatch.drawing.photographs import read_picture, shape
from metricwatch.drawing.style import FAINT, GREY, INK, VERMILION
from metricwatch.records import Lookalike

_WIDTH, _MARGIN, _GAP, _AFTER_SAMPLE = 672, 8, 6, 18
_WIDEST_CELL, _NARROWEST_SHEET = 160, 540
_MOST_ROWS, _MOST_NEAREST = 12, 8
_THICK = 5
_HEAD, _FOOT = LINE + 2, 2 * LINE


def draw_lookalikes(lookalikes: Lookalikes) -> Figure:
    """A row for each of the first 12 samples with up to 8 images of the reference, 672 pixels wide at most.

    Below each image is its distance and its name. One that is as near as images of the reference are to each other has
    a thick frame and a cross before its distance, and the row says how many there are.
    """
    rows = lookalikes.rows[:_MOST_ROWS]
    nearest = max((len(row.nearest[:_MOST_NEAREST]) for row in rows), default=0)
    samples = [read_picture(row.image) for row in rows]
    count = nearest + 1
    across = min(_WIDEST_CELL, (_WIDTH - 2 * _MARGIN - _AFTER_SAMPLE - nearest * _GAP) // count)
    down = round(across * shape(samples))
    width = max(_NARROWEST_SHEET, 2 * _MARGIN + _AFTER_SAMPLE + count * across + nearest * _GAP)
    tall = _HEAD + down + _FOOT + _GAP
    note = _note(lookalikes)
    # What the mark means stands below the title, where it can be.
    meant = LINE if _usual(lookalikes) is not None else 0
    canvas = Canvas(width, title_height(note) + meant + max(1, len(rows)) * tall + _MARGIN)
    top = canvas.title(lookalikes.title, note, margin=_MARGIN)
    if meant:
        words = (
            f"✕ thick frame: closer than usual, at most {lookalikes.usual_distance:.3g} (the reference's own median)"
        )
        canvas.write(_MARGIN, top + 4, canvas.cut(words, width - 2 * _MARGIN), colour=GREY)
    if not rows:
        canvas.write(width / 2, top + meant + 2 * LINE, "no samples", ha="center", colour=GREY)
    for place, row in enumerate(rows):
        y = top + meant + place * tall
        _heading(canvas, lookalikes, row, y)
        canvas.picture(_MARGIN, y + _HEAD, across, down, samples[place])
        canvas.write(_MARGIN + across / 2, y + _HEAD + down + LINE - 4, "sample", ha="center", weight="bold")
        x = _MARGIN + across + _AFTER_SAMPLE + _GAP
        canvas.line([x - _AFTER_SAMPLE / 2 - _GAP / 2] * 2, [y + _HEAD, y + _HEAD + down], color=FAINT, thick=2)
        for neighbour in row.nearest[:_MOST_NEAREST]:
            near = _is_near(neighbour.distance, lookalikes)
            canvas.picture(x, y + _HEAD, across, down, read_picture(neighbour.image))
            if near:
                canvas.frame(x, y + _HEAD, across, down, colour=VERMILION, thick=_THICK)
            words = f"{'✕ ' if near else ''}{neighbour.distance:.3g}"
            weight = "bold" if near else "normal"
            canvas.write(x + across / 2, y + _HEAD + down + LINE - 4, words, ha="center", weight=weight)
            name = canvas.cut(neighbour.name, across, where="middle")
            canvas.write(x + across / 2, y + _HEAD + down + 2 * LINE - 6, name, ha="center", colour=GREY)
            x += across + _GAP
        if not row.nearest:
            canvas.write(x, y + _HEAD + down / 2, "no image of the reference", colour=GREY)
    return canvas.finish()


def _note(lookalikes: Lookalikes) -> str:
    searched = f"nearest of {lookalikes.searched:,} images of the reference" if lookalikes.searched else ""
    space = f"by features of {lookalikes.space}" if lookalikes.space else ""
    more = len(lookalikes.rows) - _MOST_ROWS
    left_off = f"the first {_MOST_ROWS} of {len(lookalikes.rows):,} samples" if more > 0 else ""
    return ", ".join(filter(None, (left_off, searched, space)))


def _heading(canvas: Canvas, lookalikes: Lookalikes, row: Lookalike, y: int) -> None:
    near = sum(_is_near(neighbour.distance, lookalikes) for neighbour in row.nearest[:_MOST_NEAREST])
    said = f"✕ {near} closer than usual" if near else ""
    room = canvas.width - 2 * _MARGIN - canvas.length(said, weight="bold") - LINE
    name = canvas.cut(row.name, room, where="middle")
    canvas.write(_MARGIN, y + _HEAD - 6, name)
    if said:
        canvas.write(_MARGIN + canvas.length(name) + LINE, y + _HEAD - 6, said, weight="bold", colour=INK)


def _usual(lookalikes: Lookalikes) -> float | None:
    usual = lookalikes.usual_distance
    return usual if usual is not None and math.isfinite(usual) else None


def _is_near(distance: float, lookalikes: Lookalikes) -> bool:
    usual = _usual(lookalikes)
    return usual is not None and distance <= usual
