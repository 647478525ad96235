"""The first two commands of a new user, for real: init, then check."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time

import pytest


@pytest.fixture
def metricwatch(tmp_path):
    """The command in an empty directory, in an environment without settings."""
    folder = tmp_path / "job"
    folder.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "METRICWATCH_"))}

    def metricwatch(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "metricwatch", *arguments],
            check=False,
            capture_output=True,
            text=True,
            cwd=folder,
            env={**kept, "MLFLOW_DISABLE_TELEMETRY": "true", **environ},
            timeout=120,
        )

    return metricwatch


def test_what_init_writes_passes_check_in_an_empty_directory(metricwatch):
    written = metricwatch("init")
    assert written.returncode == 0, written.stderr
    checked = metricwatch("check", "--json")
    assert checked.returncode == 0, checked.stdout
    levels = {item["item"]: item["level"] for item in json.loads(checked.stdout)["findings"]}
    assert levels["configuration"] == levels["state"] == levels["tracking"] == "ok"
    assert [level for name, level in levels.items() if name.startswith("metrics: ")] == ["warning"]


def test_a_tracking_server_that_is_not_there_is_an_error_within_seconds(metricwatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        uri = f"http://me:hunter2@127.0.0.1:{taken.getsockname()[1]}"
        metricwatch("init")
        start = time.monotonic()
        checked = metricwatch("check", METRICWATCH_TRACKING__URI=uri)
        assert time.monotonic() - start < 60
    assert checked.returncode == 78
    (line,) = [line for line in checked.stdout.splitlines() if line.startswith("error")]
    assert line.split()[1] == "tracking"
    assert "hunter2" not in checked.stdout + checked.stderr
