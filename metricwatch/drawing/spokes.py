"""What drawings of many metrics share: where a value stands between the worst and the best, and the words for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from metricwatch.drawing.canvas import LINE, Canvas
from metricwatch.drawing.figures import Radar, Spoke
from metricwatch.drawing.style import BLUE, GREY, INK, ORANGE

# How this step and the best one are marked: by colour, by the marker's form and by the line.
THIS_STEP: dict[str, Any] = {"color": BLUE, "marker": "o", "markersize": 10, "zorder": 5}
BEST_STEP: dict[str, Any] = {
    "color": ORANGE,
    "linestyle": (0, (4, 2)),
    "marker": "s",
    "markersize": 8,
    "markerfacecolor": "white",
    "markeredgecolor": INK,
    "markeredgewidth": 2,
    "zorder": 4,
}


def standing(value: float | None, spoke: Spoke) -> float | None:
    """(value − worst) / (best − worst), from 0 (the worst so far, or worse) to 1; None where that has no number.

    1 where the worst is also the best.
    """
    if value is None or not all(map(math.isfinite, (value, spoke.best, spoke.worst))):
        return None
    if spoke.best == spoke.worst:
        return 1.0
    # Of halves: the difference of two great numbers may have none, and halves of the smallest are nothing.
    half = 0.5 if max(abs(spoke.best), abs(spoke.worst)) > 1 else 1.0
    span = spoke.best * half - spoke.worst * half
    # A value that does not compare may be far outside.
    return min(1.0, max(0.0, (max(-1e308, min(1e308, value)) * half - spoke.worst * half) / span))


def value_words(spoke: Spoke) -> str:
    """The value with the direction that is good: "↓ 12.3", or that there is none."""
    if spoke.value is None or not math.isfinite(spoke.value):
        return "no value"
    return f"{'↑' if spoke.higher_is_better else '↓'} {number(spoke.value)}"


def number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "not known"


def legend_height(radar: Radar) -> int:
    """What legend() takes of the paper, in pixels."""
    return (2 if radar.best_step is None else 3) * LINE + 8


def legend(canvas: Canvas, y: float, radar: Radar, drawn: Sequence[Spoke], *, margin: int) -> None:
    """Say below y which mark is which step, and what arrows mean."""
    room = canvas.width - 2 * margin - 48
    lines = [(THIS_STEP, f"this step, {radar.step:,}")]
    if radar.best_step is not None:
        by = f" by {radar.best_by}" if radar.best_by else ""
        lines.append((BEST_STEP, f"best step so far{by}, {radar.best_step:,}"))
    for style, words in lines:
        y += LINE
        canvas.line([margin, margin + 19, margin + 38], [y - 5] * 3, thick=3, markevery=[1], **style)
        canvas.write(margin + 48, y, canvas.cut(words, room))
    arrows = [
        words
        for higher, words in ((False, "↓ lower is better"), (True, "↑ higher is better"))
        if any(spoke.higher_is_better is higher for spoke in drawn)
    ]
    if len(drawn) < len(radar.spokes):
        arrows.append(f"the first {len(drawn)} of {len(radar.spokes)} metrics")
    canvas.write(margin, y + LINE, "   ".join(arrows), colour=GREY)
