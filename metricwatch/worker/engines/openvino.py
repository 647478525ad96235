"""OpenVINO on the CPU: twice the speed of eager PyTorch, the same numbers."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metricwatch.worker.engines.forward import Forward, ImpossibleError

# Unless told, OpenVINO takes bfloat16 where the processor offers that; where it does not, it cannot be told to.
_PROPERTIES = {
    "exact": {"INFERENCE_PRECISION_HINT": "f32", "EXECUTION_MODE_HINT": "ACCURACY", "PERFORMANCE_HINT": "LATENCY"},
    "fast": {"INFERENCE_PRECISION_HINT": "bf16", "PERFORMANCE_HINT": "LATENCY"},
}


def prepare(pooled: nn.Module, example: Tensor, precision: str) -> Forward:
    """The network converted for batches of any size of inputs like the example. It takes 3 seconds for Inception-v3.

    It uses as many threads as PyTorch does. Raises ImpossibleError where OpenVINO is not installed or the device is no
    CPU, and whatever OpenVINO does.
    """
    if example.device.type != "cpu":
        raise ImpossibleError("it runs on the CPU only")
    openvino = _library()
    with warnings.catch_warnings():
        # Of torch.jit.trace, which OpenVINO still takes.
        warnings.simplefilter("ignore")
        model = openvino.convert_model(pooled, example_input=example)
    model.reshape({0: [-1, *example.shape[1:]]})
    threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled: Any = openvino.Core().compile_model(model, "CPU", {**_PROPERTIES[precision], **threads})

    def forward(pixels: Tensor) -> Tensor:
        found = compiled(np.ascontiguousarray(pixels.numpy()), share_inputs=True)
        return torch.from_numpy(np.array(found[0]))

    return forward


def _library() -> Any:
    """OpenVINO without the package that tells its makers of each conversion: it does without where that is missing."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise ImpossibleError("it is not installed: pip install 'metricwatch[cpu]'") from error
    return openvino
