"""What a process shares with the code of plugins in it: PyTorch's switches, and a device that may be lost to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from metricwatch.errors import ConfigError, TemporaryError
from metricwatch.protocol import Configure
from metricwatch.worker.duty import Duty

_LOST = "CUDA error"
_OUT_OF_MEMORY = "out of memory"


class DeviceLostError(Exception):
    """The device has failed for the rest of this process's life: only another process can go on."""


def set_precision(precision: str) -> None:
    """Let float32 mean float32 in the whole process, and the same work give the same numbers.

    With `fast`, a GPU may round what it multiplies to TF32 (10 bits after the point).
    """
    _allow_tf32(matmul=precision == "fast", cudnn=precision == "fast")
    torch.backends.cudnn.benchmark = False


@contextmanager
def exactly() -> Iterator[None]:
    """Within it, float32 means float32 at any precision."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    _allow_tf32(matmul=False, cudnn=False)
    try:
        yield
    finally:
        _allow_tf32(matmul=before[0], cudnn=before[1])


def _allow_tf32(*, matmul: bool, cudnn: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = matmul
    torch.backends.cudnn.allow_tf32 = cudnn


def share_gpu(device: torch.device, configure: Configure) -> None:
    """Keep this process to its budget of a GPU's memory, and this thread to a stream of the lowest priority.

    The budget is of what PyTorch takes: CUDA's own some hundred megabytes a process come on top. On the CPU nothing is
    done. Raises ConfigError when the GPU can never have as much memory free as is demanded.
    """
    if device.type != "cuda":
        return
    total = torch.cuda.get_device_properties(device).total_memory
    if configure.min_free_gpu_memory > total:
        raise ConfigError(
            f"worker.min_free_gpu_memory is {_gigabytes(configure.min_free_gpu_memory)}, but {device} has"
            f" {_gigabytes(total)} in all; demand less"
        )
    if configure.gpu_memory is not None:
        torch.cuda.set_per_process_memory_fraction(min(1.0, configure.gpu_memory / total), device)
    # 0 is the lowest there is: what is more urgent is negative.
    torch.cuda.set_stream(torch.cuda.Stream(device, priority=0))  # type: ignore[no-untyped-call]


def check_room(device: torch.device, wanted: int) -> None:
    """Raise TemporaryError when a GPU has fewer bytes free than wanted. What this process holds counts as free."""
    if device.type != "cuda" or not wanted:
        return
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    if free < wanted:
        # Whoever has taken the rest may need this, too.
        torch.cuda.empty_cache()
        raise TemporaryError(
            f"{device} has {_gigabytes(free)} of memory free ({free} bytes), and worker.min_free_gpu_memory wants"
            f" {_gigabytes(wanted)} ({wanted} bytes)"
        )


def duty_for(device: torch.device, configure: Configure) -> Duty:
    """The pauses that work on this device makes. Raises ConfigError for a share that is none."""
    on_gpu = device.type == "cuda"
    share = configure.max_gpu_share if on_gpu else configure.max_cpu_share
    if not 0 < share <= 1:
        raise ConfigError(f"worker.max_gpu_share is {share:g}; it must be above 0 and at most 1")
    # Kernels run on after the call that started them.
    finish = (lambda: torch.cuda.current_stream(device).synchronize()) if on_gpu else (lambda: None)
    return Duty(share, longest=configure.longest_pause, finish=finish)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


@contextmanager
def undisturbed() -> Iterator[None]:
    """Put PyTorch's switches back after code that is not ours: training code sets TF32 and default types on import."""
    dtype, device, threads = torch.get_default_dtype(), torch.get_default_device(), torch.get_num_threads()
    grad = torch.is_grad_enabled()
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        yield
    finally:
        _allow_tf32(matmul=matmul, cudnn=cudnn)
        torch.backends.cudnn.benchmark = False
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)
        if torch.get_default_device() != device:
            torch.set_default_device(None)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def is_lost(error: BaseException) -> bool:
    """True for an error after which CUDA refuses everything else in this process, whoever wrapped it."""
    seen: BaseException | None = error
    while seen is not None:
        text = str(seen)
        if isinstance(seen, DeviceLostError) or (
            isinstance(seen, RuntimeError) and _LOST in text and _OUT_OF_MEMORY not in text
        ):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
