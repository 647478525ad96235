"""The paired and CLIP metrics are those of the reference implementations: same weights, same photographs, two programs.

Each test prints the largest difference that it saw.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path

import lpips
import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from skimage.metrics import structural_similarity
from torch.nn import functional
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.functional.multimodal import clip_score
from torchvision.models import VGG16_Weights, vgg16
from torchvision.models.feature_extraction import create_feature_extractor

from metricwatch import extractors
from metricwatch.api import Batch, PerImageMetric
from metricwatch.metrics.art_fid import ArtFid
from metricwatch.metrics.clip import ClipScore, ClipStyleOptions, ClipStyleScore, ClipStyleSimilarity
from metricwatch.metrics.lpips import Lpips, LpipsVgg, StLpips
from metricwatch.metrics.ssim import Ssim
from metricwatch.metrics.style import ContentLoss, GramOptions, GramStyleLoss, StContentLoss, StGramStyleLoss
from metricwatch.worker.engines import EagerEngine
from tests.support.photos import crops
from tests.support.weights import (
    ALEXNET_FILE,
    VGG16_FILE,
    write_alexnet_weights,
    write_art_inception_weights,
    write_clip_folder,
    write_vgg16_weights,
)

ABSOLUTE = 1e-5
STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
# In torchvision's vgg16().features.
TORCHVISION_NODES = {
    "features.1": "relu1_1",
    "features.6": "relu2_1",
    "features.11": "relu3_1",
    "features.18": "relu4_1",
    "features.20": "relu4_2",
    "features.25": "relu5_1",
}
# In stlpips_pytorch's vggnet: slice and last module before the map.
ST_MODULES = {
    "relu1_1": "slice1.1",
    "relu2_1": "slice2.7",
    "relu3_1": "slice3.13",
    "relu4_1": "slice4.21",
    "relu4_2": "slice4.23",
    "relu5_1": "slice5.29",
}
PROMPTS = ("a photo of a cat", "a painting", "oil painting of the cat", "the style of a photo", "cat", "a photo")
Pixels = list[np.ndarray]


def tensors(pictures: Sequence[np.ndarray]) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(picture.copy()).permute(2, 0, 1) for picture in pictures)


def blurred(picture: np.ndarray, radius: float) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)))


@pytest.fixture(scope="module")
def pictures() -> Pixels:
    """Six photographs of one size, odd and not square."""
    return [np.ascontiguousarray(picture[:, :97]) for picture in crops(6, side=131, seed=20)]


@pytest.fixture(scope="module")
def partners(pictures: Pixels) -> Pixels:
    """Of all degrees of likeness: the same picture, blurred more and more, and another one."""
    return [
        pictures[0],
        *(blurred(picture, radius) for radius, picture in enumerate(pictures[1:5], start=1)),
        np.ascontiguousarray(crops(1, side=131, seed=21)[0][:, :97]),
    ]


@pytest.fixture(scope="module")
def torch_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Stand-in weights where torchvision, and so lpips, looks for them."""
    home = tmp_path_factory.mktemp("torch-home")
    checkpoints = home / "hub" / "checkpoints"
    write_vgg16_weights(checkpoints / VGG16_FILE, seed=1)
    write_alexnet_weights(checkpoints / ALEXNET_FILE, seed=2)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TORCH_HOME", str(home))
        yield home


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip_folder(tmp_path_factory.mktemp("clip"), seed=3)


def engine_of(name: str, path: str | None = None) -> EagerEngine:
    """The extractor as the worker runs it, with weights at a path, or where they belong."""
    spec = extractors.find(name)
    network = import_module(spec.module).load(spec.weights.locate(path))
    return EagerEngine(spec, network, spec.protocols[0], torch.device("cpu"))


@pytest.fixture(scope="module")
def engines(torch_home: Path) -> Callable[[str], EagerEngine]:
    made: dict[str, EagerEngine] = {}

    def get(name: str) -> EagerEngine:
        if name not in made:
            made[name] = engine_of(name)
        return made[name]

    return get


@pytest.fixture(scope="module")
def shift_tolerant() -> Iterator[torch.nn.Module]:
    """stlpips_pytorch's own LPIPS. Its code imports an interactive shell that it does not use."""
    with pytest.MonkeyPatch.context() as patched:
        shell = types.ModuleType("IPython")
        shell.embed = None  # type: ignore[attr-defined]
        patched.setitem(sys.modules, "IPython", shell)
        summary = types.ModuleType("torchsummary")
        summary.summary = None  # type: ignore[attr-defined]
        patched.setitem(sys.modules, "torchsummary", summary)
        stlpips = import_module("stlpips_pytorch.stlpips")
        yield stlpips.LPIPS(net="vgg", variant="shift_tolerant", verbose=False)


def paired(engine: EagerEngine, name: str, ours: Pixels, theirs: Pixels) -> Batch:
    images, others = tensors(ours), tensors(theirs)
    theirs_layers = {name: engine.layers(torch.stack(others))}
    return Batch(
        names=tuple(f"{index}" for index in range(len(images))),
        images=images,
        content=others,
        style=others,
        layers={name: engine.layers(torch.stack(images))},
        content_layers=theirs_layers,
        style_layers=theirs_layers,
    )


def column(metric: PerImageMetric, batch: Batch, place: int = 0) -> np.ndarray:
    return np.array([row[place] for row in metric.measure(batch)])


def difference(label: str, found: np.ndarray, expected: np.ndarray) -> float:
    """Printed, so that `pytest -s` shows how near the two are, and not only that they are near enough."""
    largest = float(np.abs(found - expected).max())
    print(f"{label}: largest difference {largest:.1e} of values up to {np.abs(expected).max():.4g}")
    return largest


def in_unit_ball(pictures: Pixels) -> torch.Tensor:
    """As lpips wants pictures: float32 in [-1, 1]."""
    return torch.stack(tensors(pictures)).float() / 127.5 - 1.0


# --- lpips -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "extractor", "net"), [(Lpips, "alexnet", "alex"), (LpipsVgg, "vgg16", "vgg")], ids=["alex", "vgg"]
)
def test_lpips_equals_the_package_lpips(
    metric: type[PerImageMetric],
    extractor: str,
    net: str,
    engines: Callable[[str], EagerEngine],
    pictures: Pixels,
    partners: Pixels,
) -> None:
    reference = lpips.LPIPS(net=net, verbose=False)
    with torch.inference_mode():
        expected = reference(in_unit_ball(pictures), in_unit_ball(partners)).flatten().numpy()
    found = column(metric(), paired(engines(extractor), extractor, pictures, partners))
    assert difference(f"lpips {net}", found, expected) < ABSOLUTE
    assert found[0] == 0.0
    assert expected.max() > 0.1


def test_shift_tolerant_lpips_equals_the_package_stlpips(
    shift_tolerant: torch.nn.Module, engines: Callable[[str], EagerEngine], pictures: Pixels, partners: Pixels
) -> None:
    """With the weights that it was published with: no stand-in is needed."""
    with torch.inference_mode():
        expected = shift_tolerant(in_unit_ball(pictures), in_unit_ball(partners)).flatten().numpy()
    found = column(StLpips(), paired(engines("st-vgg16"), "st-vgg16", pictures, partners))
    assert difference("st_lpips", found, expected) < ABSOLUTE
    assert found[0] == 0.0
    assert expected.max() > 0.1


@pytest.mark.parametrize(("metric", "extractor"), [(Lpips, "alexnet"), (LpipsVgg, "vgg16"), (StLpips, "st-vgg16")])
def test_the_smallest_side_is_the_smallest_that_the_network_takes(
    metric: type[PerImageMetric], extractor: str, engines: Callable[[str], EagerEngine]
) -> None:
    engine = engines(extractor)
    smallest = next(side for side in range(1, 100) if not metric().obstacle(side, side))
    assert engine.layers(torch.zeros((1, 3, smallest, smallest), dtype=torch.uint8))
    with pytest.raises(RuntimeError):
        engine.layers(torch.zeros((1, 3, smallest - 1, smallest - 1), dtype=torch.uint8))


# --- content and style losses ------------------------------------------------------------------------------


def gram_losses(ours: torch.Tensor, theirs: torch.Tensor, divisor: int) -> np.ndarray:
    """By the formula, in double precision, for maps (N, C, H, W)."""
    grams = [torch.einsum("nchw,ndhw->ncd", each.double(), each.double()) / divisor for each in (ours, theirs)]
    return functional.mse_loss(*grams, reduction="none").mean(dim=(1, 2)).numpy()


def check_losses(content: PerImageMetric, style: GramStyleLoss, batch: Batch, ours: dict, theirs: dict) -> None:
    """Against maps that another program gave. Losses are squares, of any size: what counts is the relative error."""
    expected = functional.mse_loss(ours["relu4_2"], theirs["relu4_2"], reduction="none").mean(dim=(1, 2, 3)).numpy()
    label = content.spec.keys[0]
    assert difference(f"{label}, relative", column(content, batch)[1:] / expected[1:], np.ones(5)) < 1e-4
    assert column(content, batch)[0] == 0.0
    total = np.zeros(6)
    for place, layer in enumerate(STYLE_LAYERS, start=1):
        channels, height, width = ours[layer].shape[1:]
        divisor = height * width * (channels if style.options.normalise == "chw" else 1)
        by_layer = gram_losses(ours[layer], theirs[layer], divisor)
        total += by_layer
        found = column(style, batch, place)
        label = f"{style.spec.keys[place]} ({style.options.normalise}), relative"
        assert difference(label, found[1:] / by_layer[1:], np.ones(5)) < 1e-4
        assert found[0] == 0.0
    label = f"{style.spec.keys[0]} ({style.options.normalise}), relative"
    assert difference(label, column(style, batch)[1:] / total[1:], np.ones(5)) < 1e-4


@pytest.mark.parametrize("normalise", ["chw", "hw"])
def test_losses_equal_the_formulas_on_torchvisions_own_network(
    normalise: str, engines: Callable[[str], EagerEngine], pictures: Pixels, partners: Pixels
) -> None:
    weights = VGG16_Weights.IMAGENET1K_V1
    network = create_feature_extractor(vgg16(weights=weights).eval(), TORCHVISION_NODES)
    mean, deviation = (
        torch.tensor(each)[:, None, None] for each in (weights.transforms().mean, weights.transforms().std)
    )
    with torch.inference_mode():
        ours, theirs = (
            network((torch.stack(tensors(each)).float() / 255 - mean) / deviation) for each in (pictures, partners)
        )
    batch = paired(engines("vgg16"), "vgg16", pictures, partners)
    check_losses(ContentLoss(), GramStyleLoss(options=GramOptions(normalise=normalise)), batch, ours, theirs)


def test_offline_losses_equal_the_formulas_on_stlpips_own_network(
    shift_tolerant: torch.nn.Module, engines: Callable[[str], EagerEngine], pictures: Pixels, partners: Pixels
) -> None:
    def maps(chosen: Pixels) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        hooks = [
            shift_tolerant.net.get_submodule(module).register_forward_hook(
                lambda _module, _given, given, layer=layer: found.update({layer: given.clone()})
            )
            for layer, module in ST_MODULES.items()
        ]
        with torch.inference_mode():
            shift_tolerant.net(shift_tolerant.scaling_layer(in_unit_ball(chosen)))
        for hook in hooks:
            hook.remove()
        return found

    batch = paired(engines("st-vgg16"), "st-vgg16", pictures, partners)
    check_losses(StContentLoss(), StGramStyleLoss(), batch, maps(pictures), maps(partners))


# --- ssim --------------------------------------------------------------------------------------------------


def test_ssim_equals_scikit_image(pictures: Pixels, partners: Pixels) -> None:
    expected = np.array(
        [
            structural_similarity(
                one,
                other,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
                data_range=255,
                channel_axis=2,
            )
            for one, other in zip(pictures, partners, strict=True)
        ]
    )
    images, others = tensors(pictures), tensors(partners)
    found = column(Ssim(), Batch(names=tuple("abcdef"), images=images, content=others))
    assert difference("ssim, scikit-image", found, expected) < ABSOLUTE


def test_ssim_equals_torchmetrics_where_no_border_is_made_up(pictures: Pixels, partners: Pixels) -> None:
    """torchmetrics mirrors five pixels at each side and averages over windows that lie half in the mirror.

    Without those windows the two are one number; with them they are 0.02 apart on pictures as small as these.
    """
    images, others = tensors(pictures), tensors(partners)
    found = column(Ssim(), Batch(names=tuple("abcdef"), images=images, content=others))
    one, other = (torch.stack(each).double() for each in (images, others))
    by_window = structural_similarity_index_measure(
        one, other, data_range=255.0, reduction="none", return_full_image=True
    )
    whole = by_window[1][..., 5:-5, 5:-5].mean(dim=(1, 2, 3)).numpy()
    assert difference("ssim, torchmetrics without its border", found, whole) < ABSOLUTE
    with_border = structural_similarity_index_measure(one, other, data_range=255.0, reduction="none").numpy()
    assert ABSOLUTE < difference("ssim, torchmetrics as it is", found, with_border) < 0.05


# --- CLIP --------------------------------------------------------------------------------------------------


def clip_batch(folder: Path, pictures: Pixels, styles: Pixels) -> Batch:
    engine = engine_of("clip-vit-b-32", str(folder))
    return Batch(
        names=tuple(f"{index}" for index in range(len(pictures))),
        prompts=PROMPTS,
        features={"clip-vit-b-32": engine.features(tensors(pictures))},
        style_features={"clip-vit-b-32": engine.features(tensors(styles))},
        text_features={"clip-vit-b-32": dict(zip(PROMPTS, engine.texts(PROMPTS), strict=True))},
    )


class TensorClip:
    """A CLIP whose get_..._features give tensors, as before transformers 5 and as torchmetrics 1.9 expects."""

    def __init__(self, clip: torch.nn.Module) -> None:
        self._clip = clip
        self.config = clip.config

    def to(self, device: torch.device) -> TensorClip:
        return self

    @torch.inference_mode()
    def get_image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        return self._tensor(self._clip.get_image_features(pixels))

    @torch.inference_mode()
    def get_text_features(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self._tensor(self._clip.get_text_features(tokens, mask))

    @staticmethod
    def _tensor(given: object) -> torch.Tensor:
        return given if isinstance(given, torch.Tensor) else given.pooler_output


@pytest.fixture(scope="module")
def reference_clip(clip_folder: Path) -> Callable[[], tuple[TensorClip, object]]:
    """The model and its processor as transformers itself loads them."""
    from transformers import CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    clip = TensorClip(CLIPModel.from_pretrained(clip_folder).eval())
    processor = CLIPProcessor(
        image_processor=CLIPImageProcessor.from_pretrained(clip_folder),
        tokenizer=CLIPTokenizer.from_pretrained(clip_folder),
    )
    return lambda: (clip, processor)


def test_the_clip_score_equals_torchmetrics(
    clip_folder: Path, reference_clip: Callable[[], tuple[TensorClip, object]], pictures: Pixels, partners: Pixels
) -> None:
    """Image by image: of several, torchmetrics cuts the mean at 0 instead of each."""
    found = column(ClipScore(), clip_batch(clip_folder, pictures, partners))
    expected = np.array(
        [
            float(clip_score(image, prompt, reference_clip))
            for image, prompt in zip(tensors(pictures), PROMPTS, strict=True)
        ]
    )
    assert difference("clip_score", found, expected) < 100 * ABSOLUTE
    assert expected.max() > 1


def test_the_style_similarity_equals_torchmetrics(
    clip_folder: Path, reference_clip: Callable[[], tuple[TensorClip, object]], pictures: Pixels, partners: Pixels
) -> None:
    found = column(ClipStyleSimilarity(), clip_batch(clip_folder, pictures, partners))
    expected = np.array(
        [
            float(clip_score(image, other, reference_clip)) / 100
            for image, other in zip(tensors(pictures), tensors(partners), strict=True)
        ]
    )
    assert difference("clip_style_similarity", found, expected) < ABSOLUTE
    assert found[0] == pytest.approx(1.0, abs=1e-6)


def test_the_style_score_equals_the_probabilities_of_clip_itself(
    clip_folder: Path, reference_clip: Callable[[], tuple[TensorClip, object]], pictures: Pixels, partners: Pixels
) -> None:
    """By CLIPModel.forward's logits_per_image, at the scale 100 of the published weights."""
    clip, processor = reference_clip()
    clip._clip.logit_scale.data.fill_(np.log(100.0))
    options = ClipStyleOptions(prompt="a painting", contrast=("a photo", "cat"))
    prepared = processor(
        text=[options.prompt, *options.contrast], images=list(tensors(pictures)), return_tensors="pt", padding=True
    )
    with torch.inference_mode():
        expected = clip._clip(**prepared).logits_per_image.softmax(dim=1)[:, 0].numpy()
    found = column(ClipStyleScore(options=options), clip_batch(clip_folder, pictures, partners))
    assert difference("clip_style_score", found, expected) < 10 * ABSOLUTE
    assert 0.01 < expected.max() <= 1


# --- ArtFID ------------------------------------------------------------------------------------------------


def test_art_fid_is_the_product_of_its_references(
    tmp_path: Path, engines: Callable[[str], EagerEngine], pictures: Pixels, partners: Pixels
) -> None:
    """(1 + lpips's mean) · (1 + the distance by the singular values of both sets' centred features)."""
    engine = engine_of("art-inception-v3", str(write_art_inception_weights(tmp_path / "art_inception.pth", seed=4)))
    styles = engine.features(tensors(crops(8, side=120, seed=22)))
    features = engine.features(tensors(pictures))
    collecting = ArtFid()
    collecting.update(Batch(names=tuple("abcdefgh"), features={"art-inception-v3": styles}))
    metric = ArtFid(collecting.statistics())
    batch = paired(engines("alexnet"), "alexnet", pictures, partners)
    metric.update(
        Batch(
            names=batch.names,
            images=batch.images,
            content=batch.content,
            layers=batch.layers,
            content_layers=batch.content_layers,
            features={"art-inception-v3": features},
        )
    )
    (value,) = metric.compute()
    with torch.inference_mode():
        content = float(lpips.LPIPS(net="alex", verbose=False)(in_unit_ball(pictures), in_unit_ball(partners)).mean())
    centred = [(each - each.mean(dim=0)) / (len(each) - 1) ** 0.5 for each in (features.double(), styles.double())]
    gap = (features.double().mean(dim=0) - styles.double().mean(dim=0)).square().sum()
    overlap = torch.linalg.svdvals(centred[0] @ centred[1].T).sum()
    style = float(gap + centred[0].square().sum() + centred[1].square().sum() - 2 * overlap)
    expected = (1 + content) * (1 + style)
    assert value.value is not None
    assert difference("art_fid, relative", np.array([value.value / expected]), np.ones(1)) < 1e-5
