"""What one watch entry of metricwatch.yaml may say: whose samples, where they lie, what they compare with."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from metricwatch import catalog
from metricwatch.config.context import AbsolutePath, NotInFile, Section, absolute_glob, context_of, refuse_fan_out
from metricwatch.config.quantities import Duration, PositiveDuration
from metricwatch.config.secrets import quoted
from metricwatch.records import Run


class RunConfig(Section):
    """The training job, by exactly one of name, id, and id_file: a file its run id is written to."""

    name: str | None = Field(default=None, min_length=1)
    id: str | None = Field(default=None, min_length=1)
    id_file: AbsolutePath | None = None
    total_steps: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [key for key in ("name", "id", "id_file") if getattr(self, key) is not None]
        if len(given) != 1:
            found = "none of them is" if not given else f"{' and '.join(given)} are"
            raise ValueError(f"needs exactly one of name, id and id_file; {found} given")
        return self


class Pairs(Section):
    """What belongs to each sample: images of the same file stem in folders, and a prompt for all of them.

    manifest is a file of JSON lines with image, content, style and prompt that names partners one by one.
    """

    content: AbsolutePath | None = None
    style: AbsolutePath | None = None
    manifest: AbsolutePath | None = None
    prompt: str | None = Field(default=None, min_length=1)


class SamplerConfig(Section):
    """What makes images of a checkpoint: the sampler plugin it uses, with that plugin's options beside these keys.

    samples None: one for each pair of partners, or 64 without any. keep is how many of them can be looked at in MLflow.
    batch_size None: as worker.batch_size. options are those that differ from their defaults, ready for JSON.
    """

    use: str
    samples: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**62)
    keep: int = Field(default=4, ge=0, le=64)
    batch_size: int | None = Field(default=None, ge=1)
    options: Annotated[dict[str, Any], NotInFile()] = Field(default_factory=dict)

    @field_validator("use")
    @classmethod
    def _installed(cls, use: str) -> str:
        if use not in (known := catalog.names("samplers")):
            raise ValueError(f"unknown sampler {quoted(use)}; {catalog.did_you_mean(use, known)}")
        return use


class Backlog(Section):
    """What is scored when snapshots come faster than scores: every one, the latest alone, or the newest first.

    At most `most` wait (None: as many as there are); the oldest beyond that are skipped, and recorded as skipped.
    """

    policy: Literal["every", "latest", "newest_first"] = "every"
    most: int | None = Field(default=None, ge=1)


class WatchEntry(Section):
    """One job's samples, or its checkpoints. Each is an absolute glob; each match is one step's directory or file."""

    run: RunConfig | None = None
    samples: str | None = Field(default=None, min_length=1)
    checkpoints: str | None = Field(default=None, min_length=1)
    sampler: SamplerConfig | None = None
    backlog: Backlog = Backlog()
    reference: AbsolutePath | None = None
    pairs: Pairs | None = None
    every: int | None = Field(default=None, ge=1)
    settle: Duration = timedelta(seconds=5)
    rescan: PositiveDuration = timedelta(seconds=10)
    markers: tuple[str, ...] = (".done", "_SUCCESS")
    step_pattern: str | None = None
    _target: Run = PrivateAttr()

    @property
    def target(self) -> Run:
        """The run that the scores belong to; its key is the same in every process that reads this entry."""
        return self._target

    @property
    def pattern(self) -> str:
        """The glob: samples, or checkpoints."""
        pattern = self.samples or self.checkpoints
        assert pattern is not None  # noqa: S101 - _one_kind has seen to it
        return pattern

    @property
    def source(self) -> str:
        """The identity of this entry in the ledger."""
        # A job that was queued for the one kind must not be scored as the other.
        return self.target.key if self.samples else f"{self.target.key} checkpoints"

    @field_validator("run")
    @classmethod
    def _some_run(cls, run: RunConfig | None, info: ValidationInfo[Any]) -> RunConfig | None:
        if run is None and not context_of(info).environ.get("MLFLOW_RUN_ID"):
            raise ValueError("says no run; write run: {name: ...}, {id: ...} or {id_file: ...}, or set MLFLOW_RUN_ID")
        return run

    @field_validator("samples", "checkpoints")
    @classmethod
    def _absolute_pattern(cls, pattern: str | None, info: ValidationInfo[Any]) -> str | None:
        if pattern is None:
            return None
        refuse_fan_out(pattern)
        return absolute_glob(pattern, context_of(info).base)

    @field_validator("backlog", mode="before")
    @classmethod
    def _short_backlog(cls, backlog: Any) -> Any:
        return {"policy": backlog} if isinstance(backlog, str) else backlog

    @field_validator("markers")
    @classmethod
    def _plain_markers(cls, markers: tuple[str, ...]) -> tuple[str, ...]:
        if any(not marker or "/" in marker for marker in markers):
            raise ValueError("a marker is the name of a file inside the sample directory, without a slash")
        return markers

    @field_validator("step_pattern")
    @classmethod
    def _usable_pattern(cls, pattern: str | None) -> str | None:
        if pattern is None:
            return None
        try:
            groups = re.compile(pattern).groupindex
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        if "step" not in groups:
            raise ValueError(r"has no group named step; write for example 'step_(?P<step>\d+)'")
        return pattern

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.samples and self.checkpoints:
            raise ValueError("has both samples and checkpoints; write one of them, a sampler needs no saved samples")
        if not (self.samples or self.checkpoints):
            raise ValueError(
                "has no samples; write where the job saves them: samples: runs/*/samples/*, or checkpoints:"
            )
        if self.checkpoints and self.sampler is None:
            known = ", ".join(catalog.names("samplers"))
            raise ValueError(f"has checkpoints and no sampler; write what makes images of them; known: {known}")
        if self.sampler and not self.checkpoints:
            raise ValueError("has a sampler and no checkpoints; a sampler makes images of checkpoints")
        return self

    @model_validator(mode="after")
    def _identify(self, info: ValidationInfo[Any]) -> Self:
        context = context_of(info)
        self._target = _target(self.run, context.experiment, context.environ.get("MLFLOW_RUN_ID", ""))
        if self._target.key in context.runs:
            # Their curves would share keys and steps, and nobody could tell the points apart.
            raise ValueError("an earlier watch entry has the same run; give each entry a run of its own")
        context.runs.add(self._target.key)
        return self


def _target(run: RunConfig | None, experiment: str, exported_id: str) -> Run:
    if run is None:
        return Run(key=f"id:{exported_id}", name=exported_id, id=exported_id)
    if run.id is not None:
        return Run(key=f"id:{run.id}", name=run.id, id=run.id, total_steps=run.total_steps)
    if run.id_file is not None:
        # The file's folder is the job's own in the usual layout, runs/<name>/mlflow_run_id.
        name = run.id_file.parent.name or run.id_file.name
        path = str(run.id_file)
        return Run(key=f"id_file:{path}", name=name, id_file=path, total_steps=run.total_steps)
    return Run(key=f"name:{experiment}/{run.name}", name=run.name or "", total_steps=run.total_steps)
