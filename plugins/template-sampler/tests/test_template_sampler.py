"""The sampler keeps the contract of samplers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from metricwatch_template_sampler import TemplateSampler, TemplateSamplerOptions
from metricwatch_template_sampler.decoder import Decoder

from metricwatch import catalog
from metricwatch.api import Checkpoint, ConfigError, Sampler
from metricwatch.testing.sampler import SamplerContract


def save(folder: Path, seed: int, latent: int = 16) -> Checkpoint:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        decoder = Decoder(latent)
    torch.save({"decoder": decoder.state_dict(), "step": 100}, folder / "step_100.pt")
    return Checkpoint(path=str(folder / "step_100.pt"), name="step_100.pt", step=100)


class TestTemplateSampler(SamplerContract):
    def make(self) -> Sampler:
        return TemplateSampler(TemplateSamplerOptions(at="decoder"))

    def checkpoint(self, folder: Path) -> Checkpoint:
        return save(folder, seed=0)

    def other_checkpoint(self, folder: Path) -> Checkpoint:
        return save(folder, seed=1)

    def foreign_checkpoint(self, folder: Path) -> Checkpoint:
        return save(folder, seed=0, latent=8)


def test_noise_without_length_is_refused() -> None:
    with pytest.raises(ConfigError, match="latent"):
        TemplateSamplerOptions(latent=0)


def test_metricwatch_finds_it() -> None:
    assert catalog.load_sampler("template_sampler") is TemplateSampler
