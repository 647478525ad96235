"""How networks are run. An engine takes decoded images and gives features; only its speed may differ."""

from __future__ import annotations

import torch

from metricwatch.errors import ConfigError
from metricwatch.extractors import ExtractorSpec
from metricwatch.worker.engines.devices import ENGINES, PRECISIONS, obstacle_to, select_device, set_up
from metricwatch.worker.engines.eager import EagerEngine, Engine
from metricwatch.worker.engines.proven import ProvenEngine
from metricwatch.worker.log import LogLine
from metricwatch.worker.networks import Network

__all__ = ["ENGINES", "PRECISIONS", "EagerEngine", "Engine", "ProvenEngine", "build_engine", "select_device", "set_up"]


def build_engine(
    name: str,
    spec: ExtractorSpec,
    network: Network,
    protocol: str,
    device: torch.device,
    *,
    precision: str = "exact",
    log: LogLine = lambda _level, _event, /, **_fields: None,
) -> Engine:
    """The engine of that name; `auto` takes the fastest one that proves to be exact here and starts within seconds.

    Engines differ from eager in the last digits at `exact`; at `fast` pooled features are what the device computes
    quickly: float16 on CUDA, bfloat16 on a CPU that has it, where the engine is not eager. Raises ConfigError if the
    name is unknown.
    """
    if name not in ENGINES:
        raise ConfigError(f"worker.engine {name!r} is unknown; known: {', '.join(ENGINES)}")
    if name == "eager":
        return EagerEngine(spec, network, protocol, device)
    ways = _automatic(device) if name == "auto" else (name,)
    return ProvenEngine(spec, network, protocol, device, ways=ways, precision=precision, log=log)


def _automatic(device: torch.device) -> tuple[str, ...]:
    """The ways to try, fastest first. Compilers that take minutes are for those who ask for them."""
    return ("folded",) if obstacle_to("openvino", device) else ("openvino", "folded")
