"""The sampler: the contract of all samplers, and what is its own."""

from __future__ import annotations

import ast
import dataclasses
import functools
from pathlib import Path

import pytest
import torch
from metricwatch.api import Checkpoint, ConfigError, InputError, MissingWeightsError, SampleRequest
from metricwatch.testing.sampler import SamplerContract

import metricwatch_wct
from metricwatch_wct import pretrained
from metricwatch_wct.decoder import decoders_of
from metricwatch_wct.sampler import WctOptions, WctSampler

loaded_once = functools.cache(pretrained.load_encoder)


@pytest.fixture(autouse=True)
def _encoder_in_reserve(monkeypatch):
    """The real encoder, read once for all: each sampler here is a new one."""
    monkeypatch.setattr(pretrained, "load_encoder", loaded_once)


def write_checkpoint(folder: Path, levels=("relu1_1", "relu2_1"), seed: int = 0, wrapped: str = "") -> Checkpoint:
    """Decoders as a training job saves them, untrained, whose pictures lie around a grey."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        decoders = decoders_of(levels)
    for decoder in decoders.values():
        torch.nn.init.normal_(decoder[-1].weight, std=0.05, generator=torch.Generator().manual_seed(seed))
        torch.nn.init.constant_(decoder[-1].bias, 0.5)
    state = {f"{wrapped}{name}": weight for name, weight in decoders.state_dict().items()}
    path = folder / f"step_{seed:06}.pt"
    torch.save({"decoders": state, "step": seed}, path)
    return Checkpoint(path=str(path), name=path.name, step=seed)


def request_of(*sizes: tuple[int, int]) -> SampleRequest:
    chance = torch.Generator().manual_seed(5)
    content = tuple(torch.randint(256, (3, *size), generator=chance, dtype=torch.uint8) for size in sizes)
    style = tuple(torch.randint(256, (3, 30, 41), generator=chance, dtype=torch.uint8) for _ in sizes)
    names = tuple(str(index) for index in range(len(sizes)))
    return SampleRequest(names=names, seeds=(0,) * len(sizes), content=content, style=style)


def samples(checkpoint: Checkpoint, request: SampleRequest, **options) -> list[torch.Tensor]:
    sampler = WctSampler(WctOptions(encoder="st-vgg16", **options))
    sampler.open(checkpoint, "cpu")
    with torch.no_grad():
        return list(sampler.sample(request))


class TestWctSampler(SamplerContract):
    def make(self) -> WctSampler:
        return WctSampler(WctOptions(encoder="st-vgg16"))

    def checkpoint(self, folder: Path) -> Checkpoint:
        return write_checkpoint(folder)

    def other_checkpoint(self, folder: Path) -> Checkpoint:
        return write_checkpoint(folder, seed=1)

    def foreign_checkpoint(self, folder: Path) -> Checkpoint:
        path = folder / "gan.pt"
        torch.save({"generator": torch.nn.Linear(3, 4).state_dict()}, path)
        return Checkpoint(path=str(path), name=path.name)


def test_it_is_found_by_its_name():
    from importlib.metadata import entry_points

    (entry,) = entry_points(group="metricwatch.samplers", name="wct")
    assert entry.load() is WctSampler


@pytest.mark.parametrize("levels", [("relu1_1",), ("relu3_1",), ("relu1_1", "relu2_1", "relu3_1", "relu4_1")])
def test_samples_have_the_size_of_their_content(tmp_path, levels):
    sizes = ((48, 64), (33, 50), (16, 16), (5, 71))
    made = samples(write_checkpoint(tmp_path, levels), request_of(*sizes))
    assert [tuple(picture.shape) for picture in made] == [(3, *size) for size in sizes]
    assert all(bool(picture.isfinite().all()) for picture in made)


def test_a_size_bounds_the_work_and_not_the_result(tmp_path):
    checkpoint, request = write_checkpoint(tmp_path), request_of((60, 90), (20, 24))
    (small, same), (whole, as_before) = samples(checkpoint, request, size=45), samples(checkpoint, request)
    assert small.shape == whole.shape == (3, 60, 90)
    assert float((small - whole).abs().mean()) > 0.01
    assert torch.allclose(same, as_before, atol=1e-5)


def test_levels_choose_among_the_decoders(tmp_path):
    both, request = write_checkpoint(tmp_path), request_of((32, 40))
    (fine,) = samples(both, request, levels=("relu1_1",))
    (all_of_them,) = samples(both, request)
    assert float((fine - all_of_them).abs().max()) > 0.01
    with pytest.raises(InputError, match=r"step_000000\.pt: no decoder for relu4_1, there is one for relu1_1, relu2_1"):
        samples(both, request, levels=("relu4_1",))


def test_alpha_0_is_the_reconstruction_of_the_content_whatever_the_style(tmp_path):
    checkpoint, request = write_checkpoint(tmp_path), request_of((32, 40))
    other = dataclasses.replace(request, style=(255 - request.style[0] // 2,))
    assert torch.equal(samples(checkpoint, request, alpha=0.0)[0], samples(checkpoint, other, alpha=0.0)[0])
    assert not torch.equal(samples(checkpoint, request, alpha=0.5)[0], samples(checkpoint, other, alpha=0.5)[0])


@pytest.mark.parametrize("wrapped", ["module.", "_orig_mod."])
def test_wrappers_around_the_names_do_not_matter(tmp_path, wrapped):
    request = request_of((32, 40))
    plain = samples(write_checkpoint(tmp_path), request)
    (tmp_path / "wrapped").mkdir()
    assert torch.equal(plain[0], samples(write_checkpoint(tmp_path / "wrapped", wrapped=wrapped), request)[0])


def test_a_broken_decoder_gives_broken_pictures_and_no_error(tmp_path):
    checkpoint = write_checkpoint(tmp_path)
    tree = torch.load(checkpoint.path, weights_only=True)
    tree["decoders"]["relu2_1.0.bias"].fill_(torch.nan)
    torch.save(tree, checkpoint.path)
    (made,) = samples(checkpoint, request_of((32, 40)))
    assert made.shape == (3, 32, 40)
    assert not bool(made.isfinite().all())


def test_a_decoder_of_other_widths_is_refused_with_what_does_not_match(tmp_path):
    checkpoint = write_checkpoint(tmp_path)
    tree = torch.load(checkpoint.path, weights_only=True)
    tree["decoders"]["relu2_1.0.weight"] = torch.zeros(32, 128, 3, 3)
    torch.save(tree, checkpoint.path)
    with pytest.raises(InputError, match=r"relu2_1\.0\.weight") as raised:
        samples(checkpoint, request_of((32, 40)))
    assert checkpoint.name in str(raised.value)


def test_parameters_of_no_decoder_are_refused_by_name(tmp_path):
    path = tmp_path / "step_000001.pt"
    torch.save({"decoders": torch.nn.Linear(3, 4).state_dict()}, path)
    with pytest.raises(InputError, match=r"step_000001\.pt: no decoder at 'decoders', there is bias, weight"):
        samples(Checkpoint(path=str(path)), request_of((32, 40)))


def test_identity_says_which_encoder_with_which_weights(tmp_path, encoder):
    sampler = WctSampler()
    assert sampler.identity() == ""
    sampler.open(write_checkpoint(tmp_path), "cpu")
    assert sampler.identity() == f"st-vgg16 {encoder.digest[:12]}"


def test_missing_weights_say_what_to_do(tmp_path):
    sampler = WctSampler(WctOptions(encoder="vgg16"))
    with pytest.raises(MissingWeightsError, match=r"vgg16-397923af\.pth is not there.*metricwatch-wct\[offline\]"):
        sampler.open(write_checkpoint(tmp_path), "cpu")
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"no weights")
    with pytest.raises(InputError, match=r"broken\.pth is damaged"):
        WctSampler(WctOptions(encoder="vgg16", encoder_weights=broken)).open(write_checkpoint(tmp_path), "cpu")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"alpha": 1.5}, "from 0 to 1"),
        ({"alpha": float("nan")}, "from 0 to 1"),
        ({"levels": ("relu2_1", "relu5_1")}, "relu5_1; known: relu1_1"),
        ({"size": 8}, "at least 16"),
        ({"encoder_weights": Path("vgg.pth")}, "encoder: vgg16 or"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options, complaint):
    with pytest.raises(ConfigError, match=complaint):
        WctOptions(**options)


@pytest.mark.parametrize("module", ["decoder", "encoder", "example_training", "losses", "pretrained", "stylise", "wct"])
def test_the_training_side_does_without_metricwatch(module):
    tree = ast.parse((Path(metricwatch_wct.__file__).parent / f"{module}.py").read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not {name for name in imported if name.split(".")[0] == "metricwatch" or name == "metricwatch_wct.sampler"}
