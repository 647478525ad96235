"""The metric keeps the contract of metrics, and gives values that were worked out by hand."""

from __future__ import annotations

import pytest
import torch
from metricwatch_template_metric import TemplateMetric

from metricwatch import catalog
from metricwatch.api import Batch
from metricwatch.testing.metric import MetricContract


class TestTemplateMetric(MetricContract):
    metric_class = TemplateMetric

    def images(self) -> Batch:
        chance = torch.Generator().manual_seed(0)
        sizes = ((8, 9), (12, 12), (3, 30), (16, 8), (20, 20))
        return Batch(
            names=tuple(f"{index:03d}" for index in range(len(sizes))),
            images=tuple(torch.randint(256, (3, *size), generator=chance, dtype=torch.uint8) for size in sizes),
        )


def measured(*images: torch.Tensor) -> float | None:
    metric = TemplateMetric()
    metric.update(Batch(names=tuple(str(index) for index in range(len(images))), images=images))
    (value,) = metric.compute()
    return value.value


def test_one_white_pixel_has_the_variance_of_its_laplacian() -> None:
    image = torch.zeros((3, 5, 5), dtype=torch.uint8)
    image[:, 2, 2] = 255
    # Of nine pixels one has -4 * 255, its four neighbours have 255, and the mean is 0.
    assert measured(image) == pytest.approx((16 + 4) * 255**2 / 9)


def test_an_even_slope_has_none() -> None:
    assert measured(torch.arange(48, dtype=torch.uint8).reshape(1, 1, 48).expand(3, 6, 48)) == pytest.approx(
        0, abs=1e-20
    )


def test_a_narrow_image_is_left_out() -> None:
    assert measured(torch.zeros((3, 2, 9), dtype=torch.uint8)) is None


def test_metricwatch_finds_it() -> None:
    assert catalog.load_metric("template_metric") is TemplateMetric
