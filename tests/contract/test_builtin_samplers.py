"""The samplers that come with the package keep the contract that plugins are held to, on generators made here."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from metricwatch.api import Checkpoint, ConfigError, InputError, Sampler, SampleRequest, SamplerSpec
from metricwatch.config.options import bind_options
from metricwatch.samplers.python import PythonSampler
from metricwatch.samplers.safetensors import SafetensorsSampler
from metricwatch.samplers.torch_export import TorchExportSampler
from metricwatch.samplers.torchscript import TorchScriptSampler
from metricwatch.testing.sampler import SamplerContract

LATENT = 8
# What a user has in a folder of theirs: the network, and functions that sample it.
SOURCE = """
import json

import torch
from torch import nn


def build(latent=8, side=16):
    return nn.Sequential(nn.Linear(latent, 3 * side * side), nn.Tanh(), nn.Unflatten(1, (3, side, side)))


def sample(checkpoint, device, latent=8):
    module = build(latent)
    checkpoint.load_into(module)
    module.to(device).eval()
    return lambda request: (module(request.noise(latent)) + 1) / 2


def stylise(checkpoint, device):
    colours = checkpoint.weights()["0.bias"][:3, None, None].to(device)

    def make(request):
        pairs = zip(request.content, request.style)
        return [(content + colours * style.float().mean((1, 2), keepdim=True)).sigmoid() for content, style in pairs]

    return make


def badly(checkpoint, device, what="raise"):
    if what == "open":
        raise KeyError("generator")
    if what == "number":
        return 3

    def make(request):
        if what == "library":
            json.loads("{")
        if what == "raise":
            raise ValueError("no such layer")
        return {"none": None, "few": torch.zeros(1, 3, 4, 4), "flat": torch.zeros(len(request), 48),
                "mapping": {"images": 1}, "ints": torch.zeros(len(request), 3, 4, 4).long(),
                "texts": ["a"] * len(request), "wide": torch.zeros(len(request), 4, 4, 3)}[what]

    return make


def nothing():
    return None
"""


def generator(seed: int, latent: int = LATENT, side: int = 16) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(latent, 3 * side * side), nn.Tanh(), nn.Unflatten(1, (3, side, side))).eval()


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    (folder / "the_users_models.py").write_text(SOURCE)
    return folder


def save_script(folder: Path, module: nn.Module, latent: int = LATENT) -> Checkpoint:
    path = folder / "step_100.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(module, torch.zeros(2, latent)), str(path))
    return Checkpoint(path=str(path), name="step_100.pt", step=100)


def save_export(folder: Path, module: nn.Module, batch: int = 3, *, dynamic: bool = False) -> Checkpoint:
    path = folder / "step_100.pt2"
    shapes = ({0: torch.export.Dim("batch", min=2, max=3)},) if dynamic else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        latent = next(module.parameters()).shape[1]
        torch.export.save(torch.export.export(module, (torch.zeros(batch, latent),), dynamic_shapes=shapes), path)
    return Checkpoint(path=str(path), name="step_100.pt2", step=100)


def save_state(folder: Path, module: nn.Module) -> Checkpoint:
    path = folder / "step_100.safetensors"
    save_file(module.state_dict(), path)
    return Checkpoint(path=str(path), step=100)


def request(count: int) -> SampleRequest:
    return SampleRequest(names=tuple(map(str, range(count))), seeds=tuple(range(count)))


class TestTorchScript(SamplerContract):
    def make(self) -> Sampler:
        return TorchScriptSampler(TorchScriptSampler.Options(latent=(LATENT,)))

    def checkpoint(self, folder: Path) -> Checkpoint:
        return save_script(folder, generator(1))

    def other_checkpoint(self, folder: Path) -> Checkpoint:
        return save_script(folder, generator(2))

    def foreign_checkpoint(self, folder: Path) -> Checkpoint:
        return save_script(folder, generator(1, latent=5), latent=5)


class TestTorchExport(SamplerContract):
    def make(self) -> Sampler:
        return TorchExportSampler(TorchExportSampler.Options(latent=(LATENT,), trusted=True))

    def checkpoint(self, folder: Path) -> Checkpoint:
        return save_export(folder, generator(1))

    def other_checkpoint(self, folder: Path) -> Checkpoint:
        return save_export(folder, generator(2), dynamic=True)

    def foreign_checkpoint(self, folder: Path) -> Checkpoint:
        return save_export(folder, generator(1, latent=5))


class TestSafetensors(SamplerContract):
    @pytest.fixture(autouse=True)
    def folder_of_sources(self, sources: Path) -> None:
        self.sources = sources

    def make(self) -> Sampler:
        options = SafetensorsSampler.Options(factory="the_users_models:build", path=self.sources, latent=(LATENT,))
        return SafetensorsSampler(options)

    def checkpoint(self, folder: Path) -> Checkpoint:
        return save_state(folder, generator(1))

    def other_checkpoint(self, folder: Path) -> Checkpoint:
        torch.save({"g_ema": generator(2).state_dict(), "g": generator(1).state_dict()}, folder / "step_200.pt")
        return Checkpoint(path=str(folder / "step_200.pt"), step=200)

    def foreign_checkpoint(self, folder: Path) -> Checkpoint:
        return save_state(folder, generator(1, side=8))


class TestPython(TestSafetensors):
    def make(self) -> Sampler:
        return PythonSampler(PythonSampler.Options(function="the_users_models:sample", path=self.sources))


class TestPythonWithPartners(TestPython):
    def make(self) -> Sampler:
        options = PythonSampler.Options(
            function="the_users_models:stylise", path=self.sources, needs=("content", "style"), random=False
        )
        return PythonSampler(options)

    def foreign_checkpoint(self, folder: Path) -> Checkpoint:
        return save_state(folder, nn.Conv2d(3, 3, 1))


@pytest.mark.parametrize("dynamic", [False, True], ids=["one size", "two or three"])
def test_an_exported_program_takes_any_number_of_samples_whatever_its_own_batches_are(tmp_path, dynamic):
    module = generator(1)
    sampler = TorchExportSampler(TorchExportSampler.Options(latent=(LATENT,), trusted=True))
    sampler.open(save_export(tmp_path, module, dynamic=dynamic), "cpu")
    for count in (1, 2, 7):
        made = torch.stack(list(sampler.sample(request(count))))
        with torch.no_grad():
            expected = (module(request(count).noise(LATENT)) + 1) / 2
        assert torch.allclose(made, expected, atol=1e-6)


def test_an_exported_program_is_not_loaded_before_its_writers_are_said_to_be_trusted():
    with pytest.raises(ConfigError, match="trusted: true"):
        TorchExportSampler.Options(latent=(LATENT,))


def test_the_range_of_a_network_becomes_0_to_1(tmp_path):
    class Levels(nn.Module):
        def forward(self, noise: torch.Tensor) -> torch.Tensor:
            return torch.linspace(0, 255, 12).reshape(1, 3, 2, 2).expand(noise.shape[0], 3, 2, 2)

    sampler = TorchScriptSampler(TorchScriptSampler.Options(latent=(LATENT,), range=(0, 255)))
    sampler.open(save_script(tmp_path, Levels()), "cpu")
    (made,) = sampler.sample(request(1))
    assert torch.allclose(made.flatten(), torch.linspace(0, 1, 12))


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("raise", r"the_users_models\.py:\d+ in make: ValueError: no such layer"),
        ("library", r"the_users_models\.py:\d+ in make: JSONDecodeError"),
        ("open", r"the_users_models\.py:\d+ in badly: KeyError: 'generator'"),
        ("number", "gave a int; wanted is a function"),
        ("none", "gave None; wanted are pictures"),
        ("few", "gave 1 pictures; 2 were asked for"),
        ("flat", r"tensor of shape \(2, 48\)"),
        ("mapping", "dictionary with the keys images"),
        ("ints", "torch.int64; wanted are values of 0..1, or uint8"),
        ("texts", "gave a str as a picture"),
        ("wide", r"picture of shape \(4, 4, 3\); wanted is \(3 or 1, H, W\)"),
    ],
)
def test_what_a_users_function_does_wrong_is_said_with_the_place(tmp_path, sources, what, said):
    options = PythonSampler.Options(function="the_users_models:badly", path=sources, arguments={"what": what})
    sampler = PythonSampler(options)
    checkpoint = save_state(tmp_path, generator(1))

    def use() -> None:
        sampler.open(checkpoint, "cpu")
        sampler.sample(request(2))

    with pytest.raises(InputError, match=said):
        use()


def test_memory_that_ran_out_in_a_users_function_stays_what_it_is(tmp_path, sources):
    (sources / "the_hungry_models.py").write_text("def sample(checkpoint, device):\n    raise MemoryError\n")
    sampler = PythonSampler(PythonSampler.Options(function="the_hungry_models:sample", path=sources))
    with pytest.raises(MemoryError):
        sampler.open(save_state(tmp_path, generator(1)), "cpu")


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("no_such_models:sample", "there is no module no_such_models in"),
        ("the_users_models:paint", "has no function paint"),
        ("json:loads", "there is no module json in"),
        ("the_broken_models:sample", r"the_broken_models\.py:2: .*was never closed"),
    ],
)
def test_a_function_that_is_not_there_is_an_error_of_the_configuration(tmp_path, sources, function, said):
    (sources / "the_broken_models.py").write_text("import os\nprint(\n")
    with pytest.raises(ConfigError, match=said):
        PythonSampler(PythonSampler.Options(function=function, path=sources)).open(
            save_state(tmp_path, generator(1)), "cpu"
        )


@pytest.mark.parametrize("cls", [TorchScriptSampler, TorchExportSampler])
def test_a_checkpoint_of_another_kind_is_told_with_the_sampler_to_use(tmp_path, cls):
    options = {"latent": (LATENT,)} | ({"trusted": True} if cls is TorchExportSampler else {})
    with pytest.raises(InputError, match=r"but of the kind 'safetensors'; weights are read by the"):
        cls(cls.Options(**options)).open(save_state(tmp_path, generator(1)), "cpu")


def test_a_factory_must_give_a_module(tmp_path, sources):
    options = SafetensorsSampler.Options(factory="the_users_models:nothing", path=sources, latent=(LATENT,))
    with pytest.raises(ConfigError, match=r"gave a NoneType; wanted is a torch\.nn\.Module"):
        SafetensorsSampler(options).open(save_state(tmp_path, generator(1)), "cpu")


def test_the_file_of_a_users_function_is_part_of_what_samples_hang_on(tmp_path, sources):
    (sources / "the_dated_models.py").write_text(SOURCE)
    sampler = PythonSampler(PythonSampler.Options(function="the_dated_models:sample", path=str(sources)))
    sampler.open(save_state(tmp_path, generator(1)), "cpu")
    name, digest = sampler.identity().split()
    assert name == "the_dated_models:sample"
    assert len(digest) == 12


@pytest.mark.parametrize(
    ("cls", "raw", "said"),
    [
        (TorchScriptSampler, {}, "latent"),
        (TorchScriptSampler, {"latent": []}, "shape of one noise vector"),
        (TorchScriptSampler, {"latent": [0]}, "shape of one noise vector"),
        (TorchScriptSampler, {"latent": [8], "range": [1, 1]}, "lowest and the highest"),
        (PythonSampler, {"function": "models.py"}, "module:function"),
        (PythonSampler, {"function": "models:build", "needs": ["reference"]}, "needs"),
        (PythonSampler, {"function": "json:loads", "arguments": {"device": "cpu"}}, "is given anyway"),
        (PythonSampler, {"function": "no_such_models:build"}, "no module no_such_models; name its folder in path"),
        (PythonSampler, {"function": "models:build", "path": "nowhere"}, "nowhere, which is no folder"),
        (SafetensorsSampler, {"latent": [8], "factory": "models"}, "module:function"),
        (SafetensorsSampler, {"latent": [8], "factory": "models:build", "ema": "maybe"}, "ema"),
        (TorchExportSampler, {"latent": [8]}, "trusted: true"),
    ],
)
def test_options_that_cannot_work_are_refused_where_they_are_written(cls, raw, said):
    with pytest.raises(ConfigError, match=said):
        bind_options(cls.Options, raw, "metricwatch.yaml: watch[0].sampler")


def test_options_can_be_written_in_a_file(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "models.py").touch()
    raw = {"factory": "models:build", "latent": [4, 1, 1], "range": [0, 1], "path": "src", "arguments": {"width": 4}}
    options = bind_options(SafetensorsSampler.Options, raw, "sampler", base=tmp_path)
    assert options.path == tmp_path / "src"
    assert dataclasses.asdict(options)["arguments"] == {"width": 4}
    assert options.latent == (4, 1, 1)


# --- the kit itself ----------------------------------------------------------------------------------------


class CarelessSampler(Sampler):
    """Keeps the contract, but for one fault."""

    spec = SamplerSpec(needs=frozenset({"content"}))

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.module: nn.Module | None = None
        self.calls = 0

    def open(self, checkpoint: Checkpoint, device: str) -> None:
        if self.module is not None and self.fault == "keeps the first checkpoint":
            return
        self.module = generator(5)
        if self.fault == "takes anything":
            return
        module = generator(5)
        checkpoint.load_into(module)
        if self.fault != "ignores the weights":
            self.module = module

    def close(self) -> None:
        if self.fault == "closes once":
            del self.module

    def sample(self, request: SampleRequest) -> list[torch.Tensor]:
        self.calls += 1
        noise = request.noise(LATENT)
        if self.fault == "draws its own noise":
            noise = torch.randn(noise.shape)
        if self.fault == "goes on from call to call":
            noise = noise + self.calls
        if self.fault == "mixes samples":
            noise = noise - noise.mean(0)
        if self.fault == "ignores the seed":
            noise = torch.ones_like(noise)
        made = (self.module(noise) + 1) / 2
        if self.fault == "writes into the partners":
            request.content[0].zero_()
        if self.fault == "has the range -1..1":
            made = made * 2 - 1
        if self.fault == "puts colours last":
            made = made.movedim(1, -1)
        if self.fault == "makes one too few":
            made = made[1:]
        return list(made)


@pytest.mark.parametrize(
    ("fault", "test"),
    [
        ("keeps the first checkpoint", "test_another_checkpoint_gives_other_pictures"),
        ("ignores the weights", "test_another_checkpoint_gives_other_pictures"),
        ("takes anything", "test_a_checkpoint_of_another_model_is_refused_by_its_name"),
        ("closes once", "test_closing_twice_and_opening_again_is_fine"),
        ("draws its own noise", "test_the_same_seeds_give_the_same_pictures"),
        ("goes on from call to call", "test_the_same_seeds_give_the_same_pictures"),
        ("mixes samples", "test_portions_do_not_matter"),
        ("ignores the seed", "test_the_seed_matters_just_where_the_spec_says_so"),
        ("writes into the partners", "test_a_request_is_left_as_it_was"),
        ("has the range -1..1", "test_floating_point_pictures_lie_between_0_and_1"),
        ("puts colours last", "test_each_name_gets_one_picture"),
        ("makes one too few", "test_each_name_gets_one_picture"),
    ],
)
def test_the_kit_finds_a_careless_sampler(tmp_path, fault, test):
    class Kit(TestSafetensors):
        def make(self) -> Sampler:
            return CarelessSampler(self.fault)

    kit = Kit()
    kit.fault = "none"
    (tmp_path / "good").mkdir()
    getattr(kit, test)(tmp_path / "good")
    kit.fault = fault
    (tmp_path / "bad").mkdir()
    with pytest.raises((AssertionError, AttributeError, pytest.fail.Exception)):
        getattr(kit, test)(tmp_path / "bad")
