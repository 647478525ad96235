"""Picture files to pixels in batches, as each library's data set does it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from torch.utils.data import DataLoader

from metricwatch.worker import images
from metricwatch.worker.images import decode_threads
from metricwatch.worker.read_ahead import ReadAhead

PEER = "pytorch-fid"
_BATCH = 50
_MOST_PIXELS = 10**8
_AHEAD = 64


def sides(samples: Path, workers: int) -> dict[str, Callable[[], float]]:
    """Each gives the seconds for all files; the libraries with `workers` processes, as their CLIs on so many cores.

    clean-fid's data set resizes to 299 x 299 as it reads; the others leave that to the network.
    """
    paths = [str(path) for path in sorted(samples.iterdir())]
    return {
        PEER: lambda: _pytorch_fid(paths, workers),
        "clean-fid": lambda: _clean_fid(paths, workers),
        "metricwatch": lambda: _ours(paths),
    }


def _pytorch_fid(paths: Sequence[str], workers: int) -> float:
    from pytorch_fid.fid_score import ImagePathDataset
    from torchvision.transforms import ToTensor

    return _drained(DataLoader(ImagePathDataset(paths, transforms=ToTensor()), batch_size=_BATCH, num_workers=workers))


def _clean_fid(paths: Sequence[str], workers: int) -> float:
    from cleanfid.utils import ResizeDataset

    return _drained(DataLoader(ResizeDataset(paths, mode="legacy_pytorch"), batch_size=_BATCH, num_workers=workers))


def _drained(loader: DataLoader[object]) -> float:
    started = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - started


def _ours(paths: Sequence[str]) -> float:
    started = time.perf_counter()
    decoded = ReadAhead(
        paths,
        lambda path: images.decode(images.read(path, _MOST_PIXELS), _MOST_PIXELS),
        weigh=lambda pixels: pixels.nbytes,
        ahead=_AHEAD,
        threads=decode_threads(),
    )
    assert sum(1 for _ in decoded) == len(paths)
    return time.perf_counter() - started
