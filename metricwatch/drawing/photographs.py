"""Reads the small PNG files that drawings name, and fits them into cells. Whatever is wrong with a file: no picture."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterable
from statistics import median

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]

_MOST_BYTES, _MOST_PIXELS = 32_000_000, 4_000_000
# So much wider than high, or higher than wide, a cell may be.
_MOST_SLENDER = 2.0
# From here on an enlarged picture shows its pixels, as it should: a blur would look like the model's.
_COARSE = 2.0


def read_picture(path: str) -> Image.Image | None:
    """A PNG file's picture as 8-bit RGB, on white where it is transparent; None for anything else.

    Only regular files of at most 32 MB with at most 4 million pixels are decoded.
    """
    try:
        # A pipe would keep us waiting.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
                return None
            content = file.read(_MOST_BYTES)
        with Image.open(io.BytesIO(content), formats=("PNG",)) as picture:
            if picture.width * picture.height > _MOST_PIXELS:
                return None
            return _rgb(picture)
    except Exception:  # noqa: BLE001 - decoders raise SyntaxError, ValueError, struct.error, zlib.error ... on damage
        return None


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        # Sixteen bits of grey, which Pillow would cut at 255.
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    paper = Image.new("RGBA", picture.size, "white")
    paper.alpha_composite(picture)
    return paper.convert("RGB")


def shape(pictures: Iterable[Image.Image | None]) -> float:
    """Height by width of a cell that suits most of the pictures, 0.5 to 2; 1 where there is none."""
    found = [picture.height / picture.width for picture in pictures if picture is not None]
    return min(max(median(found), 1 / _MOST_SLENDER), _MOST_SLENDER) if found else 1.0


def fitted(picture: Image.Image, width: int, height: int) -> Image.Image:
    """The picture as large as fits the cell, its shape kept: averaged where it shrinks, its pixels seen where small."""
    scale = min(width / picture.width, height / picture.height)
    size = (max(1, min(width, round(picture.width * scale))), max(1, min(height, round(picture.height * scale))))
    if scale < _COARSE:
        return picture.resize(size, Image.Resampling.LANCZOS)
    # Whole pixels first: squares of equal size, whatever the cell's.
    times = int(scale) + 1
    larger = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    return larger.resize(size, Image.Resampling.BOX)
