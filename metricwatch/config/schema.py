"""What metricwatch.yaml may say. All models are frozen and refuse unknown keys."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Collection
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_serializer, field_validator

from metricwatch import catalog
from metricwatch.config.composites import Composite, CompositeName
from metricwatch.config.context import AbsolutePath, NotInFile, Section, context_of
from metricwatch.config.pictures import PicturesConfig, switched
from metricwatch.config.plugins import PluginConfig
from metricwatch.config.quantities import Fraction, PositiveDuration, Size
from metricwatch.config.routing import STALE_SILENCES_METRICS, Inhibition, QuietHours, Routing
from metricwatch.config.rules import Rule
from metricwatch.config.secrets import quoted, redact_uri
from metricwatch.config.watching import WatchEntry
from metricwatch.errors import ConfigError

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?", re.ASCII)
_SQLITE = "sqlite:///"

# MLflow's rules for a metric's name (mlflow/utils/validation.py): 250 characters, of which 120 are for our keys.
_CURVE_PREFIX = re.compile(r"[/\w.\- :]+")
_MAX_PREFIX = 130

# The worker gives a sign of life every 2 s: below this, one that is merely late counts as hung.
_SHORTEST_SILENCE = timedelta(seconds=5)


class Tracking(Section):
    """Where curves go. uri may hold credentials: show redacted_uri, which dumps and repr use as well.

    layout says into which run: the training job's own, a child of that, or one of our own in the experiment. report:
    whether report.html is written beside a run whose job has ended.
    """

    uri: str = ""
    experiment: str = Field(default="Default", min_length=1)
    prefix: str = Field(default="quality", min_length=1)
    sink: str = "mlflow"
    layout: Literal["training", "child", "own"] = "training"
    report: bool = True

    @field_validator("uri")
    @classmethod
    def _find_uri(cls, uri: str, info: ValidationInfo[Any]) -> str:
        context = context_of(info)
        exported = context.environ.get("MLFLOW_TRACKING_URI", "")
        uri = uri or exported
        if not uri:
            raise ValueError("not set; write the address of the tracking server here or set MLFLOW_TRACKING_URI")
        if uri == exported:
            # The training job reads the same variable: what it means must not depend on where our file lies.
            return uri
        local = uri.removeprefix(_SQLITE)
        if local != uri and not local.startswith(("/", ":")):
            return _SQLITE + os.path.normpath(context.base / local)
        if uri.startswith(("./", "../")):
            return os.path.normpath(context.base / uri)
        return uri

    @field_validator("prefix")
    @classmethod
    def _curve_prefix(cls, prefix: str) -> str:
        prefix = prefix.strip("/")
        if not prefix:
            raise ValueError("must hold more than slashes")
        if len(prefix) > _MAX_PREFIX:
            raise ValueError(f"must have at most {_MAX_PREFIX} characters: it begins the name of every curve")
        if not _CURVE_PREFIX.fullmatch(prefix):
            raise ValueError(
                "must be made of letters, digits, spaces and - _ . : / only: it begins the name of every curve"
            )
        if posixpath.normpath(prefix) != prefix or prefix.startswith("."):
            raise ValueError("must read like a plain path: no //, no part . or .., and no dot at the start")
        return prefix

    @field_validator("sink")
    @classmethod
    def _know_sink(cls, sink: str) -> str:
        if sink not in (known := catalog.names("sinks")):
            raise ValueError(f"unknown sink {quoted(sink)}; {catalog.did_you_mean(sink, known)}")
        return sink

    def options_for(self, declared: Collection[str]) -> dict[str, Any]:
        """What a sink is told whose Options have these fields. Raises ConfigError for a layout that it has not got."""
        told = {"uri": self.uri, "experiment": self.experiment, "prefix": self.prefix}
        if "layout" in declared:
            return {**told, "layout": self.layout}
        if self.layout != "training":
            raise ConfigError(f"tracking.layout: sink {self.sink} has one layout only; leave the setting out")
        return told

    @property
    def redacted_uri(self) -> str:
        """The address as it may be printed: without user, password or tokens."""
        return redact_uri(self.uri)

    @field_serializer("uri")
    def _dump_uri(self, uri: str) -> str:
        return redact_uri(uri)

    def __repr_args__(self) -> Any:
        return [(name, self.redacted_uri if name == "uri" else value) for name, value in super().__repr_args__()]


class Extractor(Section):
    """Where a feature extractor's weights lie (None: where its own library keeps them), and how it sees pictures.

    protocol is one of its named preprocessings; None: its default.
    """

    weights: AbsolutePath | None = None
    protocol: str | None = None


class WorkerConfig(Section):
    """How the worker computes.

    max_pixels bounds one image; feature_cache is how many bytes of features are kept on disk, 0 for none; threads
    bounds each pool of CPU threads, None: the library's own choice. nice and ionice are its priorities for CPU and
    disk. max_gpu_share is for which part of the time it may be busy; None: half of a GPU's, all of the CPU's.
    gpu_memory: how many bytes of a GPU it may take, None: all; min_free_gpu_memory: how many must be free to begin.
    """

    device: str = "auto"
    precision: Literal["exact", "fast"] = "exact"
    engine: Literal["auto", "eager", "folded", "compile", "openvino", "tensorrt"] = "auto"
    batch_size: int = Field(default=32, ge=1)
    # Above that Pillow refuses by itself.
    max_pixels: int = Field(default=100_000_000, ge=1, le=178_956_970)
    feature_cache: Size = 2_000_000_000
    idle_exit: PositiveDuration = timedelta(minutes=10)
    recycle_after: int = Field(default=500, ge=1)
    heartbeat_timeout: PositiveDuration = timedelta(seconds=60)
    stall_timeout: PositiveDuration = timedelta(minutes=30)
    threads: int | None = Field(default=None, ge=1)
    nice: int = Field(default=10, ge=0, le=19)
    # Idle may mean never on a disk that a training job keeps busy.
    ionice: Literal["best-effort", "idle", "none"] = "best-effort"
    max_gpu_share: Annotated[Fraction, Field(gt=0, le=1)] | None = None
    gpu_memory: Annotated[Size, Field(gt=0)] | None = None
    min_free_gpu_memory: Size = 0

    @field_validator("device")
    @classmethod
    def _known_device(cls, device: str) -> str:
        if not _DEVICE.fullmatch(device):
            raise ValueError("must be auto, cpu, cuda or cuda:N")
        return device

    @field_validator("heartbeat_timeout")
    @classmethod
    def _patient(cls, silence: timedelta) -> timedelta:
        if silence < _SHORTEST_SILENCE:
            raise ValueError("must be at least 5s: the worker gives a sign of life every 2s, and may be a little late")
        return silence

    @field_validator("stall_timeout")
    @classmethod
    def _no_shorter_than_silence(cls, stall: timedelta, info: ValidationInfo[Any]) -> timedelta:
        if (silence := info.data.get("heartbeat_timeout")) is not None and stall < silence:
            raise ValueError(f"must be at least heartbeat_timeout, which is {silence.total_seconds():g}s")
        return stall


class Retention(Section):
    """What the ledger lets go of, and the copies of it that are kept.

    runs: how long after its last evaluation a run that no watch entry names is kept; deliveries: how long points are
    that arrived. backups is a number of copies, 0 for none.
    """

    runs: PositiveDuration = timedelta(days=90)
    deliveries: PositiveDuration = timedelta(days=14)
    backups: int = Field(default=3, ge=0)
    backup_every: PositiveDuration = timedelta(days=1)


class Telemetry(Section):
    """Where the daemon answers health and metrics requests; port None: nowhere."""

    host: str = Field(default="127.0.0.1", min_length=1)
    port: int | None = Field(default=None, ge=0, le=65535)


def _installed_metric(name: str) -> str:
    if name not in (known := catalog.names("metrics")):
        raise ValueError(f"unknown metric {quoted(name)}; {catalog.did_you_mean(name, known)}")
    return name


class Config(Section):
    """One configuration file, complete and consistent. Every path in it is absolute.

    file is the file itself; metric_options are, by metric, the options that differ from their defaults, ready for
    JSON. Read it with load_config: only that checks names across sections.
    """

    file: Annotated[Path, NotInFile()]
    state: AbsolutePath = Path("metricwatch-state")
    tracking: Tracking
    extractors: dict[str, Extractor] = Field(default_factory=dict)
    watch: tuple[WatchEntry, ...] = Field(min_length=1)
    metrics: tuple[Annotated[str, AfterValidator(_installed_metric)], ...] = Field(min_length=1)
    metric_options: Annotated[dict[str, dict[str, Any]], NotInFile()] = Field(default_factory=dict)
    composites: dict[CompositeName, Composite] = Field(default_factory=dict)
    pictures: PicturesConfig = Field(default_factory=PicturesConfig)
    rules: tuple[Rule, ...] = ()
    sinks: dict[str, PluginConfig] = Field(default_factory=dict)
    notify: dict[str, PluginConfig] = Field(default_factory=dict)
    route: Routing = Field(default_factory=Routing)
    inhibit: tuple[Inhibition, ...] = STALE_SILENCES_METRICS
    quiet_hours: tuple[QuietHours, ...] = ()
    worker: WorkerConfig = Field(default_factory=WorkerConfig)
    retention: Retention = Field(default_factory=Retention)
    telemetry: Telemetry = Field(default_factory=Telemetry)

    @field_validator("pictures", mode="before")
    @classmethod
    def _switched_pictures(cls, pictures: Any) -> Any:
        return switched(pictures)

    @field_validator("metrics")
    @classmethod
    def _unique_metrics(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        for position, name in enumerate(metrics):
            if name in metrics[:position]:
                raise ValueError(f"{name!r} is listed twice")
        return metrics
