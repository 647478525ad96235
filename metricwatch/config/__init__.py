"""The configuration file: its schema, how it is read, where secrets come from."""

from metricwatch.config.loader import DEFAULT_FILE, load_config
from metricwatch.config.options import bind_options
from metricwatch.config.quantities import parse_duration, parse_fraction
from metricwatch.config.schema import (
    Config,
    Extractor,
    MovesRule,
    NotifierConfig,
    Telemetry,
    Tracking,
    WorkerConfig,
)
from metricwatch.config.watching import Pairs, RunConfig, WatchEntry

__all__ = [
    "DEFAULT_FILE",
    "Config",
    "Extractor",
    "MovesRule",
    "NotifierConfig",
    "Pairs",
    "RunConfig",
    "Telemetry",
    "Tracking",
    "WatchEntry",
    "WorkerConfig",
    "bind_options",
    "load_config",
    "parse_duration",
    "parse_fraction",
]
