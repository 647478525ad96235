"""Nothing grows with the evaluations: memory, files and threads of the daemon and of its worker."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.soak.__main__ import BOUND_BYTES, WARM_UP, leaks, report
from tests.chaos.soak.run import soak
from tests.chaos.soak.usage import after_warm_up, slope, usage
from tests.support.mlflow_server import mlflow_server

FULL_EVALUATIONS = 3000
# A few dozen evaluations show a gross leak only: caches still fill meanwhile, by some 30 kB each.
GROSS_BYTES = 60_000


def test_memory_files_and_threads_stay_as_they_are(tmp_path: Path, full_size: bool, seed: int) -> None:
    evaluations = FULL_EVALUATIONS if full_size else 80
    (tmp_path / "mlflow").mkdir()
    with mlflow_server(tmp_path / "mlflow") as server:
        found = soak(tmp_path / "job", server.uri, evaluations, seed=seed)
    print(report(found))
    assert found.evaluations == evaluations
    assert found.repeated == 0
    assert leaks(found, BOUND_BYTES if full_size else GROSS_BYTES) == []
    # ssim and its standard error, then with a network's distance and that one's beside them.
    assert found.rows >= 2 * evaluations + (evaluations - evaluations // 2)


@pytest.mark.parametrize("leaked", [0, 2048])
def test_a_leak_of_two_kilobytes_an_evaluation_is_seen_in_a_real_process(leaked: int) -> None:
    """What the full size is to find: 2 kB each in 3,000 evaluations, amid garbage that is freed again."""
    code = (
        "import sys\nkept = []\n"
        "for line in sys.stdin:\n"
        "    garbage = [bytes(3000 + n) for n in range(200)]\n"
        f"    kept.append(bytearray({leaked}))\n"
        "    print(flush=True)\n"
    )
    samples = []
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        for done in range(1, 3001):
            process.stdin.write("evaluate\n")
            process.stdin.flush()
            process.stdout.readline()
            if done % 30 == 0:
                samples.append(usage(process.pid, done))
        process.stdin.close()
    trend = slope(after_warm_up(samples, WARM_UP))
    assert (trend > BOUND_BYTES) == bool(leaked)
    assert samples[-1].threads == 1
