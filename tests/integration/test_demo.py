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
from mlflow import MlflowClient

DEMO = [sys.executable, "-m", "metricwatch", "demo"]
SHORT = ["--checkpoints", "8", "--save-every", "15", "--contents", "4", "--pace", "0"]
STEPS = list(range(15, 121, 15))
ACCIDENT, BREAKS = 91, 105


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def outcome(place: Path) -> subprocess.CompletedProcess[str]:
    """One demo, run where nobody watches. Started beside its folder, as a user would."""
    return subprocess.run(
        [*DEMO, *SHORT],
        check=False,
        cwd=place,
        capture_output=True,
        text=True,
        timeout=500,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.slow
def test_the_demo_succeeds_and_says_so(outcome: subprocess.CompletedProcess[str]) -> None:
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert "All went as it should" in outcome.stdout


@pytest.mark.slow
def test_the_curve_is_printed_step_by_step_with_the_rule(outcome: subprocess.CompletedProcess[str]) -> None:
    number = r" +([\d.e-]+)"
    rows = re.findall(rf"^(\d+) +(?:[\d.]+ +± [\d.]+|collapsed){4 * number} +(.+)$", outcome.stdout, re.MULTILINE)
    assert [int(row[0]) for row in rows] == STEPS
    said = {int(row[0]): row[-1] for row in rows}
    assert said[BREAKS] == "firing (worse)"
    assert "firing (worse)" not in {said[step] for step in STEPS if step < BREAKS}
    composite = {int(row[0]): float(row[4]) for row in rows}
    assert composite[90] < composite[15]
    assert composite[BREAKS] > 1.2 * composite[90]


@pytest.mark.slow
@pytest.mark.parametrize("channel", ["Slack", "e-mail"])
def test_the_alarm_is_printed_as_delivered(outcome: subprocess.CompletedProcess[str], channel: str) -> None:
    delivered = [block for block in outcome.stdout.split("\n\n") if re.match(rf"  {channel}, \d\d:\d\d:\d\d\n", block)]
    critical = [block for block in delivered if "[critical] style-transfer: composite_quality rose" in block]
    assert f"at step {BREAKS}, within 5 evaluations. That is worse." in critical[0]


@pytest.mark.slow
def test_progress_is_told_while_it_runs(outcome: subprocess.CompletedProcess[str]) -> None:
    assert f"training: saved the checkpoint of step {BREAKS}" in outcome.stderr
    assert f"metricwatch: step {BREAKS}: composite_quality" in outcome.stderr
    assert "Slack: ● [critical] style-transfer" in outcome.stderr


@pytest.mark.slow
def test_it_says_how_to_look_again(outcome: subprocess.CompletedProcess[str]) -> None:
    assert "ui --backend-store-uri sqlite:///metricwatch-demo/mlflow.db" in outcome.stdout
    assert re.search(r"open http://127\.0\.0\.1:5000/#/experiments/\d+/runs/[0-9a-f]{32}", outcome.stdout)


@pytest.mark.slow
def test_the_training_job_logged_its_own_losses_and_the_accident_to_the_same_run(
    outcome: subprocess.CompletedProcess[str], place: Path
) -> None:
    assert outcome.returncode == 0
    root = place / "metricwatch-demo"
    run_id = (root / "runs/style-transfer/mlflow_run_id").read_text().strip()
    client = MlflowClient(tracking_uri=f"sqlite:///{root / 'mlflow.db'}")
    rates = {row.step: row.value for row in client.get_metric_history(run_id, "train/learning_rate")}

    assert sorted(rates) == list(range(1, STEPS[-1] + 1))
    assert rates[ACCIDENT] > 5 * rates[ACCIDENT - 1]
    assert client.get_run(run_id).info.status == "FINISHED"
    assert len(client.get_metric_history(run_id, "quality/composite_quality")) == len(STEPS)


@pytest.mark.slow
def test_nothing_of_the_samples_but_the_pictures_in_mlflow_is_left_on_disk(
    outcome: subprocess.CompletedProcess[str], place: Path
) -> None:
    assert outcome.returncode == 0
    state = place / "metricwatch-demo" / "metricwatch-state"
    assert not list(state.glob("pins/**/*.pt"))
    # The last figures may still be on their way to MLflow when the demo has seen enough.
    assert all(path.name.startswith("figure-") for path in state.glob("pictures/**/*.png"))
    assert len(list(place.glob("metricwatch-demo/mlflow-artifacts/**/images/*samples*.png"))) == 4 * len(STEPS)
    assert list(place.glob("metricwatch-demo/mlflow-artifacts/**/images/*contact_sheet*.png"))


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
    demo = subprocess.Popen([*DEMO, *SHORT, "--dir", str(folder)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
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
