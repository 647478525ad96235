"""Makes the page of a report: has its curves drawn, and fetches its pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from metricwatch.api import Sink
from metricwatch.drawing.curve import Curve, Form
from metricwatch.drawing.process import draw
from metricwatch.errors import MetricwatchError, RunGoneError, TemporaryError
from metricwatch.records import StoredPicture
from metricwatch.replaying.curves import Show
from metricwatch.reporting.content import Report
from metricwatch.reporting.page import Drawn, Image, build_report
from metricwatch.reporting.shrink import shrunk

# With its pictures in base64 a page of that many stays below 3 MB.
_MOST_BYTES = 1_500_000

Draw = Callable[[Sequence[Curve], Form], list[bytes]]


def make(
    sink: Sink, report: Report, *, show: Show = lambda *_: None, draw: Draw = draw
) -> tuple[bytes, tuple[str, ...]]:
    """The page, and what is said on it about what is left out. Raises RunGoneError alone.

    What cannot be drawn or read now is missing on the page, with its reason.
    """
    curves, notes = _curves(report, draw, show)
    pictures, more = _pictures(sink, report, show)
    drawn = Drawn(curves=curves, pictures=pictures, notes=(*notes, *more))
    return build_report(report, drawn), (*report.notes, *drawn.notes)


def _curves(report: Report, draw: Draw, show: Show) -> tuple[dict[str, bytes], list[str]]:
    show("drawing curves", 0, 1)
    try:
        found = dict(zip(report.curves, draw(tuple(report.curves.values()), "svg"), strict=True))
    except TemporaryError as error:
        return {}, [f"curves are left out: {error}"]
    show("drawing curves", 1, 1)
    return found, []


def _pictures(sink: Sink, report: Report, show: Show) -> tuple[dict[str, Image], list[str]]:
    """By place; a picture that is shown twice is read once."""
    shown = [*(each for view in report.steps for each in view.pictures), *report.closing]
    wanted = {each.picture.place: each.picture for each in shown}
    found: dict[str, Image] = {}
    notes: list[str] = []
    away = ""
    room = _MOST_BYTES
    for done, (place, picture) in enumerate(wanted.items()):
        show("reading pictures", done, len(wanted))
        if away:
            found[place] = Image(trouble="as for the one before")
            continue
        try:
            image = _picture(sink, report.run.id, picture)
        except RunGoneError:
            raise
        except MetricwatchError as error:
            found[place] = Image(trouble=str(error))
            # A store that is away is away for all of them: a timeout for each would take minutes.
            away = str(error) if isinstance(error, TemporaryError) else ""
            continue
        room -= len(image.content)
        found[place] = image if room >= 0 else Image(trouble="the page would be too large to mail")
    if away:
        notes.append(f"pictures are left out: {away}")
    show("reading pictures", len(wanted), len(wanted))
    return found, notes


def _picture(sink: Sink, run_id: str, picture: StoredPicture) -> Image:
    content, width, height = shrunk(sink.read_picture(run_id, picture))
    return Image(content=content, width=width, height=height)
