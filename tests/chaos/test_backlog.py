"""The outbox against a real MLflow server: in order, fairly, in few requests, and what is refused set aside."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from mlflow import MlflowClient

from metricwatch import catalog
from metricwatch.clock import Clock, SteadyClock, SystemClock, to_ms
from metricwatch.errors import LedgerError
from metricwatch.export.stage import Exporter
from metricwatch.records import Point, Run
from metricwatch.store.db import Database
from metricwatch.store.deliveries import Deliveries
from metricwatch.store.ledger import Ledger
from metricwatch.telemetry import Health, HealthServer
from metricwatch.testing.clock import FakeClock
from tests.support.fault_proxy import LOG_BATCH, FaultProxy, Mode, Seen, fault_proxy
from tests.support.mlflow_server import MlflowServer, mlflow_server

MlflowSink = catalog.load_sink("mlflow")
# MLflow takes 250 characters.
TOO_LONG = "quality/" + "x" * 250


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as running:
        yield running


@pytest.fixture
def proxy(server: MlflowServer) -> Iterator[FaultProxy]:
    with fault_proxy(server.uri) as made:
        yield made


class Outbox:
    """A ledger with runs and deliveries, an exporter, and the MLflow server behind the proxy."""

    def __init__(self, folder: Path, server: MlflowServer, proxy: FaultProxy, clock: Clock, timeout: float) -> None:
        self.clock = clock
        self.client = MlflowClient(server.uri)
        self.db = Database.open(folder)
        self.deliveries = Deliveries(self.db)
        self.experiment = f"backlog-{uuid.uuid4().hex}"
        sink = MlflowSink(MlflowSink.Options(uri=proxy.uri, experiment=self.experiment, timeout=timeout))
        self.exporter = Exporter(self.db, {"mlflow": sink}, clock)

    def fill(self, run: str, count: int, *, poison: Callable[[int], bool] = lambda _: False) -> None:
        """One delivery of a score and its standard error for each of count steps; a poisoned one has a third key."""
        with self.db.transaction("test"):
            Ledger(self.db).register_run(Run(key=run, name=run), self.clock.now())
            for step in range(count):
                keys = ["quality/ssim", "quality/ssim_stderr", *([TOO_LONG] if poison(step) else [])]
                self.deliveries.enqueue(
                    sink="mlflow",
                    run=run,
                    identity=f"{run}/{step}",
                    points=[Point(key=key, value=step / 7, timestamp_ms=1000 + step, step=step) for key in keys],
                    tags={},
                    now=self.clock.now(),
                )

    def drain(self) -> None:
        while self.exporter.tick():
            pass

    def steps(self, run: str, key: str = "quality/ssim") -> list[int]:
        """The step of each row that MLflow holds, in the order of steps, repeated ones included."""
        experiment = self.client.get_experiment_by_name(self.experiment)
        (found,) = [
            run_
            for run_ in self.client.search_runs([experiment.experiment_id])
            if run_.data.tags.get("metricwatch.run") == run
        ]
        return sorted(row.step for row in self.client.get_metric_history(found.info.run_id, key))

    def remote(self, run: str) -> str:
        known = self.deliveries.remote_run("mlflow", run)
        assert known is not None
        return known.id


@pytest.fixture
def outbox(tmp_path: Path, server: MlflowServer, proxy: FaultProxy) -> Iterator[Callable[..., Outbox]]:
    made: list[Outbox] = []

    def make(clock: Clock | None = None, *, timeout: float = 10.0) -> Outbox:
        made.append(Outbox(tmp_path, server, proxy, clock or SystemClock(), timeout))
        return made[-1]

    yield make
    for each in made:
        each.db.close()


def test_a_nights_backlog_is_drained_in_few_requests(outbox, proxy, full_size: bool, record_property) -> None:
    count = 5000 if full_size else 1000
    night = outbox()
    proxy.mode = Mode.REFUSE
    night.fill("night", count)
    assert night.exporter.tick() == 0
    proxy.mode = Mode.PASS
    start = time.monotonic()
    while night.deliveries.pending():
        night.exporter.tick()
    seconds = time.monotonic() - start
    record_property("seconds", seconds)
    record_property("requests", len(proxy.batches()))
    print(f"{count} deliveries in {seconds:.1f} s, {len(proxy.batches())} log-batch requests")
    assert night.steps("night") == list(range(count))
    # One request holds 500 of these deliveries; on the way there from 1 it takes ten.
    assert len(proxy.batches()) <= 10 + count / 500
    assert seconds < 120


def test_a_server_too_slow_for_a_whole_batch_gets_smaller_ones(outbox, proxy) -> None:
    """Without that, the same thousand points would time out for ever."""
    clock = FakeClock()
    slow = outbox(clock, timeout=1)
    slow.fill("slow", 120)

    def choose(seen: Seen) -> Mode:
        return Mode.HANG if len(seen.body.get("metrics", [])) > 64 else Mode.PASS

    proxy.choose = choose
    for _ in range(8):
        slow.exporter.tick()
        clock.advance(61)
        # Lets go of the request that hangs.
        proxy.mode = Mode.PASS
    assert slow.steps("slow") == list(range(120))


def test_the_pauses_between_attempts_grow_to_a_minute_and_no_further(outbox, proxy) -> None:
    clock = FakeClock()
    away = outbox(clock)
    away.fill("away", 3)
    away.drain()
    arrivals: list[float] = []

    def choose(seen: Seen) -> Mode:
        if seen.path.endswith(LOG_BATCH):
            arrivals.append(clock.monotonic())
        return Mode.RETRY_AFTER

    proxy.choose = choose
    away.deliveries.enqueue(
        sink="mlflow",
        run="away",
        identity="one more",
        points=[Point(key="quality/ssim", value=1.0, timestamp_ms=1, step=9)],
        tags={},
        now=clock.now(),
    )
    for _ in range(2 * 300):
        away.exporter.tick()
        clock.advance(0.5)
    pauses = [later - earlier for earlier, later in pairwise(arrivals)]
    assert pauses[:8] == [1, 2, 4, 8, 16, 32, 60, 60]


@pytest.mark.parametrize("offset", [-86_400, 86_400])
def test_a_wall_clock_that_is_set_does_not_stop_deliveries(outbox, proxy, offset: int) -> None:
    clock = FakeClock(datetime.now(UTC))
    odd = outbox(SteadyClock(clock))
    odd.fill("odd", 3)
    proxy.mode = Mode.UNAVAILABLE
    odd.exporter.tick()
    proxy.mode = Mode.PASS
    assert odd.exporter.tick() == 0, "it waits for its next try"
    clock.jump(offset)
    clock.advance(1)
    odd.drain()
    assert odd.steps("odd") == [0, 1, 2]


def test_slow_runs_do_not_starve_another(outbox, proxy) -> None:
    """Six runs whose requests time out, longer together than their pauses; the seventh came last."""
    busy = outbox(timeout=1)
    names = [f"slow-{number}" for number in range(6)]
    for name in (*names, "well"):
        busy.fill(name, 1)
    busy.drain()
    slow = {busy.remote(name) for name in names}

    def choose(seen: Seen) -> Mode:
        return Mode.HANG if seen.body.get("run_id") in slow else Mode.PASS

    proxy.choose = choose
    for name in (*names, "well"):
        busy.deliveries.enqueue(
            sink="mlflow",
            run=name,
            identity=f"{name}/later",
            points=[Point(key="quality/ssim", value=1.0, timestamp_ms=1, step=9)],
            tags={},
            now=busy.clock.now(),
        )
    for _ in range(len(names) + 1):
        busy.exporter.tick()
    proxy.mode = Mode.PASS
    assert busy.steps("well") == [0, 9]


def test_what_is_refused_is_set_aside_alone_and_shown(outbox, proxy) -> None:
    count, poisoned = 300, {0, 7, 150, 151, 152, 299}
    mixed = outbox()
    mixed.fill("mixed", count, poison=lambda step: step in poisoned)
    mixed.drain()
    assert mixed.deliveries.pending() == 0
    for key in ("quality/ssim", "quality/ssim_stderr"):
        assert mixed.steps("mixed", key) == list(range(count)), "the siblings of a refused point arrive"
    rejected = mixed.deliveries.rejected()
    assert {identity for _, identity, _ in rejected} == {f"mixed/{step}" for step in poisoned}
    assert all(reason.startswith(TOO_LONG) for _, _, reason in rejected)
    asked = len(proxy.batches())
    for _ in range(3):
        assert mixed.exporter.tick() == 0
    assert len(proxy.batches()) == asked, "what is set aside is not tried again"
    health, metrics = served(Health(mixed.db, sinks=("mlflow",)))
    assert health["sinks"]["mlflow"]["rejected"] == len(poisoned)
    assert health["sinks"]["mlflow"]["last_rejection"].startswith(TOO_LONG)
    assert 'metricwatch_deliveries_rejected{sink="mlflow"} 6.0' in metrics
    assert 'metricwatch_deliveries_pending{sink="mlflow"} 0.0' in metrics


@pytest.mark.parametrize("mode", [Mode.BAD_REQUEST, Mode.NOT_FOUND, Mode.TOO_LARGE])
def test_what_a_gateway_refuses_is_not_set_aside(outbox, proxy, mode: Mode) -> None:
    clock = FakeClock()
    behind = outbox(clock)
    behind.fill("behind", 1)
    behind.drain()
    behind.fill("behind", 40)
    for _ in range(4):
        proxy.mode = mode
        behind.exporter.tick()
        clock.advance(61)
    health, metrics = served(Health(behind.db, sinks=("mlflow",), clock=clock))
    (item,) = health["backlog"]
    assert (item["pending"], item["oldest_pending_seconds"]) == (39, 4 * 61)
    assert item["reason"].startswith("mlflow: writing to run ")
    assert item["reason"] == health["sinks"]["mlflow"]["reason"]
    assert 'metricwatch_delivery_oldest_pending_seconds{sink="mlflow"} 244.0' in metrics
    proxy.mode = Mode.PASS
    behind.drain()
    assert behind.steps("behind") == list(range(40))
    assert behind.deliveries.rejections() == 0


def test_a_ledger_that_cannot_note_what_was_sent_keeps_it_pending_and_says_so(outbox, proxy) -> None:
    """The disk fills up between the answer and the note: the caller waits, and the same batch goes again."""
    full = outbox()
    full.fill("full", 1)
    full.drain()
    for step in (1, 2):
        full.deliveries.enqueue(
            sink="mlflow",
            run="full",
            identity=f"full/{step}",
            points=[Point(key="quality/ssim", value=float(step), timestamp_ms=step, step=step)],
            tags={},
            now=full.clock.now(),
        )
    # Nothing else fails: not even the note that the sink shall be tried later.
    full.db._connection.execute(
        """CREATE TEMP TRIGGER full BEFORE UPDATE OF state ON deliveries
           BEGIN SELECT RAISE(ABORT, 'no room'); END"""
    )
    for _ in range(2):
        with pytest.raises(LedgerError, match="no room"):
            full.exporter.tick()
    assert full.steps("full") == [0, 1, 2], "they had been sent"
    assert full.deliveries.pending() == 2
    full.db._connection.execute("DROP TRIGGER full")
    full.drain()
    assert full.deliveries.pending() == 0
    assert full.steps("full") == [0, 1, 2]


def test_looking_for_work_stays_cheap_with_a_hundred_thousand_deliveries_waiting(outbox) -> None:
    """Counted in steps of SQLite's machine, which do not depend on how busy the computer is."""
    full = outbox(FakeClock())
    soon = to_ms(full.clock.now()) + 30_000
    with full.db.transaction("test") as tx:
        for number in range(200):
            tx.execute("INSERT INTO runs (key, name, created_ms) VALUES (?, ?, 1)", (f"r{number}", f"r{number}"))
        tx.executemany(
            """INSERT INTO deliveries (sink, run, identity, points, tags, state, created_ms, not_before_ms)
               VALUES ('mlflow', ?, ?, '[]', '{}', 'pending', 1, ?)""",
            [(f"r{n % 200}", str(n), 0 if n % 200 == 77 else soon) for n in range(100_000)],
        )
    thousands = [0]

    def count() -> int:
        thousands[0] += 1
        return 0

    full.db._connection.set_progress_handler(count, 1000)
    (delivery,) = full.deliveries.due("mlflow", full.clock.now(), 1)
    full.db._connection.set_progress_handler(None, 0)
    assert delivery.run == "r77"
    assert thousands[0] < 20


def served(health: Health) -> tuple[dict[str, Any], str]:
    """What the two addresses answer."""
    endpoint = HealthServer("127.0.0.1", 0, health)
    try:
        with urlopen(f"http://127.0.0.1:{endpoint.port}/-/healthy", timeout=5) as answer:
            document = json.load(answer)
        with urlopen(f"http://127.0.0.1:{endpoint.port}/metrics", timeout=5) as answer:
            return document, answer.read().decode()
    finally:
        endpoint.close()
