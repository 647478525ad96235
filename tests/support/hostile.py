"""Files made to hurt whoever opens them: bombs, liars, torn ones, strangers by the name of a picture."""

from __future__ import annotations

import io
import os
import pickle
import socket
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

from PIL import Image

PNG = b"\x89PNG\r\n\x1a\n"
_MEBI = 1 << 20
# TIFF types by name: number and bytes of one value.
_TYPES = {"short": (3, 2), "long": (4, 4), "rational": (5, 8)}


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, format=kind, **options)
    return file.getvalue()


def picture(width: int = 48, height: int = 48) -> Image.Image:
    """A small one with all the colours, so that no coder finds it trivial."""
    gradient = Image.linear_gradient("L")
    bands = [gradient, gradient.rotate(90), gradient.rotate(180)]
    return Image.merge("RGB", [band.resize((width, height)) for band in bands])


# --- parts of files ------------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    """A PNG chunk with the CRC that belongs to it."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 2, interlaced: int = 0) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))
    return PNG + header + b"".join(chunks) + chunk(b"IEND", b"")


def zeros(size: int) -> bytes:
    """So many zeros, deflated: a thousandth of them."""
    packer = zlib.compressobj(9)
    parts = [packer.compress(bytes(_MEBI)) for _ in range(size // _MEBI)]
    return b"".join([*parts, packer.compress(bytes(size % _MEBI)), packer.flush()])


def _tiff(tags: Mapping[int, tuple[str, int, int]], body: bytes = b"", *, following: int = 0) -> bytes:
    """One directory of (type, count, value or offset), and what lies behind it; following: where the next one is."""
    entries = b"".join(struct.pack("<HHLL", tag, _TYPES[kind][0], *rest) for tag, (kind, *rest) in sorted(tags.items()))
    return b"II*\0" + struct.pack("<LH", 8, len(tags)) + entries + struct.pack("<L", following) + body


def _tiff_of(
    width: int, height: int, extra: Mapping[int, tuple[str, int, int]], body: bytes, *, second: int = 0
) -> bytes:
    """Eight bits of grey, deflated. A value of -1 stands for where the body begins, -2 for `second` bytes further."""
    tags = {
        256: ("long", 1, width),
        257: ("long", 1, height),
        258: ("short", 1, 8),
        259: ("short", 1, 8),
        262: ("short", 1, 1),
        277: ("short", 1, 1),
        **extra,
    }
    start = 14 + 12 * len(tags)
    places = {-1: start, -2: start + second}
    placed = {tag: (kind, count, places.get(value, value)) for tag, (kind, count, value) in tags.items()}
    return _tiff(placed, body)


def jpeg_with(*segments: bytes) -> bytes:
    """A good JPEG with more segments behind its first marker."""
    good = encoded(picture(), "JPEG")
    return good[:2] + b"".join(segments) + good[2:]


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


# --- bombs ---------------------------------------------------------------------------------------------------


def _png_text_bomb(kind: bytes) -> bytes:
    head = b"Comment\0\0" if kind == b"zTXt" else b"Comment\0\1\0\0\0"
    return png(8, 8, *([chunk(kind, head + zeros(64 * _MEBI))] * 3), chunk(b"IDAT", zeros(8 * 25)))


def _tiff_tile_bomb() -> bytes:
    """A picture of 64 x 64 in one tile of 40,000 x 40,000."""
    data = zeros(64 * _MEBI)
    extra = {322: ("long", 1, 40_000), 323: ("long", 1, 40_000), 324: ("long", 1, -1), 325: ("long", 1, len(data))}
    return _tiff_of(64, 64, extra, data)


def _tiff_strip_bomb() -> bytes:
    data = zeros(256 * _MEBI)
    extra = {273: ("long", 1, -1), 278: ("long", 1, 0xFFFFFFFF), 279: ("long", 1, len(data))}
    return _tiff_of(64, 64, extra, data)


def _tiff_shared_bomb() -> bytes:
    """Thousands of tags, each of all the bytes of the file."""
    shared = bytes(8 * _MEBI)
    extra = {tag: ("long", len(shared) // 4, -1) for tag in range(40_000, 44_000)}
    return _tiff_of(64, 64, extra, shared)


def _tiff_number_bomb() -> bytes:
    """A width of three million fractions, each an object."""
    return _tiff_of(64, 64, {258: ("rational", 3_000_000, -1)}, bytes(24_000_000))


def _tiff_exif_bomb() -> bytes:
    """The same in the directory of Exif data."""
    data = picture().convert("L").tobytes()
    extra = {273: ("long", 1, -1), 279: ("long", 1, len(data)), 259: ("short", 1, 1), 34665: ("long", 1, -2)}
    body = data + struct.pack("<HHHLL", 1, 0x829A, 5, 3_000_000, 300) + bytes(24_000_000)
    return _tiff_of(48, 48, extra, body, second=len(data))


def _jpeg_exif_bomb() -> bytes:
    """A resolution of three million fractions, in pieces that are put together one by one."""
    entries = struct.pack("<HHHLLHHLL", 2, 0x011A, 5, 3_000_000, 38, 0x0128, 3, 1, 2)
    block = b"II*\0" + struct.pack("<L", 8) + entries + bytes(4) + bytes(24_000_100)
    return jpeg_with(*(segment(0xE1, b"Exif\0\0" + block[at : at + 60_000]) for at in range(0, len(block), 60_000)))


def _jpeg_scan_bomb() -> bytes:
    """A progressive JPEG that says its last scan over and over."""
    good = encoded(Image.new("L", (1900, 1900), 90), "JPEG", progressive=True)
    last = good.rindex(b"\xff\xda")
    return good[:last] + good[last:-2] * 6000 + b"\xff\xd9"


def _gif_comment_bomb() -> bytes:
    """A comment to which each 255 bytes are added by copying all before."""
    good = encoded(picture().quantize(), "GIF")
    at = 13 + 3 * 2 ** ((good[10] & 7) + 1)
    return good[:at] + b"!\xfe" + (b"\xff" + b"x" * 255) * 120_000 + b"\0" + good[at:]


def _webp(width: int, height: int) -> bytes:
    """An animation whose canvas is far larger than its one frame."""
    good = encoded(picture(), "WEBP")[12:]
    canvas = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    size = struct.pack("<I", 47)[:3]
    frame = bytes(6) + size + size + bytes(4) + good
    parts = [
        b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + canvas,
        b"ANIM" + struct.pack("<I", 6) + bytes(6),
        b"ANMF" + struct.pack("<I", len(frame)) + frame + b"\0" * (len(frame) % 2),
    ]
    body = b"WEBP" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _bmp(width: int, height: int, data: bytes, *, compression: int = 0, depth: int = 24, offset: int = 54) -> bytes:
    head = b"BM" + struct.pack("<IHHI", 54 + len(data), 0, 0, offset)
    return head + struct.pack("<IiiHHIIiiII", 40, width, height, 1, depth, compression, 0, 0, 0, 0, 0) + data


BOMBS: Mapping[str, Callable[[], bytes]] = {
    "png-pixels": lambda: png(50_000, 50_000, chunk(b"IDAT", zeros(64 * _MEBI))),
    "png-surplus": lambda: png(48, 48, chunk(b"IDAT", zeros(256 * _MEBI))),
    "png-ztxt": lambda: _png_text_bomb(b"zTXt"),
    "png-itxt": lambda: _png_text_bomb(b"iTXt"),
    "png-profile": lambda: png(8, 8, chunk(b"iCCP", b"p\0\0" + zeros(256 * _MEBI)), chunk(b"IDAT", zeros(8 * 25))),
    "png-chunks": lambda: png(48, 48, chunk(b"vpAg", b"") * 3_000_000, chunk(b"IDAT", zeros(48 * 145))),
    "tiff-tile": _tiff_tile_bomb,
    "tiff-strip": _tiff_strip_bomb,
    "tiff-shared": _tiff_shared_bomb,
    "tiff-numbers": _tiff_number_bomb,
    "tiff-exif-numbers": _tiff_exif_bomb,
    "jpeg-exif": _jpeg_exif_bomb,
    "jpeg-scans": _jpeg_scan_bomb,
    "jpeg-segments": lambda: jpeg_with(segment(0xEB, b"") * 6_000_000),
    "gif-canvas": lambda: b"GIF89a" + struct.pack("<HH", 65535, 65535) + encoded(picture().quantize(), "GIF")[10:],
    "gif-comment": _gif_comment_bomb,
    "webp-canvas": lambda: _webp(16_000, 16_000),
    "webp-vast-canvas": lambda: _webp(1 << 24, 255),
    "bmp-pixels": lambda: _bmp(1 << 20, 1 << 20, bytes(64)),
    "bmp-run-lengths": lambda: _bmp(2000, 2000, b"\0\2\xff\xff" * 4, compression=1, depth=8),
    "ppm-comment": lambda: b"P6\n#" + b"x" * 30_000_000 + b"\n48 48 255\n" + bytes(48 * 48 * 3),
    "ppm-pixels": lambda: b"P6 99999999 99999999 255\n" + bytes(100),
}

# --- liars ---------------------------------------------------------------------------------------------------


def _wrong_crc() -> bytes:
    good = bytearray(encoded(picture(), "PNG"))
    good[30] ^= 0xFF
    return bytes(good)


def _tiff_loop() -> bytes:
    """A directory that follows itself, of a picture without any data."""
    return _tiff({256: ("long", 1, 64), 257: ("long", 1, 64), 330: ("long", 1, 8)}, following=8)


LIARS: Mapping[str, Callable[[], bytes]] = {
    "png-too-little": lambda: png(48, 48, chunk(b"IDAT", zeros(48 * 20))),
    "png-wrong-crc": _wrong_crc,
    "png-no-pixels": lambda: png(0, 0, chunk(b"IDAT", zeros(0))),
    "png-long-chunk": lambda: PNG + struct.pack(">I", 0x7FFFFFFF) + b"IHDR" + bytes(40),
    "tiff-loop": _tiff_loop,
    "tiff-beyond": lambda: _tiff_of(64, 64, {273: ("long", 1, 1 << 30), 279: ("long", 1, 1 << 30)}, b""),
    "bmp-too-little": lambda: _bmp(400, 400, bytes(500)),
    "bmp-beyond": lambda: _bmp(40, 40, bytes(4800), offset=1 << 30),
    "bmp-upside-down": lambda: _bmp(40, -(1 << 31), bytes(4800)),
    "ppm-too-little": lambda: b"P6 400 400 255\n" + bytes(100),
    "ppm-no-number": lambda: b"P6 4" + b"0" * 5000 + b" 40 255\n" + bytes(100),
    "webp-too-little": lambda: encoded(picture(), "WEBP")[:60],
    "needle": lambda: png(40_000, 1, chunk(b"IDAT", zeros(120_001))),
}

# --- strangers -----------------------------------------------------------------------------------------------


class Payload:
    """What a pickle runs when it is opened: it leaves a file behind."""

    def __init__(self, witness: Path) -> None:
        self._command = f"touch '{witness}'"

    def __reduce__(self) -> object:
        return os.system, (self._command,)


def archive_of(content: Mapping[str, bytes]) -> bytes:
    import zipfile

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return file.getvalue()


def strangers(witness: Path) -> dict[str, bytes]:
    """Files that are no pictures at all. What executes one of them makes `witness` appear."""
    return {
        "html": b"<!DOCTYPE html><title>502 Bad Gateway</title>",
        "elf": b"\x7fELF\x02\x01\x01" + bytes(500),
        "zip": archive_of({"a.png": encoded(picture(), "PNG")}),
        "pickle": pickle.dumps(Payload(witness)),
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "nothing": b"",
        "text": b"not a picture at all",
    }


def write_special(folder: Path) -> set[str]:
    """What a directory may hold beside files, each by the name of a picture; gives the names."""
    os.mkfifo(folder / "fifo.png")
    (folder / "folder.png").mkdir()
    (folder / "device.png").symlink_to("/dev/zero")
    (folder / "dangling.png").symlink_to("nowhere.png")
    (folder / "loop.png").symlink_to("pool.png")
    (folder / "pool.png").symlink_to("loop.png")
    here = os.getcwd()
    try:
        # The path of a socket is short.
        os.chdir(folder)
        with socket.socket(socket.AF_UNIX) as plug:
            plug.bind("socket.png")
    finally:
        os.chdir(here)
    return {f"{name}.png" for name in ("fifo", "folder", "device", "dangling", "loop", "pool", "socket")}


# Each a name that some shell, terminal, log or encoding stumbles over.
NAMES: tuple[bytes, ...] = (
    b"new\nline.png",
    b"quote'\"`$(x).png",
    b"caf\xe9.png",
    b"\xff\xfe.png",
    b"\x1b[31mred\x1b[0m\x1b]0;title\x07.png",
    b"tab\tand\rreturn.png",
    "a\u202egnp.\u2028png.png".encode(),
    b"-rf.png",
    b"%s{0}.png",
    b"l" * 251 + b".png",
)
