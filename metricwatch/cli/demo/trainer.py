"""The demo's training job, and the example of how a job is wired to metricwatch: it is not.

It knows MLflow, as any job does. For metricwatch it does two things only: it writes the id of its MLflow run to a
file, and it saves its samples to one directory a step. Whether anybody watches, and how fast, is none of its business.

    python -m metricwatch.cli.demo.trainer --tracking-uri http://127.0.0.1:5000 --pictures data/content
        --run-id-file runs/photo-restorer/mlflow_run_id --samples runs/photo-restorer/samples
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from metricwatch.cli.demo.generator import STEPS_BETWEEN_SAMPLES, Skill, restore, script

_LOSS_EVERY = 10
# Waiting stands in for the forward and backward passes; the rest of a step's time goes into saving samples.
_SHARE_OF_TRAINING = 0.4


def main() -> None:
    """Train: log the loss, save samples every so many steps, end the MLflow run."""
    arguments = _arguments()
    # So that a stopped job ends its MLflow run, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    from mlflow import MlflowClient

    arguments.samples.mkdir(parents=True, exist_ok=True)
    client = MlflowClient(tracking_uri=arguments.tracking_uri)
    run_id = _create_run(client, arguments.samples.parent.name, arguments.experiment)
    write_atomically(arguments.run_id_file, run_id)
    try:
        _train(client, run_id, arguments)
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id, "FINISHED")


def _create_run(client: Any, name: str, experiment: str) -> str:
    found = client.get_experiment_by_name(experiment)
    identity = found.experiment_id if found else client.create_experiment(experiment)
    return str(client.create_run(identity, run_name=name).info.run_id)


def _train(client: Any, run_id: str, arguments: argparse.Namespace) -> None:
    # Loaded once, as a job would keep its validation pictures: the same ones are restored at every step.
    pictures = {path.name: _load(path) for path in sorted(arguments.pictures.glob("*.png"))}
    for skill in script(arguments.sample_sets):
        time.sleep(arguments.seconds * _SHARE_OF_TRAINING)
        _log_losses(client, run_id, skill, arguments.seed)
        save_samples(
            arguments.samples / f"step_{skill.step:06}",
            pictures,
            skill,
            seed=arguments.seed,
            seconds=arguments.seconds * (1.0 - _SHARE_OF_TRAINING),
        )
        print(f"step {skill.step}: {len(pictures)} samples", flush=True)


def _log_losses(client: Any, run_id: str, skill: Skill, seed: int) -> None:
    """The job's own curves, for the steps since the last samples."""
    import numpy as np
    from mlflow.entities import Metric

    chance = np.random.default_rng([seed, skill.step, 1])
    now = time.time_ns() // 1_000_000
    rate = 0.03 if skill.collapsed else 0.0003
    loss = (1.2 if skill.collapsed else 0.6 - 0.5 * skill.learnt) + 0.02 * chance.standard_normal(100)
    metrics = []
    for step in range(skill.step - STEPS_BETWEEN_SAMPLES + _LOSS_EVERY, skill.step + 1, _LOSS_EVERY):
        metrics.append(Metric("train/loss", float(loss[step % 100]), now, step))
        metrics.append(Metric("train/learning_rate", rate, now, step))
    client.log_batch(run_id, metrics=metrics)


def save_samples(folder: Path, pictures: Mapping[str, Image.Image], skill: Skill, *, seed: int, seconds: float) -> None:
    """Save what the restorer makes of each picture, one after the other, and a marker when all are there.

    A sample keeps its picture's name: that is how metrics such as ssim find its partner. seconds is the time to
    spread the saving over.
    """
    import numpy as np

    chance = np.random.default_rng([seed, skill.step])
    folder.mkdir()
    for name, picture in pictures.items():
        restore(picture, skill, chance).save(folder / name)
        time.sleep(seconds / len(pictures))
    # Optional: without it the set counts as complete once nothing in it has changed for a while.
    (folder / ".done").touch()


def write_atomically(file: Path, text: str) -> None:
    """Whoever reads the file sees nothing or all of it, never half an id."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.tmp")
    temporary.write_text(f"{text}\n", encoding="utf-8")
    os.replace(temporary, file)


def _load(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m metricwatch.cli.demo.trainer")
    parser.add_argument("--tracking-uri", required=True, help="the MLflow server")
    parser.add_argument("--experiment", default="demo", help="the MLflow experiment")
    parser.add_argument("--run-id-file", type=Path, required=True, help="where to write the id of the MLflow run")
    parser.add_argument("--pictures", type=Path, required=True, help="the pictures to restore")
    parser.add_argument("--samples", type=Path, required=True, help="where to save samples, a directory a step")
    parser.add_argument("--sample-sets", type=int, default=16, help="how many times to save samples")
    parser.add_argument("--seconds", type=float, default=3.5, help="time from one set of samples to the next")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
