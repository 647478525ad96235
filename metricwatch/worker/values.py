"""What a metric returned, held to what it promised."""

from __future__ import annotations

import math

from metricwatch.api import Value
from metricwatch.errors import PluginError
from metricwatch.records import ScoreState


def well_formed(value: object) -> Value:
    """A value as a metric promises it, with plain numbers. Raises PluginError for anything else."""
    if not isinstance(value, Value):
        raise PluginError(f"a metric must return values, not {type(value).__name__}")
    try:
        images = int(value.images)
        if value.state is not ScoreState.OK:
            return Value(
                key=value.key, value=None, images=images, state=ScoreState(value.state), detail=str(value.detail)
            )
        number = math.nan if value.value is None else float(value.value)
        stderr = None if value.stderr is None else float(value.stderr)
    except (TypeError, ValueError) as error:
        raise PluginError(f"{value.key}: {value!r} is no score: {error}") from error
    if not math.isfinite(number):
        detail = f"{value.key} came out as {value.value}"
        return Value(key=value.key, value=None, images=images, state=ScoreState.NON_FINITE, detail=detail)
    stderr = stderr if stderr is not None and math.isfinite(stderr) else None
    return Value(key=value.key, value=number, images=images, stderr=stderr, detail=str(value.detail))
