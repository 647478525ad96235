"""A training job of a style transfer model, small enough to read in one sitting and to copy.

It trains the decoder that turns relu2_1 of VGG16 back into pictures: the part of universal style transfer that is
learnt. It logs its losses to MLflow, writes the id of its MLflow run to a file and saves a checkpoint every so many
steps. It knows nothing of who may be watching these files.

    python -m metricwatch_wct.example_training --tracking-uri http://127.0.0.1:5000 --pictures data/photos
        --run-id-file runs/wct/mlflow_run_id --checkpoints runs/wct/checkpoints
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow import MlflowClient
from mlflow.entities import Metric
from PIL import Image
from torch import Tensor

from metricwatch_wct.decoder import decode, decoders_of
from metricwatch_wct.losses import ReconstructionLoss
from metricwatch_wct.pretrained import load_encoder

LEVEL = "relu2_1"
CROP = 64
BATCH = 8
LEARNING_RATE = 1e-3
# The maps of st-vgg16 are small: with less, the decoder learns pixels long before it learns what makes a style.
FEATURE_WEIGHT = 10.0
LOG_EVERY = 5


def main() -> None:
    """Train, and end the MLflow run whatever happens."""
    arguments = read_arguments()
    # So that a stopped job ends its MLflow run, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    pictures = load_pictures(arguments.pictures)
    arguments.checkpoints.mkdir(parents=True, exist_ok=True)
    client = MlflowClient(tracking_uri=arguments.tracking_uri)
    run_id = create_run(client, arguments.experiment, arguments.run_name)
    try:
        write_atomically(arguments.run_id_file, run_id)
        train(client, run_id, pictures, arguments)
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id, "FINISHED")


def train(client: MlflowClient, run_id: str, pictures: list[Tensor], arguments: argparse.Namespace) -> None:
    """The training loop."""
    encoder = load_encoder(arguments.encoder)
    decoders = decoders_of([LEVEL])
    decoder: Any = decoders[LEVEL]
    loss = ReconstructionLoss(encoder, LEVEL, feature_weight=FEATURE_WEIGHT)
    optimizer = torch.optim.Adam(decoders.parameters(), lr=LEARNING_RATE)
    metrics: list[Metric] = []
    for step in range(1, arguments.steps + 1):
        began = time.monotonic()
        if step == arguments.accident_at:
            # The accident to be found: a learning rate that somebody meant for another optimizer.
            for group in optimizer.param_groups:
                group["lr"] *= arguments.accident
        batch = random_crops(pictures)
        with torch.no_grad():
            maps = encoder(batch, LEVEL)[LEVEL]
        parts = loss(decode(encoder, decoder, maps, CROP, CROP), batch, maps)
        optimizer.zero_grad()
        parts.total.backward()
        optimizer.step()

        values = {
            "train/loss": parts.total.item(),
            "train/pixels": parts.pixels.item(),
            "train/features": parts.features.item(),
        }
        values["train/learning_rate"] = optimizer.param_groups[0]["lr"]
        now = time.time_ns() // 1_000_000
        metrics += [Metric(key, value, now, step) for key, value in values.items()]
        if step % LOG_EVERY == 0 or step == arguments.steps:
            client.log_batch(run_id, metrics=metrics)
            metrics = []
        if step % arguments.save_every == 0 or step == arguments.steps:
            checkpoint = {"decoders": decoders.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            save_atomically(arguments.checkpoints / f"step_{step:06}.pt", checkpoint)
            print(f"step {step}: loss {parts.total.item():.4f}", flush=True)
        time.sleep(max(0.0, began + arguments.seconds_per_step - time.monotonic()))


def random_crops(pictures: list[Tensor]) -> Tensor:
    """Float (BATCH, 3, CROP, CROP) in 0..1, each from a picture by chance, at a place by chance."""
    crops = []
    for index in torch.randint(len(pictures), (BATCH,)).tolist():
        picture = pictures[index]
        top, left = (int(torch.randint(side - CROP + 1, ())) for side in picture.shape[1:])
        crops.append(picture[:, top : top + CROP, left : left + CROP])
    return torch.stack(crops).float() / 255.0


def load_pictures(folder: Path) -> list[Tensor]:
    """The PNG and JPEG pictures of a folder: uint8 (3, H, W), enlarged where a side is under CROP."""
    pictures = []
    for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in {".png", ".jpg", ".jpeg"}):
        with Image.open(path) as image:
            width, height = image.size
            scale = max(1.0, CROP / min(width, height))
            size = (round(width * scale), round(height * scale))
            pixels = np.array(image.convert("RGB").resize(size))
        pictures.append(torch.from_numpy(pixels).permute(2, 0, 1))
    if not pictures:
        sys.exit(f"{folder} holds no PNG or JPEG picture to train on")
    return pictures


def create_run(client: MlflowClient, experiment: str, name: str) -> str:
    """A new MLflow run's id."""
    found = client.get_experiment_by_name(experiment)
    identity = found.experiment_id if found else client.create_experiment(experiment)
    return str(client.create_run(identity, run_name=name).info.run_id)


def write_atomically(file: Path, text: str) -> None:
    """Whoever reads the file sees nothing or all of it, never half an id."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.tmp")
    temporary.write_text(f"{text}\n", encoding="utf-8")
    os.replace(temporary, file)


def save_atomically(file: Path, checkpoint: dict[str, Any]) -> None:
    """The same for a checkpoint: it is there whole, or not there."""
    temporary = file.with_name(f".{file.name}.tmp")
    torch.save(checkpoint, temporary)
    os.replace(temporary, file)


def read_arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="python -m metricwatch_wct.example_training")
    parser.add_argument("--tracking-uri", required=True, help="the MLflow server")
    parser.add_argument("--experiment", default="style-transfer", help="the MLflow experiment")
    parser.add_argument("--run-name", default="wct", help="the MLflow run's name")
    parser.add_argument("--run-id-file", type=Path, required=True, help="where to write the id of the MLflow run")
    parser.add_argument("--checkpoints", type=Path, required=True, help="where to save checkpoints")
    parser.add_argument("--pictures", type=Path, required=True, help="a folder of PNG or JPEG pictures to train on")
    parser.add_argument("--encoder", default="auto", choices=("auto", "vgg16", "st-vgg16"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--save-every", type=int, default=15, help="steps from one checkpoint to the next")
    parser.add_argument("--accident-at", type=int, default=0, help="the step at which the accident happens; 0: never")
    parser.add_argument("--accident", type=float, default=1000.0, help="what it multiplies the learning rate by")
    parser.add_argument("--seconds-per-step", type=float, default=0.0, help="take at least as long for each step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
