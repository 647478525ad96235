"""Small PNG files in one folder, as pictures of an evaluation are made from."""

from __future__ import annotations

import contextlib
import io
import os
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from torch.nn import functional

from metricwatch.errors import InputError
from metricwatch.worker.log import one_line

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

# Files that are drawn from once and then removed: half the time of Pillow's own choice.
_COMPRESSION = 1


class UnwritableError(InputError):
    """The folder takes no file: nor will it take the next."""


class LookFolder:
    """Writes pictures whose longer side has at most `side` pixels, under names of its own. Makes the folder if needed.

    Not for use by several threads.
    """

    def __init__(self, folder: str, side: int) -> None:
        self._folder = folder
        self._side = max(1, side)
        self._written: list[str] = []

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the small picture of one of this size."""
        longer = max(height, width)
        if longer <= self._side:
            return height, width
        return max(1, round(height * self._side / longer)), max(1, round(width * self._side / longer))

    def picture(self, pixels: Tensor | npt.NDArray[np.uint8], size: tuple[int, int] | None = None) -> str:
        """Save a picture, uint8, a tensor (3, H, W) on any device or an array (H, W, 3), and return its path.

        size, (height, width), is what size() says unless given. Shrinks with an antialiasing filter (Lanczos), never
        enlarges unasked. Raises UnwritableError when it cannot be written.
        """
        array = pixels if isinstance(pixels, np.ndarray) else pixels.permute(1, 2, 0).cpu().numpy()
        height, width = size or self.size(array.shape[0], array.shape[1])
        image = Image.fromarray(np.ascontiguousarray(array))
        if image.size != (width, height):
            # Many times too large, it is first averaged over whole blocks: a tenth of the time.
            image = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
        return self._save(image)

    def heat(self, values: Tensor, most: float, size: tuple[int, int]) -> str:
        """Save a map (h, w) of finite numbers as grey of this size: 0 for 0, 255 for `most` and more.

        Raises UnwritableError when it cannot be written.
        """
        small = values.detach().float().cpu()
        if tuple(small.shape) != size:
            small = functional.interpolate(small[None, None], size=size, mode="bilinear", antialias=True)[0, 0]
        grey = small.div(most).clamp(0.0, 1.0).mul(255.0).round().byte()
        return self._save(Image.fromarray(grey.numpy(), mode="L"))

    def clear(self) -> None:
        """Remove what was written, as far as that can be: nobody will name it."""
        for path in self._written:
            with contextlib.suppress(OSError):
                os.unlink(path)
        self._written.clear()

    def _save(self, image: Image.Image) -> str:
        buffer = io.BytesIO()
        image.save(buffer, format="PNG", compress_level=_COMPRESSION)
        path = os.path.join(self._folder, f"{len(self._written):04d}.png")
        # Noted first: half a file is removed as well.
        self._written.append(path)
        try:
            os.makedirs(self._folder, exist_ok=True)
            with open(path, "wb") as file:
                file.write(buffer.getbuffer())
        except OSError as error:
            reason = error.strerror or str(error)
            raise UnwritableError(f"pictures cannot be written into {one_line(self._folder)}: {reason}") from error
        return path
