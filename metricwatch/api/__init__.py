"""The plugin SDK: the one module of ours that a plugin imports.

Four kinds of plugin, found through entry points (groups ``metricwatch.metrics``, ``.samplers``, ``.sinks``,
``.notifiers``). Importing a plugin's module must be cheap: torch and its friends wait until they are used.
Metrics and samplers live in the worker process, sinks and notifiers in the daemon.
"""

from __future__ import annotations

from metricwatch.api.checkpoint import Checkpoint, Ema
from metricwatch.api.collected import FeatureMetric
from metricwatch.api.metric import (
    Arrays,
    Batch,
    ExtractorInfo,
    Metric,
    MetricFamily,
    MetricSpec,
    Need,
    Value,
)
from metricwatch.api.notifier import Notifier
from metricwatch.api.own_ids import given_id, is_own_id, own_id
from metricwatch.api.per_image import PerImageMetric, listed
from metricwatch.api.sampler import Sampler, SampleRequest, SamplerSpec
from metricwatch.api.secret import Secret
from metricwatch.api.sink import ModelVersion, Registration, Sink
from metricwatch.errors import (
    ConfigError,
    InputError,
    MetricwatchError,
    MissingWeightsError,
    PermanentError,
    PluginError,
    RunGoneError,
    TemporaryError,
)
from metricwatch.records import (
    Alert,
    AlertEvent,
    AlertState,
    Notice,
    Notification,
    Picture,
    Point,
    RemoteRun,
    Run,
    RunFacts,
    ScoreState,
    StoredPicture,
    WindowPoint,
)

__all__ = [
    "Alert",
    "AlertEvent",
    "AlertState",
    "Arrays",
    "Batch",
    "Checkpoint",
    "ConfigError",
    "Ema",
    "ExtractorInfo",
    "FeatureMetric",
    "InputError",
    "Metric",
    "MetricFamily",
    "MetricSpec",
    "MetricwatchError",
    "MissingWeightsError",
    "ModelVersion",
    "Need",
    "Notice",
    "Notification",
    "Notifier",
    "PerImageMetric",
    "PermanentError",
    "Picture",
    "PluginError",
    "Point",
    "Registration",
    "RemoteRun",
    "Run",
    "RunFacts",
    "RunGoneError",
    "SampleRequest",
    "Sampler",
    "SamplerSpec",
    "ScoreState",
    "Secret",
    "Sink",
    "StoredPicture",
    "TemporaryError",
    "Value",
    "WindowPoint",
    "given_id",
    "is_own_id",
    "listed",
    "own_id",
]
