"""Folders of photographs in any number, all different."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.photos import crops

# Cutting crops takes longer than shifting them around.
_DIFFERENT = 200
_STYLES = 4


def write_photographs(folder: Path, count: int, *, side: int, seed: int, first: int = 0) -> Path:
    """Fill a folder with PNGs named by number from `first`; the same names and seed give the same pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    cut = crops(min(_DIFFERENT, first + count), side=side, seed=seed)

    def write(number: int) -> None:
        shifted = np.roll(cut[number % len(cut)], 3 * (number // len(cut)), axis=1)
        Image.fromarray(shifted).save(folder / f"{number:06d}.png", compress_level=3)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, range(first, first + count)))
    return folder


def write_styles(folder: Path, count: int, *, side: int, seed: int) -> Path:
    """The same names, and few different pictures: style transfer has few styles for many contents."""
    folder.mkdir(parents=True, exist_ok=True)
    styles = write_photographs(folder.with_name(f"{folder.name}-different"), _STYLES, side=side, seed=seed)
    contents = [path.read_bytes() for path in sorted(styles.iterdir())]
    for number in range(count):
        (folder / f"{number:06d}.png").write_bytes(contents[number % _STYLES])
    return folder
