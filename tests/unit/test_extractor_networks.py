"""Networks: right files give networks of the promised shape, wrong ones are refused with their reason."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from metricwatch import extractors
from metricwatch.errors import InputError
from metricwatch.worker import networks
from metricwatch.worker.networks import Network, preprocessing
from metricwatch.worker.networks.inception import architecture
from metricwatch.worker.networks.tensors import read_tensors
from tests.support import weights
from tests.support.photos import crops

SMALL = ("efficientnet-lite0", "st-vgg16", "inception-v3", "art-inception-v3", "clip-vit-b-32", "dinov2-vits14")
FILES = ("inception-v3", "efficientnet-lite0", "st-vgg16", "vgg16", "alexnet", "art-inception-v3")


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory, inception_weights: Path) -> dict[str, str]:
    """Weights of every extractor that is small or here anyway."""
    folder = tmp_path_factory.mktemp("networks")
    return {
        "efficientnet-lite0": extractors.find("efficientnet-lite0").weights.locate(),
        "st-vgg16": extractors.find("st-vgg16").weights.locate(),
        "inception-v3": str(inception_weights),
        "art-inception-v3": str(weights.write_art_inception_weights(folder / "art_inception.pth")),
        "clip-vit-b-32": str(weights.write_clip_folder(folder / "clip")),
        "dinov2-vits14": str(weights.write_dinov2_folder(folder / "dinov2")),
    }


def load(name: str, path: str | Path) -> Network:
    network = networks.load(extractors.find(name), str(path))
    for module in network.modules:
        module.eval()
    return network


def batch(side: int = 96, count: int = 2) -> Tensor:
    return torch.stack([torch.from_numpy(picture.copy()).permute(2, 0, 1) for picture in crops(count, side=side)])


@pytest.mark.parametrize("name", SMALL)
@torch.inference_mode()
def test_a_network_gives_what_its_spec_promises(name: str, paths: dict[str, str]) -> None:
    spec = extractors.find(name)
    network = load(name, paths[name])
    assert tuple(network.preprocess) == spec.protocols
    pictures = batch()
    for prepare in network.preprocess.values():
        prepared = prepare(pictures)
        features = network.pooled(prepared)
        assert (features.shape, features.dtype) == ((2, spec.dimensions), torch.float32)
        assert torch.isfinite(features).all()
        assert not torch.allclose(features[0], features[1], rtol=0.01), "two pictures look different"
        assert prepared.dtype == torch.float32
    alone = network.pooled(prepare(pictures[1:]))
    torch.testing.assert_close(features[1:], alone, rtol=1e-4, atol=1e-4)
    assert (network.embed_text is not None) == spec.has_text
    assert (network.layers is not None) == bool(spec.layers)
    parameters = {id(each) for module in network.modules for each in module.parameters()}
    used = [network.pooled, *([network.layers] if network.layers else [])]
    assert parameters >= {id(each) for module in used for each in module.parameters()}, "all will be moved"


@torch.inference_mode()
def test_layer_maps_come_in_order_at_the_pictures_own_size(paths: dict[str, str]) -> None:
    spec = extractors.find("st-vgg16")
    network = load("st-vgg16", paths["st-vgg16"])
    assert network.layers is not None
    assert network.normalise is not None
    maps = network.layers(network.normalise(batch(side=64)))
    assert len(maps) == len(spec.layers)
    channels = {"1": 64, "2": 128, "3": 256, "4": 512, "5": 512}
    assert [each.shape[1] for each in maps] == [channels[name[4]] for name in spec.layers]
    assert [each.shape[2] for each in maps[:3]] == [64, 64, 33]
    assert all(float(each.min()) == 0 for each in maps), "they are taken after the ReLU"


@torch.inference_mode()
def test_texts_are_embedded_alike_alone_and_together(paths: dict[str, str]) -> None:
    embed = load("clip-vit-b-32", paths["clip-vit-b-32"]).embed_text
    assert embed is not None
    texts = ["a photo of a cat", "a painting", "", "the style " * 200]
    together = embed(texts)
    assert (together.shape, together.dtype, together.device.type) == ((4, 512), torch.float32, "cpu")
    torch.testing.assert_close(together, torch.cat([embed([text]) for text in texts]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(embed(["the style " * 300])[0], together[3])
    assert float((together.norm(dim=1) - 1).abs().min()) > 0.01, "they are not normalised"
    assert embed([]).shape == (0, 512)


def test_clip_reads_a_folder_without_safetensors(paths: dict[str, str], tmp_path: Path) -> None:
    """The published repository began with a torch file; it is read without executing what is inside."""
    from safetensors.torch import load_file

    folder = Path(shutil.copytree(paths["clip-vit-b-32"], tmp_path / "clip"))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    path = extractors.find("clip-vit-b-32").weights.locate(str(folder))
    expected = load("clip-vit-b-32", paths["clip-vit-b-32"])
    picture = torch.ones(1, 3, 224, 224)
    torch.testing.assert_close(load("clip-vit-b-32", path).pooled(picture), expected.pooled(picture))
    executable(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"clip-vit-b-32: .* is damaged"):
        load("clip-vit-b-32", folder)
    assert not (folder / "owned").exists()


@pytest.mark.parametrize("name", ["clip-vit-b-32", "dinov2-vits14"])
def test_a_model_folder_that_is_damaged_or_another_is_refused(name: str, paths: dict[str, str], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(paths[name], tmp_path / "model"))
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=rf"{name}: .*model is damaged or not a folder of this model"):
        load(name, folder)
    file.write_bytes(whole)
    tensors = load_file(file)
    missing = min(tensors)
    save_file({key: value for key, value in tensors.items() if key != missing}, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match="does not fit the network; missing: "):
        load(name, folder)
    file.write_bytes(whole)
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match=f"{name}: "):
        load(name, folder)


def test_a_wider_model_of_the_family_is_refused(tmp_path: Path) -> None:
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(hidden_size=96, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="its features have 96 numbers, not 384"):
        load("dinov2-vits14", tmp_path)


def test_a_folder_cannot_bring_code(paths: dict[str, str], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(paths["clip-vit-b-32"], tmp_path / "clip"))
    owned = tmp_path / "owned"
    (folder / "evil.py").write_text(f"open({str(owned)!r}, 'w')\nclass Evil: pass\n")
    for file, kind in (("config.json", "AutoModel"), ("tokenizer_config.json", "AutoTokenizer")):
        content = json.loads((folder / file).read_text())
        content["auto_map"] = {kind: ["evil.Evil", None] if kind == "AutoTokenizer" else "evil.Evil"}
        (folder / file).write_text(json.dumps(content))
    load("clip-vit-b-32", folder)
    assert not owned.exists()


def damaged(path: Path) -> str:
    path.write_bytes(b"PK\x03\x04 this is no archive")
    return "damaged or not a file of tensors"


def cut_short(path: Path) -> str:
    torch.save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:500])
    return "damaged or not a file of tensors"


def executable(path: Path) -> str:
    """A pickle that would run code when trusted."""
    path.write_bytes(f"cos\nsystem\n(S'touch {path.parent}/owned'\ntR.".encode())
    return "damaged or not a file of tensors"


def another_content(path: Path) -> str:
    torch.save({"epoch": 3, "model": {}}, path)
    return "does not hold a plain dictionary of tensors"


def another_network(path: Path) -> str:
    torch.save({"layer.weight": torch.zeros(3, 3)}, path)
    return "wrong file|does not fit the network; missing: "


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("write", [damaged, cut_short, executable, another_content, another_network])
def test_a_file_that_is_not_the_weights_is_refused(tmp_path: Path, name: str, write) -> None:
    path = tmp_path / "weights.pth"
    message = write(path)
    with pytest.raises(InputError, match=message) as caught:
        load(name, path)
    assert str(path) in str(caught.value)
    assert str(caught.value).startswith(f"{name}: ")
    assert not (tmp_path / "owned").exists()


def test_tensors_of_the_wrong_shape_are_named_shortly(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({name: torch.zeros(2) for name in architecture().state_dict()}, path)
    with pytest.raises(InputError, match=r"wrong shape: .* and \d+ more") as caught:
        load("inception-v3", path)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("name", ["inception-v3", "art-inception-v3"])
@torch.inference_mode()
def test_old_weights_without_batch_counters_fit(name: str, paths: dict[str, str], tmp_path: Path) -> None:
    tensors = {key: value for key, value in read_tensors(paths[name], name).items() if "num_batches" not in key}
    path = tmp_path / "weights.pth"
    torch.save(tensors, path)
    pictures = torch.ones(1, 3, 299, 299)
    assert torch.equal(load(name, path).pooled(pictures), load(name, paths[name]).pooled(pictures))


def test_half_precision_weights_become_float32(paths: dict[str, str], tmp_path: Path) -> None:
    tensors = read_tensors(paths["st-vgg16"], "st-vgg16")
    path = tmp_path / "half.pth"
    torch.save({key: value.half() for key, value in tensors.items()}, path)
    network = load("st-vgg16", path)
    assert network.pooled(network.preprocess["imagenet-224"](batch())).dtype == torch.float32


def test_inception_preprocessing_is_pytorch_fids_to_the_last_bit() -> None:
    picture = batch(side=77, count=1)
    expected = torch.nn.functional.interpolate(
        picture.float() / 255, size=(299, 299), mode="bilinear", align_corners=False
    )
    assert torch.equal(preprocessing.pytorch_fid(picture), 2 * expected - 1)


@pytest.mark.parametrize("prepare", [preprocessing.tf, preprocessing.clean])
def test_a_picture_of_299_is_not_resized(prepare) -> None:
    picture = batch(side=299, count=1)
    assert torch.equal(prepare(picture), (picture.float() - 128) / 128)


def test_small_pictures_are_enlarged_for_the_art_network_and_others_are_not() -> None:
    from metricwatch.worker.networks.art_inception import art_fid

    assert art_fid(torch.zeros(1, 3, 80, 200, dtype=torch.uint8)).shape == (1, 3, 80, 200)
    assert art_fid(torch.zeros(1, 3, 20, 40, dtype=torch.uint8)).shape == (1, 3, 75, 150)
