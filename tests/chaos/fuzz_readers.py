"""Mutated pictures and manifests for the two readers of untrusted files.

    python -m tests.chaos.fuzz_readers --seconds 180 --seed 0

A picture becomes uint8 (H, W, 3) within the limit, or UnusableImageError; a manifest its entries, or InputError; each
within bounded time and memory. An input that breaks this is kept, and so is the one at work when the process dies: the
path is the last line, and `--replay PATH` reads it again. The same seed gives the same inputs.
"""

from __future__ import annotations

import argparse
import faulthandler
import itertools
import json
import random
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from metricwatch.errors import InputError
from metricwatch.worker.containers import UnusableImageError
from metricwatch.worker.images import decode
from metricwatch.worker.manifest import read_manifest
from tests.support import hostile

LIMIT = 1_000_000
MOST_SECONDS = 3.0
MOST_NEW_BYTES = 16 * LIMIT + 130_000_000
# Beyond this the corpus holds bombs whose size is the point; mutating them costs seconds each.
_LARGEST_SEED = 70_000
_HANGS_SECONDS = 60
_NUMBERS = (0, 1, 2, 3, 4, 8, 16, 32, 255, 256, 32767, 32768, 65535, 65536, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


class FindingError(Exception):
    """A reader did what it must not."""


def pictures() -> list[bytes]:
    """A small picture in every format and mode, and the hostile ones that are small."""
    picture = hostile.picture(23, 17)
    kinds = {
        "PNG": [{}, {"bits": 4}],
        "JPEG": [
            {},
            {"progressive": True},
            {"exif": b"Exif\0\0II*\0\x08\0\0\0\1\0\x1a\1\5\0\1\0\0\0\x1a\0\0\0" + bytes(16)},
        ],
        "TIFF": [{}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}, {"compression": "jpeg"}],
        "BMP": [{}],
        "PPM": [{}],
        "WEBP": [{}, {"lossless": True}],
        "GIF": [{}],
    }
    found = [hostile.encoded(picture, kind, **each) for kind, options in kinds.items() for each in options]
    for mode in ("L", "1", "P", "RGBA", "LA", "CMYK", "I;16", "I"):
        for kind in ("PNG", "TIFF", "BMP", "WEBP"):
            try:
                found.append(hostile.encoded(picture.convert("L").convert(mode), kind))
            except (OSError, ValueError):
                continue
    found += [
        b"P3 2 2 255\n" + b"1 2 3 " * 4,
        b"P2\n# c\n2 2 9\n1 2 3 4\n",
        b"P1 2 2 1 0 1 0",
        b"P5 3 3 65535\n" + bytes(18),
    ]
    hard = [make for name, make in {**hostile.BOMBS, **hostile.LIARS}.items() if name not in _SLOW]
    return found + [data for data in (make() for make in hard) if len(data) < _LARGEST_SEED]


_SLOW = {"png-surplus", "png-ztxt", "png-itxt", "png-profile", "tiff-strip", "png-chunks", "jpeg-segments", "jpeg-exif"}


def manifests() -> list[bytes]:
    lines = [
        {"image": "a.png", "content": "../c/1.jpg", "style": "/s/x.png", "prompt": "a cat", "seed": 7},
        {"image": "b", "prompt": "caf\u00e9 \u2028 \U0001f600", "nested": {"a": [1, 2, {"b": None}]}},
        {"image": "c.png", "content": None, "number": 1e308, "flag": True},
    ]
    whole = "\n".join(json.dumps(line, ensure_ascii=number == 1) for number, line in enumerate(lines))
    deep = '{"image": "d", "x": ' + "[" * 2000
    return [
        text.encode() for text in (whole, f"\ufeff{whole}\r\n", deep, '{"image": "\\ud800"}', '{"image":"a\\u0000"}')
    ]


def mutated(chance: random.Random, data: bytes, corpus: list[bytes]) -> bytes:
    """Some of: bits flipped, bytes set, numbers of a header replaced, pieces cut, doubled or taken from elsewhere."""
    content = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        if not content:
            return bytes(content)
        # Headers matter most.
        at = chance.randrange(min(len(content), chance.choice((32, 256, len(content)))))
        length = chance.choice((1, 2, 4, 16, 64, 300))
        match chance.randrange(8):
            case 0 | 1:
                content[at] ^= 1 << chance.randrange(8)
            case 2:
                content[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
            case 3 | 4:
                width = chance.choice((2, 4))
                number = chance.choice(_NUMBERS) % (1 << 8 * width)
                content[at : at + width] = number.to_bytes(width, chance.choice(("little", "big")))
            case 5:
                del content[at : at + (length if chance.random() < 0.5 else len(content))]
            case 6:
                content[at:at] = content[at : at + length] * chance.choice((1, 2, 50))
            case _:
                other = chance.choice(corpus)
                start = chance.randrange(len(other))
                content[at : at + chance.choice((0, length))] = other[start : start + length]
    return bytes(content)


def inputs(seed: int) -> Iterator[tuple[str, bytes]]:
    """("picture" or "manifest", content), without end."""
    chance = random.Random(seed)
    corpora = {"picture": pictures(), "manifest": manifests()}
    for corpus_kind, corpus in corpora.items():
        yield from ((corpus_kind, data) for data in corpus)
    while True:
        kind = "picture" if chance.random() < 0.8 else "manifest"
        yield kind, mutated(chance, chance.choice(corpora[kind]), corpora[kind])


def read(kind: str, content: bytes, folder: Path) -> str:
    """Give one input to its reader; says what became of it. Raises FindingError when a promise is broken."""
    peak, started = _peak(), time.thread_time()
    try:
        if kind == "picture":
            _check_pixels(decode(content, LIMIT))
        else:
            path = folder / "manifest.jsonl"
            path.write_bytes(content)
            read_manifest(str(path)).find("a.png")
        outcome = f"{kind} read"
    except UnusableImageError as error:
        outcome = _reason(kind, "picture", error)
    except InputError as error:
        outcome = _reason(kind, "manifest", error)
    except FindingError:
        raise
    except BaseException as error:
        raise FindingError(f"raised {error!r}") from error
    if (seconds := time.thread_time() - started) > MOST_SECONDS:
        raise FindingError(f"took {seconds:.1f} s")
    if (grown := _peak() - peak) > MOST_NEW_BYTES:
        raise FindingError(f"took {grown / 1e6:.0f} MB")
    return outcome


def _check_pixels(pixels: np.ndarray) -> None:
    height, width, channels = pixels.shape
    if pixels.dtype != np.uint8 or channels != 3 or not 0 < height * width <= LIMIT:
        raise FindingError(f"gave {pixels.dtype} {pixels.shape}")


def _reason(kind: str, expected: str, error: InputError) -> str:
    if kind != expected:
        raise FindingError(f"raised {error!r}") from error
    if not str(error).isprintable():
        raise FindingError(f"gave a reason that is no line: {str(error)!r}") from error
    return f"{kind} refused"


def _peak() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def fuzz(seed: int, seconds: float, executions: int | None, folder: Path) -> Counter[str]:
    """Read inputs for so long, or so many; how often what became of them. A finding ends the process with 1."""
    outcomes: Counter[str] = Counter()
    end = time.monotonic() + seconds
    for number, (kind, content) in enumerate(itertools.islice(inputs(seed), executions)):
        if number % 64 == 0:
            # What hangs in C is ended by a thread of its own, which says where.
            faulthandler.dump_traceback_later(_HANGS_SECONDS, exit=True)
            if time.monotonic() > end:
                break
        kept = folder / f"input.{kind}"
        kept.write_bytes(content)
        try:
            outcomes[read(kind, content, folder)] += 1
        except FindingError as error:
            kept = kept.rename(folder / f"finding-{seed}-{number}.{kind}")
            print(f"seed {seed}, input {number}: {error}\n{kept}", flush=True)
            raise SystemExit(1) from error
    faulthandler.cancel_dump_traceback_later()
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--executions", type=int, help="stop after so many, however long they take")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where inputs are kept (default: a new one)")
    parser.add_argument("--replay", type=Path, help="read one kept input again")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    faulthandler.enable()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="fuzz-readers-"))
    if arguments.replay:
        print(read(arguments.replay.suffix[1:], arguments.replay.read_bytes(), folder))
        return
    print(f"the input at work is kept in {folder}", flush=True)
    started = time.monotonic()
    outcomes = fuzz(arguments.seed, arguments.seconds, arguments.executions, folder)
    taken = time.monotonic() - started
    told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    print(f"seed {arguments.seed}: {outcomes.total()} executions, {outcomes.total() / taken:.0f}/s: {told}")
    print(f"peak {_peak() / 1e6:.0f} MB")


if __name__ == "__main__":
    sys.exit(main())
