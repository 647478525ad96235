"""Reads metricwatch.yaml into a Config, or says everything that is wrong with it at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from metricwatch.config.context import Context
from metricwatch.config.environment import Overrides, apply_overrides, interpolate
from metricwatch.config.matchers import labels_of_rules
from metricwatch.config.metrics import extractor_problems, known_metrics, read_metrics
from metricwatch.config.plugins import PluginConfig, Used, read_plugins
from metricwatch.config.problems import Problem, dotted, from_pydantic, unknown_key
from metricwatch.config.samplers import read_samplers
from metricwatch.config.schema import Config
from metricwatch.config.source import parse_yaml
from metricwatch.config.watching import WatchEntry
from metricwatch.errors import ConfigError

DEFAULT_FILE = "metricwatch.yaml"

# Fields of Config that are no keys of the file.
_WORKED_OUT = frozenset({"file", "metric_options"})


def load_config(path: Path | None = None, *, environ: Mapping[str, str] = os.environ) -> Config:
    """The configuration in a file, by default ./metricwatch.yaml, with the environment's overrides.

    Raises ConfigError with one line for each problem: file (or variable), key path, what is wrong. No message
    repeats a secret.
    """
    name = str(path) if path is not None else DEFAULT_FILE
    file = Path(os.path.abspath(name))
    tree = _read(file, name)
    return _Reading(tree=tree, name=name, file=file, environ=environ).config()


def _read(file: Path, name: str) -> dict[Any, Any]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{name}: no such file; write one with: metricwatch init {name}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{name}: not UTF-8 text; save the file as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read: {error.strerror or error}") from None
    tree = parse_yaml(text, name)
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{name}: must be a mapping of keys to values; see: metricwatch init")
    # A section whose every line is commented out reads as null: it is as good as absent.
    return {key: value for key, value in tree.items() if value is not None}


class _Reading:
    """One reading of one file: gathers problems, then returns a Config or raises them all."""

    def __init__(self, *, tree: dict[Any, Any], name: str, file: Path, environ: Mapping[str, str]) -> None:
        self._name = name
        self._file = file
        self._environ = environ
        self._problems: list[tuple[str, Problem]] = []
        unset: list[Problem] = []
        self._tree: dict[Any, Any] = interpolate(tree, environ, unset)
        self._overrides: Overrides = apply_overrides(self._tree, environ, self._problems)
        # A variable that is missing does no harm where an override replaces what mentions it.
        for problem in unset:
            if self._overrides.variable_of(problem.path) is None:
                self._add(problem)

    def config(self) -> Config:
        tree = self._tree
        for worked_out in tree.keys() & _WORKED_OUT:
            self._add(Problem((worked_out,), unknown_key(worked_out, set(Config.model_fields) - _WORKED_OUT)))
        tree.setdefault("tracking", {})
        metrics = read_metrics(tree.get("metrics"), where=self._name, base=self._file.parent)
        samplers = read_samplers(tree.get("watch"), where=self._name, base=self._file.parent)
        for problem in (*metrics.problems, *extractor_problems(tree.get("extractors")), *samplers.problems):
            self._add(problem)
        context = self._context(metrics.names)
        read = {
            "file": self._file,
            "notify": self._plugins("notifiers", tree.get("notify", {})),
            "sinks": self._plugins("sinks", tree.get("sinks", {}), _names_of_tracking(tree["tracking"])),
            "metric_options": metrics.options,
        }
        if "metrics" in tree:
            read["metrics"] = metrics.names
        if "watch" in tree:
            read["watch"] = samplers.watch
        config = None
        try:
            config = Config.model_validate({**tree, **read}, context=context)
        except ValidationError as error:
            for problem in from_pydantic(error, tree, Config):
                self._add(problem)
        if config is None or self._problems:
            raise ConfigError("\n".join(self._lines()))
        return config

    def _context(self, metrics: Any) -> Context:
        tracking, composites, notify = (self._tree.get(key) for key in ("tracking", "composites", "notify"))
        experiment = tracking.get("experiment") if isinstance(tracking, dict) else None
        context = Context(
            base=self._file.parent,
            environ=self._environ,
            experiment=experiment if isinstance(experiment, str) and experiment else "Default",
            metrics=known_metrics(metrics),
            composites=tuple(str(key) for key in composites) if isinstance(composites, dict) else (),
            without_total_steps=_without_total_steps(self._tree.get("watch")),
            receivers=tuple(str(key) for key in notify) if isinstance(notify, dict) else (),
            labels=labels_of_rules(self._tree.get("rules")),
        )
        return replace(context, run_names=_run_names(self._tree.get("watch"), context))

    def _plugins(self, kind: Used, raw: Any, taken: Mapping[str, str] | None = None) -> dict[str, PluginConfig]:
        """The receivers, or the further sinks, that are well-formed; the others become problems."""
        built, problems = read_plugins(kind, raw, where=self._name, base=self._file.parent, taken=taken)
        for problem in problems:
            self._add(problem)
        return built

    def _add(self, problem: Problem) -> None:
        # What fails at a place that is already a problem follows from it.
        if any(known.path and known.path == problem.path[: len(known.path)] for _, known in self._problems):
            return
        self._problems.append((self._overrides.variable_of(problem.path) or self._name, problem))

    def _lines(self) -> list[str]:
        sections = list(Config.model_fields)

        def order(item: tuple[str, Problem]) -> int:
            top = item[1].path[:1]
            return sections.index(top[0]) if top and top[0] in sections else len(sections) if top else -1

        return [
            f"{source}: {dotted(problem.path)}: {problem.message}" if problem.path else f"{source}: {problem.message}"
            for source, problem in sorted(self._problems, key=order)
        ]


def _names_of_tracking(tracking: Any) -> dict[str, str]:
    """The name under which the ledger keeps what the tracking server gets."""
    name = tracking.get("sink", "mlflow") if isinstance(tracking, dict) else "mlflow"
    return {str(name): "is the name of the tracking server's own sink; choose another one"}


def _run_names(watch: Any, context: Context) -> tuple[str, ...] | None:
    """The names of the runs; None where one cannot be told, or an entry stands for runs that are still to be found."""
    if not isinstance(watch, list):
        return None
    # Read apart, for the sake of the runs alone: whatever else is wrong with an entry, rules may name its run.
    alone = replace(context, runs=set())
    names = []
    for entry in watch:
        run = entry.get("run") if isinstance(entry, dict) else None
        try:
            names.append(WatchEntry.model_validate({"run": run, "samples": "*"}, context=alone).target.name)
        except ValidationError:
            return None
    return tuple(names)


def _without_total_steps(watch: Any) -> tuple[str, ...]:
    """The watch entries whose run does not say how many steps it has, as they are named in messages."""
    if not isinstance(watch, list):
        return ()
    runs = [entry.get("run") if isinstance(entry, dict) else None for entry in watch]
    return tuple(
        f"watch[{position}].run"
        for position, run in enumerate(runs)
        if not isinstance(run, dict) or run.get("total_steps") is None
    )
