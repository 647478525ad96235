"""Files that are read, hashed and decoded once."""

from __future__ import annotations

import os
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metricwatch.worker.images import UnusableImageError
from metricwatch.worker.pictures import Picture, Pictures
from tests.support.photos import crops

LIMIT = 1_000_000


@pytest.fixture
def path(tmp_path: Path) -> str:
    Image.fromarray(crops(1, side=24)[0]).save(tmp_path / "a.png")
    return str(tmp_path / "a.png")


def test_the_file_may_vanish_after_its_digest_was_asked_for(path: str) -> None:
    """What was hashed is what is decoded: nothing can change in between."""
    picture = Picture(path, LIMIT)
    assert picture.digest == blake2b(Path(path).read_bytes(), digest_size=16).digest()
    os.unlink(path)
    pixels, decoded = picture.pixels()
    np.testing.assert_array_equal(pixels, crops(1, side=24)[0])
    assert decoded


def test_the_second_use_is_no_second_decode(path: str) -> None:
    picture = Picture(path, LIMIT)
    first, _ = picture.pixels()
    second, decoded = picture.pixels()
    assert second is first
    assert not decoded


def test_a_broken_file_fails_at_each_use(tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"bad")
    picture = Picture(str(bad), LIMIT)
    assert picture.digest
    for _ in range(2):
        with pytest.raises(UnusableImageError, match="not a picture"):
            picture.pixels()


def test_a_shared_picture_is_kept_until_its_last_use(path: str) -> None:
    pictures = Pictures([path, path, path], LIMIT)
    first = pictures.use(path)
    assert pictures.use(path) is first
    assert pictures.use(path) is first
    assert not pictures._kept
