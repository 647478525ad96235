"""`metricwatch demo`, shortened, with everything real: MLflow, daemon, worker, training job, messages."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

DEMO = [sys.executable, "-m", "metricwatch", "demo"]
SHORT = ["--sample-sets", "12", "--images", "24"]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """One demo, run where nobody watches. Started beside its folder, as a user would."""
    place = tmp_path_factory.mktemp("demo")
    return subprocess.run(
        [*DEMO, *SHORT, "--pace", "0"],
        check=False,
        cwd=place,
        capture_output=True,
        text=True,
        timeout=400,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.slow
def test_the_demo_succeeds_and_says_so(outcome: subprocess.CompletedProcess[str]) -> None:
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert "All went as it should" in outcome.stdout


@pytest.mark.slow
def test_the_curve_is_printed_step_by_step_with_the_rule(outcome: subprocess.CompletedProcess[str]) -> None:
    rows = re.findall(r"^(\d+) +([\d.]+) +± ([\d.]+) +([\d.]+) +(.+)$", outcome.stdout, re.MULTILINE)
    assert [int(row[0]) for row in rows] == [100 * (number + 1) for number in range(12)]
    said = {int(row[0]): row[4] for row in rows}
    assert said[700] == "inactive"
    assert said[800] == "firing (worse)"
    assert said[1200] == "firing (better)"


@pytest.mark.slow
@pytest.mark.parametrize("channel", ["Slack", "e-mail"])
def test_the_alarm_and_its_end_are_printed_as_delivered(
    outcome: subprocess.CompletedProcess[str], channel: str
) -> None:
    delivered = [block for block in outcome.stdout.split("\n\n") if re.match(rf"  {channel}, \d\d:\d\d:\d\d\n", block)]
    (critical,) = [block for block in delivered if "[critical] photo-restorer: fd_efficientnet_lite0 rose" in block]
    assert "at step 800, within 5 evaluations. That is worse." in critical
    assert any("was critical" in block and "It had fired at step 800, when" in block for block in delivered)


@pytest.mark.slow
def test_progress_is_told_while_it_runs(outcome: subprocess.CompletedProcess[str]) -> None:
    assert "training: saved the samples of step 800" in outcome.stderr
    assert "metricwatch: step 800: fd_efficientnet_lite0" in outcome.stderr
    assert "Slack: ● [critical] photo-restorer" in outcome.stderr


@pytest.mark.slow
def test_it_says_how_to_look_again(outcome: subprocess.CompletedProcess[str]) -> None:
    assert "ui --backend-store-uri sqlite:///metricwatch-demo/mlflow.db" in outcome.stdout
    assert re.search(r"open http://127\.0\.0\.1:5000/#/experiments/\d+/runs/[0-9a-f]{32}", outcome.stdout)


def test_a_folder_that_is_not_a_demo_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    refused = subprocess.run([*DEMO, "--dir", str(tmp_path)], check=False, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 1
    assert "is not a folder of an earlier demo" in refused.stderr
    assert refused.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.slow
def test_a_demo_that_is_told_to_stop_leaves_nothing_running(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    demo = subprocess.Popen(
        [*DEMO, *SHORT, "--pace", "5", "--dir", str(folder)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        daemon = _await_daemon(folder, demo)
        config = (folder / "metricwatch.yaml").read_text()
        mlflow = urlsplit(re.search(r"uri: (\S+)", config)[1])
        demo.send_signal(signal.SIGTERM)
        _, told = demo.communicate(timeout=60)
    finally:
        demo.kill()
        demo.wait()
    assert demo.returncode == 128 + signal.SIGTERM
    assert b"Traceback" not in told
    with pytest.raises(ProcessLookupError):
        os.kill(daemon, 0)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((mlflow.hostname, mlflow.port), timeout=5)


def _await_daemon(folder: Path, demo: subprocess.Popen[bytes]) -> int:
    """The process id of the demo's daemon, once there is one."""
    lock = folder / "metricwatch-state" / "daemon.lock"
    end = time.monotonic() + 120
    while time.monotonic() < end and demo.poll() is None:
        if lock.exists() and (found := re.match(r"pid (\d+) ", lock.read_text())):
            return int(found[1])
        time.sleep(0.1)
    pytest.fail("the demo has not started metricwatch")
