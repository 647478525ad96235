"""Partners are brought to their image's size exactly as torch would in one go, in less memory."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from metricwatch.worker import resize
from metricwatch.worker.resize import resized
from tests.support.photos import crops


@pytest.mark.parametrize("strip", [16, 512 * 512])
@pytest.mark.parametrize("old", [(50, 70), (200, 280), (17, 90), (90, 17), (300, 12)])
def test_a_picture_resized_in_strips_is_the_one_resized_at_once(
    old: tuple[int, int], strip: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resize, "_STRIP", strip)
    picture = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, *old), dtype=np.uint8))
    at_once = functional.interpolate(picture.double()[None], size=(50, 70), mode="bicubic", antialias=True)[0]
    torch.testing.assert_close(resized(picture, 50, 70).double(), at_once.clamp(0, 255).round(), rtol=0, atol=0)


def test_the_size_that_it_has_changes_nothing() -> None:
    picture = torch.from_numpy(crops(1, side=61)[0].copy()).permute(2, 0, 1)
    torch.testing.assert_close(resized(picture, 61, 61), picture, rtol=0, atol=0)


@pytest.mark.parametrize("side", [50, 128, 173])
def test_a_photograph_is_nearly_pillows(side: int) -> None:
    """Pillow rounds and clips between its two passes, which shows where an edge overshoots."""
    picture = crops(1, side=128)[0]
    by_pillow = np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC))
    ours = resized(torch.from_numpy(picture.copy()).permute(2, 0, 1), side, side).permute(1, 2, 0).numpy()
    difference = np.abs(ours.astype(int) - by_pillow.astype(int))
    assert difference.mean() < 0.25
    assert np.mean(difference > 1) < 0.01


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units")
@pytest.mark.parametrize(("old", "new"), [((1500, 1500), (3000, 3000)), ((3000, 3000), (1500, 1500))])
def test_a_large_picture_takes_little_more_memory_than_its_pixels(old: tuple[int, int], new: tuple[int, int]) -> None:
    """Nine million pixels of three channels in float64, twice, would take 430 MB."""
    code = f"""
import resource, torch
from metricwatch.worker.resize import resized
rss = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
picture = torch.randint(0, 256, (3, *{old}), dtype=torch.uint8)
resized(picture[:, :64, :64], 32, 32)
before = rss()
resized(picture, *{new})
print(rss() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 140
