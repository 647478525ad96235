"""Photographs for tests: crops of the public pictures that scikit-image and scikit-learn carry."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image, ImageFilter
from sklearn.datasets import load_sample_images


@cache
def originals() -> tuple[np.ndarray, ...]:
    """uint8 (H, W, 3) photographs, all at least 300 x 400."""
    pictures = [
        skimage.data.astronaut(),
        skimage.data.coffee(),
        skimage.data.chelsea(),
        skimage.data.rocket(),
        skimage.data.hubble_deep_field(),
        skimage.data.retina(),
        *load_sample_images().images,
    ]
    return tuple(np.ascontiguousarray(picture) for picture in pictures)


def crops(count: int, *, side: int = 128, seed: int = 0) -> list[np.ndarray]:
    """`count` different square crops, uint8 (side, side, 3), going round the photographs."""
    generator = np.random.default_rng(seed)
    pictures = originals()
    made = []
    for index in range(count):
        picture = pictures[index % len(pictures)]
        scale = generator.uniform(1.0, min(picture.shape[:2]) / side)
        reach = int(side * scale)
        top = generator.integers(0, picture.shape[0] - reach + 1)
        left = generator.integers(0, picture.shape[1] - reach + 1)
        crop = Image.fromarray(picture[top : top + reach, left : left + reach])
        made.append(np.asarray(crop.resize((side, side), Image.Resampling.LANCZOS)))
    return made


def write_crops(directory: Path, count: int, *, side: int = 128, seed: int = 0, blur: float = 0.0) -> Path:
    """Fill a directory with PNG crops named 0000.png onwards, blurred where asked, and return it."""
    directory.mkdir(parents=True, exist_ok=True)
    for index, pixels in enumerate(crops(count, side=side, seed=seed)):
        picture = Image.fromarray(pixels)
        if blur:
            picture = picture.filter(ImageFilter.GaussianBlur(blur))
        picture.save(directory / f"{index:04d}.png", compress_level=1)
    return directory
