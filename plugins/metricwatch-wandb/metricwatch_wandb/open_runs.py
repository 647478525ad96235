"""W&B's own library behind three calls: open a run, log to it, and wait until its file holds what was logged."""

from __future__ import annotations

import json
import os
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metricwatch_wandb.transaction_log import TransactionLog

# Each costs the service some memory and two open files.
_MOST_OPEN = 16
_SECONDS_TO_DISK = 30
_POLL_SECONDS = 0.02


class NotWrittenError(Exception):
    """W&B's service has not written in time what it was given."""


class OpenRun:
    """A run that can be logged to."""

    def __init__(self, run: Any) -> None:
        self._run = run
        self._log = TransactionLog(Path(run.settings.sync_file))
        self._logged = 0
        self._seen = 0
        self._tags: dict[str, Any] = {}
        self._pictures: list[Path] = []

    @property
    def url(self) -> str | None:
        return None if self._run.offline else self._run.url

    def log(self, rows: Sequence[Mapping[str, Any]], tags: Mapping[str, str]) -> None:
        """Returns when the run's file on the disk holds all of it. Raises NotWrittenError."""
        for row in rows:
            self._run.log(dict(row))
        self._logged += len(rows)
        new = {name: text for name, text in tags.items() if self._tags.get(name) != text}
        if new:
            self._run.summary.update(new)
        self._wait(new)

    def log_picture(self, key: str, png: Path, row: Mapping[str, Any]) -> None:
        """As log(), for a PNG file, which is copied as it is. The copy is on the disk too."""
        import wandb

        self.log([{key: wandb.Image(str(png)), **row}], {})
        for copy in self._pictures:
            _sync(copy)
        self._pictures.clear()

    def finish(self) -> None:
        self._run.finish()

    def _wait(self, tags: Mapping[str, str]) -> None:
        until = time.monotonic() + _SECONDS_TO_DISK
        while True:
            self._read()
            missing = [name for name, text in tags.items() if self._tags.get(name) != text]
            if self._seen >= self._logged and not missing:
                break
            if not _service_lives():
                raise NotWrittenError("W&B's service has ended")
            if time.monotonic() > until:
                raise NotWrittenError(
                    f"{self._log.file} holds {self._seen} of {self._logged} rows after {_SECONDS_TO_DISK} s"
                    + (f" and lacks tags: {', '.join(missing[:5])}" if missing else "")
                )
            time.sleep(_POLL_SECONDS)
        _sync(self._log.file)

    def _read(self) -> None:
        from wandb.proto.wandb_internal_pb2 import Record

        for data in self._log.new():
            record = Record.FromString(data)
            if record.HasField("history"):
                self._seen += 1
                held = {tuple(item.nested_key): item.value_json for item in record.history.item}
                self._pictures += [
                    Path(self._run.dir) / json.loads(held[*key[:-1], "path"])
                    for key, text in held.items()
                    if key[-1:] == ("_type",) and text == '"image-file"'
                ]
            elif record.HasField("summary"):
                for item in record.summary.update:
                    # What W&B notes itself is numbers.
                    if item.value_json.startswith('"'):
                        self._tags[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)


class OpenRuns:
    """The runs that are open, the one that was used longest ago first; it is finished when there are too many."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = dict(settings)
        self._open: OrderedDict[str, OpenRun] = OrderedDict()

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._open

    def get(self, run_id: str, name: str) -> OpenRun:
        """The run, opened where it is not. Raises what wandb.init raises."""
        if run_id in self._open:
            self._open.move_to_end(run_id)
            return self._open[run_id]
        while len(self._open) >= _MOST_OPEN:
            self._open.popitem(last=False)[1].finish()
        import wandb

        run = wandb.init(id=run_id, name=name, resume="allow", settings=wandb.Settings(**self._settings))
        # W&B's own step counts rows and cannot go back; ours may come late, and more than once.
        run.define_metric("*", step_metric="step")
        made = self._open[run_id] = OpenRun(run)
        return made

    def finish(self) -> None:
        """Online this waits for uploads."""
        for run in self._open.values():
            run.finish()
        self._open.clear()


def _service_lives() -> bool:
    # The service is the only process that W&B's library starts here.
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


def _sync(file: Path) -> None:
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
