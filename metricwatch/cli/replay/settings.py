"""What a replay goes by: the rules, the tracking server, and what the configuration knows of the run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType

from pydantic import ValidationError

from metricwatch import catalog
from metricwatch.api import Sink
from metricwatch.config.context import Context
from metricwatch.config.loader import DEFAULT_FILE, load_config
from metricwatch.config.options import bind_options
from metricwatch.config.problems import from_pydantic
from metricwatch.config.rules import Rule
from metricwatch.config.schema import Config, Tracking
from metricwatch.errors import ConfigError, InputError
from metricwatch.records import Run
from metricwatch.replaying.replay import Recorded
from metricwatch.replaying.rules_file import read_rules

# A run's id is not longer; what is, is another file.
_LONGEST_ID = 1000
_TRAINING_TAG = "metricwatch.training_run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """composites by name: higher_is_better. runs are those that the configuration watches now."""

    rules: tuple[Rule, ...]
    tracking: Tracking
    composites: Mapping[str, bool] = field(default_factory=dict)
    runs: tuple[Run, ...] = ()
    metrics: tuple[str, ...] = ()

    def sink(self) -> Sink:
        """The sink that holds the run, not yet connected. Raises ConfigError, PluginError."""
        cls = catalog.load_sink(self.tracking.sink)
        options = self.tracking.options_for([item.name for item in fields(cls.Options)])
        return cls(bind_options(cls.Options, options, "tracking"))

    def recorded(self, sink: Sink, run_id: str) -> Recorded:
        """The run, by the name under which the daemon's rules know it. Raises as Sink.run_name() does."""
        # The curves may be in a run of ours beside that of the training job.
        training = sink.facts(run_id).tags.get(_TRAINING_TAG, run_id)
        name = sink.run_name(training)
        known = next((run for run in self.runs if _is(run, training, name)), None)
        return Recorded(
            name=known.name if known else name,
            total_steps=known.total_steps if known else None,
            ended=sink.ended(run_id),
        )


def read(config: Path | None, rules: Path | None, uri: str | None, *, only: Sequence[str]) -> Settings:
    """The rules of a file, else of the configuration; of these the ones named in only, where it names any.

    A file of rules needs no configuration, but for the address in -c. Raises ConfigError, and InputError for a rule
    that is not there.
    """
    loaded = load_config(config) if config is not None or rules is None else None
    found = _of_config(loaded, uri) if loaded is not None else Settings(rules=(), tracking=_tracking(uri))
    if rules is not None:
        file = read_rules(rules)
        found = replace(found, rules=file.rules, composites={**found.composites, **file.composites})
    if not found.rules:
        raise ConfigError(
            f"{loaded.file if loaded else rules}: holds no rules; write some, or name a file: --rules FILE"
        )
    known = [rule.name for rule in found.rules]
    for name in only:
        if name not in known:
            raise InputError(f"--rule {name}: there is no such rule; {catalog.did_you_mean(name, known)}")
    return replace(found, rules=tuple(rule for rule in found.rules if not only or rule.name in only))


def of_run(config: Path | None, uri: str | None, *, prefix: str | None) -> Settings:
    """The configuration's settings for a run that it need not watch; with an address alone no configuration is needed.

    prefix takes the place of the configuration's. Raises ConfigError.
    """
    loaded = load_config(config) if config is not None or (uri is None and os.path.exists(DEFAULT_FILE)) else None
    found = _of_config(loaded, uri) if loaded is not None else Settings(rules=(), tracking=_tracking(uri))
    if prefix is None:
        return found
    return replace(found, tracking=found.tracking.model_copy(update={"prefix": prefix.strip("/")}))


def _of_config(config: Config, uri: str | None) -> Settings:
    from metricwatch.watch.fan_out import entries_now

    tracking = config.tracking
    others = {key: getattr(tracking, key) for key in ("experiment", "prefix", "sink", "layout")}
    return Settings(
        rules=config.rules,
        tracking=_tracking(uri, others) if uri else tracking,
        composites={name: composite.higher_is_better for name, composite in config.composites.items()},
        runs=tuple(entry.target for entry in entries_now(config.watch)),
    )


def _tracking(uri: str | None, others: Mapping[str, str] = MappingProxyType({})) -> Tracking:
    """The tracking server at an address, else at the one that MLFLOW_TRACKING_URI names."""
    if not (uri or os.environ.get("MLFLOW_TRACKING_URI")):
        raise ConfigError("no tracking server: give --uri or a configuration (-c), or set MLFLOW_TRACKING_URI")
    given = {"uri": uri or "", **others}
    try:
        return Tracking.model_validate(given, context=Context(environ=os.environ))
    except ValidationError as error:
        lines = [f"--uri: {problem.message}" for problem in from_pydantic(error, given, Tracking)]
        raise ConfigError("\n".join(lines)) from None


def _is(run: Run, run_id: str, name: str) -> bool:
    """True when the configuration means this run."""
    if run.id is not None:
        return run.id == run_id
    if run.id_file is None:
        return run.name == name
    try:
        with open(run.id_file, encoding="utf-8") as file:
            return file.read(_LONGEST_ID).strip() == run_id
    except (OSError, UnicodeDecodeError):
        return False
