"""What becomes of large pieces of memory once freed: kept for reuse within an evaluation, given back after it."""

from __future__ import annotations

import contextlib
import ctypes
import sys

# From <malloc.h>.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
# Layer maps of one picture of 4 million pixels stay below; ctypes hands over an int.
_KEPT_BYTES = 1 << 30


def keep_freed_memory() -> None:
    """For the rest of this process, reuse what is freed rather than hand it to the system at once.

    glibc maps each block over 32 MB anew and unmaps it when it is freed. Of every new page the system first makes
    zeros, a fault a page: a quarter of the time of VGG16's layer maps on a CPU. Without glibc nothing happens.
    """
    if sys.platform == "linux":
        # Another C library has no such function, or knows no such settings.
        with contextlib.suppress(OSError, AttributeError):
            library = ctypes.CDLL(None)
            library.mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
            library.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def give_back_freed_memory() -> None:
    """Hand what is free to the system now. Takes milliseconds; for whoever shares the machine, between evaluations."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
