"""Where a worker computes, and whether what was asked for exists there."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from metricwatch.errors import ConfigError
from metricwatch.protocol import Configure
from metricwatch.worker.device_state import set_precision

# exact is float32 throughout. fast is float16 and TF32 on CUDA, bfloat16 on a CPU that has it.
PRECISIONS = ("exact", "fast")
# auto takes the fastest one that is no other than eager in its numbers and quick to start.
ENGINES = ("auto", "eager", "folded", "compile", "openvino", "tensorrt")
# By engine: the package it needs, what brings it, and the only kind of device it knows.
_NEEDS = {
    "openvino": ("openvino", "pip install 'metricwatch[cpu]'", "cpu"),
    "tensorrt": ("torch_tensorrt", "pip install 'metricwatch[tensorrt]'", "cuda"),
}


def select_device(wish: str) -> torch.device:
    """The device for `auto`, `cpu`, `cuda` or `cuda:N`. Raises ConfigError when this machine has no such device."""
    if wish == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(wish)
    except RuntimeError as error:
        raise ConfigError(f"worker.device {wish!r} is no device; use auto, cpu, cuda or cuda:N") from error
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        raise ConfigError(f"worker.device {wish!r} is not supported; use auto, cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        raise ConfigError(f"worker.device is {wish!r}, but torch finds no CUDA device here; use auto or cpu")
    index = device.index or 0
    if index >= torch.cuda.device_count():
        raise ConfigError(f"worker.device is {wish!r}, but this machine has {torch.cuda.device_count()} CUDA device(s)")
    return torch.device("cuda", index)


def set_up(configure: Configure) -> torch.device:
    """The device to work on; from then on `exact` float32 means float32 in the whole process.

    Raises ConfigError for a device that is not there, for a precision or an engine that is unknown, and for an engine
    that is not installed or not made for this device.
    """
    for label, wish, known in (
        ("precision", configure.precision, PRECISIONS),
        ("engine", configure.engine, ENGINES),
    ):
        if wish not in known:
            raise ConfigError(f"worker.{label} {wish!r} is unknown; known: {', '.join(known)}")
    device = select_device(configure.device)
    if obstacle := obstacle_to(configure.engine, device):
        raise ConfigError(f"worker.engine is {configure.engine!r}, but {obstacle}; or use auto")
    set_precision(configure.precision)
    return device


def obstacle_to(engine: str, device: torch.device) -> str:
    """Why an engine cannot run here at all and what would help, or ""."""
    if engine not in _NEEDS:
        return ""
    package, remedy, kind = _NEEDS[engine]
    if device.type != kind:
        return f"it runs on {kind} only, and the device is {device.type}"
    if find_spec(package) is None:
        return f"the package {package} is not installed: {remedy}"
    return ""
