"""Our FID is pytorch-fid's FID: the same weights, the same photographs, two programs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from metricwatch.protocol import Configure, Evaluate, Result
from tests.support.photos import write_crops
from tests.support.worker_client import WorkerClient

IMAGES = 64
RELATIVE = 1e-4


def pytorch_fid(first: Path, second: Path, weights: Path, *options: str) -> str:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytorch_fid",
            str(first),
            str(second),
            "--device",
            "cpu",
            "--num-workers",
            "0",
            *options,
        ],
        # Its matrix square root on several threads takes many times longer on a machine that is busy.
        env={**os.environ, "TORCH_HOME": str(weights.parents[2]), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_fid_equals_pytorch_fids_own_command_line(
    tmp_path: Path, inception_weights: Path, start_worker: Callable[..., WorkerClient]
) -> None:
    """Two sets of 64 crops of photographs; also through statistics that pytorch-fid saved itself."""
    reference = write_crops(tmp_path / "reference", IMAGES, side=160, seed=10)
    samples = write_crops(tmp_path / "samples", IMAGES, side=144, seed=11, blur=1.0)
    statistics = tmp_path / "reference.npz"
    pytorch_fid(reference, statistics, inception_weights, "--save-stats")
    printed = pytorch_fid(samples, statistics, inception_weights)
    found = re.search(r"FID:\s+(\S+)", printed)
    assert found, printed
    expected = float(found[1])

    worker = start_worker(Configure(device="cpu", weights={"inception-v3": str(inception_weights)}))
    values = []
    for source in (reference, statistics):
        reply = worker.evaluate(Evaluate(job=1, path=str(samples), metrics=("fid",), reference=str(source)))
        assert isinstance(reply, Result), reply
        (score,) = reply.evaluation.scores
        assert score.value is not None, score.detail
        values.append(score.value)
    print("pytorch-fid", expected, "ours", values, [abs(value / expected - 1) for value in values])
    assert expected > 0
    assert values == pytest.approx([expected, expected], rel=RELATIVE)


def test_features_equal_pytorch_fids_network(inception_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Image by image and for every size, below and above 299, the 2048 numbers agree."""
    import torch
    from pytorch_fid.inception import InceptionV3
    from torchvision.transforms.functional import to_tensor

    from metricwatch import extractors
    from metricwatch.worker import networks
    from metricwatch.worker.engines import EagerEngine
    from tests.support.photos import crops

    monkeypatch.setenv("TORCH_HOME", str(inception_weights.parents[2]))
    theirs = InceptionV3([3]).eval()
    spec = extractors.find("inception-v3")
    ours = EagerEngine(spec, networks.load(spec, str(inception_weights)), "pytorch-fid", torch.device("cpu"))
    pictures = [crops(1, side=side, seed=side)[0] for side in (64, 299, 300, 64)]
    with torch.inference_mode():
        expected = torch.cat([theirs(to_tensor(picture.copy())[None])[0].flatten(1) for picture in pictures])
    found = ours.features([torch.from_numpy(picture.copy()).permute(2, 0, 1) for picture in pictures])
    assert found.shape == (4, spec.dimensions)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
