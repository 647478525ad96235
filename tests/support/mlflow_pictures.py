"""Pictures and other files of a run as MLflow's page finds them: by the names of its artifacts."""

from __future__ import annotations

import re
from pathlib import Path

# As logged_images are parsed by the page of MLflow 3: "~" (or "#") stands for a slash in the key.
NAME = re.compile(
    r"images/(?P<key>[^+]+)\+step\+(?P<step>\d+)\+timestamp\+(?P<timestamp>\d+)\+[0-9a-f-]{36}"
    r"(?P<small>\+compressed\.webp|\.png)"
)


def names(uri: str, run_id: str) -> list[str]:
    """The paths of the run's pictures, sorted; each has its full and its small file."""
    from mlflow import MlflowClient

    return sorted(file.path for file in MlflowClient(uri).list_artifacts(run_id, "images"))


def read_artifact(uri: str, run_id: str, path: str, folder: Path) -> bytes:
    """A file of the run's. Downloads into folder."""
    from mlflow import MlflowClient

    return Path(MlflowClient(uri).download_artifacts(run_id, path, str(folder))).read_bytes()


def read_pictures(uri: str, run_id: str, folder: Path) -> list[tuple[str, int, bytes]]:
    """Key, step and PNG file of each picture, sorted. Downloads into folder. Each must have its small file."""
    from mlflow import MlflowClient

    paths = names(uri, run_id)
    small = {path.removesuffix("+compressed.webp") for path in paths if path.endswith(".webp")}
    full = {path.removesuffix(".png") for path in paths if path.endswith(".png")}
    assert small == full
    found = []
    for path in (path for path in paths if path.endswith(".png")):
        name = NAME.fullmatch(path)
        assert name, path
        local = MlflowClient(uri).download_artifacts(run_id, path, str(folder))
        key = re.sub("[~#]", "/", name["key"])
        found.append((key, int(name["step"]), Path(local).read_bytes()))
    return sorted(found)
