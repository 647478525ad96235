"""The demo's data set: crops of real photographs that installed packages carry, so that nothing is downloaded."""

from __future__ import annotations

import random
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from metricwatch.errors import InputError

SIDE = 128
_REFERENCE = 224

# Package, folder inside it, file. All are part of the wheels: scikit-image's pooch downloads are not touched.
_PHOTOS = (
    ("skimage", "data", "astronaut.png"),
    ("skimage", "data", "coffee.png"),
    ("skimage", "data", "chelsea.png"),
    ("skimage", "data", "rocket.jpg"),
    ("sklearn", "datasets/images", "china.jpg"),
    ("sklearn", "datasets/images", "flower.jpg"),
)


def write_data_set(reference: Path, content: Path, *, images: int, seed: int) -> None:
    """Write `images` crops into content and some 200 others of the same photographs into reference, as PNG.

    Crops are SIDE pixels square, at several scales, taken from every photograph in turn. The same seed gives the
    same pixels. Raises InputError naming a photograph that its package lacks.
    """
    photos = _photographs()
    for folder, count, salt in ((reference, _REFERENCE, "reference"), (content, images, "content")):
        folder.mkdir(parents=True)
        for (name, _), crop, number in zip(
            _cycle(photos), _crops(photos, f"{salt}-{seed}"), range(count), strict=False
        ):
            crop.save(folder / f"{number:03}_{name}.png")


def _photographs() -> list[tuple[str, Image.Image]]:
    found = []
    for package, folder, file in _PHOTOS:
        spec = find_spec(package)
        places = [Path(place, folder, file) for place in (spec.submodule_search_locations or ())] if spec else []
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            raise InputError(
                f"demo: the photograph {file} should be part of the installed package {package}, but is not there; "
                "install it again: pip install --force-reinstall 'metricwatch[demo]'"
            )
        with Image.open(path) as image:
            found.append((path.stem, image.convert("RGB")))
    return found


def _cycle(photos: list[tuple[str, Image.Image]]) -> Iterator[tuple[str, Image.Image]]:
    while True:
        yield from photos


def _crops(photos: list[tuple[str, Image.Image]], seed: str) -> Iterator[Image.Image]:
    # A generator of its own: what else draws random numbers must not move the crops.
    chance = random.Random(seed)  # noqa: S311 - pictures, not secrets
    for _, photo in _cycle(photos):
        side = round(chance.uniform(1.0, 2.0) * SIDE)
        left = chance.randint(0, photo.width - side)
        top = chance.randint(0, photo.height - side)
        yield photo.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))
