"""The built-in sink keeps the contract of sinks, on a database file without a server.

The same tests against a real tracking server are in tests/integration/test_mlflow_sink.py.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from metricwatch import catalog
from metricwatch.api import ConfigError, Point
from metricwatch.testing.sink import SinkContract
from tests.support.mlflow_pictures import read_artifact, read_pictures

# By name, as the daemon does: a built-in may move into a package of its own.
MlflowSink = catalog.load_sink("mlflow")


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    # Without a server they would go into the working directory.
    MlflowClient(uri).create_experiment("contract", artifact_location=(folder / "artifacts").as_uri())
    return uri


class TestMlflowSinkOnADatabase(SinkContract):
    sink = MlflowSink
    secrets = ("hunter2",)

    @pytest.fixture
    def options(self, database: str) -> Any:
        return MlflowSink.Options(uri=database, experiment="contract")

    @pytest.fixture
    def unreachable_options(self) -> Any:
        return MlflowSink.Options(uri="http://somebody:hunter2@127.0.0.1:1", experiment="contract", timeout=2)

    @pytest.fixture
    def stored(self, database: str) -> Callable[[str], Sequence[Point]]:
        return lambda run_id: read_points(database, run_id)

    @pytest.fixture
    def stored_tags(self, database: str) -> Callable[[str], Mapping[str, str]]:
        from mlflow import MlflowClient

        return lambda run_id: MlflowClient(database).get_run(run_id).data.tags

    @pytest.fixture
    def stored_pictures(self, database: str, tmp_path: Path) -> Callable[[str], Sequence[tuple[str, int, bytes]]]:
        return lambda run_id: read_pictures(database, run_id, tmp_path)

    @pytest.fixture
    def stored_page(self, database: str, tmp_path: Path) -> Callable[[str, str], bytes]:
        return lambda run_id, name: read_artifact(database, run_id, name, tmp_path)

    @pytest.fixture
    def delete_run(self, database: str) -> Callable[[str], None]:
        from mlflow import MlflowClient

        return lambda run_id: MlflowClient(database).delete_run(run_id)


def read_points(uri: str, run_id: str) -> list[Point]:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    return [
        Point(key=key, value=row.value, timestamp_ms=row.timestamp, step=row.step)
        for key in client.get_run(run_id).data.metrics
        for row in client.get_metric_history(run_id, key)
    ]


def test_a_folder_is_refused_because_it_repeats_points(tmp_path: Path) -> None:

    for uri in ("mlruns", "./mlruns", str(tmp_path), tmp_path.as_uri(), ""):
        with pytest.raises(ConfigError, match=r"sqlite:///mlflow\.db"):
            MlflowSink(MlflowSink.Options(uri=uri))
