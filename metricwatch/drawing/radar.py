"""Draws all metrics of a step as a radar: outside is good. Imports matplotlib: for the drawing process alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from matplotlib.figure import Figure
from matplotlib.patches import Circle, Polygon

from metricwatch.drawing.canvas import LINE, Canvas, title_height
from metricwatch.drawing.dots import draw_dots
from metricwatch.drawing.figures import Radar, Spoke
from metricwatch.drawing.spokes import BEST_STEP, THIS_STEP, legend, legend_height, standing, value_words
from metricwatch.drawing.style import BLUE, FAINT, GREY

_WIDTH, _MARGIN = 720, 8
_RADIUS, _NEAR = 190, 14
# The worst so far is not the centre: there all metrics would be one point.
_INNERMOST = 0.15
_FEWEST, _MOST = 3, 24
_LABEL = 2 * LINE + 2


class _Place(NamedTuple):
    x: float
    y: float


def draw_radar(radar: Radar) -> Figure:
    """720 pixels wide. Each spoke goes from the worst so far (inner ring) to the best so far (outer ring).

    Neighbouring values are joined; a metric without a value is a gap. Fewer than three metrics are drawn as dots on
    lines; of more than 24 the first are drawn, which it says.
    """
    if len(radar.spokes) < _FEWEST:
        return draw_dots(radar)
    spokes = radar.spokes[:_MOST]
    height = title_height() + 2 * (_RADIUS + _NEAR + _LABEL) + legend_height(radar) + _MARGIN
    canvas = Canvas(_WIDTH, height)
    top = canvas.title(radar.title, margin=_MARGIN)
    centre = _Place(_WIDTH / 2, top + _LABEL + _NEAR + _RADIUS)
    _web(canvas, centre, len(spokes))
    best = [standing(spoke.at_best_step, spoke) for spoke in spokes]
    if radar.best_step is not None:
        for run in _runs(best):
            _join(canvas, centre, run, len(spokes), BEST_STEP)
    for run in _runs([standing(spoke.value, spoke) for spoke in spokes]):
        _fill(canvas, centre, run, len(spokes))
        _join(canvas, centre, run, len(spokes), THIS_STEP)
    _labels(canvas, centre, spokes)
    legend(canvas, height - _MARGIN - legend_height(radar) + 4, radar, spokes, margin=_MARGIN)
    return canvas.finish()


def _at(centre: _Place, place: int, count: int, reached: float) -> _Place:
    """On a spoke, clockwise from the top; reached from 0 (the centre) to 1 (the rim)."""
    angle = 2 * math.pi * place / count
    return _Place(
        centre.x + reached * _RADIUS * math.sin(angle),
        centre.y - reached * _RADIUS * math.cos(angle),
    )


def _web(canvas: Canvas, centre: _Place, count: int) -> None:
    for reached, colour in ((_INNERMOST, GREY), ((1 + _INNERMOST) / 2, FAINT), (1.0, GREY)):
        ring = Circle(centre, reached * _RADIUS, facecolor="none", edgecolor=colour, linewidth=0.7, zorder=1)
        canvas.axes.add_patch(ring)
    for place in range(count):
        end = _at(centre, place, count, 1.0)
        canvas.line([centre.x, end.x], [centre.y, end.y], color=FAINT, zorder=1)
    # Between two spokes, where the fewest lines are.
    for reached, words in ((1.0, "best so far"), (_INNERMOST, "worst so far")):
        x, y = centre.x, centre.y + reached * _RADIUS + (-6 if reached == 1 else 15)
        if count % 2 == 0:
            angle = math.pi / count
            x, y = x + (y - centre.y) * math.sin(angle), centre.y + (y - centre.y) * math.cos(angle)
        canvas.write(x, y, words, ha="center", colour=GREY, paper=True)


def _runs(standings: Sequence[float | None]) -> list[list[tuple[int, float]]]:
    """Neighbouring spokes with values, as (place, standing): all of them closed to a ring where there is no gap."""
    count = len(standings)
    gap = next((place for place, reached in enumerate(standings) if reached is None), None)
    if gap is None:
        return [[(place % count, standings[place % count] or 0.0) for place in range(count + 1)]]
    runs: list[list[tuple[int, float]]] = [[]]
    for step in range(1, count + 1):
        place = (gap + step) % count
        reached = standings[place]
        if reached is not None:
            runs[-1].append((place, reached))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _points(centre: _Place, run: Sequence[tuple[int, float]], count: int) -> list[_Place]:
    return [_at(centre, place, count, _INNERMOST + (1 - _INNERMOST) * reached) for place, reached in run]


def _join(
    canvas: Canvas, centre: _Place, run: Sequence[tuple[int, float]], count: int, style: Mapping[str, Any]
) -> None:
    points = _points(centre, run, count)
    canvas.line([point.x for point in points], [point.y for point in points], thick=3, **style)


def _fill(canvas: Canvas, centre: _Place, run: Sequence[tuple[int, float]], count: int) -> None:
    corners = [*_points(centre, run, count), centre]
    if run[0] == run[-1]:
        corners.pop()
    canvas.axes.add_patch(Polygon(corners, closed=True, facecolor=BLUE, alpha=0.18, linewidth=0, zorder=3))


def _labels(canvas: Canvas, centre: _Place, spokes: Sequence[Spoke]) -> None:
    """Name each spoke at its end; where they crowd, one below the other with a line to its spoke."""
    count = len(spokes)
    sides: dict[int, list[tuple[int, _Place]]] = {-1: [], 0: [], 1: []}
    for place in range(count):
        end = _at(centre, place, count, 1.0)
        side = 0 if abs(end.x - centre.x) < 1 else round(math.copysign(1, end.x - centre.x))
        sides[side].append((place, end))
    for place, end in sides[0]:
        y = end.y - _NEAR - _LABEL / 2 if end.y < centre.y else end.y + _NEAR + _LABEL / 2
        _label(canvas, spokes[place], centre.x, y, "center", _WIDTH / 2)
    reach = _RADIUS + _NEAR
    for side in (-1, 1):
        ends = sorted(sides[side], key=lambda item: item[1].y)
        heights = _apart([centre.y + (end.y - centre.y) * reach / _RADIUS for _, end in ends], centre.y, reach - 20)
        for (place, end), y in zip(ends, heights, strict=True):
            x = centre.x + side * max(math.sqrt(max(0.0, reach**2 - (y - centre.y) ** 2)), 40)
            if abs(y - centre.y - (end.y - centre.y) * reach / _RADIUS) > LINE / 2:
                canvas.line([end.x, x - side * 2], [end.y, y], color=GREY)
            room = (_WIDTH - _MARGIN - x) if side > 0 else x - _MARGIN
            _label(canvas, spokes[place], x + side * 3, y, "left" if side > 0 else "right", room - 3)


def _apart(heights: Sequence[float], middle: float, reach: float) -> list[float]:
    """Heights in this order that leave each label its room, near where they were."""
    moved: list[float] = []
    for height in heights:
        moved.append(max(height, moved[-1] + _LABEL if moved else middle - reach))
    lowest = middle + reach
    for place in reversed(range(len(moved))):
        moved[place] = min(moved[place], lowest)
        lowest = moved[place] - _LABEL
    return moved


def _label(
    canvas: Canvas, spoke: Spoke, x: float, y: float, ha: Literal["left", "center", "right"], room: float
) -> None:
    canvas.write(x, y - 3, canvas.cut(spoke.key, room, where="middle"), ha=ha, paper=True)
    words = value_words(spoke)
    canvas.write(x, y + LINE - 4, words, ha=ha, weight="bold", colour=GREY if words == "no value" else BLUE, paper=True)
