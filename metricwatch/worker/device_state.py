"""What a process shares with the code of plugins in it: PyTorch's switches, and a device that may be lost to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_LOST = "CUDA error"
_OUT_OF_MEMORY = "out of memory"


class DeviceLostError(Exception):
    """The device has failed for the rest of this process's life: only another process can go on."""


def hold_to_float32() -> None:
    """Let float32 mean float32 in the whole process, and the same work give the same numbers."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False


@contextmanager
def undisturbed() -> Iterator[None]:
    """Put PyTorch's switches back after code that is not ours: training code sets TF32 and default types on import."""
    dtype, device, threads = torch.get_default_dtype(), torch.get_default_device(), torch.get_num_threads()
    grad = torch.is_grad_enabled()
    try:
        yield
    finally:
        hold_to_float32()
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
