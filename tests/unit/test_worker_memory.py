"""What a worker's allocator does with large pieces of memory, measured in processes of their own."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest

_SIZE = 100_000_000
_PROGRAM = f"""
import ctypes, json, resource
from metricwatch.worker.memory import give_back_freed_memory, keep_freed_memory

library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
library.free.argtypes = [ctypes.c_void_p]

def use():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = library.malloc({_SIZE})
    ctypes.memset(block, 1, {_SIZE})
    library.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

use()
usual = use()
keep_freed_memory()
use()
kept, held = use(), resident()
give_back_freed_memory()
print(json.dumps({{"usual": usual, "kept": kept, "held": held, "left": resident()}}))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, int]:
    if sys.platform != "linux" or "glibc" not in " ".join(_libc()):
        pytest.skip("needs glibc")
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def _libc() -> tuple[str, str]:
    return platform.libc_ver()


def test_a_large_piece_that_was_freed_is_used_again_without_the_system_making_new_pages(found: dict[str, int]) -> None:
    pages = _SIZE // 4096
    assert found["kept"] < pages / 100 < found["usual"]


def test_between_evaluations_what_is_free_goes_back_to_the_system(found: dict[str, int]) -> None:
    assert found["held"] - found["left"] > 0.9 * _SIZE
