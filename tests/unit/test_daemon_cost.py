"""What keeps the daemon small and quick, and the benchmark that shows it. No time is asserted."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from metricwatch.lanes import Lanes
from metricwatch.watch.pace import Pace
from tests.bench.daemon.__main__ import main

_SPEAK = """
import sys
from metricwatch.api import TemporaryError
from metricwatch.sinks.mlflow import MlflowOptions, MlflowSink
sink = MlflowSink(MlflowOptions(uri="http://127.0.0.1:9"))
try:
    sink.write("0" * 32, [], {"tag": "1"})
except TemporaryError:
    pass
assert "mlflow.tracking" in sys.modules
print(*sorted({"pandas", "pyarrow", "scipy", "torch", "matplotlib", "sklearn"} & sys.modules.keys()))
import pandas
print(pandas.DataFrame({"a": [1]}).shape)
"""


def test_the_client_of_mlflow_comes_without_libraries_for_data_which_others_can_still_import() -> None:
    command = [sys.executable, "-P", "-c", _SPEAK]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()
    assert said == ["", "(1, 1)"]


def test_a_lane_turns_again_as_soon_as_it_wants_to() -> None:
    stop, turned = threading.Event(), threading.Event()
    turns = []

    def turn() -> int:
        turns.append(1)
        if len(turns) > 1:
            turned.set()
        return 0

    with Lanes({"score": (turn,)}, period=3600.0, stop=stop, until={"score": lambda: 0.02}):
        assert turned.wait(20)
        stop.set()


def test_a_look_is_due_in_as_many_seconds_as_the_pace_says() -> None:
    pace = Pace(rescan=10.0, settle=5.0)
    pace.looked(100.0, 100.0, rescanned=True)
    hinted = pace.seconds_to_look(100.0, hinted=True, settling=False)
    settling = pace.seconds_to_look(100.0, hinted=False, settling=True)
    assert 0 < hinted < settling
    assert pace.seconds_to_look(100.0, hinted=True, settling=True) == hinted
    assert pace.look_is_due(100.0 + hinted + 0.001, hinted=True, settling=False)
    assert not pace.look_is_due(100.0 + hinted - 0.001, hinted=True, settling=False)
    assert pace.seconds_to_look(100.0, hinted=False, settling=False) == math.inf


def test_the_benchmark_of_the_daemon_tells_of_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--size", "tiny", "--json", str(tmp_path / "daemon.json")])
    found = json.loads((tmp_path / "daemon.json").read_text())
    day = found["day"]
    assert {"machine", "limits", "starts", "day", "queues", "watching"} <= found.keys()
    assert day["files"] == 6
    assert day["scored"] == 5
    assert 0 < day["rss_at_start"] < day["rss_after_work"]
    assert day["renamed"]["sets"] == 1
    assert not {"torch", "pandas", "pyarrow", "matplotlib", "scipy"} & set(day["libraries"])
    assert "start to ready" in capsys.readouterr().out
