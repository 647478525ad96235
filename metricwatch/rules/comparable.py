"""Which evaluations may be compared with one another."""

from __future__ import annotations

from collections.abc import Sequence

from metricwatch.rules.observations import Observation
from metricwatch.store.best import IMAGE_COUNT_TOLERANCE
from metricwatch.store.provenance import describe_changes, pairs_changed


def obstacle(window: Sequence[Observation], item: Observation) -> str:
    """Why an evaluation cannot be compared with those in the window, or ""."""
    if not window:
        return ""
    last = window[-1]
    if item.series != last.series:
        return describe_changes(last.provenance, item.provenance) or "what the score depends on has changed"
    if item.provenance and any(pairs_changed(seen.provenance, item.provenance) for seen in window):
        return "its content, style or prompt partners have changed"
    counts = [seen.images for seen in (*window, item)]
    if max(counts) - min(counts) > IMAGE_COUNT_TOLERANCE * max(counts):
        return f"{item.images} images after {last.images}"
    return ""
