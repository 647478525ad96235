"""Fixtures that every kind of test may use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.photos import write_crops
from tests.support.worker_client import WorkerClient

# No deadline: a busy machine is no failure. In CI the examples are always the same ones.
settings.register_profile("metricwatch", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("metricwatch")


def pytest_addoption(parser: pytest.Parser) -> None:
    sizes = parser.getgroup("metricwatch", "how long the suites in tests/chaos go on")
    sizes.addoption("--full-size", action="store_true", help="run them at the size that the make targets name")
    sizes.addoption("--seed", type=int, default=0, help="what their chance begins with")


@pytest.fixture
def full_size(request: pytest.FixtureRequest) -> bool:
    """True where the suites in tests/chaos shall take the time they need, False for a few seconds of each."""
    return bool(request.config.getoption("--full-size"))


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--seed"))


@pytest.fixture(autouse=True)
def neutral_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the variables that the developer's own tracking server or daemon is set up with."""
    for name in os.environ:
        if name.startswith(("MLFLOW_", "METRICWATCH_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory named night, without any weights in reach."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "night"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A torch home's checkpoint: stand-in weights under the very name that pytorch-fid looks for."""
    from tests.support.weights import write_inception_weights

    home = tmp_path_factory.mktemp("torch-home")
    return write_inception_weights(home / "hub" / "checkpoints" / "pt_inception-2015-12-05-6726825d.pth")


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 real photo crops, 96 x 96 PNG. Read only."""
    return write_crops(tmp_path_factory.mktemp("photos"), 24, side=96, seed=1)


@pytest.fixture(scope="session")
def blurred_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same 24 crops under the same names, blurred. Read only."""
    return write_crops(tmp_path_factory.mktemp("blurred"), 24, side=96, seed=1, blur=1.5)


@pytest.fixture
def start_worker() -> Iterator[Callable[..., WorkerClient]]:
    """Start real worker processes; whatever is left of them is ended after the test."""
    started: list[WorkerClient] = []

    def start(*args: object, **kwargs: object) -> WorkerClient:
        started.append(WorkerClient(*args, **kwargs))
        return started[-1]

    yield start
    for worker in started:
        worker.kill()
