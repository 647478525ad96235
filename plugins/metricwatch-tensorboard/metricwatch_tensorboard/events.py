"""Points, tags and pictures as TensorBoard's events, and what tells one that is there already."""

from __future__ import annotations

import io
from typing import Any

from metricwatch.api import PermanentError, Picture, Point

_MOST_PIXELS = 100_000_000
Identity = tuple[str, int, float, str]


def version(now: float) -> bytes:
    """The record with which every event file begins."""
    from tensorboard.compat.proto.event_pb2 import Event

    return bytes(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())


def of_point(point: Point) -> Any:
    """A scalar of double precision: the common form of it keeps seven digits alone."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.types_pb2 import DT_DOUBLE

    value = Summary.Value(
        tag=point.key,
        metadata=SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="scalars")),
        tensor=TensorProto(dtype=DT_DOUBLE, double_val=[point.value]),
    )
    return Event(wall_time=point.timestamp_ms / 1000, step=point.step, summary=Summary(value=[value]))


def of_tag(name: str, text: str, *, step: int, now: float) -> Any:
    """A text of TensorBoard's: the newest of a name counts."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING

    value = Summary.Value(
        tag=name,
        metadata=SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text")),
        tensor=TensorProto(dtype=DT_STRING, string_val=[text.encode("utf-8", "replace")]),
    )
    return Event(wall_time=now, step=step, summary=Summary(value=[value]))


def of_picture(picture: Picture, png: bytes) -> Any:
    """Raises PermanentError for what is no PNG file."""
    from PIL import Image
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            width, height = image.size
            if width * height <= _MOST_PIXELS:
                image.load()
    except Exception as error:
        # Pillow raises whatever its decoders meet.
        raise PermanentError(
            f"tensorboard: picture {picture.key!r} at step {picture.step} is no PNG that can be written: {error}"
        ) from error
    if width * height > _MOST_PIXELS:
        raise PermanentError(
            f"tensorboard: picture {picture.key!r} has {width} x {height} pixels, more than {_MOST_PIXELS:,}"
        )
    value = Summary.Value(
        tag=picture.key, image=Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
    )
    return Event(wall_time=picture.timestamp_ms / 1000, step=picture.step, summary=Summary(value=[value]))


def identity_of(event: Any) -> Identity | None:
    """What makes an event the same as another: its tag, step and time, and the value of a scalar; None for others."""
    if not event.HasField("summary") or len(event.summary.value) != 1:
        return None
    value = event.summary.value[0]
    held = repr(value.tensor.double_val[0]) if len(value.tensor.double_val) else ""
    return value.tag, event.step, event.wall_time, held


def tag_of(event: Any) -> tuple[str, str] | None:
    """The name and the text of a tag; None for other events."""
    if not event.HasField("summary") or len(event.summary.value) != 1:
        return None
    value = event.summary.value[0]
    if value.metadata.plugin_data.plugin_name != "text" or not value.tensor.string_val:
        return None
    return value.tag, value.tensor.string_val[0].decode("utf-8", "replace")
