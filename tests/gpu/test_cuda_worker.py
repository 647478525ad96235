"""The worker on a CUDA device gives what it gives on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from metricwatch.protocol import Configure, Evaluate, Ready, Result, Sampling
from tests.support.worker_client import WorkerClient

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


METRICS = (
    "fd_efficientnet_lite0",
    "kd_efficientnet_lite0",
    "fd_st_vgg16",
    "ssim",
    "st_lpips",
    "st_content_loss",
    "st_gram_style_loss",
)


def scores(worker: WorkerClient, images: Path, reference: Path) -> dict[str, float]:
    request = Evaluate(
        job=1,
        path=str(images),
        metrics=METRICS,
        reference=str(reference),
        content=str(reference),
        style=str(reference),
    )
    reply = worker.evaluate(request)
    assert isinstance(reply, Result), reply
    return {score.key: score.value for score in reply.evaluation.scores}


def test_exact_scores_do_not_depend_on_the_device(
    start_worker: Callable[..., WorkerClient], photos: Path, blurred_photos: Path
) -> None:
    found = {}
    for device in ("cpu", "cuda"):
        worker = start_worker(Configure(device=device))
        ready = worker.wait_for(Ready)
        assert ready.device.startswith(device)
        found[device] = scores(worker, blurred_photos, photos)
    for key, value in found["cpu"].items():
        assert found["cuda"][key] == pytest.approx(value, rel=1e-4)


def test_samples_of_a_checkpoint_do_not_depend_on_the_device(
    start_worker: Callable[..., WorkerClient], photos: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    program = torch.nn.Sequential(torch.nn.Linear(16, 3 * 32 * 32), torch.nn.Tanh(), torch.nn.Unflatten(1, (3, 32, 32)))
    torch.jit.save(torch.jit.script(program), tmp_path / "step_1.pt")
    request = Evaluate(
        job=1,
        path=str(tmp_path),
        members=("step_1.pt",),
        metrics=("fd_efficientnet_lite0",),
        reference=str(photos),
        sampling=Sampling(
            use="torchscript", options={"latent": [16]}, samples=12, batch_size=5, pins=str(tmp_path / "pins")
        ),
    )
    found = {}
    for device in ("cpu", "cuda"):
        reply = start_worker(Configure(device=device)).evaluate(request)
        assert isinstance(reply, Result), reply
        found[device] = reply.evaluation.scores[0].value
    assert found["cuda"] == pytest.approx(found["cpu"], rel=1e-3)
