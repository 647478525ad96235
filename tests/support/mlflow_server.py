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


@dataclass(frozen=True, slots=True, kw_only=True)
class MlflowServer:
    """A server that answers. Its database, artifacts and log lie in folder."""

    uri: str
    folder: Path
    process: subprocess.Popen[bytes]


@contextmanager
def mlflow_server(folder: Path, *, port: int | None = None, deadline: float = 60.0) -> Iterator[MlflowServer]:
    """Start a server over a SQLite database in folder and stop it, with its children, at the end.

    The same folder gives the same database again. Raises RuntimeError, with the end of the log, when the server
    has not answered /health within deadline seconds.
    """
    port = port or free_port()
    uri = f"http://127.0.0.1:{port}"
    log = folder / "mlflow-server.log"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--default-artifact-root", (folder / "artifacts").as_uri()]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with log.open("ab") as output:
        # A session of its own, so that stopping the group reaches the web workers and nobody else.
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **quiet}, stdout=output, stderr=output, start_new_session=True
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
