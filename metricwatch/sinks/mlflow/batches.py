"""Points and tags in requests of the size that MLflow takes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from metricwatch.api import Point

# The server's limits on one log-batch request (mlflow/utils/validation.py): 1,000 entities, 100 tags, 1e6 bytes.
MAX_ITEMS = 1000
MAX_TAGS = 100
MAX_BYTES = 900_000
MAX_TAG_VALUE = 5000
# JSON punctuation, field names, timestamp, step and a 17-digit value; an entity's texts come on top.
_ITEM_OVERHEAD = 200


def batches(points: Sequence[Point], tags: Mapping[str, str]) -> Iterator[tuple[list[Any], list[Any]]]:
    """Group metrics and tags into as few requests as the server's limits allow, in order."""
    from mlflow.entities import Metric, RunTag

    metrics: list[Any] = []
    run_tags: list[Any] = []
    room = MAX_BYTES
    items: list[Point | tuple[str, str]] = [*points, *((key, value[:MAX_TAG_VALUE]) for key, value in tags.items())]
    for item in items:
        texts = item.key if isinstance(item, Point) else item
        size = _ITEM_OVERHEAD + len(json.dumps(texts))
        full = len(metrics) + len(run_tags) >= MAX_ITEMS or len(run_tags) >= MAX_TAGS
        if (metrics or run_tags) and (full or size > room):
            yield metrics, run_tags
            metrics, run_tags, room = [], [], MAX_BYTES
        room -= size
        if isinstance(item, Point):
            metrics.append(Metric(item.key, item.value, item.timestamp_ms, item.step))
        else:
            run_tags.append(RunTag(*item))
    if metrics or run_tags:
        yield metrics, run_tags
