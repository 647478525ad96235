"""The same pictures, the same weights: our preprocessing and networks against those of the libraries that own them."""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from metricwatch import extractors
from metricwatch.worker import networks
from metricwatch.worker.networks import Network, preprocessing
from metricwatch.worker.networks.pillow_resize import pillow_bicubic
from tests.support import weights
from tests.support.photos import crops, originals

# Largest difference, as a share of the largest feature: float32 sums in another order.
ROUNDING = 1e-5
# In grey levels of 255: Pillow sums in float64, we in float32.
RESIZING = 2e-4
MEAN = [0.485, 0.456, 0.406]
DEVIATION = [0.229, 0.224, 0.225]


def as_batch(*pictures: np.ndarray) -> Tensor:
    return torch.stack([torch.from_numpy(picture.copy()).permute(2, 0, 1) for picture in pictures])


def sizes() -> list[Tensor]:
    """Photographs to enlarge, to leave, to reduce, and one that is not square."""
    return [*(as_batch(*crops(2, side=side, seed=side)) for side in (64, 299, 300)), as_batch(originals()[1])]


def loaded(name: str, path: Path | None = None) -> Network:
    spec = extractors.find(name)
    network = networks.load(spec, spec.weights.locate(str(path) if path else None))
    for module in network.modules:
        module.eval().requires_grad_(requires_grad=False)
    return network


def assert_close(found: Tensor, expected: Tensor, share: float, what: str) -> None:
    """Equal up to a share of the largest expected number; the difference seen is printed."""
    assert found.shape == expected.shape
    largest = float((found - expected).abs().max() / expected.abs().max())
    print(f"{what}: largest difference {largest:.1e} of the largest number")
    assert largest <= share, what


@pytest.fixture(scope="module")
def inception(inception_weights: Path) -> Network:
    return loaded("inception-v3", inception_weights)


@pytest.fixture
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch hub; gives the folder of checkpoints, where every library looks."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


@torch.inference_mode()
def test_tf_features_equal_torch_fidelitys(inception: Network, inception_weights: Path) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    theirs = FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=str(inception_weights))
    for batch in sizes():
        found = inception.pooled(inception.preprocess["tf"](batch))
        assert_close(found, theirs(batch)[0], ROUNDING, f"tf features at {tuple(batch.shape[2:])}")


@torch.inference_mode()
def test_the_tf_resize_equals_torch_fidelitys_to_the_last_bit() -> None:
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    for batch in (*sizes(), *(as_batch(picture) for picture in originals())):
        resized = interpolate_bilinear_2d_like_tensorflow1x(batch.float(), size=(299, 299), align_corners=False)
        assert torch.equal(preprocessing.tf(batch), (resized - 128) / 128)


def clean_fids_resize() -> Callable[[np.ndarray], np.ndarray]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from cleanfid.resize import build_resizer
    return build_resizer("clean")


def test_the_clean_resize_equals_clean_fids_resizer() -> None:
    """Pillow's own bicubic filter in mode F, enlarging and reducing, in grey levels."""
    resize = clean_fids_resize()
    largest = 0.0
    pictures = [*originals(), *(crops(1, side=side, seed=side)[0] for side in (5, 64, 256, 298, 299, 300))]
    # A checkerboard overshoots: what lies outside 0..255 must be clipped.
    pictures.append(
        np.kron(np.indices((20, 30)).sum(0) % 2, np.ones((3, 4)))[..., None].repeat(3, 2).astype(np.uint8) * 255
    )
    for picture in pictures:
        found = pillow_bicubic(as_batch(picture).float(), 299)[0].permute(1, 2, 0).numpy()
        largest = max(largest, float(np.abs(found - resize(picture)).max()))
    print(f"clean resize: largest difference {largest:.1e} grey levels")
    assert largest <= RESIZING


@torch.inference_mode()
def test_clean_features_equal_those_of_clean_fids_pixels(inception: Network) -> None:
    """clean-fid's pixels, normalised as its network's wrapper does, through our network."""
    resize = clean_fids_resize()
    for batch in sizes():
        pictures = [picture.permute(1, 2, 0).numpy() for picture in batch]
        theirs = torch.stack([torch.from_numpy(resize(picture)).permute(2, 0, 1) for picture in pictures])
        expected = inception.pooled((theirs - 128) / 128)
        found = inception.pooled(inception.preprocess["clean"](batch))
        assert_close(found, expected, ROUNDING, f"clean features at {tuple(batch.shape[2:])}")


@torch.inference_mode()
def test_the_three_protocols_differ(inception: Network) -> None:
    """Otherwise the tests above could not tell them apart."""
    batch = as_batch(*crops(2, side=128))
    inputs = [prepare(batch) for prepare in inception.preprocess.values()]
    for index in range(3):
        assert float((inputs[index] - inputs[index - 1]).abs().max()) > 0.05


def lpips_network(kind: str) -> torch.nn.Module:
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return lpips.LPIPS(net=kind, verbose=False)


@pytest.mark.slow
@torch.inference_mode()
def test_vgg16_equals_lpips_and_torchvision(torch_home: Path) -> None:
    from torchvision.models import VGG16_Weights, vgg16

    network = loaded("vgg16", weights.write_vgg16_weights(torch_home / weights.VGG16_FILE))
    layers = extractors.find("vgg16").layers
    check_layers(network, layers, lpips_network("vgg"), ["relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3"])
    whole = vgg16(weights=VGG16_Weights.IMAGENET1K_V1).eval()
    check_conv_layers(network, layers, whole.features)
    prepared = network.preprocess["imagenet-224"](as_batch(*crops(2, side=150)))
    assert_close(whole.classifier[6](network.pooled(prepared)), whole(prepared), ROUNDING, "vgg16 fc2")


@torch.inference_mode()
def test_alexnet_equals_lpips_and_torchvision(torch_home: Path) -> None:
    from torchvision.models import AlexNet_Weights, alexnet

    network = loaded("alexnet", weights.write_alexnet_weights(torch_home / weights.ALEXNET_FILE))
    layers = extractors.find("alexnet").layers
    check_layers(network, layers, lpips_network("alex"), list(layers))
    whole = alexnet(weights=AlexNet_Weights.IMAGENET1K_V1).eval()
    prepared = network.preprocess["imagenet-224"](as_batch(*crops(2, side=150)))
    assert_close(whole.classifier[6](network.pooled(prepared)), whole(prepared), ROUNDING, "alexnet fc7")


@torch.inference_mode()
def test_st_vgg16_equals_stlpips(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = types.ModuleType("IPython")
    stand_in.embed = lambda: None
    monkeypatch.setitem(sys.modules, "IPython", stand_in)
    summary = types.ModuleType("torchsummary")
    summary.summary = lambda *_: None
    monkeypatch.setitem(sys.modules, "torchsummary", summary)
    from stlpips_pytorch import stlpips

    theirs = stlpips.LPIPS(net="vgg", variant="shift_tolerant", verbose=False)
    network = loaded("st-vgg16")
    layers = extractors.find("st-vgg16").layers
    check_layers(network, layers, theirs, ["relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3"])
    stack = torch.nn.Sequential(*(module for number in range(1, 6) for module in getattr(theirs.net, f"slice{number}")))
    check_conv_layers(network, layers, stack)
    prepared = network.preprocess["imagenet-224"](as_batch(*crops(2, side=150)))
    assert_close(network.pooled(prepared), theirs.net(prepared)[-1].mean((2, 3)), ROUNDING, "st-vgg16 pooled")
    assert_close(prepared, preprocessing.imagenet_224(as_batch(*crops(2, side=150))), ROUNDING, "st-vgg16 scaling")


def check_layers(network: Network, layers: tuple[str, ...], theirs: torch.nn.Module, names: list[str]) -> None:
    """Against what an LPIPS feeds its trunk, pictures in [-1, 1] through its scaling layer, and its taps."""
    for side in (64, 97):
        batch = as_batch(*crops(2, side=side))
        found = dict(zip(layers, network.layers(network.normalise(batch)), strict=True))
        expected = theirs.net(theirs.scaling_layer(batch.float() / 127.5 - 1))
        for name, maps in zip(names, expected, strict=True):
            assert_close(found[name], maps, ROUNDING, f"{name} at {side}")


def check_conv_layers(network: Network, layers: tuple[str, ...], stack: torch.nn.Sequential) -> None:
    """reluB_I is what comes out of the I-th ReLU after the (B-1)-th max pooling."""
    normalised = network.normalise(as_batch(*crops(2, side=64)))
    named, block, index, maps = {}, 1, 0, normalised
    for module in stack:
        maps = module(maps)
        if isinstance(module, torch.nn.MaxPool2d):
            block, index = block + 1, 0
        elif isinstance(module, torch.nn.ReLU):
            index += 1
            named[f"relu{block}_{index}"] = maps.clone()
    for name, found in zip(layers, network.layers(normalised), strict=True):
        assert_close(found, named[name], ROUNDING, name)


@torch.inference_mode()
def test_clip_equals_transformers_own_pipeline_on_pil_images(tmp_path: Path) -> None:
    """Embeddings of pictures and texts. Its processor gets PIL images, ours tensors: both resize to whole grey levels."""
    from transformers import CLIPModel, CLIPProcessor

    folder = weights.write_clip_folder(tmp_path / "clip")
    network = loaded("clip-vit-b-32", folder)
    model = CLIPModel.from_pretrained(folder).eval()
    processor = CLIPProcessor.from_pretrained(folder)
    texts = ["a photo of a cat", "", "an oil painting, in the style of Monet! éü " * 20]
    for size in ((64, 64), (224, 224), (400, 300), (250, 600)):
        pictures = [np.asarray(Image.fromarray(picture).resize(size)) for picture in originals()[:3]]
        inputs = processor(
            images=[Image.fromarray(picture) for picture in pictures],
            text=texts,
            padding=True,
            truncation=True,
            return_tensors="pt",
        )
        expected = model(**inputs)
        prepared = network.preprocess["clip-224"](as_batch(*pictures))
        assert_close(prepared, inputs["pixel_values"], ROUNDING, f"clip pixels at {size}")
        found = torch.nn.functional.normalize(network.pooled(prepared), dim=-1)
        assert_close(found, expected.image_embeds, ROUNDING, f"clip pictures at {size}")
    found = torch.nn.functional.normalize(network.embed_text(texts), dim=-1)
    assert_close(found, expected.text_embeds, ROUNDING, "clip texts")
    assert float((found[0] @ found[1:].T).abs().max()) < 0.99


@torch.inference_mode()
def test_dinov2_equals_transformers_own_model_on_pillows_pixels(tmp_path: Path) -> None:
    from transformers import Dinov2Model

    folder = weights.write_dinov2_folder(tmp_path / "dinov2")
    network = loaded("dinov2-vits14", folder)
    model = Dinov2Model.from_pretrained(folder).eval()
    for picture in originals()[:4]:
        planes = [Image.fromarray(plane).resize((224, 224), Image.Resampling.BICUBIC) for plane in channels(picture)]
        resized = torch.from_numpy(np.stack(planes).clip(0, 255))[None]
        pixels = (resized / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1)
        prepared = network.preprocess["imagenet-224-bicubic"](as_batch(picture))
        assert_close(prepared, pixels, ROUNDING, "dinov2 pixels")
        assert_close(network.pooled(prepared), model(pixels).last_hidden_state[:, 0], ROUNDING, "dinov2 features")


@torch.inference_mode()
def test_dinov2_is_near_its_own_processor(tmp_path: Path) -> None:
    """Told to squeeze instead of crop, that one rounds and clips the picture to whole grey levels after each axis.

    Ours is resized in floats, as clean-fid's argument goes. The features differ by that much and no more.
    """
    from transformers import BitImageProcessor, Dinov2Model

    folder = weights.write_dinov2_folder(tmp_path / "dinov2")
    network = loaded("dinov2-vits14", folder)
    model = Dinov2Model.from_pretrained(folder).eval()
    square = {"height": 224, "width": 224}
    processor = BitImageProcessor(size=square, do_center_crop=False, image_mean=MEAN, image_std=DEVIATION, resample=3)
    for picture in originals()[:4]:
        theirs = processor(images=Image.fromarray(picture), return_tensors="pt")["pixel_values"]
        found = network.pooled(network.preprocess["imagenet-224-bicubic"](as_batch(picture)))
        assert_close(found, model(theirs).last_hidden_state[:, 0], 0.01, "dinov2 against its processor")


def channels(picture: np.ndarray) -> list[np.ndarray]:
    return [np.ascontiguousarray(picture[..., index], dtype=np.float32) for index in range(3)]


@torch.inference_mode()
def test_art_inception_is_torchvisions_inception_at_native_size(tmp_path: Path) -> None:
    """art-fid's network is a copy of torchvision's without its classifier; it gets x/255 unresized."""
    from torchvision.models import inception_v3

    path = weights.write_art_inception_weights(tmp_path / weights.ART_INCEPTION_FILE)
    network = loaded("art-inception-v3", path)
    whole = inception_v3(weights=None, aux_logits=False, transform_input=False, init_weights=False)
    whole.fc = torch.nn.Identity()
    whole.load_state_dict(torch.load(path), strict=False)
    for side in (75, 128, 400):
        batch = as_batch(*crops(2, side=side))
        expected = whole.eval()(batch.float() / 255)
        assert_close(network.pooled(network.preprocess["art-fid"](batch)), expected, ROUNDING, f"art {side}")
