"""MLflow as people have it: over PostgreSQL, with a login, below a prefix, behind a proxy."""

from __future__ import annotations

import base64
import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.mlflow_server import ADMIN, PASSWORD, MlflowServer, mlflow_server
from tests.support.postgres import Postgres, postgres

PREFIX = "/tracking/mlflow"


@contextmanager
def guarded_server(folder: Path) -> Iterator[tuple[MlflowServer, Postgres, str]]:
    """A server over PostgreSQL, with a login, below PREFIX, artifacts through the server; with its database's address.

    Raises RuntimeError where PostgreSQL is not installed.
    """
    with postgres() as database:
        uri = database.create("mlflow")
        with mlflow_server(folder, backend=uri, login=True, prefix=PREFIX, artifact_root=False) as server:
            yield server, database, uri


def ask(server: MlflowServer, path: str, body: dict[str, str] | None = None) -> str:
    """What the server answers the administrator. Raises urllib.error.HTTPError."""
    token = base64.b64encode(f"{ADMIN}:{PASSWORD}".encode()).decode()
    headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(server.uri + path, data=content, headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read().decode()
