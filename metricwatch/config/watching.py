"""What one watch entry of metricwatch.yaml may say: whose samples, where they lie, what they compare with."""

from __future__ import annotations

import glob
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from metricwatch import catalog
from metricwatch.config.context import (
    RUN,
    FannedPath,
    NotInFile,
    Section,
    absolute_glob,
    context_of,
    refuse_placeholders,
)
from metricwatch.config.quantities import Duration, PositiveDuration
from metricwatch.config.secrets import quoted
from metricwatch.records import Run


class RunConfig(Section):
    """The training job, by exactly one of name, id, and id_file: a file its run id is written to.

    In name and id_file {run} stands for the folder of each of many jobs, as it does in the entry's pattern.
    """

    name: str | None = Field(default=None, min_length=1)
    id: str | None = Field(default=None, min_length=1)
    id_file: FannedPath | None = None
    total_steps: int | None = Field(default=None, gt=0)

    @field_validator("name")
    @classmethod
    def _fanned_name(cls, name: str | None) -> str | None:
        if name is not None:
            refuse_placeholders(name, but_run=True)
        return name

    @field_validator("id")
    @classmethod
    def _id_of_one(cls, run_id: str | None) -> str | None:
        if run_id is not None and RUN in run_id:
            raise ValueError(f"{RUN} cannot stand in an id: MLflow makes those; write id_file or name")
        return run_id

    @property
    def fans_out(self) -> bool:
        """True when it stands for many runs."""
        return RUN in (self.name or str(self.id_file or ""))

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

    content: FannedPath | None = None
    style: FannedPath | None = None
    manifest: FannedPath | None = None
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
    """One job's samples, or its checkpoints. Each is an absolute glob; each match is one step's directory or file.

    With {run} in its pattern and its run it stands for many jobs: for_run() is the entry of one of them. Its own target
    is a template then, and no run.
    """

    run: RunConfig | None = None
    samples: str | None = Field(default=None, min_length=1)
    checkpoints: str | None = Field(default=None, min_length=1)
    sampler: SamplerConfig | None = None
    backlog: Backlog = Backlog()
    reference: FannedPath | None = None
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

    @property
    def fans_out(self) -> bool:
        """True when it stands for many runs, each found on disk."""
        return RUN in self.pattern

    def for_run(self, name: str) -> Self:
        """The entry of one of the runs that it stands for, as if it had been written for that one alone.

        Raises ValueError for a name that cannot be one: it holds control characters or is no UTF-8 text.
        """
        if (unusable := unusable_name(name)) is not None:
            raise ValueError(unusable)
        assert self.run is not None  # noqa: S101 - _fans_out_throughout has seen to it
        pattern = self.pattern.replace(RUN, glob.escape(name).replace(RUN, "[{]run}"))
        run = self.run.model_copy(update=_filled(self.run, ("name", "id_file"), name))
        pairs = self.pairs and self.pairs.model_copy(update=_filled(self.pairs, ("content", "style", "manifest"), name))
        entry = self.model_copy(
            update={
                "run": run,
                "pairs": pairs,
                "samples" if self.samples else "checkpoints": pattern,
                **_filled(self, ("reference",), name),
            }
        )
        file = self.run.id_file
        target = _filled_target(self.target, name)
        # A file that lies in no folder of the job's own: all runs would have the name of that one folder.
        named_after_folder = file is None or RUN in file.parent.name
        entry._target = target if named_after_folder else replace(target, name=name)  # noqa: SLF001 - its class is ours
        return entry

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
        refuse_placeholders(pattern, but_run=True)
        folders, _, last = pattern.rpartition("/")
        if RUN in last:
            raise ValueError(
                f"{RUN} is the name of a folder with one run's steps in it; write for example runs/{RUN}/*"
            )
        if any(RUN in part and glob.has_magic(part) for part in folders.split("/")):
            raise ValueError(f"{RUN} matches a folder's whole name but for plain text: write no *, ? or [ beside it")
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
    def _fans_out_throughout(self, info: ValidationInfo[Any]) -> Self:
        kind = "samples" if self.samples else "checkpoints"
        if self.fans_out:
            if self.run is None or not self.run.fans_out:
                raise ValueError(
                    f"{kind} has {RUN} and run has not, so that many jobs would share one run; write"
                    f' run: {{id_file: ".../{RUN}/mlflow_run_id"}} or {{name: "{RUN}"}}'
                )
            if RUN in str(context_of(info).base):
                raise ValueError(f"{RUN} is also in the name of this file's own folder; give that another name")
            return self
        if self.run is not None and self.run.fans_out:
            raise ValueError(f"run has {RUN} and {kind} has not; write {RUN} there for the folder of each job")
        pairs = (self.pairs.content, self.pairs.style, self.pairs.manifest) if self.pairs else ()
        if any(RUN in str(path or "").removeprefix(str(context_of(info).base)) for path in (self.reference, *pairs)):
            raise ValueError(f"reference or pairs has {RUN}, run and {kind} have not: it would stand for nothing")
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


def unusable_name(name: str) -> str | None:
    """Why a folder's name cannot be that of a run; None for one that can."""
    if any("\ud800" <= character <= "\udfff" for character in name):
        return "its name is not UTF-8"
    if any(unicodedata.category(character) == "Cc" for character in name):
        return "its name holds control characters"
    return None


def _filled(section: Section, fields: Iterable[str], name: str) -> dict[str, Any]:
    """Those of the fields that hold {run}, with the name of a run in its place."""
    given = {field: getattr(section, field) for field in fields}
    return {
        field: type(value)(str(value).replace(RUN, name))
        for field, value in given.items()
        if value is not None and RUN in str(value)
    }


def _filled_target(template: Run, name: str) -> Run:
    return replace(
        template,
        key=template.key.replace(RUN, name),
        name=template.name.replace(RUN, name),
        id_file=template.id_file and template.id_file.replace(RUN, name),
    )
