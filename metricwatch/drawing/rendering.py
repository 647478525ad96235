"""From what is to be drawn to the bytes of a picture file. Imports matplotlib: for the drawing process alone."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from metricwatch.drawing.comparison import draw_comparison
from metricwatch.drawing.contact_sheet import draw_contact_sheet
from metricwatch.drawing.curve import Curve, Form
from metricwatch.drawing.curve_drawing import draw_curve
from metricwatch.drawing.figures import Comparison, ContactSheet, Drawing, Radar
from metricwatch.drawing.lookalikes import draw_lookalikes
from metricwatch.drawing.radar import draw_radar
from metricwatch.drawing.style import settings


def render(drawing: Drawing, form: Form) -> bytes:
    """The drawing as a PNG of 8-bit RGB, or as an SVG of that shape: the same bytes for the same drawing and files."""
    with settings():
        figure = _figure(drawing)
        made = io.BytesIO()
        if form == "svg":
            figure.savefig(made, format="svg", metadata={"Date": None, "Creator": None})
        else:
            figure.canvas.draw()
            # Nothing is transparent: a fourth channel would say so for each pixel.
            pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]  # type: ignore[attr-defined]
            Image.fromarray(np.ascontiguousarray(pixels)).save(made, "PNG")
        return made.getvalue()


def _figure(drawing: Drawing) -> Figure:
    match drawing:
        case Curve():
            return draw_curve(drawing)
        case ContactSheet():
            return draw_contact_sheet(drawing)
        case Comparison():
            return draw_comparison(drawing)
        case Radar():
            return draw_radar(drawing)
    return draw_lookalikes(drawing)
