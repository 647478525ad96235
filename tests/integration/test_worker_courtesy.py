"""A real worker steps back behind its neighbours, with every thread that it has."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from metricwatch.protocol import Configure, Evaluate, Log, Ready, Result
from metricwatch.worker import courtesy
from tests.support.photos import write_crops
from tests.support.worker_client import WorkerClient

FD = "fd_efficientnet_lite0"
Start = Callable[..., WorkerClient]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def nice_values(pid: int) -> set[int]:
    """Field 19 of proc(5)'s stat, of each thread."""
    return {
        int((task / "stat").read_text().rpartition(")")[2].split()[16]) for task in Path(f"/proc/{pid}/task").iterdir()
    }


def io_priorities(pid: int) -> set[tuple[int, int]]:
    """The class (2: best-effort, 3: idle) and the level of each thread."""
    _, ask = courtesy._CALLS[os.uname().machine]
    system = ctypes.CDLL(None)
    values = [system.syscall(ask, 1, int(task.name)) for task in Path(f"/proc/{pid}/task").iterdir()]
    return {(value >> 13, value & 7) for value in values}


def test_every_thread_of_it_is_last_for_cpu_and_disk_and_the_cpu_has_its_pauses(
    start_worker: Start, tmp_path: Path
) -> None:
    few = write_crops(tmp_path / "few", 8, side=48)
    worker = start_worker(
        Configure(
            device="cpu",
            batch_size=4,
            heartbeat_seconds=0.1,
            nice=12,
            ionice="best-effort",
            threads=1,
            max_cpu_share=0.2,
            longest_pause=0.1,
        ),
        environ={"OMP_NUM_THREADS": "2"},
    )
    worker.wait_for(Ready)
    assert not [line for line in worker.logs() if line.event == "priority not lowered"]
    reply = worker.evaluate(Evaluate(job=1, path=str(few), metrics=(FD, "ssim"), reference=str(few), content=str(few)))
    assert isinstance(reply, Result), reply
    assert reply.evaluation.seconds > 0.3
    # With the threads of torch, of decoding and of the heartbeat started.
    assert nice_values(worker.process.pid) == {12}
    assert io_priorities(worker.process.pid) == {(2, 7)}


def test_its_session_steps_back_as_well_where_sessions_share_the_cpu(start_worker: Start) -> None:
    group = Path("/proc/self/autogroup")
    if not group.exists():
        pytest.skip("this kernel does not group by session")
    worker = start_worker(Configure(device="cpu", nice=7, ionice="idle"))
    worker.wait_for(Ready)
    # This worker is in the tests' own session, which is not its to touch: the daemon's workers have one each.
    assert Path(f"/proc/{worker.process.pid}/autogroup").read_text() == group.read_text()
    assert io_priorities(worker.process.pid) == {(3, 0)} or io_priorities(worker.process.pid) == {(3, 7)}


def test_a_priority_that_was_lower_is_never_raised(start_worker: Start) -> None:
    code = (
        "import os; os.nice(15); from metricwatch.protocol import Configure;"
        "from metricwatch.worker.courtesy import step_back;"
        "print(step_back(Configure(nice=4, ionice='idle')), step_back(Configure(ionice='best-effort')), os.nice(0))"
    )
    import subprocess

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "[]", "15"]


def test_a_share_that_is_none_ends_the_worker_with_the_reason_and_78(start_worker: Start) -> None:
    worker = start_worker(Configure(device="cpu", ionice="later"))
    line = worker.receive()
    assert isinstance(line, Log)
    assert "worker.ionice 'later'" in line.fields["reason"]
    assert worker.receive() is None
    assert worker.process.wait(timeout=10) == 78
