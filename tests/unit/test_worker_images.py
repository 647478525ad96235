"""Decoding real files of every kind, good and bad."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metricwatch.worker import images
from metricwatch.worker.images import Pixels, UnusableImageError
from tests.support.photos import crops

LIMIT = 1_000_000


def decode(path: str, max_pixels: int) -> Pixels:
    return images.decode(images.read(path, max_pixels), max_pixels)


def photo(side: int = 40) -> Image.Image:
    return Image.fromarray(crops(1, side=side)[0])


def in_mode(mode: str) -> Image.Image:
    if mode == "LA":
        picture = photo().convert("L")
        picture.putalpha(Image.linear_gradient("L").resize(picture.size))
        return picture
    if mode == "RGBA":
        picture = photo()
        picture.putalpha(Image.linear_gradient("L").resize(picture.size))
        return picture
    return photo().convert(mode)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("RGB", "png"),
        ("RGB", "jpg"),
        ("RGB", "webp"),
        ("RGB", "bmp"),
        ("RGB", "tif"),
        ("RGB", "ppm"),
        ("L", "png"),
        ("L", "jpg"),
        ("L", "pgm"),
        ("LA", "png"),
        ("RGBA", "png"),
        ("RGBA", "webp"),
        ("P", "png"),
        ("1", "png"),
        ("CMYK", "jpg"),
        ("CMYK", "tif"),
    ],
)
def test_eight_bit_pictures_are_exactly_what_pillow_makes_of_them(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"picture.{suffix}"
    in_mode(mode).save(path)
    with Image.open(path) as picture:
        expected = np.asarray(picture.convert("RGB"))
    pixels = decode(str(path), LIMIT)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (40, 40, 3)
    np.testing.assert_array_equal(pixels, expected)


def test_a_palette_with_transparency_loses_its_alpha_only(tmp_path: Path) -> None:
    path = tmp_path / "palette.png"
    photo().quantize(16).save(path, transparency=3)
    with Image.open(path) as picture:
        expected = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(decode(str(path), LIMIT), expected)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    values = np.linspace(0, 65535, 40 * 40).astype(np.uint16).reshape(40, 40)
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(values).save(path)
    pixels = decode(str(path), LIMIT)
    assert pixels.shape == (40, 40, 3)
    np.testing.assert_array_equal(pixels[:, :, 0], np.round(values / 257).astype(np.uint8))
    assert (pixels[0, 0, 0], pixels[-1, -1, 0]) == (0, 255)
    assert len(np.unique(pixels)) == 256


def test_big_endian_sixteen_bit_tiffs_are_read_alike(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 1600).astype(">u2").reshape(40, 40)
    path = tmp_path / "deep.tif"
    Image.fromarray(values).save(path)
    np.testing.assert_array_equal(decode(str(path), LIMIT)[:, :, 0], np.round(values / 257).astype(np.uint8))


def test_orientation_is_ignored_as_pytorch_fid_does(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    photo().resize((40, 20)).save(path, exif=exif)
    assert decode(str(path), LIMIT).shape == (20, 40, 3)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_channels_of_32_bits_are_refused_with_the_reason(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "float.tif"
    photo().convert("L").convert(mode).save(path)
    assert "32 bits a channel" in reason(path)


def test_a_file_of_no_bytes_says_so(tmp_path: Path) -> None:
    path = tmp_path / "empty.png"
    path.touch()
    assert reason(path) == "empty file (0 bytes)"


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "bmp", "ppm"])
def test_half_a_file_is_truncated(tmp_path: Path, suffix: str) -> None:
    data = encoded(photo(200), suffix)
    path = tmp_path / f"half.{suffix}"
    path.write_bytes(data[: len(data) // 2])
    assert any(word in reason(path) for word in ("truncated", "damaged", "cannot be decoded"))


@pytest.mark.parametrize("content", [b"not a picture at all", b"\x89PNG\r\n\x1a\n", os.urandom(500), b"%!PS-Adobe\n"])
def test_what_is_no_picture_says_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "wrong.png"
    path.write_bytes(content)
    assert reason(path)


def test_postscript_is_never_interpreted_whatever_it_is_called(tmp_path: Path) -> None:
    path = tmp_path / "script.png"
    photo().save(path, format="EPS")
    assert "not a picture of a known format" in reason(path)


def test_size_is_capped_from_the_header_before_decoding(tmp_path: Path) -> None:
    """A PNG of a few bytes whose header claims 50,000 x 50,000 pixels."""
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    path = tmp_path / "bomb.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + chunk_of(b"IDAT", zlib.compress(b"\0" * 100))
    )
    assert f"over the limit of {LIMIT}" in reason(path)


def test_a_picture_at_the_limit_is_read_and_one_above_is_not(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    photo(40).save(path)
    assert decode(str(path), 1600).shape == (40, 40, 3)
    with pytest.raises(UnusableImageError, match="40 x 40 pixels, over the limit of 1599"):
        decode(str(path), 1599)


def test_a_file_too_large_for_any_picture_within_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "endless.png"
    with path.open("wb") as file:
        file.truncate(200_000_000)
    assert reason(path) == "200000000 bytes, too many for the limit of 1000000 pixels"


def test_a_vanished_file_says_so(tmp_path: Path) -> None:
    assert reason(tmp_path / "gone.png") == "no such file, or no longer"


def test_a_directory_and_a_pipe_are_not_pictures(tmp_path: Path) -> None:
    """Opening a pipe would wait for a writer for ever."""
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    assert reason(tmp_path / "folder.png") == "not a regular file"
    assert reason(tmp_path / "pipe.png") == "not a regular file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    photo().save(path)
    path.chmod(0)
    assert "Permission denied" in reason(path)


def reason(path: Path) -> str:
    with pytest.raises(UnusableImageError) as caught:
        decode(str(path), LIMIT)
    return str(caught.value)


def encoded(picture: Image.Image, suffix: str) -> bytes:
    file = io.BytesIO()
    picture.save(file, format={"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()))
    return file.getvalue()


def chunk_of(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
