"""The metrics of pairs and prompts keep the contract that plugins are held to, on layers and features made up here."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from metricwatch.api import Batch
from metricwatch.metrics.art_fid import ArtFid
from metricwatch.metrics.clip import ClipScore, ClipStyleScore, ClipStyleSimilarity
from metricwatch.metrics.lpips import Lpips, LpipsVgg, StLpips
from metricwatch.metrics.ssim import Ssim
from metricwatch.metrics.style import ContentLoss, GramStyleLoss, StContentLoss, StGramStyleLoss
from metricwatch.testing.metric import MetricContract
from tests.support.photos import crops

ALEXNET = {"relu1": 64, "relu2": 192, "relu3": 384, "relu4": 256, "relu5": 256}
VGG16 = {
    "relu1_1": 64,
    "relu1_2": 64,
    "relu2_1": 128,
    "relu2_2": 128,
    "relu3_1": 256,
    "relu3_3": 256,
    "relu4_1": 512,
    "relu4_2": 512,
    "relu4_3": 512,
    "relu5_1": 512,
    "relu5_3": 512,
}
COUNT = 6
NAMES = tuple(f"{index:03d}" for index in range(COUNT))
PICTURES = tuple(torch.zeros((3, 32, 32), dtype=torch.uint8) for _ in range(COUNT))


def maps(channels: Mapping[str, int], seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn((COUNT, count, 5, 4), generator=generator).relu() for name, count in channels.items()}


def pairs(extractor: str, channels: Mapping[str, int]) -> Batch:
    """Images with content and style partners, known by their layers."""
    return Batch(
        names=NAMES,
        images=PICTURES,
        content=PICTURES,
        style=PICTURES,
        layers={extractor: maps(channels, 1)},
        content_layers={extractor: maps(channels, 2)},
        style_layers={extractor: maps(channels, 3)},
    )


def embedded() -> Batch:
    """Images, style images and prompts in a space of 512 dimensions, all on one side of it, as CLIP's are."""
    generator = torch.Generator().manual_seed(4)

    def embeddings(count: int) -> torch.Tensor:
        return torch.randn((count, 512), generator=generator) + 0.5

    prompts = tuple(f"a painting of the {index % 3}. kind" for index in range(COUNT))
    texts = (*dict.fromkeys(prompts), "a photo")
    return Batch(
        names=NAMES,
        prompts=prompts,
        features={"clip-vit-b-32": embeddings(COUNT)},
        style_features={"clip-vit-b-32": embeddings(COUNT)},
        text_features={
            "clip-vit-b-32": {
                text: torch.nn.functional.normalize(row, dim=0)
                for text, row in zip(texts, embeddings(len(texts)), strict=True)
            }
        },
    )


class TestSsim(MetricContract):
    metric_class = Ssim

    def images(self) -> Batch:
        pictures = crops(8, side=48)
        tensors = [torch.from_numpy(picture.copy()).permute(2, 0, 1) for picture in pictures]
        partners = [torch.roll(tensor, 1, dims=2) for tensor in tensors]
        names = tuple(f"{index}" for index in range(len(tensors)))
        return Batch(names=names, images=tuple(tensors), content=tuple(partners))


class TestLpips(MetricContract):
    metric_class = Lpips

    def images(self) -> Batch:
        return pairs("alexnet", ALEXNET)


class TestLpipsVgg(MetricContract):
    metric_class = LpipsVgg

    def images(self) -> Batch:
        return pairs("vgg16", VGG16)


class TestStLpips(MetricContract):
    metric_class = StLpips

    def images(self) -> Batch:
        return pairs("st-vgg16", VGG16)


class TestContentLoss(MetricContract):
    metric_class = ContentLoss

    def images(self) -> Batch:
        return pairs("vgg16", VGG16)


class TestStContentLoss(MetricContract):
    metric_class = StContentLoss

    def images(self) -> Batch:
        return pairs("st-vgg16", VGG16)


class TestGramStyleLoss(MetricContract):
    metric_class = GramStyleLoss

    def images(self) -> Batch:
        return pairs("vgg16", VGG16)


class TestStGramStyleLoss(MetricContract):
    metric_class = StGramStyleLoss

    def images(self) -> Batch:
        return pairs("st-vgg16", VGG16)


class TestClipScore(MetricContract):
    metric_class = ClipScore

    def images(self) -> Batch:
        return embedded()


class TestClipStyleScore(MetricContract):
    metric_class = ClipStyleScore

    def images(self) -> Batch:
        return embedded()


class TestClipStyleSimilarity(MetricContract):
    metric_class = ClipStyleSimilarity

    def images(self) -> Batch:
        return embedded()


class TestArtFid(MetricContract):
    metric_class = ArtFid

    def images(self) -> Batch:
        numbers = np.random.default_rng(1).gamma(0.5, 0.5, size=(COUNT, 2048))
        return Batch(
            names=NAMES,
            images=PICTURES,
            content=PICTURES,
            layers={"alexnet": maps(ALEXNET, 1)},
            content_layers={"alexnet": maps(ALEXNET, 2)},
            features={"art-inception-v3": torch.from_numpy(numbers.astype(np.float32))},
        )

    def reference_images(self) -> Batch:
        numbers = np.random.default_rng(2).gamma(0.5, 0.5, size=(9, 2048))
        return Batch(
            names=tuple(f"style {index}" for index in range(9)),
            features={"art-inception-v3": torch.from_numpy(numbers.astype(np.float32))},
        )
