"""A ledger that is damaged, cut short or gone is never begun anew without a word; a backup can take its place."""

from __future__ import annotations

import sqlite3
import threading
from datetime import UTC, datetime, timedelta

import pytest

from metricwatch.errors import LedgerDamagedError, LedgerError, LedgerUnavailableError
from metricwatch.records import Run
from metricwatch.store import backups
from metricwatch.store.db import FILE_NAME, Database
from metricwatch.store.ledger import Ledger

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def fill(state, runs=300):
    """A ledger of some pages, closed."""
    db = Database.open(state)
    with db.transaction("test"):
        for number in range(runs):
            Ledger(db).register_run(Run(key=f"k{number}", name="n" * 200), NOW)
    db.close()
    return state / FILE_NAME


def names(state):
    db = Database.open(state)
    try:
        return [run.key for run in Ledger(db).runs()]
    finally:
        db.close()


def test_an_empty_file_is_no_new_ledger(tmp_path):
    fill(tmp_path).write_bytes(b"")
    with pytest.raises(LedgerDamagedError, match=r"ledger\.sqlite3: the ledger is empty \(0 bytes\).*no backup"):
        Database.open(tmp_path)
    assert (tmp_path / FILE_NAME).stat().st_size == 0


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_a_ledger_that_was_cut_short_is_told(tmp_path, share):
    path = fill(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(LedgerDamagedError, match=r"the ledger is damaged"):
        Database.open(tmp_path)


def test_bytes_written_over_are_told(tmp_path):
    path = fill(tmp_path)
    content = bytearray(path.read_bytes())
    content[4096 * 5 : 4096 * 12] = b"\xff" * 4096 * 7
    path.write_bytes(content)
    with pytest.raises(LedgerDamagedError, match="the ledger is damaged"):
        Database.open(tmp_path)


def test_another_file_in_its_place_is_told(tmp_path):
    fill(tmp_path).write_bytes(b"not a database at all " * 500)
    with pytest.raises(LedgerDamagedError, match="file is not a database"):
        Database.open(tmp_path)


def test_a_ledger_that_is_gone_while_its_backups_are_here_is_told(tmp_path):
    path = fill(tmp_path)
    made = backups.make(path, NOW)
    path.unlink()
    with pytest.raises(LedgerDamagedError, match=f"metricwatch restore.*{made.name}"):
        Database.open(tmp_path)
    assert not path.exists()


def test_a_backup_takes_the_place_of_a_damaged_ledger_which_is_kept(tmp_path):
    path = fill(tmp_path)
    made = backups.make(path, NOW)
    path.write_bytes(path.read_bytes()[:9000])
    (tmp_path / f"{FILE_NAME}-wal").write_bytes(b"of the damaged one")
    aside = backups.restore(tmp_path, made, NOW)
    assert len(names(tmp_path)) == 300
    assert aside.stat().st_size == 9000
    assert aside.with_name(f"{aside.name}-wal").read_bytes() == b"of the damaged one"


def test_what_is_no_ledger_is_not_restored(tmp_path):
    path = fill(tmp_path)
    other = tmp_path / "other.sqlite3"
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE t (a)")
    connection.close()
    with pytest.raises(LedgerError, match="not a ledger of metricwatch"):
        backups.restore(tmp_path, other, NOW)
    damaged = backups.make(path, NOW)
    damaged.write_bytes(damaged.read_bytes()[:20_000])
    with pytest.raises(LedgerError, match=r"cannot restore from it: database disk image is malformed"):
        backups.restore(tmp_path, damaged, NOW)
    assert len(names(tmp_path)) == 300


def test_a_creation_that_was_killed_leaves_nothing_that_looks_like_a_ledger(tmp_path):
    (tmp_path / "ledger.new").write_bytes(b"half")
    assert names(tmp_path) == []
    assert not (tmp_path / "ledger.new").exists()


def test_a_backup_is_whole_although_the_ledger_is_written_meanwhile(tmp_path):
    fill(tmp_path)
    db = Database.open(tmp_path)
    stop = threading.Event()

    def write():
        number = 0
        while not stop.is_set():
            # Two rows a transaction: a copy between them would be seen.
            with db.transaction("test"):
                Ledger(db).register_run(Run(key=f"a{number}", name="a"), NOW)
                Ledger(db).register_run(Run(key=f"b{number}", name="b"), NOW)
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        made = [backups.make(db.path, NOW + timedelta(seconds=second)) for second in range(5)]
    finally:
        stop.set()
        writer.join()
        db.close()
    sizes = []
    for copy in made:
        backups.restore(tmp_path, copy, NOW)
        found = names(tmp_path)
        assert sum(key.startswith("a") for key in found) == sum(key.startswith("b") for key in found)
        sizes.append(len(found))
    assert sizes == sorted(sizes)
    assert sizes[-1] > sizes[0]


def test_old_backups_go(tmp_path):
    path = fill(tmp_path, runs=1)
    made = [backups.make(path, NOW + timedelta(days=day)) for day in range(5)]
    assert backups.prune(tmp_path, keep=2) == 3
    assert backups.all_of(tmp_path) == made[3:]


def test_a_full_disk_is_something_that_may_pass(tmp_path):
    fill(tmp_path)
    db = Database.open(tmp_path)
    (pages,) = db.read("PRAGMA page_count")[0]
    db.read(f"PRAGMA max_page_count = {pages}")

    def add_many():
        with db.transaction("test"):
            for number in range(1000):
                Ledger(db).register_run(Run(key=f"x{number}", name="n" * 500), NOW)

    with pytest.raises(LedgerUnavailableError, match=r"ledger\.sqlite3: database or disk is full"):
        add_many()
    assert len(db.read("SELECT key FROM runs")) == 300
    db.read("PRAGMA max_page_count = 1000000")
    Ledger(db).register_run(Run(key="x", name="n"), NOW)
    assert len(db.read("SELECT key FROM runs")) == 301
    db.close()


def test_a_ledger_that_is_replaced_under_a_running_daemon_is_told(tmp_path):
    path = fill(tmp_path, runs=1)
    db = Database.open(tmp_path)
    db.check_there()
    path.rename(tmp_path / "elsewhere")
    with pytest.raises(LedgerDamagedError, match="removed or replaced"):
        db.check_there()
    db.close()
