"""Pictures made small enough for a page that is mailed."""

from __future__ import annotations

import io
import math

from metricwatch.errors import PermanentError

# As many as metricwatch's own limit on images.
_MOST_PIXELS = 100_000_000
# Side in pixels and quality, until the file is small enough.
_TRIES = ((900, 85), (900, 70), (700, 60))
_SMALL_ENOUGH = 180_000


def shrunk(png: bytes) -> tuple[bytes, int, int]:
    """The picture in WebP with its width and height: at most 900 pixels wide and high, some 180 KB at most.

    The same bytes for the same picture and the same Pillow. Raises PermanentError for what is no PNG.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            _check_size(image.size)
            whole = image.convert("RGBA")
        # What is transparent would be black where the page is dark.
        paper = Image.new("RGBA", whole.size, "white")
        paper.alpha_composite(whole)
        ready = paper.convert("RGB")
        for side, quality in _TRIES:
            small = ready.copy()
            small.thumbnail((side, side))
            made = io.BytesIO()
            small.save(made, "WEBP", quality=quality, method=4)
            if made.tell() <= _SMALL_ENOUGH:
                break
        return made.getvalue(), *small.size
    except Exception as error:
        # Pillow raises whatever its decoders meet.
        raise PermanentError(f"no PNG that can be shown: {error}") from error


def _check_size(size: tuple[int, int]) -> None:
    if math.prod(size) > _MOST_PIXELS:
        raise ValueError(f"it has {size[0]} x {size[1]} pixels, more than {_MOST_PIXELS:,}")
