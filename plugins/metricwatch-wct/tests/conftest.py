"""What the tests of this package share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from metricwatch_wct.encoder import Encoder
from metricwatch_wct.pretrained import load_encoder

pytest.register_assert_rewrite("metricwatch.testing")


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch hub cache, whatever the developer has in theirs."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    """The one with real weights that needs no download."""
    return load_encoder("st-vgg16")


@pytest.fixture
def chance() -> torch.Generator:
    return torch.Generator().manual_seed(7)
