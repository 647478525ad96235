"""The demo's data set: crops of real photographs that installed packages carry, so that nothing is downloaded."""

from __future__ import annotations

import random
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from metricwatch.errors import InputError

SIDE = 160
_REFERENCE = 200
_REFERENCE_SIDE = 128
# The shorter side of what is trained on.
_TRAINING_SIDE = 256
_CONTENTS = ("astronaut", "chelsea", "china", "rocket")
_STYLES = ("coffee", "flower")

# Package, folder inside it, file. All are part of the wheels: scikit-image's pooch downloads are not touched.
_PHOTOS = (
    ("skimage", "data", "astronaut.png"),
    ("skimage", "data", "coffee.png"),
    ("skimage", "data", "chelsea.png"),
    ("skimage", "data", "rocket.jpg"),
    ("sklearn", "datasets/images", "china.jpg"),
    ("sklearn", "datasets/images", "flower.jpg"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """The folders to write: photographs to train on, contents and styles to try it with, crops to compare with."""

    training: Path
    content: Path
    style: Path
    reference: Path


def write_data_set(folders: DataSet, *, contents: int, seed: int) -> None:
    """Write `contents` pictures of SIDE pixels to try the style transfer on, two styles, and the rest, all as PNG.

    Crops are square, at several scales. The same seed gives the same pixels. Raises InputError naming a photograph
    that its package lacks.
    """
    photos = _photographs()
    for folder in (folders.training, folders.content, folders.style, folders.reference):
        folder.mkdir(parents=True)
    for name, photo in photos.items():
        scale = _TRAINING_SIDE / min(photo.size)
        size = (round(photo.width * scale), round(photo.height * scale))
        photo.resize(size, Image.Resampling.LANCZOS).save(folders.training / f"{name}.png")
    for folder, names, count, side in (
        (folders.content, _CONTENTS, contents, SIDE),
        (folders.style, _STYLES, len(_STYLES), SIDE),
        (folders.reference, tuple(photos), _REFERENCE, _REFERENCE_SIDE),
    ):
        # A generator of its own: what else draws random numbers must not move the crops.
        chance = random.Random(f"{folder.name}-{seed}")  # noqa: S311 - pictures, not secrets
        for number in range(count):
            name = names[number % len(names)]
            again = number // len(names) + 1
            _crop(photos[name], side, chance).save(folder / f"{name}{again if again > 1 else ''}.png")


def _photographs() -> dict[str, Image.Image]:
    found = {}
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
            found[path.stem] = image.convert("RGB")
    return found


def _crop(photo: Image.Image, side: int, chance: random.Random) -> Image.Image:
    taken = round(min(chance.uniform(1.2, 1.8) * side, *photo.size))
    left = chance.randint(0, photo.width - taken)
    top = chance.randint(0, photo.height - taken)
    return photo.resize((side, side), Image.Resampling.LANCZOS, box=(left, top, left + taken, top + taken))
