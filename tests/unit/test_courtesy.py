"""A worker steps back behind its neighbours, as it was told."""

from __future__ import annotations

import pytest
import torch

from metricwatch.errors import ConfigError, TemporaryError
from metricwatch.protocol import Configure
from metricwatch.worker import images
from metricwatch.worker.courtesy import limit_threads, step_back
from metricwatch.worker.device_state import check_room, duty_for, share_gpu

CPU = torch.device("cpu")
# Named only: nothing here asks for one.
GPU = torch.device("cuda", 0)
GB = 1_000_000_000


@pytest.mark.parametrize(
    ("configure", "said"),
    [
        (Configure(nice=20), "worker.nice is 20; it must be from 0 to 19"),
        (Configure(nice=-1), "worker.nice is -1"),
        (Configure(ionice="later"), "worker.ionice 'later' is unknown; known: best-effort, idle, none"),
    ],
)
def test_priorities_that_do_not_exist_are_refused(configure, said):
    with pytest.raises(ConfigError, match=said):
        step_back(configure)


@pytest.mark.parametrize(
    ("already", "threads", "becomes"), [("", 3, "3"), ("1", 3, "1"), ("8", 3, "3"), ("many", 3, "3"), ("0", 3, "3")]
)
def test_a_bound_on_threads_never_raises_that_of_openblas(monkeypatch, already, threads, becomes):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", already)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    assert step_back(Configure(threads=threads)) == []
    import os

    assert os.environ["OPENBLAS_NUM_THREADS"] == becomes
    # What the file says is said for this worker; the environment may be meant for the training job.
    assert (os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"]) == ("3", "3")


def test_without_a_bound_the_environment_stays(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    step_back(Configure())
    import os

    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_threads_bound_torch_and_those_that_decode(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(images.os, "sched_getaffinity", lambda _: set(range(32)), raising=False)
    monkeypatch.setattr(images._Limit, "threads", images._Limit.threads)
    try:
        limit_threads(None)
        assert (images.decode_threads(), torch.get_num_threads()) == (8, before)
        limit_threads(3)
        assert (images.decode_threads(), torch.get_num_threads()) == (3, 3)
        limit_threads(64)
        assert images.decode_threads() == 8
    finally:
        torch.set_num_threads(before)


def test_on_the_cpu_nothing_is_asked_of_a_gpu():
    share_gpu(CPU, Configure(gpu_memory=GB, min_free_gpu_memory=GB))
    check_room(CPU, 10**15)


class Gpu:
    """What torch says and is told of a GPU of 8 GB."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free = 6 * GB
        self.held = 0
        self.fractions: list[float] = []
        self.streams: list[int] = []
        self.emptied = 0
        self.finished = 0
        cuda = torch.cuda
        total = type("Properties", (), {"total_memory": 8 * GB})
        monkeypatch.setattr(cuda, "get_device_properties", lambda _: total)
        monkeypatch.setattr(cuda, "set_per_process_memory_fraction", lambda part, _: self.fractions.append(part))
        monkeypatch.setattr(cuda, "Stream", lambda _, priority: priority)
        monkeypatch.setattr(cuda, "set_stream", self.streams.append)
        monkeypatch.setattr(cuda, "mem_get_info", lambda _: (self.free, 8 * GB))
        monkeypatch.setattr(cuda, "memory_reserved", lambda _: self.held)
        monkeypatch.setattr(cuda, "empty_cache", self._empty)
        monkeypatch.setattr(cuda, "current_stream", lambda _: self)

    def _empty(self) -> None:
        self.emptied += 1

    def synchronize(self) -> None:
        self.finished += 1


@pytest.fixture
def gpu(monkeypatch) -> Gpu:
    return Gpu(monkeypatch)


@pytest.mark.parametrize(("budget", "fractions"), [(None, []), (2 * GB, [0.25]), (16 * GB, [1.0])])
def test_a_budget_is_a_part_of_the_gpus_memory(gpu, budget, fractions):
    share_gpu(GPU, Configure(gpu_memory=budget))
    assert gpu.fractions == fractions
    assert gpu.streams == [0]


def test_more_free_memory_than_there_is_at_all_is_a_mistake(gpu):
    with pytest.raises(ConfigError, match=r"min_free_gpu_memory is 9\.00 GB, but cuda:0 has 8\.00 GB in all"):
        share_gpu(GPU, Configure(min_free_gpu_memory=9 * GB))


def test_a_full_gpu_is_a_reason_to_come_again(gpu):
    check_room(GPU, 0)
    check_room(GPU, 6 * GB)
    said = r"cuda:0 has 6\.00 GB of memory free \(6000000000 bytes\), and worker.min_free_gpu_memory wants 7\.00 GB"
    with pytest.raises(TemporaryError, match=said):
        check_room(GPU, 7 * GB)
    assert gpu.emptied == 1


def test_what_the_worker_holds_itself_is_not_in_its_way(gpu):
    gpu.held = GB
    check_room(GPU, 7 * GB)


@pytest.mark.parametrize(
    ("device", "share", "pauses"), [(GPU, (0.5, 1.0), True), (CPU, (0.5, 1.0), False), (CPU, (0.5, 0.5), True)]
)
def test_each_device_has_a_share_of_its_own(gpu, device, share, pauses):
    duty = duty_for(device, Configure(max_gpu_share=share[0], max_cpu_share=share[1], longest_pause=0.001))
    work = [1, 2]
    paced = duty.paced(work)
    assert (not isinstance(paced, type(iter(work)))) is pauses
    assert list(paced) == work
    # A GPU is waited for after each batch and at the end.
    assert gpu.finished == (3 if device is GPU else 0)


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ConfigError, match="it must be above 0 and at most 1"):
        duty_for(CPU, Configure(max_cpu_share=share))
