"""The daemon beside a job that saves checkpoints only: a network of the user's own, down to MLflow's own records."""

from __future__ import annotations

import io
import json
import os
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from tests.support.job import Daemon, Job, wait_until
from tests.support.mlflow_pictures import NAME, names
from tests.support.mlflow_server import MlflowServer
from tests.support.photos import write_crops

# As a user writes it: the network, and a function that opens a checkpoint of it.
MODEL = """
import torch


def restorer(checkpoint, device):
    network = torch.nn.Conv2d(3, 3, 1)
    checkpoint.load_into(network, "model")
    network.to(device).eval()

    def sample(request):
        return [network(picture.float()[None] / 255)[0] for picture in request.content]

    return sample
"""
KEPT = 2


class Trainer:
    """Saves the weights of a 1 x 1 convolution that darkens its input by a factor."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def path(self, step: int) -> Path:
        return self.folder / f"step_{step:06}.pt"

    def content(self, factor: float) -> bytes:
        network = torch.nn.Conv2d(3, 3, 1)
        with torch.no_grad():
            network.weight.copy_(factor * torch.eye(3).reshape(3, 3, 1, 1))
            network.bias.zero_()
        buffer = io.BytesIO()
        torch.save({"model": network.state_dict(), "step": 1}, buffer)
        return buffer.getvalue()

    def save(self, step: int, factor: float = 0.8) -> Path:
        """As a careful job does: under another name first."""
        temporary = self.folder / f".{step}.tmp"
        temporary.write_bytes(self.content(factor))
        os.replace(temporary, self.path(step))
        return self.path(step)


@pytest.fixture
def job(tmp_path: Path, tracking_server: MlflowServer, request: pytest.FixtureRequest) -> Job:
    name = f"checkpoints-{os.getpid()}-{request.node.name}"
    job = Job(tmp_path / "job", tracking_server.uri, name)
    write_crops(job.content, 6, side=48, seed=2)
    for path in sorted(job.content.glob("*.png"))[6:]:
        path.unlink()
    (job.folder / "my_model.py").write_text(MODEL)
    job.config["watch"] = [
        {
            "run": {"name": "night"},
            "checkpoints": "checkpoints/*.pt",
            "sampler": {
                "use": "python",
                "function": "my_model:restorer",
                "path": ".",
                "needs": ["content"],
                "random": False,
                "keep": KEPT,
            },
            "pairs": {"content": "content"},
            "settle": "1s",
        }
    ]
    job.write_config()
    return job


@pytest.fixture
def trainer(job: Job) -> Trainer:
    return Trainer(job.folder / "checkpoints")


@pytest.fixture
def start(job: Job) -> Iterator[Callable[[], Daemon]]:
    started: list[Daemon] = []

    def run() -> Daemon:
        started.append(job.start())
        return started[-1]

    yield run
    for daemon in started:
        daemon.end()


def run_id(job: Job) -> str:
    client = MlflowClient(job.config["tracking"]["uri"])
    experiment = client.get_experiment_by_name(job.config["tracking"]["experiment"])
    runs = client.search_runs([experiment.experiment_id]) if experiment else []
    return runs[0].info.run_id if runs else ""


def curve(job: Job, key: str = "quality/ssim") -> list[tuple[int, float]]:
    if not (run := run_id(job)):
        return []
    rows = MlflowClient(job.config["tracking"]["uri"]).get_metric_history(run, key)
    return sorted((row.step, row.value) for row in rows)


def steps(job: Job) -> list[int]:
    return [step for step, _ in curve(job)]


def pictures(job: Job) -> Counter[int]:
    """How many pictures MLflow has of each step."""
    found = (NAME.fullmatch(path) for path in names(job.config["tracking"]["uri"], run_id(job)))
    return Counter(int(name["step"]) for name in found if name and name["small"] == ".png")


def leftovers(job: Job) -> list[Path]:
    state = job.folder / "state"
    return [path for folder in ("pins", "pictures") for path in state.glob(f"{folder}/**/*") if path.is_file()]


def test_checkpoints_become_points_and_pictures_while_the_trainer_saves_and_removes_them(
    job: Job, trainer: Trainer, start: Callable[[], Daemon]
) -> None:
    trainer.save(1000, 0.5)
    daemon = start()
    wait_until(lambda: steps(job) == [1000], what="the first checkpoint's point", seconds=90)
    # One that is written slowly, one that is damaged, and one that is gone as soon as it is scored.
    content = trainer.content(0.9)
    with trainer.path(2000).open("wb") as slow:
        slow.write(content[: len(content) // 2])
        slow.flush()
        trainer.path(3000).write_bytes(content[:-40] + b"\0" * 40)
        trainer.save(4000, 1.0)
        wait_until(lambda: 4000 in steps(job), what="the point of step 4000")
        assert 2000 not in steps(job)
        slow.write(content[len(content) // 2 :])
    trainer.path(4000).unlink()
    wait_until(lambda: steps(job) == [1000, 2000, 4000], what="the slow checkpoint's point")
    wait_until(lambda: pictures(job) == {1000: KEPT, 2000: KEPT, 4000: KEPT}, what="the pictures")
    daemon.wait_for("job.failed")

    assert daemon.stop() == 0
    values = dict(curve(job))
    assert values[1000] < values[2000] < values[4000]
    assert values[4000] == pytest.approx(1.0, abs=1e-6)
    assert re.search(r"job\.failed.*step=3000.*step_003000\.pt", daemon.log)
    assert not leftovers(job)


def test_a_killed_daemon_scores_each_checkpoint_once_and_shows_each_picture_once(
    job: Job, trainer: Trainer, start: Callable[[], Daemon]
) -> None:
    for step in (1000, 2000, 3000):
        trainer.save(step, step / 4000)
    for event in ("worker.ready", "evaluated"):
        (job.folder / "daemon.log").write_text("")
        daemon = start()
        daemon.wait_for(event)
        daemon.stop(signal.SIGKILL)

    done = job.call("run", "--once")

    assert done.returncode == 0, done.stderr
    assert steps(job) == [1000, 2000, 3000]
    assert pictures(job) == {1000: KEPT, 2000: KEPT, 3000: KEPT}
    assert not leftovers(job)


def test_of_a_backlog_the_latest_is_scored_and_the_rest_is_recorded_as_skipped(job: Job, trainer: Trainer) -> None:
    job.config["watch"][0]["backlog"] = "latest"
    job.config["rules"] = [{"name": "broken", "metric": "ssim", "state": "non_finite"}]
    job.write_config()
    for step in (1000, 2000, 3000):
        trainer.save(step)
    first = job.call("run", "--once", "--json")
    trainer.save(4000, float("nan"))
    job.call("run", "--once")
    state = json.loads(job.call("status", "--json").stdout)
    again = job.call("retry", "--skipped")
    last = job.call("run", "--once")

    assert json.loads(first.stdout)["done"] == 1
    assert json.loads(first.stdout)["skipped"] == 2
    assert state["jobs"]["skipped"] == 2
    # A model that gives nothing finite has been evaluated, has no value, and a rule says so.
    assert state["jobs"]["done"] == 2
    (alert,) = state["alerts"]
    assert (alert["rule"], alert["fired_step"]) == ("broken", 4000)
    assert again.returncode == 0, again.stderr
    assert last.returncode == 0, last.stderr
    assert steps(job) == [1000, 2000, 3000]
