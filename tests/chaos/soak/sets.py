"""Sample sets that cost next to nothing to write and to score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.photos import crops

IMAGES = 4
SIDE = 32


class SmallSets:
    """Writes sets of a few noisy photo crops, each of its own content, and moves them in whole."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._generator = np.random.default_rng(seed)
        self._aside = folder / "writing"
        self._samples = folder / "samples"
        self._samples.mkdir(parents=True, exist_ok=True)
        self._pictures = crops(IMAGES, side=SIDE, seed=2)
        content = folder / "content"
        content.mkdir(exist_ok=True)
        for index, pixels in enumerate(self._pictures):
            Image.fromarray(pixels).save(content / f"{index:04d}.png")

    def write(self, step: int) -> Path:
        """The set of a step. The noise wanders between 10 and 40 grey levels, so that rules have something to say."""
        level = 25 + 15 * np.sin(step / 700)
        folder = self._aside / f"step_{step:07d}"
        folder.mkdir(parents=True)
        for index, pixels in enumerate(self._pictures):
            noisy = pixels + self._generator.normal(0, level, pixels.shape)
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{index:04d}.png", compress_level=1)
        (folder / ".done").touch()
        return folder.rename(self._samples / folder.name)
