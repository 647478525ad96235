"""What a worker leaves behind when it ends, with real processes in the place of a worker that loads torch."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from metricwatch.errors import WorkerError
from metricwatch.protocol import Configure
from metricwatch.supervisor.process import WorkerProcess
from tests.support.job import wait_until

# Starts one child as a program of its own, and one that holds the worker's pipes open, as a data loader's process does.
STAND_IN = """
import os, subprocess, sys, time
reads = int(sys.argv[sys.argv.index("--read-fd") + 1])
pipe = open(reads, "rb")
pipe.readline()
children = [subprocess.Popen(["sleep", "60"]).pid, os.fork()]
if children[1] == 0:
    time.sleep(60)
with open(os.environ["CHILDREN"] + ".new", "w") as file:
    file.write(" ".join(map(str, children)))
os.rename(os.environ["CHILDREN"] + ".new", os.environ["CHILDREN"])
if os.environ["THEN"] == "exit":
    os._exit(3)
pipe.readline()
os._exit(0)
"""


@pytest.fixture
def start(tmp_path: Path):
    """Start a worker; returns it and its children when they run. then: "exit" by itself, or wait for a message."""
    package = tmp_path / "metricwatch"
    (package / "worker").mkdir(parents=True)
    for name, text in (("__init__.py", ""), ("worker/__init__.py", ""), ("worker/__main__.py", STAND_IN)):
        (package / name).write_text(text)
    made = []

    def start(then: str) -> tuple[WorkerProcess, list[int]]:
        told = tmp_path / "children"
        environ = {"PYTHONPATH": str(tmp_path), "CHILDREN": str(told), "THEN": then}
        made.append(WorkerProcess(Configure(), log_file=tmp_path / "worker.log", environ=environ))
        wait_until(told.exists, seconds=20, what="a worker with children")
        return made[-1], [int(pid) for pid in told.read_text().split()]

    yield start
    for worker in made:
        worker.kill()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("end", ["killed", "stopped"])
def test_the_children_of_a_worker_end_with_it(start, end: str) -> None:
    worker, children = start("wait")
    assert all(map(alive, children))
    before = time.monotonic()
    worker.kill() if end == "killed" else worker.stop(grace=20.0)
    wait_until(lambda: not any(map(alive, children)), seconds=5, what="the children's end")
    assert time.monotonic() - before < 5


def test_a_worker_that_exits_by_itself_is_noticed_at_once_and_its_children_end(start) -> None:
    worker, children = start("exit")
    said = []

    def told() -> bool:
        try:
            worker.poll()
        except WorkerError as error:
            said.append(error)
        return bool(said)

    wait_until(told, seconds=5, what="the worker's end")
    assert said[0].status == 3
    wait_until(lambda: not any(map(alive, children)), seconds=5, what="the children's end")


def test_what_the_worker_before_printed_can_still_be_read(start, tmp_path: Path) -> None:
    (tmp_path / "worker.log").write_text("the last words of another")
    start("wait")
    assert (tmp_path / "worker.log.1").read_text() == "the last words of another"
