"""The daemon while its tracking server is away in every way that one can be: nothing is lost, late scores arrive once."""

from __future__ import annotations

import json
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self
from urllib.request import urlopen

import pytest
import yaml
from mlflow import MlflowClient

from tests.chaos.soak.sets import SmallSets
from tests.support.fault_proxy import FaultProxy, Mode, fault_proxy
from tests.support.job import Daemon, Job, wait_until
from tests.support.mlflow_server import MlflowServer, mlflow_server
from tests.support.ports import free_port

RUNS = ("first", "second")
FULL_MINUTES = 30
# How long a hanging server is watched, longer than the sink's own patience of 10 s.
HANGING_SECONDS = 12.0
# Between two sets of a run.
PACE_SECONDS = 0.5

Row = tuple[str, str, int, float, int]


class Writer:
    """Two training jobs: each writes a small set every so often until stopped."""

    def __init__(self, folder: Path, seed: int, pace: float) -> None:
        self.written = 0
        self._folder, self._seed, self._pace = folder, seed, pace
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.run, name="writer")

    def run(self) -> None:
        sets = [SmallSets(self._folder / name, self._seed + number) for number, name in enumerate(RUNS)]
        while not self._stop.wait(self._pace):
            for each in sets:
                each.write(100 * (self.written + 1))
            self.written += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()


class Outage:
    """A daemon whose tracking server stands behind the proxy, and what can be seen of it from outside."""

    def __init__(self, folder: Path, server: MlflowServer, proxy: FaultProxy) -> None:
        self.server, self.proxy = server, proxy
        self.port = free_port()
        self.job = Job(folder, proxy.uri, "outage", telemetry={"port": self.port}, worker={"threads": 1})
        self.job.config["watch"] = [
            {
                "run": {"name": name},
                "samples": f"{name}/samples/*",
                "reference": "reference",
                "pairs": {"content": f"{name}/content"},
            }
            for name in RUNS
        ]
        for name in RUNS:
            (folder / name).mkdir()
        self.job.write_config()

    def health(self) -> dict[str, Any]:
        with urlopen(f"http://127.0.0.1:{self.port}/-/healthy", timeout=10) as answer:
            return json.load(answer)

    def pending(self) -> int:
        return sum(item["pending"] for item in self.health()["backlog"])

    def evaluated(self) -> int:
        return self.health()["jobs"]["done"]

    def metric(self, name: str) -> float:
        with urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return float(next(line for line in lines if line.startswith(f'{name}{{sink="mlflow"}}')).split()[1])

    def evaluations_a_minute(self, seconds: float) -> float:
        """Watch for so long."""
        before, start = self.evaluated(), time.monotonic()
        time.sleep(seconds)
        return 60 * (self.evaluated() - before) / (time.monotonic() - start)

    def sent(self) -> list[Row]:
        """Every point that the ledger says has been delivered: run, key, step, value, timestamp."""
        with sqlite3.connect(self.job.folder / "state" / "ledger.sqlite3") as ledger:
            rows = ledger.execute(
                "SELECT name, points, state FROM deliveries JOIN runs ON runs.key = deliveries.run"
            ).fetchall()
        assert {state for *_, state in rows} == {"sent"}
        return sorted(
            (name, key, step, value, timestamp)
            for name, points, _ in rows
            for key, value, timestamp, step in json.loads(points)
        )

    def arrived(self, experiment: str = "outage") -> list[Row]:
        """Every row that MLflow holds, in the same form."""
        client = MlflowClient(self.server.uri)
        place = client.get_experiment_by_name(experiment).experiment_id
        return sorted(
            (run.info.run_name, key, row.step, row.value, row.timestamp)
            for run in client.search_runs([place])
            for key in run.data.metrics
            for row in client.get_metric_history(run.info.run_id, key)
        )

    def without_an_outage(self) -> list[Row]:
        """What a daemon with a ledger of its own and a server that is always there logs of the same sets."""
        calm = {**self.job.config, "state": "calm-state", "telemetry": {}}
        calm["tracking"] = {"uri": self.server.uri, "experiment": "calm"}
        (self.job.folder / "calm.yaml").write_text(yaml.safe_dump(calm))
        done = self.job.call("run", "--once", "-c", "calm.yaml", timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
        return self.arrived("calm")


@pytest.fixture
def outage(tmp_path: Path) -> Iterator[Outage]:
    (tmp_path / "mlflow").mkdir()
    with mlflow_server(tmp_path / "mlflow") as server, fault_proxy(server.uri) as proxy:
        yield Outage(tmp_path / "job", server, proxy)


@pytest.fixture
def start() -> Iterator[Callable[[Job], Daemon]]:
    started: list[Daemon] = []

    def run(job: Job) -> Daemon:
        started.append(job.start())
        return started[-1]

    yield run
    for daemon in started:
        daemon.end()


def test_an_outage_in_many_modes_costs_no_point_and_no_evaluation(
    outage: Outage, start: Callable[[Job], Daemon], full_size: bool, seed: int
) -> None:
    chance = random.Random(seed)
    daemon = start(outage.job)
    daemon.wait_for("daemon.started")
    with Writer(outage.job.folder, seed, 5 * PACE_SECONDS if full_size else PACE_SECONDS) as writer:
        wait_until(lambda: outage.evaluated() > 2 and not outage.pending(), what="the first deliveries")
        # While the worker still catches up with what it found, it is faster than the writers.
        wait_until(lambda: outage.evaluated() >= len(RUNS) * (writer.written - 1), what="the queue's end")
        normal = outage.evaluations_a_minute(6)
        outage.proxy.mode = Mode.HANG
        hanging = outage.evaluations_a_minute(HANGING_SECONDS)
        assert_seen_from_outside(outage)
        modes = [mode for mode in Mode if mode is not Mode.PASS]
        if full_size:
            endure(outage, chance, modes, minutes=FULL_MINUTES)
        else:
            # Each of them alone is in tests/integration/test_mlflow_sink.py.
            for mode in chance.sample([mode for mode in modes if mode is not Mode.HANG], 5):
                meet(outage, mode)
        outage.proxy.mode = Mode.PASS
    total = len(RUNS) * writer.written
    wait_until(lambda: outage.evaluated() == total, what="every set scored")
    began = time.monotonic()
    wait_until(lambda: not outage.pending(), seconds=120, what="an empty outbox")
    print(
        f"{total} evaluations; a minute: {normal:.0f} normally, {hanging:.0f} while the server hung;"
        f" drained {time.monotonic() - began:.1f} s after the last one; {len(outage.proxy.batches())} log-batch requests"
    )
    assert_nothing_waits(outage)
    assert daemon.stop() == 0
    assert hanging > 0.5 * normal, "scoring waits for the tracking server"
    arrived = outage.arrived()
    assert arrived == outage.sent()
    assert len({row[:3] for row in arrived}) == len(arrived), "a step has two rows of one key"
    assert comparable(arrived) == comparable(outage.without_an_outage())
    assert_in_order(outage.proxy)


def comparable(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Run, key, step and value of what is the same whenever it is scored: seconds are not."""
    return [row[:4] for row in rows if not row[1].endswith("/evaluation_seconds")]


def meet(outage: Outage, mode: Mode) -> None:
    """Let one mode hold until it has met requests of both runs, or for what takes two tries, and let the rest through."""
    known = len(outage.proxy.seen)
    outage.proxy.mode = mode
    if mode is Mode.REFUSE:
        wait_until(lambda: outage.pending() > 4, what="a backlog while nobody listens")
    else:
        wait_until(lambda: len(outage.proxy.seen) >= known + 2, what=f"requests while: {mode.value}")
    outage.proxy.mode = Mode.PASS
    wait_until(lambda: outage.pending() <= len(RUNS), what=f"a drained outbox after: {mode.value}")


def endure(outage: Outage, chance: random.Random, modes: list[Mode], *, minutes: float) -> None:
    """One mode after the other, without a pause, for so long."""
    end = time.monotonic() + 60 * minutes
    while (left := end - time.monotonic()) > 0:
        outage.proxy.mode = chance.choice(modes)
        time.sleep(min(left, chance.uniform(5, 60)))


def assert_seen_from_outside(outage: Outage) -> None:
    """The backlog with reason, count and age, by all three ways to ask."""
    sink = wait_until(
        lambda: found if (found := outage.health()["sinks"].get("mlflow")) and found["reason"] else None,
        what="a reason",
    )
    assert sink["pending"] > 2
    assert sink["oldest_pending_seconds"] > HANGING_SECONDS / 2
    assert "no answer within 10 s" in sink["reason"]
    assert outage.metric("metricwatch_deliveries_pending") >= sink["pending"]
    assert outage.metric("metricwatch_delivery_oldest_pending_seconds") >= sink["oldest_pending_seconds"]
    status = json.loads(outage.job.call("status", "--json").stdout)
    assert sum(item["pending"] for item in status["backlog"]) >= sink["pending"]
    assert any("no answer within 10 s" in item["reason"] for item in status["backlog"])


def assert_nothing_waits(outage: Outage) -> None:
    document = outage.health()
    assert document["backlog"] == []
    assert document["sinks"].get("mlflow", {"pending": 0, "rejected": 0})["rejected"] == 0
    assert json.loads(outage.job.call("status", "--json").stdout)["backlog"] == []


def assert_in_order(proxy: FaultProxy) -> None:
    """Whatever was sent how often: a run's steps came by for the first time in their order."""
    first: dict[str, list[int]] = {}
    for request in proxy.batches():
        for metric in request.body.get("metrics", []):
            steps = first.setdefault(request.body["run_id"], [])
            if metric["key"] == "quality/ssim" and metric["step"] not in steps:
                steps.append(metric["step"])
    assert len(first) == len(RUNS)
    for steps in first.values():
        assert steps == sorted(steps)
