"""A sheet of paper measured in pixels from its upper left corner, for drawings that lay pictures and words out.

Imports matplotlib: for the drawing process alone.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from PIL import Image

from metricwatch.drawing.photographs import fitted
from metricwatch.drawing.style import GREY, INK, one_line

# A power of two: any number of pixels is then a number of inches that floating point can say.
_DPI = 128
_POINT = 72 / _DPI
# Letters: as many fit no sheet, but are quickly measured.
_LONGEST = 120
# In heights of letters.
_TALLEST = 1.6
_TAIL = 0.6

# Heights of letters in pixels: 11 or more where a sheet of 700 pixels is shown at 600.
WORDS, TITLE = 13.5, 16.5
LINE = 18


class Canvas:
    """White paper of so many pixels. figure is what was drawn, complete after finish()."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
        FigureCanvasAgg(self.figure)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()
        self.axes.set_xlim(0, width)
        self.axes.set_ylim(height, 0)
        self._pixels = np.full((height, width, 3), 255, np.uint8)
        self._has_pictures = False
        self._ruler = RendererAgg(1, 1, _DPI)  # type: ignore[no-untyped-call]

    def finish(self) -> Figure:
        if self._has_pictures:
            # All of them as one: pixel for pixel, below the words and lines.
            extent = (0, self.width, self.height, 0)
            self.axes.imshow(self._pixels, extent=extent, aspect="auto", interpolation="nearest", zorder=0)
        return self.figure

    # --- words -----------------------------------------------------------------------------------------------

    def length(self, text: str, size: float = WORDS, weight: str = "normal") -> float:
        """Of a text on one line, in pixels."""
        return self._measure(text, size, weight)[0]

    def cut(
        self,
        text: str,
        room: float,
        *,
        size: float = WORDS,
        weight: str = "normal",
        where: Literal["end", "middle"] = "end",
    ) -> str:
        """The text on one line, without letters of its end or middle where it is longer than so many pixels."""
        text = one_line(text)
        if len(text) > _LONGEST:
            text = _shortened(text, _LONGEST, where)
        width, height = self._measure(text, size, weight)
        if height > _TALLEST * size:
            # Marks upon marks would climb into the pictures.
            text = "".join(char for char in text if not unicodedata.category(char).startswith("M"))
            width, _ = self._measure(text, size, weight)
        if width <= room:
            return text
        low, high = 0, len(text)
        while low + 1 < high:
            middle = (low + high) // 2
            if self.length(_shortened(text, middle, where), size, weight) <= room:
                low = middle
            else:
                high = middle
        return _shortened(text, low, where)

    def write(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = WORDS,
        colour: str = INK,
        weight: str = "normal",
        ha: Literal["left", "center", "right"] = "left",
        paper: bool = False,
    ) -> None:
        """Words with their base line at y; on white paper where they cross lines."""
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0} if paper else None
        self.axes.text(
            x, y, text, fontsize=size * _POINT, color=colour, weight=weight, ha=ha, va="baseline", bbox=box, zorder=6
        )

    def title(self, text: str, subtitle: str = "", *, margin: int) -> int:
        """Write the title and what is below it; returns where the rest begins."""
        room = self.width - 2 * margin
        self.write(margin, 26, self.cut(text, room, size=TITLE, weight="bold"), size=TITLE, weight="bold")
        if subtitle:
            self.write(margin, 26 + LINE + 3, self.cut(subtitle, room), colour=GREY)
        return title_height(subtitle)

    def _measure(self, text: str, size: float, weight: str) -> tuple[float, float]:
        """Width and height in pixels."""
        font = FontProperties(size=size * _POINT, weight=weight)
        measure = self._ruler.get_text_width_height_descent
        width, height, _ = measure(text, font, ismath=False)  # type: ignore[no-untyped-call]
        return float(width), float(height)

    # --- pictures and lines ----------------------------------------------------------------------------------

    def picture(self, x: int, y: int, width: int, height: int, picture: Image.Image | None) -> None:
        """Put a picture into the middle of a cell; without one an empty frame with a cross."""
        if picture is None:
            self.frame(x, y, width, height)
            self.line([x, x + width], [y, y + height])
            self.line([x, x + width], [y + height, y])
            return
        pixels = np.asarray(fitted(picture, width, height))
        top, left = y + (height - pixels.shape[0]) // 2, x + (width - pixels.shape[1]) // 2
        # Without the last of eight bits, which nobody sees, a PNG is a sixth smaller. White stays white.
        pixels = (pixels & 0xFE) | (pixels >> 7)
        self._has_pictures = True
        self._pixels[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels

    def frame(self, x: float, y: float, width: float, height: float, *, colour: str = GREY, thick: float = 1) -> None:
        """A rectangle around the cell; a thick one lies inside its edge."""
        inset = thick / 2
        self.axes.add_patch(
            Rectangle(
                (x + inset, y + inset),
                width - thick,
                height - thick,
                facecolor="none",
                edgecolor=colour,
                linewidth=thick * _POINT,
                joinstyle="miter",
                zorder=3,
            )
        )

    def line(self, xs: Sequence[float], ys: Sequence[float], *, thick: float = 1, **style: Any) -> None:
        """A line through the points, so many pixels thick. style as matplotlib's Line2D has it, sizes in pixels."""
        style = {"color": GREY, "zorder": 2, **style}
        for name in ("markersize", "markeredgewidth"):
            if name in style:
                style[name] *= _POINT
        self.axes.add_line(Line2D(xs, ys, linewidth=thick * _POINT, **style))


def title_height(subtitle: str = "") -> int:
    """What Canvas.title takes of the paper, in pixels."""
    return 38 + (LINE + 3 if subtitle else 0)


def _shortened(text: str, kept: int, where: str) -> str:
    """So many letters of the text, and a mark where others were."""
    if where == "end":
        return f"{text[:kept]}…"
    # What tells names of files apart is rather at their end.
    tail = math.ceil(kept * _TAIL)
    return f"{text[: kept - tail]}…{text[len(text) - tail :]}"
