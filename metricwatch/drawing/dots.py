"""Draws one or two metrics of a step as dots on lines: right is good. Imports matplotlib: for the drawing process
alone.
"""

from __future__ import annotations

from matplotlib.figure import Figure

from metricwatch.drawing.canvas import LINE, Canvas, title_height
from metricwatch.drawing.figures import Radar
from metricwatch.drawing.spokes import BEST_STEP, THIS_STEP, legend, legend_height, number, standing, value_words
from metricwatch.drawing.style import GREY

_WIDTH, _MARGIN, _INSET = 720, 8, 24
_ROW = 5 * LINE


def draw_dots(radar: Radar) -> Figure:
    """720 pixels wide. Each line goes from the worst so far (left) to the best so far (right)."""
    rows = max(1, len(radar.spokes))
    height = title_height() + rows * _ROW + legend_height(radar) + _MARGIN
    canvas = Canvas(_WIDTH, height)
    top = canvas.title(radar.title, margin=_MARGIN)
    if not radar.spokes:
        canvas.write(_WIDTH / 2, top + 2 * LINE, "no metrics", ha="center", colour=GREY)
        return canvas.finish()
    left, right = _MARGIN + _INSET, _WIDTH - _MARGIN - _INSET
    for place, spoke in enumerate(radar.spokes):
        y = top + place * _ROW
        words = value_words(spoke)
        name = canvas.cut(spoke.key, _WIDTH - 4 * _MARGIN - canvas.length(words, weight="bold"), where="middle")
        canvas.write(_MARGIN, y + LINE, name)
        canvas.write(_MARGIN + canvas.length(name) + 10, y + LINE, words, weight="bold")
        middle = y + 2 * LINE + 4
        canvas.line([left, right], [middle] * 2, thick=2)
        for end in (left, right):
            canvas.line([end] * 2, [middle - 7, middle + 7], thick=2)
        if radar.best_step is not None and (reached := standing(spoke.at_best_step, spoke)) is not None:
            canvas.line([left + (right - left) * reached], [middle], **BEST_STEP)
        if (reached := standing(spoke.value, spoke)) is not None:
            canvas.line([left + (right - left) * reached], [middle], **THIS_STEP)
        canvas.write(_MARGIN, y + 4 * LINE - 6, f"worst so far {number(spoke.worst)}", colour=GREY)
        canvas.write(_WIDTH - _MARGIN, y + 4 * LINE - 6, f"best so far {number(spoke.best)}", ha="right", colour=GREY)
    legend(canvas, top + rows * _ROW, radar, radar.spokes, margin=_MARGIN)
    return canvas.finish()
