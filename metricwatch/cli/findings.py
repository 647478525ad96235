"""What `metricwatch check` finds: one line for each thing it looked at."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from metricwatch import catalog
from metricwatch.api import Need
from metricwatch.cli.fanned import inspect_fan_out
from metricwatch.cli.folders import inspect_entry
from metricwatch.cli.levels import Finding, error, ok, warning
from metricwatch.cli.weights import find_weights
from metricwatch.config import Config, WatchEntry
from metricwatch.errors import MetricwatchError
from metricwatch.protocol import Ready

_WORKER_START_SECONDS = 120.0


def inspect(config: Config, environ: Mapping[str, str], *, offline: bool) -> Iterator[Finding]:
    """Look at everything a configuration names. Writes nothing that stays; offline, it opens no connection."""
    yield _state(config.state)
    for position, entry in enumerate(config.watch):
        where = f"watch[{position}]"
        if entry.fans_out:
            yield from inspect_fan_out(where, entry, config.watch)
            continue
        yield from _run(f"{where}.run", entry)
        yield from inspect_entry(where, entry)
    yield from _metrics(config, environ, offline=offline)
    yield from _device(config)
    yield _tracking(config, offline=offline)
    yield from _sinks(config, offline=offline)
    yield from _notifiers(config)


def _state(folder: Path) -> Finding:
    import tempfile

    if folder.exists() and not folder.is_dir():
        return error("state", f"{folder} is not a folder; name another one")
    existing = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    try:
        with tempfile.NamedTemporaryFile(dir=existing, prefix=".metricwatch-check-"):
            pass
    except OSError as problem:
        return error(
            "state", f"cannot write into {existing}: {problem.strerror}; change its owner or the setting state"
        )
    return ok("state", str(folder) if existing == folder else f"{folder} (will be created)")


def _run(item: str, entry: WatchEntry) -> Iterator[Finding]:
    file = entry.target.id_file
    if file is None:
        return
    if Path(file).is_file():
        yield ok(item, f"its id is in {file}")
    else:
        yield warning(item, f"{file} is not there yet; points wait until the training job writes it")


def _device(config: Config) -> Iterator[Finding]:
    """Start a worker where a device is demanded: only torch can tell whether it is there."""
    if not config.worker.device.startswith("cuda"):
        return
    import tempfile

    from metricwatch.assembly import worker_settings
    from metricwatch.supervisor.process import WorkerProcess

    with tempfile.TemporaryDirectory(prefix="metricwatch-check-") as folder:
        said = threading.Event()
        worker = WorkerProcess(worker_settings(config), log_file=Path(folder) / "worker.log", wake=said.set)
        try:
            while said.wait(_WORKER_START_SECONDS):
                said.clear()
                if any(isinstance(reply, Ready) for reply in worker.poll()):
                    yield ok("worker", f"starts on {config.worker.device}")
                    return
            yield error("worker", f"did not start within {_WORKER_START_SECONDS:.0f} s")
        except MetricwatchError as problem:
            yield error("worker", str(problem))
        finally:
            worker.kill()


def _metrics(config: Config, environ: Mapping[str, str], *, offline: bool) -> Iterator[Finding]:
    used: dict[str, None] = {}
    for name in config.metrics:
        try:
            spec = catalog.load_metric(name).spec
        except MetricwatchError as problem:
            yield error(f"metrics: {name}", str(problem))
            continue
        used.update(dict.fromkeys((*spec.extractors, *spec.partner_extractors, *spec.layers)))
        lacks = [
            f"watch[{position}].{_SETTING[need]}"
            for position, entry in enumerate(config.watch)
            for need in sorted(spec.needs)
            if not _provides(entry, need)
        ]
        if lacks:
            manifest = "" if spec.needs <= {"reference"} else ", or save a manifest.jsonl with the samples"
            yield warning(f"metrics: {name}", f"has nothing to compare with; set {' and '.join(lacks)}{manifest}")
        else:
            yield ok(f"metrics: {name}", "has what it needs")
    for extractor in used:
        yield _weights(extractor, config, environ, offline=offline)
    for extractor in config.extractors:
        if extractor not in used:
            hint = catalog.did_you_mean(extractor, used) if used else "none does"
            yield warning(f"extractors: {extractor}", f"no configured metric uses it; {hint}")


_SETTING: dict[Need, str] = {
    "reference": "reference",
    "content": "pairs.content",
    "style": "pairs.style",
    "prompt": "pairs.prompt",
}


def _provides(entry: WatchEntry, need: Need) -> bool:
    if need == "reference":
        return entry.reference is not None
    pairs = entry.pairs
    return pairs is not None and (pairs.manifest is not None or getattr(pairs, need, None) is not None)


def _weights(extractor: str, config: Config, environ: Mapping[str, str], *, offline: bool) -> Finding:
    item = f"extractors: {extractor}"
    explicit = config.extractors[extractor].weights if extractor in config.extractors else None
    found = find_weights(extractor, explicit, environ)
    if found is None:
        return ok(item, "brought by its plugin, not checked")
    if found.present:
        return ok(item, found.detail)
    if found.downloadable and not offline:
        return warning(item, f"will be downloaded on first use: {found.detail}")
    return error(item, found.detail)


def _tracking(config: Config, *, offline: bool) -> Finding:
    from metricwatch.assembly import load_sink

    try:
        sink = load_sink(config)
        try:
            answer = f"{config.tracking.redacted_uri} (offline: not asked)" if offline else sink.ping()
        finally:
            sink.close()
    except MetricwatchError as problem:
        return error("tracking", str(problem))
    return ok("tracking", answer)


def _sinks(config: Config, *, offline: bool) -> Iterator[Finding]:
    from metricwatch.assembly import further_sink

    for name, used in config.sinks.items():
        try:
            sink = further_sink(used)
            try:
                answer = f"{used.use} (offline: not asked)" if offline else sink.ping()
            finally:
                sink.close()
        except MetricwatchError as problem:
            yield error(f"sinks.{name}", str(problem).removeprefix(f"sinks.{name}: "))
        else:
            yield ok(f"sinks.{name}", answer)


def _notifiers(config: Config) -> Iterator[Finding]:
    if config.rules and not config.notify:
        yield warning("notify", "names nobody: alerts will show in MLflow and in `status` only")
    for name, notifier in config.notify.items():
        try:
            catalog.load_notifier(notifier.use)(notifier.options).close()
        except MetricwatchError as problem:
            yield error(f"notify.{name}", str(problem))
        else:
            yield ok(f"notify.{name}", f"{notifier.use} is well-formed; try it with: metricwatch notify test {name}")
