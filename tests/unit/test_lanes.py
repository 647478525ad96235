"""Lanes: what hangs in one of them holds up neither the others nor the end."""

from __future__ import annotations

import threading
import time

import pytest

from metricwatch import lanes
from metricwatch.lanes import Lanes


def test_the_end_waits_once_for_all_lanes_that_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "_JOIN_SECONDS", 1.0)
    let_go = threading.Event()
    turned = threading.Semaphore(0)

    def hang() -> int:
        turned.release()
        let_go.wait(60)
        return 0

    names = [f"lane {number}" for number in range(8)]
    with Lanes(dict.fromkeys(names, (hang,)), period=0.5, stop=threading.Event()):
        for _ in names:
            assert turned.acquire(timeout=10)
        started = time.monotonic()
    seconds = time.monotonic() - started
    let_go.set()

    assert 0.9 <= seconds < 5, "one wait for each lane would be 8 seconds"
