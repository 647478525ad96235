"""Draws a curve with its alerts. Imports matplotlib: for the drawing process alone.

Severities differ by their hatching as well as by colour, and what is resolved by its thin, broken edge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from metricwatch.drawing.curve import Curve, Span
from metricwatch.drawing.style import BLUE, FAINT, GREY, INK, NORMAL, ORANGE, SKY, SMALL, VERMILION, shown
from metricwatch.drawing.thin import thinned, thinned_steps
from metricwatch.records import Severity, WindowPoint

_INCHES, _COMPACT_INCHES, _DPI = (6.4, 3.2), (4.0, 2.0), 100
# As many as fit the width in these letters, whatever their words.
_LEGEND_COLUMNS = 3
_COLOURS: dict[Severity, str] = {"critical": VERMILION, "warning": ORANGE, "info": SKY}
_HATCHES: dict[Severity, str] = {"critical": "///", "warning": "...", "info": "\\\\\\"}

# The screen has 560 columns: each may show a first, a last, a lowest and a highest value.
_MOST_POINTS, _MOST_GAPS, _MOST_SPANS, _MOST_RINGS = 2240, 280, 200, 400
# More than that, and markers would run into a band.
_MOST_MARKERS = 120
_LONGEST_TITLE, _LONGEST_COMPACT_TITLE, _LONGEST_KEY = 64, 36, 26
# A bound further away than so many heights of the curve is named at the edge: the curve would be a flat line.
_FAR = 3.0
# Beyond these matplotlib's arithmetic on axes overflows, or ends in zero.
_HUGE, _TINY = 1e100, 1e-100
_NARROWEST = 0.006
_GRAVITY: tuple[Severity, ...] = ("critical", "warning", "info")

# What stands for something in the legend, and its words.
Legend = tuple[Any, str]


def draw_curve(curve: Curve) -> Figure:
    """The curve at 640 x 320 points, or at 400 x 200 where it is compact: then without a legend.

    Values that are not finite are left out. A curve of any length is drawn with what a screen can show of it.
    """
    figure = Figure(figsize=_COMPACT_INCHES if curve.compact else _INCHES, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    _draw(figure, curve)
    return figure


def _draw(figure: Figure, curve: Curve) -> None:
    axes = figure.add_subplot()
    points = thinned(curve.points, _MOST_POINTS)
    spans = _newest(curve.spans)
    rings = _rings(spans)
    curve = replace(curve, spans=spans)
    factor = _factor([point.value for point in (*points, *rings)] or curve.bounds)
    points, rings = _scaled(points, factor), _scaled(rings, factor)
    left, right = _reach(curve, points, rings)
    axes.set_xlim(left, right)
    legend = _spans(axes, curve.spans, left, right)
    legend += _band(axes, points)
    _line(axes, points)
    legend += _marked(axes, rings)
    legend += _gaps(axes, curve.gaps)
    _heights(axes, [*points, *rings], [bound for bound in curve.bounds if math.isfinite(bound)], factor)
    _words(axes, curve, factor)
    if not points:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no values", transform=axes.transAxes, ha="center", va="center", color=GREY)
    if legend and not curve.compact:
        handles, labels = zip(*legend, strict=True)
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=min(_LEGEND_COLUMNS, len(legend)),
            frameon=False,
            fontsize=SMALL,
        )


# --- what there is to draw -----------------------------------------------------------------------------------


def _newest(spans: Sequence[Span]) -> tuple[Span, ...]:
    """The newest ones, the gravest last: it lies on top."""
    kept = sorted(spans, key=lambda span: span.fired)[-_MOST_SPANS:]
    return tuple(sorted(kept, key=lambda span: (-_GRAVITY.index(span.severity), span.fired)))


def _rings(spans: Sequence[Span]) -> list[WindowPoint]:
    """The evaluations that the newest alerts were seen in, each once."""
    found = {
        (point.step, point.value): point
        for span in sorted(spans, key=lambda span: span.fired)
        for point in span.window
        if math.isfinite(point.value)
    }
    return list(found.values())[-_MOST_RINGS:]


def _factor(values: Sequence[float]) -> float:
    """What values are multiplied with before they are drawn: 1, or a power of ten where they are out of reach."""
    most = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    if most == 0 or _TINY <= most <= _HUGE:
        return 1.0
    # 10**308 is the last power of ten that there is.
    return float(10.0 ** min(308, -math.floor(math.log10(most))))


def _scaled(points: Sequence[WindowPoint], factor: float) -> list[WindowPoint]:
    return [WindowPoint(step=point.step, value=point.value * factor, stderr=_stderr(point, factor)) for point in points]


def _stderr(point: WindowPoint, factor: float) -> float | None:
    if point.stderr is None or not math.isfinite(point.stderr * factor):
        return None
    # A band that leaves the picture need not leave what can be computed with, too.
    return min(abs(point.stderr * factor), 100 * _HUGE)


def _reach(curve: Curve, points: Sequence[WindowPoint], rings: Sequence[WindowPoint]) -> tuple[float, float]:
    """The steps at the left and at the right edge."""
    steps = [point.step for point in (*points, *rings)]
    steps += [*curve.gaps, *(span.fired for span in curve.spans)]
    steps += [span.until for span in curve.spans if span.until is not None]
    first, last = (min(steps), max(steps)) if steps else (0, 1)
    margin = 0.03 * (last - first) or max(0.5, 0.03 * abs(last))
    return first - margin, last + margin


# --- drawing -------------------------------------------------------------------------------------------------


def _spans(axes: Axes, spans: Sequence[Span], left: float, right: float) -> list[Legend]:
    """Shade the steps of each alert; returns what the legend is to explain."""
    kinds = set()
    for span in spans:
        over = span.until is not None
        end = right if span.until is None else max(float(span.until), span.fired + _NARROWEST * (right - left))
        for style in _layers(span.severity, over=over):
            axes.axvspan(span.fired, end, zorder=0.5, **style)
        axes.axvline(span.fired, color=_COLOURS[span.severity], linewidth=1.4, zorder=0.6)
        kinds.add((_GRAVITY.index(span.severity), over, span.severity))
    return [
        (
            tuple(Patch(**style) for style in _layers(severity, over=over)),
            f"{severity}, {'resolved' if over else 'firing'}",
        )
        for _, over, severity in sorted(kinds)
    ]


def _layers(severity: Severity, *, over: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """A shade, and the hatching above it: in one, an SVG's hatching would be as faint as the shade."""
    colour = mpl.colors.to_rgb(_COLOURS[severity])
    return (
        {"facecolor": (*colour, 0.10 if over else 0.30), "edgecolor": "none", "linewidth": 0},
        {
            "facecolor": "none",
            "edgecolor": (*colour, 0.55 if over else 0.9),
            "hatch": _HATCHES[severity],
            "linewidth": 0.6 if over else 1.2,
            "linestyle": (0, (2, 2)) if over else "-",
        },
    )


def _band(axes: Axes, points: Sequence[WindowPoint]) -> list[Legend]:
    """Shade ± 2 standard errors, in pieces where some are not known."""
    pieces: list[list[WindowPoint]] = [[]]
    for point in points:
        if point.stderr is not None:
            pieces[-1].append(point)
        elif pieces[-1]:
            pieces.append([])
    handle: Line2D | Patch | None = None
    for piece in filter(None, pieces):
        steps = [point.step for point in piece]
        low = [point.value - 2 * (point.stderr or 0) for point in piece]
        high = [point.value + 2 * (point.stderr or 0) for point in piece]
        if len(piece) == 1:
            axes.vlines(steps, low, high, color=BLUE, alpha=0.35, linewidth=3, zorder=2)
            handle = Line2D([], [], color=BLUE, alpha=0.35, linewidth=3)
        else:
            axes.fill_between(steps, low, high, color=BLUE, alpha=0.22, linewidth=0, zorder=2)
            handle = Patch(facecolor=BLUE, alpha=0.22)
    if handle is None:
        return []
    return [(handle, "± 2 standard errors")]


def _line(axes: Axes, points: Sequence[WindowPoint]) -> None:
    few = len(points) <= _MOST_MARKERS
    axes.plot(
        [point.step for point in points],
        [point.value for point in points],
        color=BLUE,
        linewidth=1.5 if few else 1.0,
        marker="o" if few else "",
        markersize=3.5,
        zorder=3,
    )


def _marked(axes: Axes, rings: Sequence[WindowPoint]) -> list[Legend]:
    """Ring the evaluations that alerts were seen in."""
    if not rings:
        return []
    style: dict[str, Any] = {
        "linestyle": "",
        "marker": "o",
        "markersize": 7.5,
        "markerfacecolor": "white",
        "markeredgecolor": INK,
        "markeredgewidth": 1.8,
    }
    axes.plot([point.step for point in rings], [point.value for point in rings], zorder=4, **style)
    return [(Line2D([], [], **style), "window of the alert")]


def _gaps(axes: Axes, gaps: Sequence[int]) -> list[Legend]:
    """A cross at the axis for each evaluation that has no value."""
    if not gaps:
        return []
    steps = thinned_steps(gaps, _MOST_GAPS)
    style: dict[str, Any] = {"linestyle": "", "marker": "x", "markersize": 5, "color": INK, "markeredgewidth": 1.3}
    # At the bottom whatever the values are; not cut by the edge.
    transform = axes.get_xaxis_transform()
    axes.plot(steps, [0.0] * len(steps), transform=transform, clip_on=False, zorder=5, **style)
    return [(Line2D([], [], **style), "no value")]


def _heights(axes: Axes, points: Sequence[WindowPoint], bounds: Sequence[float], factor: float) -> None:
    """Set the limits of the values, from the values, their standard errors and the bounds that are near."""
    heights = [bound * factor for bound in bounds]
    spread = sorted(point.stderr or 0.0 for point in points)
    # The widest of the usual bands: one wild standard error must not flatten the curve.
    usual = spread[int(0.9 * (len(spread) - 1))] if spread else 0.0
    low = min((point.value - 2 * min(point.stderr or 0.0, usual) for point in points), default=0.0)
    high = max((point.value + 2 * min(point.stderr or 0.0, usual) for point in points), default=1.0)
    if not points and heights:
        low, high = min(heights), max(heights)
    size = (high - low) or abs(high) * 0.1 or 1.0
    near = [height for height in heights if low - _FAR * size <= height <= high + _FAR * size]
    for height in near:
        axes.axhline(height, color=INK, linestyle=(0, (5, 3)), linewidth=1.2, zorder=2.5)
        low, high = min(low, height), max(high, height)
    margin = 0.08 * (high - low) or abs(high) * 0.05 or 0.5
    axes.set_ylim(low - margin, high + margin)
    for place, sign, far in (
        (0.97, "↑", [bound for bound in bounds if bound * factor > high]),
        (0.03, "↓", [bound for bound in bounds if bound * factor < low]),
    ):
        if far:
            said = ", ".join(f"{bound:g}" for bound in sorted(far)[:3])
            top = "top" if sign == "↑" else "bottom"
            paper = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5}
            axes.text(
                0.01, place, f"bound {said} {sign}", transform=axes.transAxes, va=top, color=INK, bbox=paper, zorder=6
            )


def _words(axes: Axes, curve: Curve, factor: float) -> None:
    title = shown(curve.title, _LONGEST_COMPACT_TITLE if curve.compact else _LONGEST_TITLE)
    axes.set_title(title, fontsize=NORMAL, loc="left")
    if not curve.compact:
        axes.set_xlabel("step", fontsize=SMALL)
    unit = "" if factor == 1 else f" (× 1e{-round(math.log10(factor))})"
    axes.set_ylabel(shown(curve.key, _LONGEST_KEY) + unit, fontsize=SMALL)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=3 if curve.compact else 6, integer=True, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(_step_words(max(map(abs, axes.get_xlim())))))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4 if curve.compact else 6))
    axes.tick_params(labelsize=SMALL)
    axes.grid(visible=True, color=FAINT, linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _step_words(most: float) -> Any:
    """Writes steps so that six of them fit below each other's side."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if most >= 10 * size:
            return lambda step, _: f"{step / size:,.6g}{letter}"
    # Around a single step there is room for ticks that are none.
    return lambda step, _: f"{step:,.0f}" if step == round(step) else ""
