"""The folder the demo works in: made anew each time, never at the expense of anything else."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from metricwatch.errors import InputError

MARKER = ".metricwatch-demo"
_MARKER_TEXT = "Made by `metricwatch demo`, which deletes everything beside this file when it runs here again.\n"
RUN_NAME = "style-transfer"


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoFolder:
    """Where everything lies. root is absolute; the properties that end in _inside are relative to it."""

    root: Path

    run_id_inside = Path("runs", RUN_NAME, "mlflow_run_id")
    checkpoints_inside = Path("runs", RUN_NAME, "checkpoints")
    training_inside = Path("data/training")
    reference_inside = Path("data/reference")
    content_inside = Path("data/content")
    style_inside = Path("data/style")
    config_inside = Path("metricwatch.yaml")
    state_inside = Path("metricwatch-state")
    database_inside = Path("mlflow.db")
    artifacts_inside = Path("mlflow-artifacts")

    def __truediv__(self, inside: Path) -> Path:
        return self.root / inside

    def log(self, name: str) -> Path:
        """The file for one process's output."""
        return self.root / "logs" / f"{name}.log"

    def written_steps(self) -> list[int]:
        """The steps whose checkpoints are there."""
        return sorted(int(path.stem.split("_")[-1]) for path in (self / self.checkpoints_inside).glob("step_*.pt"))


@contextmanager
def demo_folder(path: Path) -> Iterator[DemoFolder]:
    """An empty demo folder, this process's own until the end. What an earlier demo left in it is deleted.

    Raises InputError, having touched nothing, when the path holds anything that is not a demo's, or when another
    demo is running in it.
    """
    root = path.resolve()
    if root.exists() and not root.is_dir():
        raise InputError(f"{path}: is a file; name a folder for the demo with --dir")
    if root.exists() and not (root / MARKER).is_file() and any(root.iterdir()):
        raise InputError(
            f"{path}: is not a folder of an earlier demo (it has no {MARKER}), and the demo would delete what is "
            "there; name another folder with --dir"
        )
    root.mkdir(parents=True, exist_ok=True)
    with (root / MARKER).open("a", encoding="utf-8") as marker:
        try:
            fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{path}: another demo is running in it; stop that one or name another --dir") from None
        _empty(root)
        marker.truncate(0)
        marker.write(_MARKER_TEXT)
        marker.flush()
        (root / "logs").mkdir()
        yield DemoFolder(root=root)


def _empty(root: Path) -> None:
    for entry in os.scandir(root):
        if entry.name == MARKER:
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
