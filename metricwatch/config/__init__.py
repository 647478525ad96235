"""The configuration file: its schema, how it is read, where secrets come from."""

from metricwatch.config.composites import Composite
from metricwatch.config.loader import DEFAULT_FILE, load_config
from metricwatch.config.options import bind_options
from metricwatch.config.quantities import parse_duration, parse_fraction, parse_size
from metricwatch.config.rules import (
    AboveRule,
    BelowRule,
    MovesRule,
    NonfiniteRule,
    Rule,
    StaleRule,
    StateRule,
    ZScoreRule,
)
from metricwatch.config.schema import (
    Config,
    Extractor,
    Telemetry,
    Tracking,
    WorkerConfig,
)
from metricwatch.config.watching import Pairs, RunConfig, WatchEntry

__all__ = [
    "DEFAULT_FILE",
    "AboveRule",
    "BelowRule",
    "Composite",
    "Config",
    "Extractor",
    "MovesRule",
    "NonfiniteRule",
    "Pairs",
    "Rule",
    "RunConfig",
    "StaleRule",
    "StateRule",
    "Telemetry",
    "Tracking",
    "WatchEntry",
    "WorkerConfig",
    "ZScoreRule",
    "bind_options",
    "load_config",
    "parse_duration",
    "parse_fraction",
    "parse_size",
]
