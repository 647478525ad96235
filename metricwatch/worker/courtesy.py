"""What a worker does first of all for those it shares the machine with: it takes its turn for CPU and disk after them.

Imports no library that reads the environment or starts threads: both come after this.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys

from metricwatch.errors import ConfigError
from metricwatch.protocol import Configure

IO_CLASSES = ("best-effort", "idle", "none")

_MOST_NICE = 19
# From <linux/ioprio.h>: a class in the upper bits, and in best-effort a level, of which 7 is the last to be served.
_WHO_PROCESS = 1
_CLASS_SHIFT = 13
_IDLE = 3 << _CLASS_SHIFT
_LAST_OF_BEST_EFFORT = (2 << _CLASS_SHIFT) | 7
# Numbers of (ioprio_set, ioprio_get) in 64-bit programs: the C library has no functions for them.
_CALLS = {
    "x86_64": (251, 252),
    "aarch64": (30, 31),
    "riscv64": (30, 31),
    "loongarch64": (30, 31),
    "ppc64le": (273, 274),
    "s390x": (282, 283),
}
_POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def step_back(configure: Configure) -> list[str]:
    """Lower this process's priorities, and bound the pools of threads of libraries that are not loaded yet.

    To be called before any thread is started: new ones inherit it, those that run do not. A priority is only ever
    lowered: a daemon that was itself started with a lower one has reasons. Returns what the system refused, in words;
    the work can be done all the same. Raises ConfigError for settings that do not exist.
    """
    if not 0 <= configure.nice <= _MOST_NICE:
        raise ConfigError(f"worker.nice is {configure.nice}; it must be from 0 to {_MOST_NICE}")
    if configure.ionice not in IO_CLASSES:
        raise ConfigError(f"worker.ionice {configure.ionice!r} is unknown; known: {', '.join(IO_CLASSES)}")
    if configure.threads is not None:
        _bound_pools(configure.threads)
    refused = []
    if configure.nice and (reason := _be_nice(configure.nice)):
        refused.append(f"nice {configure.nice}: {reason}")
    if configure.ionice != "none" and (reason := _be_nice_to_disks(configure.ionice)):
        refused.append(f"ionice {configure.ionice}: {reason}")
    return refused


def limit_threads(threads: int | None) -> None:
    """Bound torch's pools of threads and those that decode; None leaves all as they are.

    step_back() has bounded the pools that read the environment.
    """
    if threads is None:
        return
    import torch

    from metricwatch.worker.images import limit_decode_threads

    torch.set_num_threads(threads)
    # Can be said once in a process, before the first use.
    with contextlib.suppress(RuntimeError):
        torch.set_num_interop_threads(min(threads, torch.get_num_interop_threads()))
    limit_decode_threads(threads)


def _bound_pools(threads: int) -> None:
    for name in _POOLS:
        # The worker has said one thread for OpenBLAS, for reasons: that is less, and stays.
        already = os.environ.get(name, "") if name.startswith("OPENBLAS") else ""
        if not (already.isdecimal() and 0 < int(already) <= threads):
            os.environ[name] = str(threads)


def _be_nice(nice: int) -> str:
    try:
        if os.getpriority(os.PRIO_PROCESS, 0) < nice:
            os.setpriority(os.PRIO_PROCESS, 0, nice)
    except OSError as error:
        return error.strerror or "refused"
    if os.getsid(0) == os.getpid():
        # Where Linux groups processes by session, a session of one's own has a fair share whatever its nice value
        # is, until the group has got it, too (sched(7), "The autogroup feature").
        with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as group:
            group.write(str(nice))
    return ""


def _be_nice_to_disks(wish: str) -> str:
    if sys.platform != "linux":
        return ""
    calls = _CALLS.get(os.uname().machine) if sys.maxsize > 2**32 else None
    if calls is None:
        return f"not known how on {os.uname().machine}"
    change, ask = calls
    system = ctypes.CDLL(None, use_errno=True)
    present = system.syscall(ask, _WHO_PROCESS, 0)
    if present >= 0 and present >> _CLASS_SHIFT == _IDLE >> _CLASS_SHIFT:
        return ""
    wanted = _IDLE if wish == "idle" else _LAST_OF_BEST_EFFORT
    return os.strerror(ctypes.get_errno()) if system.syscall(change, _WHO_PROCESS, 0, wanted) < 0 else ""
