"""The worker as the daemon sees it: a real process on a pair of pipes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from metricwatch import listing
from metricwatch.protocol import Configure, Evaluate, Failure, Heartbeat, Log, Ready, Result, Stop
from metricwatch.records import ScoreState
from tests.support.photos import write_crops
from tests.support.worker_client import WorkerClient

FD = "fd_efficientnet_lite0"
Start = Callable[..., WorkerClient]


@pytest.fixture(scope="module")
def worker() -> Iterator[WorkerClient]:
    """One worker for the tests that leave it as they found it: it survives all of them, which is a test too."""
    client = WorkerClient()
    yield client
    client.kill()


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Enough pictures to be busy with for a while."""
    return write_crops(tmp_path / "many", 300, side=16)


def test_it_says_first_what_it_is(worker: WorkerClient) -> None:
    ready = worker.receive()
    assert isinstance(ready, Ready)
    assert (ready.pid, ready.device) == (worker.process.pid, "cpu")
    assert {"torch", "torchvision", "metricwatch", "python"} <= ready.versions.keys()


def test_it_scores_photographs_and_reports_its_progress(
    start_worker: Start, photos: Path, blurred_photos: Path, tmp_path: Path
) -> None:
    worker = start_worker(
        Configure(device="cpu", engine="eager", batch_size=8, heartbeat_seconds=0.05, cache=str(tmp_path))
    )
    digest = listing.fingerprint(listing.images(listing.scan(str(blurred_photos))))
    request = Evaluate(
        job=7,
        path=str(blurred_photos),
        digest=digest,
        metrics=(FD, "ssim"),
        reference=str(photos),
        content=str(photos),
    )
    reply = worker.evaluate(request)
    assert isinstance(reply, Result), reply
    assert reply.job == 7
    evaluation = reply.evaluation
    distance, similarity = evaluation.scores
    assert (evaluation.images, distance.images, similarity.images) == (24, 24, 24)
    assert distance.value is not None
    assert distance.value > 0
    assert similarity.value is not None
    assert 0.2 < similarity.value < 0.99
    assert evaluation.seconds > 0
    beats = [reply for reply in worker.seen if isinstance(reply, Heartbeat) and reply.job == 7]
    phases = list(dict.fromkeys(beat.phase for beat in beats))
    assert phases == [
        *("listing", "loading", "hashing the reference", "reading the reference", "computing reference statistics"),
        *("scoring", "computing"),
    ]
    assert any(0 < beat.done < beat.total == 24 for beat in beats)
    # The same job again, networks and reference at hand: the very same numbers.
    again = worker.evaluate(request)
    assert isinstance(again, Result)
    assert [score.value for score in again.evaluation.scores] == [distance.value, similarity.value]


def test_it_beats_while_idle_too(worker: WorkerClient) -> None:
    assert worker.wait_for(Heartbeat, timeout=5) == Heartbeat()


def test_fid_uses_weights_from_torch_hubs_cache(
    start_worker: Start, photos: Path, inception_weights: Path, tmp_path: Path
) -> None:
    few = write_crops(tmp_path / "few", 3, side=64)
    worker = start_worker(environ={"TORCH_HOME": str(inception_weights.parents[2])})
    reply = worker.evaluate(Evaluate(job=1, path=str(few), metrics=("fid",), reference=str(few)))
    assert isinstance(reply, Result), reply
    (score,) = reply.evaluation.scores
    assert score.state is ScoreState.OK
    assert (score.provenance["extractor"], score.provenance["protocol"]) == ("inception-v3", "pytorch-fid")
    assert any("not the published weights" in line.event for line in worker.logs())


def test_missing_weights_reach_the_user_word_for_word(start_worker: Start, photos: Path, tmp_path: Path) -> None:
    worker = start_worker(environ={"TORCH_HOME": str(tmp_path), "https_proxy": "http://127.0.0.1:9"})
    reply = worker.evaluate(Evaluate(job=1, path=str(photos), metrics=("fid",), reference=str(photos)))
    assert isinstance(reply, Failure)
    assert reply.reason.startswith("inception-v3: the weights pt_inception-2015-12-05-6726825d.pth are not at")
    assert not reply.retryable


def test_it_survives_bad_input_after_bad_input(worker: WorkerClient, photos: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "a.png").write_bytes(b"broken")
    changed = Evaluate(job=3, path=str(photos), metrics=("ssim",), content=str(photos), digest="0" * 32)
    for request, message in (
        (Evaluate(job=1, path=str(tmp_path / "gone"), metrics=("ssim",)), "cannot list"),
        (Evaluate(job=2, path=str(bad), metrics=("ssim",), content=str(photos)), "no images in"),
        (changed, "has changed since it settled"),
        (Evaluate(job=4, path=str(photos), metrics=("nonsense",)), "unknown metric 'nonsense'"),
        (Evaluate(job=5, path=str(photos), metrics=(FD,), reference=str(tmp_path / "gone")), "does not exist"),
    ):
        reply = worker.evaluate(request)
        assert isinstance(reply, Failure), reply
        assert (reply.job, reply.changed) == (request.job, request is changed)
        assert message in reply.reason
    assert isinstance(
        worker.evaluate(Evaluate(job=9, path=str(photos), metrics=("ssim",), content=str(photos))), Result
    )


def test_an_unexpected_error_fails_the_job_with_its_type_and_a_traceback(worker: WorkerClient, photos: Path) -> None:
    """A null byte in a path is a ValueError from deep inside."""
    reply = worker.evaluate(Evaluate(job=1, path="a\0b", metrics=("ssim",)))
    assert isinstance(reply, Failure)
    assert reply.reason.startswith("ValueError: ")
    line = worker.logs()[-1]
    assert (line.level, line.event) == ("error", "evaluation failed")
    assert "Traceback" in line.fields["traceback"]
    assert isinstance(
        worker.evaluate(Evaluate(job=2, path=str(photos), metrics=("ssim",), content=str(photos))), Result
    )


def test_a_line_that_is_no_message_is_said_and_passed_over(worker: WorkerClient, photos: Path) -> None:
    worker.send_line(b"nonsense\n")
    line = worker.wait_for(Log)
    assert isinstance(line, Log)
    assert line.event == "not understood"
    assert isinstance(
        worker.evaluate(Evaluate(job=1, path=str(photos), metrics=("ssim",), content=str(photos))), Result
    )


def busy(worker: WorkerClient, many: Path) -> None:
    worker.send(Evaluate(job=1, path=str(many), metrics=(FD,), reference=str(many)))
    worker.wait_for_phase("reading the reference")


def test_it_dies_with_the_daemon_even_in_mid_evaluation(start_worker: Start, many: Path) -> None:
    worker = start_worker()
    busy(worker, many)
    worker.hang_up()
    started = time.monotonic()
    assert worker.process.wait(timeout=5) == 0
    assert time.monotonic() - started < 2


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_stopped_it_still_dies_with_a_killed_daemon(tmp_path: Path) -> None:
    """A process that was stopped does not notice the end of its pipe."""
    code = """
import sys, time
from metricwatch.protocol import Configure
from metricwatch.supervisor.process import WorkerProcess
worker = WorkerProcess(Configure(device="cpu"))
while not worker.poll():
    time.sleep(0.05)
print(worker.pid, flush=True)
time.sleep(600)
"""
    daemon = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        pid = int(daemon.stdout.readline())
        os.kill(pid, signal.SIGSTOP)
    finally:
        daemon.kill()
        daemon.communicate()
    try:
        deadline = time.monotonic() + 5
        while alive(pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not alive(pid)
    finally:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    """False for a process that is gone, or dead and waiting for its new parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_it_stops_at_once_when_told(start_worker: Start, many: Path) -> None:
    worker = start_worker()
    busy(worker, many)
    worker.send(Stop())
    assert worker.process.wait(timeout=5) == 0


def test_it_leaves_ctrl_c_to_the_daemon_and_obeys_sigterm(start_worker: Start, many: Path) -> None:
    worker = start_worker()
    busy(worker, many)
    worker.process.send_signal(signal.SIGINT)
    assert isinstance(worker.wait_for(Heartbeat), Heartbeat)
    assert worker.process.poll() is None
    worker.process.terminate()
    assert worker.process.wait(timeout=5) == -signal.SIGTERM


def test_killed_in_mid_evaluation_it_leaves_nothing_that_misleads_the_next(
    start_worker: Start, many: Path, photos: Path, tmp_path: Path
) -> None:
    configure = Configure(device="cpu", heartbeat_seconds=0.1, cache=str(tmp_path / "cache"))
    worker = start_worker(configure)
    busy(worker, many)
    os.kill(worker.process.pid, signal.SIGKILL)
    while worker.receive() is not None:
        pass
    assert worker.process.wait(timeout=5) == -signal.SIGKILL
    next_worker = start_worker(configure)
    reply = next_worker.evaluate(Evaluate(job=1, path=str(photos), metrics=(FD,), reference=str(photos)))
    assert isinstance(reply, Result)
    assert reply.evaluation.scores[0].value == pytest.approx(0.0, abs=1e-3)


def test_a_configuration_that_cannot_work_ends_it_with_the_reason_and_78(start_worker: Start) -> None:
    """The reason is in the log line, and is the last line on stderr."""
    worker = start_worker(Configure(device="toaster"))
    line = worker.receive()
    assert isinstance(line, Log)
    assert "worker.device 'toaster'" in line.fields["reason"]
    assert worker.receive() is None
    assert worker.process.wait(timeout=10) == 78
    assert "worker.device 'toaster'" in worker.process.stderr.read().decode().splitlines()[-1]


def test_nothing_that_libraries_print_reaches_stdout(start_worker: Start, photos: Path) -> None:
    worker = start_worker()
    worker.evaluate(Evaluate(job=1, path=str(photos), metrics=("ssim",), content=str(photos)))
    worker.send(Stop())
    stdout, _ = worker.process.communicate(timeout=5)
    assert stdout == b""


def test_numpy_and_torch_load_after_the_worker_has_set_up_its_process() -> None:
    """numpy's linear algebra reads its number of threads when it loads, and never again."""
    code = "import sys, metricwatch.worker.__main__; sys.exit(' '.join({'numpy', 'torch'} & set(sys.modules)) or 0)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
