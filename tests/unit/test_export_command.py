"""`metricwatch export`: the ledger's scores as a table."""

from __future__ import annotations

import csv
import io
import os
import sqlite3
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet
import pytest
from typer.testing import CliRunner, Result

from metricwatch import cli
from metricwatch.cli import export
from metricwatch.records import Evaluation, JobState, Run, Score, ScoreState
from metricwatch.store.db import Database
from metricwatch.store.ledger import Ledger, Recorded
from metricwatch.store.scores import Scores
from metricwatch.testing.clock import FakeClock

CONFIG = """
state: state
tracking: {uri: "http://127.0.0.1:9"}
watch: [{run: {name: night}, samples: "a/*"}]
metrics: [fid]
"""
OK = Score(key="fid", value=31.5, stderr=0.25, images=64, higher_is_better=False, series="a1")
NONE = Score(key="kid", value=None, images=64, higher_is_better=True, state=ScoreState.FAILED, detail='=HYPERLINK("x")')


class Scene:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "metricwatch.yaml").write_text(CONFIG)
        (folder / "state").mkdir()
        self.clock, self.db = FakeClock(), Database.open(folder / "state")
        self.ledger = Ledger(self.db)

    def evaluate(self, step: int, *scores: Score, run: str = "night", revision: int = 1) -> None:
        target = Run(key=f"name:Default/{run}", name=run)
        self.ledger.register_run(target, self.clock.now())
        recorded = Recorded(revision=revision, digest=f"{revision}", images=64, newest_ns=1, mtime_ns=1)
        self.ledger.add_snapshot(
            source=target.key,
            run=target.key,
            step=step,
            path="p",
            members=None,
            recorded=recorded,
            now=self.clock.now(),
        )
        job = self.ledger.claim(self.clock.now(), timedelta(minutes=1), [target.key])
        evaluation = Evaluation(scores=scores, skipped=(), images=64, seconds=1.5, provenance={})
        Scores(self.db).record(job, evaluation, self.clock.now())
        self.ledger.finish(job.id, JobState.DONE, self.clock.now())

    def export(self, *arguments: str) -> Result:
        return CliRunner().invoke(cli.app, ["export", *arguments])


@pytest.fixture
def scene(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = Scene(tmp_path)
    yield made
    made.db.close()


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_a_score_is_a_row_with_all_that_is_known_of_it(scene):
    scene.evaluate(100, OK)
    (row,) = rows_of(scene.export("--csv", "-").stdout)
    assert row == {
        "run": "night",
        "source": "name:Default/night",
        "step": "100",
        "revision": "1",
        "key": "fid",
        "value": "31.5",
        "stderr": "0.25",
        "images": "64",
        "state": "ok",
        "detail": "",
        "series": "a1",
        "higher_is_better": "false",
        "evaluated_at": scene.clock.now().isoformat(),
        "seconds": "1.5",
    }


def test_a_score_without_a_value_has_an_empty_cell_and_its_reason_is_no_formula(scene):
    scene.evaluate(100, NONE)
    (row,) = rows_of(scene.export("--csv", "-").stdout)
    assert (row["value"], row["stderr"], row["state"]) == ("", "", "failed")
    assert row["detail"] == '\'=HYPERLINK("x")'


def test_numbers_below_zero_are_numbers_and_no_text(scene):
    scene.evaluate(-5, Score(key="kid", value=-0.5, images=1, higher_is_better=False))
    (row,) = rows_of(scene.export("--csv", "-").stdout)
    assert (row["step"], row["value"]) == ("-5", "-0.5")


def test_every_revision_is_there_and_all_chunks_of_it(scene, monkeypatch):
    monkeypatch.setattr(export, "_AT_ONCE", 2)
    for revision in (1, 2, 3):
        scene.evaluate(100, OK, NONE, revision=revision)
    rows = rows_of(scene.export("--csv", "-").stdout)
    assert [(row["revision"], row["key"]) for row in rows] == [(r, key) for r in "123" for key in ("fid", "kid")]


def test_parquet_holds_the_same_with_types(scene):
    scene.evaluate(100, OK, NONE)
    assert scene.export("--parquet", "scores.parquet").exit_code == 0
    table = pyarrow.parquet.read_table("scores.parquet")
    assert table.column_names == list(export._OF_LEDGER)
    first, second = table.to_pylist()
    assert (first["step"], first["value"], first["higher_is_better"]) == (100, 31.5, False)
    assert (second["value"], second["detail"]) == (None, '=HYPERLINK("x")')


def test_one_run_of_several_is_named_and_a_wrong_name_is_told(scene):
    scene.evaluate(100, OK)
    scene.evaluate(100, OK, run="day")
    assert [row["run"] for row in rows_of(scene.export("--run", "day", "--csv", "-").stdout)] == ["day"]
    wrong = scene.export("--run", "nigt", "--csv", "-")
    assert wrong.exit_code == 1
    assert "did you mean 'night'" in wrong.stderr


def test_of_a_run_that_is_not_there_not_even_column_names_are_written(scene):
    scene.evaluate(1, OK)
    result = scene.export("--csv", "-", "--run", "nigth")
    assert result.exit_code == 1
    assert result.stdout == ""


def test_a_name_that_is_no_text_is_written_all_the_same(scene):
    odd = Score(key="fid", value=None, images=0, higher_is_better=False, state=ScoreState.FAILED, detail="a\udcff.png")
    # As a reason from a file's name is kept: SQLite takes no halves of characters.
    scene.evaluate(100, OK)
    written = io.BytesIO()
    with export._csv(written, {"detail": "text"}) as write:
        write([(odd.detail,)])
    assert written.getvalue() == b"detail\r\na\\udcff.png\r\n"


def test_a_file_takes_its_name_when_it_is_complete_and_not_before(scene, monkeypatch):
    scene.evaluate(100, OK)
    Path("scores.csv").write_text("of yesterday")

    def broken(*_):
        yield [("night",)]

    monkeypatch.setattr(export, "_scores", broken)
    assert scene.export("--csv", "scores.csv").exit_code == 1
    assert Path("scores.csv").read_text() == "of yesterday"
    assert not [name for name in os.listdir() if name.endswith(".tmp")]


def test_a_folder_that_is_not_there_is_told_in_one_line(scene):
    scene.evaluate(100, OK)
    result = scene.export("--csv", "nowhere/scores.csv")
    assert result.exit_code == 1
    assert result.stderr.strip() == "metricwatch: nowhere/scores.csv: cannot be written: No such file or directory"


def test_the_daemon_may_write_meanwhile(scene):
    scene.evaluate(100, OK)
    with scene.db.transaction("test") as tx:
        tx.execute("UPDATE runs SET name = 'later'")
        # Nobody waits for the writer, and what is not committed is not seen.
        assert rows_of(scene.export("--csv", "-").stdout)[0]["run"] == "night"
    assert sqlite3.connect(scene.folder / "state" / "ledger.sqlite3").execute("PRAGMA quick_check").fetchone() == (
        "ok",
    )


@pytest.mark.parametrize(
    "arguments",
    [[], ["--csv", "a", "--parquet", "b"], ["--parquet", "-"], ["--csv", "-", "--run", "a", "--run-id", "b"]],
)
def test_what_contradicts_itself_is_a_usage_error(scene, arguments):
    assert scene.export(*arguments).exit_code == 2
