"""FID beside the libraries that compute it: python -m tests.bench.speed [--images N] [--rounds N] [--json FILE]

The same pictures, weights and statistics for everyone, in turns; ratios are of one round's runs. Weights are stand-ins
of the real architecture: what they answer is meaningless, what they take is not.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench.measuring import Machine, Rounds, on_terminal, repeated, table, write_json
from tests.bench.speed.material import Material, like_features

_PACKAGES = (
    *("torch", "torchvision", "numpy", "pillow", "openvino"),
    *("pytorch-fid", "clean-fid", "torch-fidelity", "torchmetrics"),
)
PARTS = ("networks", "decoding", "distance", "whole")
_PEER = "pytorch-fid"
_BATCH = 32


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.speed", description=__doc__)
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--images", type=int, default=1000, help="whole evaluations and decoding take so many")
    parser.add_argument("--network-images", type=int, default=128, help="the networks alone take so many a round")
    parser.add_argument("--rows", default="500,10000", help="of features, for the distance")
    parser.add_argument("--engines", default="eager,folded,openvino", help="beside these: compile, tensorrt")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=256, help="side of the pictures")
    parser.add_argument("--markdown", action="store_true", help="print tables for a README")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="metricwatch-bench-") as name:
        folder = Path(name)
        material = Material.write(folder, max(given.images, given.network_images), side=given.size)
        # Before a library looks for its weights there.
        os.environ["TORCH_HOME"] = str(material.torch_home)
        found = {label: rounds for part in given.parts.split(",") for label, rounds in _PART[part](material, given)}
    machine = Machine.here(_PACKAGES, accelerator=True)
    print(machine.line())
    for label, rounds in found.items():
        print(table((label, "seconds", "least to most", "times faster"), _rows(rounds), markdown=given.markdown))
    if given.json:
        size = {"images": given.images, "network_images": given.network_images, "side": given.size}
        write_json(given.json, machine, {"size": size, **{label: _result(each) for label, each in found.items()}})


def _networks(material: Material, given: argparse.Namespace) -> list[tuple[str, Rounds]]:
    import torch

    from tests.bench.speed import networks

    found = []
    for kind in ("cuda", "cpu") if torch.cuda.is_available() else ("cpu",):
        sides = networks.sides(material, torch.device(kind), given.engines.split(","))
        batches = networks.batches(material.samples, _BATCH, given.network_images)
        apart = networks.checked(sides, batches[0])
        on_terminal(", ".join(f"{name}: {difference:.1e} apart" for name, difference in apart.items()))
        timed = {name: _over(side, batches) for name, side in sides.items()}
        found.append((f"{given.network_images} decoded pictures to features, {kind}", _timed(timed, given)))
    return found


def _over(side: Any, batches: Sequence[Any]) -> Callable[[], float]:
    from tests.bench.speed.networks import seconds

    return lambda: seconds(side, batches)


def _decoding(material: Material, given: argparse.Namespace) -> list[tuple[str, Rounds]]:
    from tests.bench.speed import decoding

    sides = decoding.sides(material.samples, workers=len(os.sched_getaffinity(0)))
    return [(f"decoding {given.images} PNGs of {given.size}²", _timed(sides, given))]


def _distance(material: Material, given: argparse.Namespace) -> list[tuple[str, Rounds]]:
    from tests.bench.speed import distance

    return [
        (
            f"FID of {rows} rows of features",
            _timed(distance.sides(like_features(rows, seed=1), material.reference), given),
        )
        for rows in map(int, given.rows.split(","))
    ]


def _whole(material: Material, given: argparse.Namespace) -> list[tuple[str, Rounds]]:
    from tests.bench.speed import whole

    with tempfile.TemporaryDirectory(prefix="metricwatch-bench-") as name:
        return [
            (
                f"FID of {given.images} PNGs of {given.size}², whole processes",
                _timed(whole.sides(Path(name), material, peers=True), given),
            )
        ]


_PART: Mapping[str, Callable[[Material, argparse.Namespace], list[tuple[str, Rounds]]]] = {
    "networks": _networks,
    "decoding": _decoding,
    "distance": _distance,
    "whole": _whole,
}


def _timed(sides: Mapping[str, Callable[[], float]], given: argparse.Namespace) -> Rounds:
    return repeated(sides, given.rounds, progress=on_terminal)


def _rows(rounds: Rounds) -> list[tuple[str, ...]]:
    rows = []
    for side, spread in rounds.spreads().items():
        ratio = rounds.ratio(_PEER, side)
        times = "1" if side == _PEER else f"{ratio.median:.3g} ({ratio.least:.3g} to {ratio.most:.3g})"
        rows.append((side, f"{spread.median:.3g}", f"{spread.least:.3g} to {spread.most:.3g}", times))
    return rows


def _result(rounds: Rounds) -> dict[str, Any]:
    return {
        side: {"seconds": spread, "times_faster": rounds.ratio(_PEER, side)}
        for side, spread in rounds.spreads().items()
    }


if __name__ == "__main__":
    main()
