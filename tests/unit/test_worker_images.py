"""Decoding real files of every kind, good and bad."""

from __future__ import annotations

import io
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metricwatch.worker import images
from metricwatch.worker.images import Decoder, UnusableImageError, decode
from tests.support.photos import crops

LIMIT = 1_000_000


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


def test_a_vanished_file_says_so(tmp_path: Path) -> None:
    assert reason(tmp_path / "gone.png") == "vanished before it was read"


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


def test_the_decoder_reads_a_repeated_file_once(tmp_path: Path) -> None:
    """A partner shared by two images: the second take comes from memory, the file may be gone."""
    paths = []
    for name in ("a", "b", "shared"):
        paths.append(str(tmp_path / f"{name}.png"))
        photo().save(paths[-1])
    order = [paths[0], paths[2], paths[1], paths[2]]
    with Decoder(order, max_pixels=LIMIT, ahead=8) as decoder:
        first = [decoder.take(path) for path in order[:3]]
        os.unlink(paths[2])
        assert decoder.take(order[3]) is first[1]


@pytest.mark.parametrize(("ahead", "ahead_bytes"), [(1, 10**9), (3, 10**9), (100, 1)])
def test_the_decoder_gives_pictures_in_order_however_little_it_may_keep(
    tmp_path: Path, ahead: int, ahead_bytes: int
) -> None:
    pictures = crops(7, side=24)
    paths = [str(tmp_path / f"{index}.png") for index in range(7)]
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(path)
    with Decoder(paths, max_pixels=LIMIT, ahead=ahead, ahead_bytes=ahead_bytes) as decoder:
        for path, picture in zip(paths, pictures, strict=True):
            np.testing.assert_array_equal(decoder.take(path), picture)


def test_a_broken_file_fails_at_each_take_and_stops_nobody(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    photo().save(good)
    bad.write_bytes(b"bad")
    order = [str(bad), str(good), str(bad)]
    with Decoder(order, max_pixels=LIMIT, ahead=2) as decoder:
        with pytest.raises(UnusableImageError):
            decoder.take(str(bad))
        assert decoder.take(str(good)).shape == (40, 40, 3)
        with pytest.raises(UnusableImageError):
            decoder.take(str(bad))


class Slow:
    """Stands in for decode(): notes what was asked for, and waits while `gate` is closed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, size: int) -> None:
        self.asked: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self._size = size
        monkeypatch.setattr(images, "decode", self._decode)

    def _decode(self, path: str, max_pixels: int) -> np.ndarray:
        self.asked.append(path)
        assert self.gate.wait(10)
        return np.zeros(self._size, np.uint8)


def settled(condition: Callable[[], bool]) -> bool:
    """True when it comes true within two seconds, and is still true a while later."""
    deadline = time.monotonic() + 2
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    return condition()


def test_no_more_is_begun_than_there_are_threads_while_sizes_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 pictures of 5000 x 5000, submitted at once, are 5 GB by the time that the first is looked at."""
    slow = Slow(monkeypatch, size=100)
    slow.gate.clear()
    with Decoder([str(n) for n in range(64)], max_pixels=LIMIT, ahead=64, ahead_bytes=250, threads=2) as decoder:
        assert settled(lambda: len(slow.asked) == 2)
        assert len(decoder._decoded) == 2
        slow.gate.set()
        # 300 bytes wait: over the bound, and one more may have been begun before the third was there.
        assert settled(lambda: 3 <= len(slow.asked) <= 4)
        for n in range(64):
            decoder.take(str(n))
            assert len(decoder._decoded) <= 5


def test_reading_ahead_goes_on_while_the_reader_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(monkeypatch, size=1)
    with Decoder([str(n) for n in range(64)], max_pixels=LIMIT, ahead=20, threads=2) as decoder:
        assert settled(lambda: len(slow.asked) == 20)
        decoder.take("0")
        assert settled(lambda: len(slow.asked) == 21)


def test_leaving_early_begins_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(monkeypatch, size=1)
    slow.gate.clear()
    with Decoder([str(n) for n in range(64)], max_pixels=LIMIT, ahead=64, threads=2) as decoder:
        assert settled(lambda: len(slow.asked) == 2)
        threading.Timer(0.2, slow.gate.set).start()
    assert len(slow.asked) == 2
    assert decoder._unfinished == 0


@pytest.mark.parametrize(("threads", "ahead", "ahead_bytes"), [(1, 1, 1), (1, 64, 1), (3, 2, 150), (8, 64, 1)])
def test_partners_between_the_images_never_block_each_other(
    monkeypatch: pytest.MonkeyPatch, threads: int, ahead: int, ahead_bytes: int
) -> None:
    Slow(monkeypatch, size=100)
    order = [path for n in range(200) for path in (f"image {n}", f"partner {n // 2}", "style")]
    with Decoder(order, max_pixels=LIMIT, ahead=ahead, ahead_bytes=ahead_bytes, threads=threads) as decoder:
        for path in order:
            assert decoder.take(path).nbytes == 100
        assert not decoder._decoded


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
