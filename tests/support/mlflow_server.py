"""A real MLflow tracking server on the loopback interface, in a process group of its own."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.ports import free_port

ADMIN = "admin"
PASSWORD = "hunter2-of-the-admin"
# What MLflow's auth app reads; its users lie in a database of their own. To check a password takes it 0.1 s of work.
_AUTH = """[mlflow]
default_permission = READ
database_uri = sqlite:///{folder}/auth.db
admin_username = {user}
admin_password = {password}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 600
"""
_QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


@dataclass(frozen=True, slots=True, kw_only=True)
class MlflowServer:
    """A server that answers. Its database (where it is SQLite), artifacts and log lie in folder.

    uri has the prefix and no login.
    """

    uri: str
    folder: Path
    process: subprocess.Popen[bytes]

    def uri_as(self, user: str = ADMIN, password: str = PASSWORD) -> str:
        return self.uri.replace("://", f"://{user}:{password}@", 1)


@contextmanager
def mlflow_server(
    folder: Path,
    *,
    port: int | None = None,
    deadline: float = 60.0,
    python: str = sys.executable,
    backend: str | None = None,
    login: bool = False,
    prefix: str = "",
    artifact_root: bool = True,
) -> Iterator[MlflowServer]:
    """Start a server and stop it, with its children, at the end.

    It runs over a SQLite database in folder, or over `backend`; the same folder gives the same database again. login
    asks for ADMIN and PASSWORD (read-only for whoever else is created); prefix is its --static-prefix; without
    artifact_root new experiments' artifacts pass through the server. python is of an environment with some MLflow.
    Raises RuntimeError, with the end of the log, when the server has not answered /health within deadline seconds.
    """
    port = port or free_port()
    uri = f"http://127.0.0.1:{port}{prefix}"
    log = folder / "mlflow-server.log"
    command = [python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", backend or f"sqlite:///{folder / 'mlflow.db'}"]
    if artifact_root:
        command += ["--default-artifact-root", (folder / "artifacts").as_uri()]
    if prefix:
        command += ["--static-prefix", prefix]
    environ = {**os.environ, **_QUIET}
    if login:
        (folder / "auth.ini").write_text(_AUTH.format(folder=folder, user=ADMIN, password=PASSWORD))
        command += ["--app-name", "basic-auth"]
        environ |= {"MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"), "MLFLOW_FLASK_SERVER_SECRET_KEY": "of a test"}
    with log.open("ab") as output:
        # A session of its own, so that stopping the group reaches the web workers and nobody else.
        process = subprocess.Popen(
            command, cwd=folder, env=environ, stdout=output, stderr=output, start_new_session=True
        )
    try:
        _wait_for_health(uri, process, log, deadline)
        yield MlflowServer(uri=uri, folder=folder, process=process)
    finally:
        _stop(process)


def _wait_for_health(uri: str, process: subprocess.Popen[bytes], log: Path, deadline: float) -> None:
    end = time.monotonic() + deadline
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"mlflow server at {uri} does not answer; its log ends:\n{log.read_text()[-3000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            break
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            continue
        if sign is signal.SIGTERM and not _group_is_gone(process.pid):
            continue
        break
    process.wait(timeout=10)


def _group_is_gone(group: int) -> bool:
    end = time.monotonic() + 3
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False
