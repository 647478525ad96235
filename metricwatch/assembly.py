"""From the configuration to what a daemon is put together from: sinks, receivers, the worker's process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

from metricwatch import catalog
from metricwatch.api import Notifier, Sink
from metricwatch.config.options import bind_options
from metricwatch.config.plugins import PluginConfig
from metricwatch.config.schema import Config
from metricwatch.errors import MetricwatchError, PluginError
from metricwatch.protocol import Configure
from metricwatch.supervisor.process import WorkerProcess

# Of the time of a GPU, where nothing was said: the training job comes first.
_GPU_SHARE = 0.5


def load_sink(config: Config) -> Sink:
    """The configured sink, not yet connected."""
    cls = catalog.load_sink(config.tracking.sink)
    options = config.tracking.options_for([item.name for item in fields(cls.Options)])
    return cls(bind_options(cls.Options, options, f"{config.file.name}: tracking"))


def load_further_sinks(config: Config) -> dict[str, Sink]:
    """The sinks beside the tracking server by name, not yet connected."""
    return {name: further_sink(item) for name, item in config.sinks.items()}


def further_sink(item: PluginConfig) -> Sink:
    """One of the sinks beside the tracking server. Raises PluginError for one that cannot be made."""
    cls = catalog.load_sink(item.use)
    try:
        return cls(item.options)
    except MetricwatchError as error:
        raise PluginError(f"sinks.{item.name}: {error}") from None
    except Exception as error:  # noqa: BLE001 - a plugin may raise anything
        # Not its words: a plugin's own may quote a secret among its options.
        raise PluginError(
            f"sinks.{item.name}: sink {item.use!r} cannot be made: it raises {type(error).__name__}; check its options,"
            " or take the entry out"
        ) from None


def report_commands(config: Config, name: str, sink: Sink) -> dict[str, Sequence[str]]:
    """By sink, what makes the report of a run of the tracking server's; nothing for one that cannot be read."""
    if name != config.tracking.sink or not config.tracking.report:
        return {}
    if not sink.takes_pages or type(sink).keys is Sink.keys:
        return {}
    # -P: a training job's folder may hold a random.py of its own.
    start = [sys.executable, "-P", "-m", "metricwatch", "report", "--artifact", "--background"]
    return {name: [*start, "-c", str(config.file), "--run-id"]}


def load_notifiers(config: Config) -> dict[str, Notifier]:
    """The configured receivers by name, not yet connected."""
    return {name: catalog.load_notifier(item.use)(item.options) for name, item in config.notify.items()}


def worker_settings(config: Config, *, cache: Path | None = None) -> Configure:
    """What a worker is told at its start."""
    share = config.worker.max_gpu_share
    return Configure(
        device=config.worker.device,
        precision=config.worker.precision,
        engine=config.worker.engine,
        cache=str(cache or config.state),
        feature_cache_bytes=config.worker.feature_cache,
        weights={name: str(item.weights) for name, item in config.extractors.items() if item.weights},
        protocols={name: item.protocol for name, item in config.extractors.items() if item.protocol},
        batch_size=config.worker.batch_size,
        max_pixels=config.worker.max_pixels,
        nice=config.worker.nice,
        ionice=config.worker.ionice,
        threads=config.worker.threads,
        max_gpu_share=_GPU_SHARE if share is None else share,
        max_cpu_share=1.0 if share is None else share,
        # A pause is no progress: one that is longer than the patience with that would look like a worker that hangs.
        longest_pause=config.worker.stall_timeout.total_seconds() / 2,
        gpu_memory=config.worker.gpu_memory,
        min_free_gpu_memory=config.worker.min_free_gpu_memory,
    )


def spawn_worker(config: Config, *, wake: Callable[[], None], cache: Path | None = None) -> WorkerProcess:
    """Start a worker process for this configuration."""
    return WorkerProcess(
        worker_settings(config, cache=cache),
        log_file=config.state / "worker.log",
        wake=wake,
    )
