"""Whole evaluations beside their networks alone, and growing sets: python -m tests.bench.pipeline [--images N]

Networks alone: the very calls that the evaluation made, with the same tensors on the device, one after another.
Weights are stand-ins of the real architectures: what they answer is meaningless, what they take is not.
"""

from __future__ import annotations

import argparse
import os

# As in the worker, before numpy loads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.bench.measuring import Machine, Rounds, Spread, on_terminal, repeated, table, write_json
from tests.bench.pipeline.pictures import write_photographs, write_styles
from tests.bench.pipeline.rig import Rig
from tests.support.weights import (
    write_alexnet_weights,
    write_art_inception_weights,
    write_clip_folder,
    write_inception_weights,
    write_vgg16_weights,
)

_SETS = ("fid", "kid", "precision", "recall", "density", "coverage")
_PAIRED = (
    *("ssim", "lpips", "lpips_vgg", "st_lpips", "content_loss", "gram_style_loss", "st_content_loss"),
    *("st_gram_style_loss", "clip_score", "clip_style_score", "clip_style_similarity", "art_fid"),
)
_PACKAGES = ("torch", "torchvision", "numpy", "pillow", "openvino")
_NEW = 10
_REFERENCE = 200


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.pipeline", description=__doc__)
    parser.add_argument("--images", type=int, default=500, help="for fid alone; all metrics take a tenth of them")
    parser.add_argument("--grown", type=int, default=1000, help=f"images that are known when {_NEW} more come")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=256, help="side of the pictures")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="metricwatch-bench-") as name:
        folder = Path(name)
        weights = _weights(folder / "weights")
        reference = write_photographs(folder / "reference", _REFERENCE, side=given.size, seed=2)
        overheads = {
            "fid": _overhead(folder / "fid", weights, reference, ("fid",), given.images, given),
            "all metrics": _overhead(
                folder / "all", weights, reference, (*_SETS, *_PAIRED), max(8, given.images // 10), given
            ),
        }
        growths = {
            label: _growth(folder / f"grown-{names[0]}-{len(names)}", weights, reference, names, given)
            for label, names in {"fid": ("fid",), "kid": ("kid",), "fid, kid, prdc": _SETS}.items()
        }
    machine = Machine.here(_PACKAGES, accelerator=True)
    print(machine.line())
    rows = [
        (label, _seconds(each.spread("whole")), _seconds(each.spread("alone")), _ratio(each.ratio("whole", "alone")))
        for label, each in overheads.items()
    ]
    print(table(("an evaluation, seconds", "whole", "networks alone", "ratio"), rows))
    head = (f"{_NEW} more than {given.grown} images", "all of them, s", "with the new ones, s", "share")
    rows = [
        (label, f"{full:.2f}", _seconds(grown), f"{100 * grown.median / full:.1f}%")
        for label, (full, grown) in growths.items()
    ]
    print(table(head, rows))
    if given.json:
        results = {
            "size": {"images": given.images, "grown": given.grown, "new": _NEW, "side": given.size},
            "overhead": {
                label: {**each.spreads(), "ratio": each.ratio("whole", "alone")} for label, each in overheads.items()
            },
            "growth": {
                label: {"full_seconds": full, "grown": grown, "share": grown.median / full}
                for label, (full, grown) in growths.items()
            },
        }
        write_json(given.json, machine, results)


def _overhead(
    folder: Path,
    weights: dict[str, str],
    reference: Path,
    metrics: Sequence[str],
    images: int,
    given: argparse.Namespace,
) -> Rounds:
    rig = Rig(folder, weights)
    path = write_photographs(folder / "samples", images, side=given.size, seed=3)
    request = {"reference": str(reference)}
    if set(metrics) & set(_PAIRED):
        request["content"] = str(write_photographs(folder / "content", images, side=given.size, seed=4))
        request["style"] = str(write_styles(folder / "style", images, side=given.size, seed=5))
        request["prompt"] = "a photo of a cat"
    # Networks are loaded and converted, and the reference is read.
    rig.evaluate(path, metrics, **request)
    rig.listen()

    def whole() -> float:
        rig.forget_features()
        rig.hush()
        return rig.evaluate(path, metrics, **request)[1]

    whole()
    return repeated({"whole": whole, "alone": rig.alone}, given.rounds, progress=on_terminal)


def _growth(
    folder: Path, weights: dict[str, str], reference: Path, metrics: Sequence[str], given: argparse.Namespace
) -> tuple[float, Spread]:
    """The seconds for all images, and those with ten new ones, each round others."""
    rig = Rig(folder, weights)
    warm = write_photographs(folder / "warm", _NEW, side=given.size, seed=6)
    rig.evaluate(warm, metrics, reference=str(reference))
    path = write_photographs(folder / "samples", given.grown, side=given.size, seed=3)
    _, full = rig.evaluate(path, metrics, reference=str(reference))
    on_terminal(f"{', '.join(metrics)}: {full:.1f} s for all")
    seconds = []
    for number in range(given.rounds):
        write_photographs(path, _NEW, side=given.size, seed=3, first=given.grown + number * _NEW)
        evaluation, taken = rig.evaluate(path, metrics, reference=str(reference))
        assert evaluation.work["decodes"] <= _NEW, evaluation.work
        seconds.append(taken)
        on_terminal(f"{', '.join(metrics)}: {taken:.2f} s with {_NEW} new ones")
    return full, Spread.of(seconds)


def _weights(folder: Path) -> dict[str, str]:
    folder.mkdir()
    written = {
        "inception-v3": write_inception_weights(folder / "inception.pth"),
        "vgg16": write_vgg16_weights(folder / "vgg16.pth", seed=1),
        "alexnet": write_alexnet_weights(folder / "alexnet.pth", seed=2),
        "clip-vit-b-32": write_clip_folder(folder / "clip", seed=3),
        "art-inception-v3": write_art_inception_weights(folder / "art.pth", seed=5),
    }
    return {name: str(path) for name, path in written.items()}


def _seconds(spread: Spread) -> str:
    return f"{spread.median:.2f} ({spread.least:.2f} to {spread.most:.2f})"


def _ratio(spread: Spread) -> str:
    return f"{spread.median:.3f} ({spread.least:.3f} to {spread.most:.3f})"


if __name__ == "__main__":
    main()
