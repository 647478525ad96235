"""What goes to the drawing process and comes back: one JSON document each way."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from metricwatch.drawing.curve import Curve, Form, Span
from metricwatch.drawing.figures import Comparison, ContactSheet, Drawing, Lookalikes, Radar, Spoke
from metricwatch.records import Compared, KeptSample, Lookalike, Neighbour, WindowPoint


def encode_request(drawings: Sequence[Drawing], form: Form, seconds: int) -> bytes:
    """What to draw. The process ends itself after so many seconds, whoever is left to wait for it."""
    items = [{"kind": type(drawing).__name__, "of": asdict(drawing)} for drawing in drawings]
    # ASCII: a name may hold half a character, which UTF-8 cannot say.
    return json.dumps({"form": form, "seconds": seconds, "drawings": items}).encode()


def decode_request(line: bytes) -> tuple[list[Drawing], Form, int]:
    document = json.loads(line)
    drawings = [_KINDS[item["kind"]](item["of"]) for item in document["drawings"]]
    return drawings, document["form"], document["seconds"]


def encode_pictures(pictures: Sequence[bytes]) -> bytes:
    return json.dumps([base64.b64encode(picture).decode() for picture in pictures]).encode()


def decode_pictures(line: bytes) -> list[bytes]:
    """The pictures. Raises ValueError for what is none of ours."""
    found = json.loads(line)
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise ValueError("not a list of pictures")
    return [base64.b64decode(item, validate=True) for item in found]


def _curve(item: dict[str, Any]) -> Curve:
    spans = tuple(Span(**{**span, "window": _points(span["window"])}) for span in item["spans"])
    bounds, gaps = tuple(item["bounds"]), tuple(item["gaps"])
    return Curve(**{**item, "points": _points(item["points"]), "spans": spans, "bounds": bounds, "gaps": gaps})


def _points(items: list[dict[str, Any]]) -> tuple[WindowPoint, ...]:
    return tuple(WindowPoint(**item) for item in items)


def _contact_sheet(item: dict[str, Any]) -> ContactSheet:
    return ContactSheet(**{**item, "samples": tuple(KeptSample(**sample) for sample in item["samples"])})


def _comparison(item: dict[str, Any]) -> Comparison:
    return Comparison(**{**item, "rows": tuple(Compared(**row) for row in item["rows"])})


def _radar(item: dict[str, Any]) -> Radar:
    return Radar(**{**item, "spokes": tuple(Spoke(**spoke) for spoke in item["spokes"])})


def _lookalikes(item: dict[str, Any]) -> Lookalikes:
    rows = tuple(
        Lookalike(**{**row, "nearest": tuple(Neighbour(**neighbour) for neighbour in row["nearest"])})
        for row in item["rows"]
    )
    return Lookalikes(**{**item, "rows": rows})


_KINDS: dict[str, Callable[[dict[str, Any]], Drawing]] = {
    Curve.__name__: _curve,
    ContactSheet.__name__: _contact_sheet,
    Comparison.__name__: _comparison,
    Radar.__name__: _radar,
    Lookalikes.__name__: _lookalikes,
}
