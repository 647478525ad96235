"""What the configuration says of the worker's neighbours reaches the worker."""

from __future__ import annotations

import pytest

from metricwatch.assembly import worker_settings
from metricwatch.config import load_config
from metricwatch.errors import ConfigError
from metricwatch.protocol import Configure

MINIMAL = """
tracking: {uri: "http://mlflow:5000"}
watch:
  - run: {name: night-run}
    samples: runs/night/samples/*
metrics: [fid]
worker: """


@pytest.fixture
def settings(tmp_path):
    def settings(worker: str) -> Configure:
        file = tmp_path / "metricwatch.yaml"
        file.write_text(MINIMAL + worker)
        return worker_settings(load_config(file, environ={}))

    return settings


def test_by_default_a_worker_comes_after_everybody_and_has_half_of_a_gpu(settings):
    told = settings("{}")
    assert (told.nice, told.ionice, told.threads) == (10, "best-effort", None)
    assert (told.max_gpu_share, told.max_cpu_share, told.longest_pause) == (0.5, 1.0, 900)
    assert (told.gpu_memory, told.min_free_gpu_memory) == (None, 0)


def test_all_that_is_said_reaches_it(settings):
    told = settings(
        "{nice: 3, ionice: idle, threads: 2, max_gpu_share: 25%, gpu_memory: 4GB, min_free_gpu_memory: 6GiB,"
        " heartbeat_timeout: 10s, stall_timeout: 1m}"
    )
    assert (told.nice, told.ionice, told.threads) == (3, "idle", 2)
    # Whoever writes a share means it for the device that there is.
    assert (told.max_gpu_share, told.max_cpu_share) == (0.25, 0.25)
    assert (told.gpu_memory, told.min_free_gpu_memory) == (4_000_000_000, 6 * 2**30)
    # Longer ones would be taken for a worker that hangs.
    assert told.longest_pause == 30


@pytest.mark.parametrize(
    ("worker", "said"),
    [
        ("{nice: 20}", "worker.nice: must be at most 19"),
        ("{nice: -5}", "worker.nice: must be at least 0"),
        ("{ionice: later}", "worker.ionice: must be 'best-effort', 'idle' or 'none'"),
        ("{max_gpu_share: 0}", "worker.max_gpu_share: must be greater than 0"),
        ("{max_gpu_share: 50}", "worker.max_gpu_share: must be at most 1"),
        ("{max_gpu_share: half}", "worker.max_gpu_share: must be a share such as 10% or 0.1"),
        ("{gpu_memory: 0}", "worker.gpu_memory: must be greater than 0"),
        ("{gpu_memory: much}", "worker.gpu_memory: must be a size such as 500MB, 2GB or 2GiB"),
        ("{min_free_gpu_memory: -1}", "worker.min_free_gpu_memory: must be a size such as"),
        ("{threads: 0}", "worker.threads: must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused_at_its_key(settings, worker, said):
    with pytest.raises(ConfigError) as caught:
        settings(worker)
    (line,) = str(caught.value).splitlines()
    assert said in line
