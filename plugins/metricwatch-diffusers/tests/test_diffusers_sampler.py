"""The samplers keep the contract of samplers, on tiny pipelines written to disk, and sample what the pipeline itself does."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
import tiny_pipelines
import torch
from diffusers import DDPMPipeline, StableDiffusionPipeline
from metricwatch.api import Checkpoint, ConfigError, InputError, Sampler, SampleRequest
from metricwatch.testing.sampler import SamplerContract

from metricwatch_diffusers import DiffusersOptions, DiffusersSampler, UnconditionalDiffusersSampler

PROMPTS = ("a photo of 2 apples", "b", "a photo of 4 apples")
REQUEST = SampleRequest(names=("0", "1", "2"), seeds=(7, 8, 9))
PROMPTED = SampleRequest(names=("0", "1", "2"), seeds=(7, 8, 9), prompts=PROMPTS)


@cache
def written(kind: str, seed: int) -> Path:
    """A pipeline's folder, to be copied: written once, for it takes longer than to sample it."""
    folder = Path(tempfile.mkdtemp(prefix="tiny-pipelines-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if kind == "unconditional":
        tiny_pipelines.unconditional(seed).save_pretrained(folder)
    else:
        tiny_pipelines.text_to_image(seed).save_pretrained(folder)
    return folder


def save_unconditional(folder: Path, seed: int = 0) -> Checkpoint:
    shutil.copytree(written("unconditional", seed), folder / "step-100")
    return Checkpoint(path=str(folder / "step-100"), name="step-100", step=100)


def save_text_to_image(folder: Path, seed: int = 0) -> Checkpoint:
    shutil.copytree(written("text_to_image", seed), folder / "step-100")
    return Checkpoint(path=str(folder / "step-100"), name="step-100", step=100)


def save_part(folder: Path, seed: int = 0, *, channels: int = 16, name: str = "unet") -> Checkpoint:
    """As the training scripts of diffusers write it."""
    tiny_pipelines.conditional_unet(seed, channels=channels).save_pretrained(folder / "checkpoint-100" / name)
    return Checkpoint(path=str(folder / "checkpoint-100"), name="checkpoint-100", step=100)


def sampled(sampler: Sampler, checkpoint: Checkpoint, request: SampleRequest) -> torch.Tensor:
    sampler.open(checkpoint, "cpu")
    return torch.stack(list(sampler.sample(request)))


def refusal(sampler: Sampler, checkpoint: Checkpoint) -> str:
    with pytest.raises(InputError) as raised:
        sampler.open(checkpoint, "cpu")
    return str(raised.value)


class TestUnconditional(SamplerContract):
    def make(self) -> Sampler:
        return UnconditionalDiffusersSampler(DiffusersOptions(steps=2))

    def checkpoint(self, folder: Path) -> Checkpoint:
        return save_unconditional(folder)

    def other_checkpoint(self, folder: Path) -> Checkpoint:
        return save_unconditional(folder, seed=1)

    def foreign_checkpoint(self, folder: Path) -> Checkpoint:
        return save_text_to_image(folder)


class TestTextToImage(SamplerContract):
    def make(self) -> Sampler:
        return DiffusersSampler(DiffusersOptions(steps=2, guidance_scale=3.0, eta=1.0))

    def checkpoint(self, folder: Path) -> Checkpoint:
        return save_text_to_image(folder)

    def other_checkpoint(self, folder: Path) -> Checkpoint:
        return save_text_to_image(folder, seed=1)

    def foreign_checkpoint(self, folder: Path) -> Checkpoint:
        return save_unconditional(folder)


class TestTrainedPartWithABase(SamplerContract):
    base: ClassVar[Path]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def write_base(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        cls.base = Path(save_text_to_image(tmp_path_factory.mktemp("base"), seed=5).path)

    def make(self) -> Sampler:
        return DiffusersSampler(DiffusersOptions(steps=2, base=self.base))

    def checkpoint(self, folder: Path) -> Checkpoint:
        return save_part(folder)

    def other_checkpoint(self, folder: Path) -> Checkpoint:
        return save_part(folder, seed=1)

    def foreign_checkpoint(self, folder: Path) -> Checkpoint:
        return save_part(folder, channels=8)

    def test_it_samples_what_the_base_samples_with_that_part(self, tmp_path: Path) -> None:
        pipeline = StableDiffusionPipeline.from_pretrained(self.base, safety_checker=None)
        pipeline.unet = tiny_pipelines.conditional_unet(3)
        pipeline.set_progress_bar_config(disable=True)
        expected = pipeline(
            list(PROMPTS), num_inference_steps=2, generator=PROMPTED.generators(), output_type="pt"
        ).images
        sampler = self.make()
        sampled(sampler, save_part(tmp_path / "earlier", seed=1), PROMPTED)
        assert torch.equal(sampled(sampler, save_part(tmp_path, seed=3), PROMPTED), expected)

    def test_the_rest_is_loaded_once(self, tmp_path: Path) -> None:
        sampler = self.make()
        sampled(sampler, save_part(tmp_path / "1"), PROMPTED)
        encoder, unet = sampler._pipeline.text_encoder, sampler._pipeline.unet
        sampler.close()
        sampled(sampler, save_part(tmp_path / "2", seed=1), PROMPTED)
        assert sampler._pipeline.text_encoder is encoder
        assert sampler._pipeline.unet is not unet

    def test_the_part_may_be_the_folder_itself_or_in_a_whole_pipeline(self, tmp_path: Path) -> None:
        parent = save_part(tmp_path / "1", seed=1)
        whole = save_text_to_image(tmp_path / "2", seed=1)
        expected = sampled(self.make(), parent, PROMPTED)
        itself = Checkpoint(path=f"{parent.path}/unet", name="unet")
        assert torch.equal(sampled(self.make(), itself, PROMPTED), expected)
        assert torch.equal(sampled(self.make(), whole, PROMPTED), expected)

    def test_averaged_weights_are_taken_where_they_are(self, tmp_path: Path) -> None:
        averaged = save_part(tmp_path / "averaged", seed=2)
        plain = save_part(tmp_path / "plain", seed=1)
        both = save_part(tmp_path / "both", seed=1)
        save_part(tmp_path / "both", seed=2, name="unet_ema")
        never = DiffusersSampler(DiffusersOptions(steps=2, base=self.base, ema="never"))
        always = DiffusersSampler(DiffusersOptions(steps=2, base=self.base, ema="always"))
        expected = sampled(self.make(), averaged, PROMPTED)
        assert torch.equal(sampled(self.make(), both, PROMPTED), expected)
        assert torch.equal(sampled(always, both, PROMPTED), expected)
        assert torch.equal(sampled(never, both, PROMPTED), sampled(self.make(), plain, PROMPTED))
        assert "no unet_ema" in refusal(always, plain)

    def test_another_base_is_another_identity(self, tmp_path: Path) -> None:
        other = save_text_to_image(tmp_path / "base", seed=6).path
        part = save_part(tmp_path)
        identities = []
        for base in (self.base, Path(other)):
            sampler = DiffusersSampler(DiffusersOptions(steps=2, base=base))
            sampler.open(part, "cpu")
            identities.append(sampler.identity())
        assert "DDIMScheduler" in identities[0]
        assert identities[0] != identities[1]

    def test_a_base_without_that_part_says_what_it_has(self, tmp_path: Path) -> None:
        sampler = DiffusersSampler(DiffusersOptions(base=self.base, part="transformer"))
        assert "unet" in refusal(sampler, save_part(tmp_path))

    def test_a_missing_base_is_named(self, tmp_path: Path) -> None:
        sampler = DiffusersSampler(DiffusersOptions(base=tmp_path / "nowhere"))
        assert "base nowhere: is no folder" in refusal(sampler, save_part(tmp_path))

    def test_a_part_without_a_base_asks_for_one(self, tmp_path: Path) -> None:
        assert "option base" in refusal(DiffusersSampler(), save_part(tmp_path))

    def test_lora_weights_are_refused_by_that_name(self, tmp_path: Path) -> None:
        (tmp_path / "pytorch_lora_weights.safetensors").write_bytes(b"")
        assert "LoRA" in refusal(self.make(), Checkpoint(path=str(tmp_path), name="step-1"))


def test_it_samples_what_the_pipeline_itself_does(tmp_path: Path) -> None:
    checkpoint = save_unconditional(tmp_path)
    pipeline = tiny_pipelines.quiet(DDPMPipeline.from_pretrained(checkpoint.path))
    expected = pipeline(batch_size=3, num_inference_steps=4, generator=REQUEST.generators(), output_type="pt").images
    found = sampled(UnconditionalDiffusersSampler(DiffusersOptions(steps=4)), checkpoint, REQUEST)
    assert torch.equal(found, expected)


def test_every_option_reaches_the_pipeline(tmp_path: Path) -> None:
    checkpoint = save_text_to_image(tmp_path)
    asked: dict[str, Any] = {"guidance_scale": 2.5, "height": 24, "width": 32, "eta": 0.5}
    pipeline = tiny_pipelines.quiet(StableDiffusionPipeline.from_pretrained(checkpoint.path))
    expected = pipeline(
        list(PROMPTS),
        negative_prompt=["b", "b", "b"],
        num_inference_steps=3,
        generator=PROMPTED.generators(),
        output_type="pt",
        **asked,
    ).images
    sampler = DiffusersSampler(DiffusersOptions(steps=3, negative_prompt="b", **asked))
    found = sampled(sampler, checkpoint, PROMPTED)
    assert found.shape == (3, 3, 24, 32)
    assert torch.equal(found, expected)
    plain = sampled(DiffusersSampler(DiffusersOptions(steps=3, **asked)), checkpoint, PROMPTED)
    assert not torch.equal(found, plain)


def test_half_precision_is_used_by_every_model(tmp_path: Path) -> None:
    sampler = DiffusersSampler(DiffusersOptions(steps=1, dtype="bfloat16"))
    sampler.open(save_text_to_image(tmp_path), "cpu")
    models = [part for part in sampler._pipeline.components.values() if isinstance(part, torch.nn.Module)]
    assert {model.dtype for model in models} == {torch.bfloat16}
    assert all(bool(picture.isfinite().all()) for picture in sampler.sample(PROMPTED))


def test_a_broken_model_is_no_error(tmp_path: Path) -> None:
    pipeline = tiny_pipelines.unconditional()
    pipeline.unet.conv_out.bias.data.fill_(float("nan"))
    pipeline.save_pretrained(tmp_path / "step-100")
    sampler = UnconditionalDiffusersSampler(DiffusersOptions(steps=2))
    assert bool(sampled(sampler, Checkpoint(path=str(tmp_path / "step-100")), REQUEST).isnan().all())


def test_nothing_is_written_to_standard_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    checkpoint = save_text_to_image(tmp_path)
    capfd.readouterr()
    sampled(DiffusersSampler(DiffusersOptions(steps=2)), checkpoint, PROMPTED)
    assert "%|" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("sampler", "save", "words"),
    [
        (UnconditionalDiffusersSampler, save_text_to_image, "use: diffusers"),
        (DiffusersSampler, save_unconditional, "use: diffusers_unconditional"),
    ],
)
def test_the_other_kind_of_pipeline_names_the_other_sampler(
    tmp_path: Path, sampler: type[Sampler], save: Any, words: str
) -> None:
    assert refusal(sampler(), save(tmp_path)).endswith(words)


def test_an_option_that_the_pipeline_lacks_is_named(tmp_path: Path) -> None:
    sampler = UnconditionalDiffusersSampler(DiffusersOptions(guidance_scale=7.5))
    assert "DDPMPipeline takes no guidance_scale" in refusal(sampler, save_unconditional(tmp_path))


def test_what_a_pipeline_refuses_while_sampling_is_told(tmp_path: Path) -> None:
    sampler = DiffusersSampler(DiffusersOptions(steps=21))
    sampler.open(save_text_to_image(tmp_path), "cpu")
    with pytest.raises(InputError, match=r"step-100: a StableDiffusionPipeline cannot be asked so: .*21"):
        sampler.sample(PROMPTED)


@pytest.mark.parametrize("options", [{"steps": 0}, {"height": 0}, {"part": "../unet"}])
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        DiffusersOptions(**options)


# --- untrusted folders -------------------------------------------------------------------------------------

# Where code ran, this file would be there.
CODE = "open({trace!r}, 'w').close()\nfrom diffusers import UNet2DModel, DDPMPipeline\nclass Mine(UNet2DModel): pass\n"


def edited(folder: Path, file: str, **changes: Any) -> Checkpoint:
    """An unconditional pipeline one of whose JSON files says something else."""
    checkpoint = save_unconditional(folder)
    path = Path(checkpoint.path, file)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return checkpoint


@pytest.mark.parametrize(
    ("component", "module"),
    [
        (["mine", "Mine"], "unet/mine.py"),
        (["diffusers", "Mine"], "unet/diffusers.py"),
        (["os", "system"], "unet/os.py"),
        (["torch", "load"], "unet/torch.py"),
        (["diffusers", "DiffusionPipeline"], "unet/diffusers.py"),
        (["diffusers", "__builtins__"], "unet/diffusers.py"),
        (["diffusers.utils", "os"], "unet/diffusers.py"),
        (["transformers", "pipeline"], "unet/transformers.py"),
        (["../..", "Mine"], "unet/mine.py"),
        (["pipeline_utils", "DiffusionPipeline"], "unet/pipeline_utils.py"),
        ("unet", "unet/mine.py"),
        ([None, "Mine"], "unet/mine.py"),
        ([], "unet/mine.py"),
    ],
    ids=str,
)
def test_a_component_from_elsewhere_is_refused_unread(tmp_path: Path, component: Any, module: str) -> None:
    checkpoint = edited(tmp_path, "model_index.json", unet=component)
    trace = tmp_path / "trace"
    Path(checkpoint.path, module).write_text(CODE.format(trace=str(trace)))
    assert "step-100" in refusal(UnconditionalDiffusersSampler(), checkpoint)
    assert not trace.exists()


@pytest.mark.parametrize(
    "name", ["Mine", ["mine", "Mine"], ["pipeline", "Mine"], "UNet2DModel", "os", "", None, 5], ids=str
)
def test_a_pipeline_from_elsewhere_is_refused_unread(tmp_path: Path, name: Any) -> None:
    checkpoint = edited(tmp_path, "model_index.json", _class_name=name)
    trace = tmp_path / "trace"
    for file in ("mine.py", "pipeline.py"):
        Path(checkpoint.path, file).write_text(CODE.format(trace=str(trace)))
    assert "step-100" in refusal(UnconditionalDiffusersSampler(), checkpoint)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"auto_map": {"AutoModel": "mine.Mine"}}, "auto_map"),
        ({"_attn_implementation": "somebody/kernel"}, "kernel"),
        ({"deep": [{"attn_implementation": "somebody/kernel"}]}, "kernel"),
        ({"block_out_channels": [8, 8]}, "step-100: unet"),
        ({"block_out_channels": "many"}, "step-100: unet"),
        ({"layers_per_block": 2}, "step-100: unet"),
        ({"add_attention": True}, "lack"),
    ],
    ids=str,
)
def test_a_configuration_that_asks_for_more_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    assert words in refusal(UnconditionalDiffusersSampler(), edited(tmp_path, "unet/config.json", **changes))


def test_weights_beyond_the_configuration_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    checkpoint = save_unconditional(tmp_path)
    path = Path(checkpoint.path, "unet", "diffusion_pytorch_model.safetensors")
    save_file({**load_file(path), "more.weight": torch.zeros(2)}, path, metadata={"format": "pt"})
    assert "more.weight" in refusal(UnconditionalDiffusersSampler(), checkpoint)


def test_pickled_weights_are_refused_unread(tmp_path: Path) -> None:
    tiny_pipelines.unconditional().save_pretrained(tmp_path / "step-100", safe_serialization=False)
    assert list(tmp_path.rglob("*.bin"))
    message = refusal(UnconditionalDiffusersSampler(), Checkpoint(path=str(tmp_path / "step-100")))
    assert "safetensors" in message


def test_an_adapter_beside_a_component_is_refused(tmp_path: Path) -> None:
    checkpoint = save_text_to_image(tmp_path)
    Path(checkpoint.path, "text_encoder", "adapter_config.json").write_text("{}")
    assert "adapter" in refusal(DiffusersSampler(), checkpoint)


def test_a_damaged_shard_is_refused_and_a_whole_one_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "step-100"
    tiny_pipelines.unconditional().save_pretrained(folder, max_shard_size="80KB")
    shards = sorted(folder.glob("unet/*-of-*.safetensors"))
    assert len(shards) > 1
    checkpoint = Checkpoint(path=str(folder), name="step-100")
    expected = sampled(
        UnconditionalDiffusersSampler(DiffusersOptions(steps=2)), save_unconditional(tmp_path / "1"), REQUEST
    )
    assert torch.equal(sampled(UnconditionalDiffusersSampler(DiffusersOptions(steps=2)), checkpoint, REQUEST), expected)
    shards[-1].write_bytes(shards[-1].read_bytes()[:-100])
    assert "step-100" in refusal(UnconditionalDiffusersSampler(), checkpoint)
    shards[-1].unlink()
    assert "step-100" in refusal(UnconditionalDiffusersSampler(), checkpoint)


@pytest.mark.parametrize("missing", ["model_index.json", "unet", "unet/config.json", "scheduler/scheduler_config.json"])
def test_what_is_missing_is_named(tmp_path: Path, missing: str) -> None:
    checkpoint = save_unconditional(tmp_path)
    path = Path(checkpoint.path, missing)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert Path(missing).name in refusal(UnconditionalDiffusersSampler(), checkpoint)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"_class_name": "DDPMPipeline"}', "[" * 100_000], ids=len)
def test_a_damaged_index_is_refused(tmp_path: Path, text: str) -> None:
    checkpoint = save_unconditional(tmp_path)
    Path(checkpoint.path, "model_index.json").write_text(text)
    assert "step-100" in refusal(UnconditionalDiffusersSampler(), checkpoint)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "step-100.pt").write_bytes(b"")
    checkpoint = Checkpoint(path=str(tmp_path / "step-100.pt"))
    assert "step-100.pt: is no folder" in refusal(UnconditionalDiffusersSampler(), checkpoint)


def test_the_catalog_knows_both() -> None:
    from metricwatch import catalog

    found: Sequence[type[Sampler]] = [catalog.load_sampler(name) for name in ("diffusers", "diffusers_unconditional")]
    assert found == [DiffusersSampler, UnconditionalDiffusersSampler]
