"""What goes to the drawing process and comes back: one JSON document each way."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from metricwatch.drawing.curve import Curve, Form, Span
from metricwatch.records import WindowPoint


def encode_request(curves: Sequence[Curve], form: Form, seconds: int) -> bytes:
    """The curves to draw. The process ends itself after so many seconds, whoever is left to wait for it."""
    # ASCII: a name may hold half a character, which UTF-8 cannot say.
    return json.dumps({"form": form, "seconds": seconds, "curves": [asdict(curve) for curve in curves]}).encode()


def decode_request(line: bytes) -> tuple[list[Curve], Form, int]:
    document = json.loads(line)
    return [_curve(item) for item in document["curves"]], document["form"], document["seconds"]


def encode_pictures(pictures: Sequence[bytes]) -> bytes:
    return json.dumps([base64.b64encode(picture).decode() for picture in pictures]).encode()


def decode_pictures(line: bytes) -> list[bytes]:
    """The pictures. Raises ValueError for what is none of ours."""
    found = json.loads(line)
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise ValueError("not a list of pictures")
    return [base64.b64decode(item, validate=True) for item in found]


def _curve(item: dict[str, Any]) -> Curve:
    return Curve(
        title=item["title"],
        key=item["key"],
        points=_points(item["points"]),
        spans=tuple(Span(**{**span, "window": _points(span["window"])}) for span in item["spans"]),
        bounds=tuple(item["bounds"]),
        gaps=tuple(item["gaps"]),
    )


def _points(items: list[dict[str, Any]]) -> tuple[WindowPoint, ...]:
    return tuple(WindowPoint(**item) for item in items)
