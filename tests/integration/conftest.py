"""Real servers that the integration tests share."""

from collections.abc import Iterator

import pytest

from tests.support.mlflow_server import MlflowServer, mlflow_server


@pytest.fixture(scope="session")
def tracking_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """One MLflow server for the whole session: it takes seconds to start. Use experiments of your own in it."""
    with mlflow_server(tmp_path_factory.mktemp("mlflow-server")) as server:
        yield server
