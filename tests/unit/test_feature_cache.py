"""Rows kept by content: capped in size, indifferent to damage."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from metricwatch.worker.feature_cache import FILE_NAME, FeatureCache


class Bench:
    """A cache with its log lines laid open, and a clock that moves when told."""

    def __init__(self, directory: Path, capacity: int = 10**9) -> None:
        self.events: list[str] = []
        self.now = 1_700_000_000.0
        self.cache = FeatureCache(
            str(directory), capacity, lambda _level, event, /, **_: self.events.append(event), lambda: self.now
        )


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def row(number: int, length: int = 1280) -> np.ndarray:
    return np.random.default_rng(number).normal(size=length).astype(np.float32)


def test_what_was_saved_is_found_bit_by_bit_in_another_process_of_the_daemon(tmp_path: Path) -> None:
    Bench(tmp_path).cache.save({key(1): row(1), key(2): row(2, 7).astype(np.float64)})
    found = Bench(tmp_path).cache.load([key(2), key(3), key(1)])
    assert set(found) == {key(1), key(2)}
    np.testing.assert_array_equal(found[key(1)], row(1))
    assert found[key(1)].dtype == np.float32
    np.testing.assert_array_equal(found[key(2)], row(2, 7))
    assert found[key(2)].dtype == np.float64


def test_more_keys_than_a_statement_takes_are_found(tmp_path: Path) -> None:
    cache = Bench(tmp_path).cache
    cache.save({key(number): row(number, 4) for number in range(1300)})
    assert len(cache.load([key(number) for number in range(2000)])) == 1300


def test_the_size_is_capped_and_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    bench = Bench(tmp_path, capacity=600_000)
    for number in range(50):
        bench.cache.save({key(number): row(number)})
        bench.now += 60
    bench.now += 7200
    assert key(5) in bench.cache.load([key(5)])
    bench.cache.note_use()
    for number in range(50, 110):
        bench.cache.save({key(number): row(number)})
        bench.now += 60
    found = bench.cache.load([key(number) for number in range(110)])
    assert key(5) in found, "it was asked for lately"
    assert key(6) not in found
    assert all(key(number) in found for number in range(80, 110))
    assert sum(each.nbytes for each in found.values()) <= 600_000
    Bench(tmp_path).cache.load([key(1)])
    bench.cache._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert (tmp_path / FILE_NAME).stat().st_size <= 600_000


def test_saving_the_same_row_again_does_not_count_twice(tmp_path: Path) -> None:
    cache = Bench(tmp_path, capacity=60_000).cache
    cache.save({key(1): row(1)})
    for _ in range(50):
        cache.save({key(2): row(2)})
    assert set(cache.load([key(1), key(2)])) == {key(1), key(2)}


def test_a_capacity_of_nothing_keeps_nothing_and_writes_nothing(tmp_path: Path) -> None:
    cache = Bench(tmp_path / "state", capacity=0).cache
    cache.save({key(1): row(1)})
    assert not cache.load([key(1)])
    assert not (tmp_path / "state").exists()


def test_a_damaged_row_counts_as_absent(tmp_path: Path) -> None:
    Bench(tmp_path).cache.save({key(1): row(1), key(2): row(2)})
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        db.execute("UPDATE rows SET data = zeroblob(length(data)) WHERE key = ?", (key(1),))
    db.close()
    assert set(Bench(tmp_path).cache.load([key(1), key(2)])) == {key(2)}


@pytest.mark.parametrize("damage", ["not a database", "torn in the middle"])
def test_a_damaged_file_is_set_aside_and_begun_anew(tmp_path: Path, damage: str) -> None:
    file = tmp_path / FILE_NAME
    first = Bench(tmp_path).cache
    first.save({key(number): row(number) for number in range(200)})
    first._db.close()
    content = bytearray(file.read_bytes())
    content[:] = b"x" * len(content) if damage == "not a database" else content
    if damage == "torn in the middle":
        content[100 : len(content)] = os.urandom(len(content) - 100)
    file.write_bytes(content)
    bench = Bench(tmp_path)
    assert not bench.cache.load([key(number) for number in range(200)])
    assert bench.events == ["the kept features were damaged: begun anew"]
    bench.cache.save({key(1): row(1)})
    assert set(bench.cache.load([key(1)])) == {key(1)}
    assert (tmp_path / f"{FILE_NAME}.damaged").read_bytes() == bytes(content)


def test_a_directory_that_cannot_be_written_costs_one_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    bench = Bench(tmp_path / "file")
    for number in range(3):
        bench.cache.save({key(number): row(number)})
        assert not bench.cache.load([key(number)])
    assert bench.events == ["features cannot be kept: what is scored again is computed again"]


def test_two_processes_may_share_it(tmp_path: Path) -> None:
    """Two writers at once: each row is there in the end."""
    code = (
        "import sys, numpy as np\n"
        "from metricwatch.worker.feature_cache import FeatureCache\n"
        "cache = FeatureCache(sys.argv[1], 10**9, lambda *a, **k: print(a, k))\n"
        "first = int(sys.argv[2])\n"
        "for n in range(first, first + 100):\n"
        "    cache.save({n.to_bytes(16, 'big'): np.full(100, n, np.float32)})\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(first)], stdout=subprocess.PIPE, text=True)
        for first in (0, 100)
    ]
    assert [writer.communicate()[0] for writer in writers] == ["", ""]
    found = Bench(tmp_path).cache.load([key(number) for number in range(200)])
    assert len(found) == 200
    assert all(found[key(number)][0] == number for number in range(200))


def test_a_neighbour_that_holds_the_file_is_waited_for_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.cache.save({key(1): row(1)})
    bench.cache._db.execute("PRAGMA busy_timeout = 50")
    neighbour = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
    neighbour.execute("BEGIN IMMEDIATE")
    bench.cache.save({key(2): row(2)})
    neighbour.execute("ROLLBACK")
    bench.cache.save({key(3): row(3)})
    assert not bench.cache.load([key(1)]), "left alone for a while"
    bench.now += 600
    assert set(bench.cache.load([key(1), key(2), key(3)])) == {key(1)}
    assert bench.events == ["the kept features are held by another process: going on without"]
    neighbour.close()


def test_a_killed_writer_leaves_a_file_that_can_be_read(tmp_path: Path) -> None:
    code = (
        "import sys, os, signal, numpy as np\n"
        "from metricwatch.worker.feature_cache import FeatureCache\n"
        "cache = FeatureCache(sys.argv[1], 10**9, print)\n"
        "for n in range(10**6):\n"
        "    cache.save({n.to_bytes(16, 'big'): np.full(1000, n, np.float32)})\n"
        "    if n == 50: print('go', flush=True)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "go\n"
    writer.kill()
    writer.communicate()
    bench = Bench(tmp_path)
    found = bench.cache.load([key(number) for number in range(51)])
    assert len(found) == 51
    assert not bench.events


def test_a_file_with_any_byte_wrong_gives_right_rows_or_none(tmp_path: Path) -> None:
    """A wrong pointer in an index gives a good row under another row's key."""
    rows = {key(number): row(number, 24) for number in range(120)}
    cache = Bench(tmp_path).cache
    cache.save(rows)
    cache._db.close()
    file = tmp_path / FILE_NAME
    good = file.read_bytes()
    chance = np.random.default_rng(0)
    lost = 0
    for _ in range(400):
        bad = bytearray(good)
        bad[chance.integers(len(bad))] ^= 1 << chance.integers(8)
        for each in tmp_path.iterdir():
            each.unlink()
        file.write_bytes(bad)
        bench = Bench(tmp_path)
        found = bench.cache.load(list(rows))
        for name, numbers in found.items():
            np.testing.assert_array_equal(numbers, rows[name])
        lost += len(found) < len(rows)
        assert len(bench.events) <= 1
        bench.cache._drop()
    assert lost > 100


@pytest.mark.parametrize("left", [0, 50, 100, 4096, 6000, 20_000])
def test_a_file_cut_short_costs_its_rows_and_no_more(tmp_path: Path, left: int) -> None:
    cache = Bench(tmp_path).cache
    cache.save({key(number): row(number) for number in range(50)})
    cache._db.close()
    os.truncate(tmp_path / FILE_NAME, left)
    bench = Bench(tmp_path)
    found = bench.cache.load([key(number) for number in range(50)])
    assert all((found[name] == row(int.from_bytes(name, "big"))).all() for name in found)
    bench.cache.save({key(1): row(1)})
    assert set(bench.cache.load([key(1)])) == {key(1)}
    assert len(bench.events) <= 1


def test_a_directory_in_the_files_place_costs_one_warning(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    bench = Bench(tmp_path)
    for number in range(3):
        bench.cache.save({key(number): row(number)})
    assert bench.events == ["features cannot be kept: what is scored again is computed again"]
