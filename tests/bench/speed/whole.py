"""A folder of pictures to its FID: whole processes beside each other, and a daemon's worker that is warm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.bench.pipeline.rig import Rig
from tests.bench.speed.material import Material

PEER = "pytorch-fid"
OURS = "metricwatch score"
WARM = "metricwatch, a worker that runs"
# The others resize as TensorFlow did: their FID is another one.
_TOLERANCE = {PEER: 0.0, "clean-fid": 1e-3, OURS: 1e-3, WARM: 1e-3}
_PEER_FILE = Path(__file__).with_name("peer.py")


def sides(folder: Path, material: Material, *, peers: bool) -> dict[str, Callable[[], float]]:
    """Seconds from start to end of the process, imports and weights included; the statistics are given as a file.

    metricwatch finds nothing in its caches, except for the worker that runs: it has its network and the reference.
    Raises AssertionError when an FID is not pytorch-fid's, which must run first, and RuntimeError for a process that
    fails.
    """
    expected: list[float] = []

    def timed(name: str, run: Callable[[], tuple[float, float]]) -> Callable[[], float]:
        def side() -> float:
            value, seconds = run()
            expected.append(value)
            if name in _TOLERANCE:
                assert abs(value - expected[0]) <= _TOLERANCE[name] * expected[0], f"{name}: {value}, {expected[0]}"
            return seconds

        return side

    found = {PEER: timed(PEER, lambda: _pytorch_fid(material)), OURS: timed(OURS, lambda: _ours(folder, material))}
    if peers:
        found |= {
            name: timed(name, lambda name=name: _peer(name, material))  # type: ignore[misc]
            for name in ("clean-fid", "torch-fidelity", "torchmetrics")
        }
    rig = Rig(folder / "rig", {"inception-v3": str(material.weights)})
    rig.evaluate(material.others, ("fid",), reference=str(material.reference))
    rig.listen()
    return {**found, WARM: timed(WARM, lambda: _warm(rig, material)), "its network alone": rig.alone}


def _pytorch_fid(material: Material) -> tuple[float, float]:
    said, seconds = _process(
        ["-m", "pytorch_fid", str(material.samples), str(material.reference), "--num-workers", str(_cores())], material
    )
    return float(said.split()[-1]), seconds


def _peer(name: str, material: Material) -> tuple[float, float]:
    said, seconds = _process([str(_PEER_FILE), name, str(material.samples), str(material.reference)], material)
    return float(said.split()[-1]), seconds


def _ours(folder: Path, material: Material) -> tuple[float, float]:
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        command = ["-m", "metricwatch", "score", str(material.samples), "--reference", str(material.reference)]
        said, seconds = _process([*command, "--metrics", "fid", "--cache", cache, "--json"], material)
    (score,) = [each for each in json.loads(said)["scores"] if each["key"] == "fid"]
    return float(score["value"]), seconds


def _warm(rig: Rig, material: Material) -> tuple[float, float]:
    rig.forget_features()
    rig.hush()
    evaluation, seconds = rig.evaluate(material.samples, ("fid",), reference=str(material.reference))
    (value,) = [score.value for score in evaluation.scores if score.key == "fid"]
    assert value is not None
    return value, seconds


def _process(arguments: Sequence[str], material: Material) -> tuple[str, float]:
    environ = {**os.environ, "TORCH_HOME": str(material.torch_home), "WEIGHTS": str(material.weights)}
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], env=environ, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return done.stdout, seconds


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
