"""metricwatch export: what was measured, as a table for other programs."""

from __future__ import annotations

import contextlib
import csv
import itertools
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from metricwatch.cli.progress import Show
    from metricwatch.config.schema import Config
    from metricwatch.store.db import Database

Row = tuple[Any, ...]

# Name and type of each column; a type of None is that of text.
_OF_LEDGER: dict[str, str] = {
    "run": "text",
    "source": "text",
    "step": "integer",
    "revision": "integer",
    "key": "text",
    "value": "number",
    "stderr": "number",
    "images": "integer",
    "state": "text",
    "detail": "text",
    "series": "text",
    "higher_is_better": "truth",
    "evaluated_at": "text",
    "seconds": "number",
}
_OF_RUN: dict[str, str] = {"run_id": "text", "key": "text", "step": "integer", "value": "number", "time": "text"}
# Rows in memory at one time, and in one read of the ledger: a longer one would keep its log from being folded in.
_AT_ONCE = 5000
# With these a spreadsheet takes a cell for a formula. A file's name or an error's words may begin with one.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def command(
    config: Annotated[Path | None, typer.Option("-c", "--config", help="The configuration file.")] = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write CSV; - is stdout.")] = None,
    parquet: Annotated[Path | None, typer.Option("--parquet", metavar="FILE", help="Write a Parquet file.")] = None,
    run: Annotated[str | None, typer.Option("--run", metavar="NAME", help="Only the run of this name.")] = None,
    run_id: Annotated[
        str | None,
        typer.Option("--run-id", metavar="ID", help="The curves of this MLflow run instead of the ledger's scores."),
    ] = None,
) -> None:
    """Write all scores of the ledger, a row each, in the order of their arrival. A daemon may run meanwhile."""
    from metricwatch.cli import console
    from metricwatch.cli.progress import bars
    from metricwatch.config.loader import load_config

    if (csv_file is None) == (parquet is None):
        raise typer.BadParameter("give one of --csv FILE and --parquet FILE", param_hint="--csv")
    if run is not None and run_id is not None:
        raise typer.BadParameter("--run is a run of the ledger: give one of --run and --run-id", param_hint="--run")
    if str(parquet) == "-":
        raise typer.BadParameter("Parquet is written to a file, not to stdout", param_hint="--parquet")
    loaded = load_config(config)
    target = parquet if csv_file is None else csv_file
    assert target is not None  # noqa: S101 - one of the two was given
    columns = _OF_LEDGER if run_id is None else _OF_RUN
    writer = _parquet if csv_file is None else _csv
    with bars() as show:
        chunks = _scores(loaded, run, show) if run_id is None else _curves(loaded, run_id, show)
        rows = 0
        # Before anything is written: a run that is not there must not leave a table without rows on stdout.
        first = next(chunks, [])
        with _opened(target) as file, writer(file, columns) as write:
            for chunk in itertools.chain((first,), chunks):
                write(chunk)
                rows += len(chunk)
    console.messages().print(f"{rows} rows" + ("" if str(target) == "-" else f" in {target}"))


# --- what is written -----------------------------------------------------------------------------------------


def _scores(config: Config, run: str | None, show: Show) -> Iterator[list[Row]]:
    """The ledger's scores, some thousands at a time."""
    from metricwatch.clock import from_ms
    from metricwatch.store.db import Database

    db = Database.open_readonly(config.state)
    try:
        runs = _runs(db, run)
        total = db.read("SELECT count(*) AS n FROM scores")[0]["n"] if run is None else 0
        after, done = 0, 0
        while True:
            rows = db.read(
                """SELECT scores.id, scores.run, snapshots.source, scores.step, scores.revision, key, value, stderr,
                     scores.images, state, detail, series, higher_is_better, evaluated_ms, seconds
                   FROM scores JOIN evaluations ON evaluations.id = scores.evaluation
                     JOIN (SELECT id AS job, snapshot FROM jobs) AS jobs ON jobs.job = evaluations.job
                     JOIN snapshots ON snapshots.id = jobs.snapshot
                   WHERE scores.id > ? ORDER BY scores.id LIMIT ?""",
                (after, _AT_ONCE),
            )
            if not rows:
                return
            after, done = rows[-1]["id"], done + len(rows)
            yield [
                (
                    runs[row["run"]],
                    *(row[name] for name in list(_OF_LEDGER)[1:11]),
                    bool(row["higher_is_better"]),
                    from_ms(row["evaluated_ms"]).isoformat(),
                    row["seconds"],
                )
                for row in rows
                if row["run"] in runs
            ]
            show("rows", done, total)
    finally:
        db.close()


def _runs(db: Database, name: str | None) -> dict[str, str]:
    """Names of runs by key. Raises InputError where none has the name that is asked for."""
    from metricwatch import catalog
    from metricwatch.errors import InputError
    from metricwatch.store.ledger import Ledger

    names = {run.key: run.name for run in Ledger(db).runs()}
    found = {key: each for key, each in names.items() if name in {None, each}}
    if name is not None and not found:
        raise InputError(
            f"--run {name}: the ledger has no such run; {catalog.did_you_mean(name, sorted(names.values()))}"
        )
    return found


def _curves(config: Config, run_id: str, show: Show) -> Iterator[list[Row]]:
    """The curves that the tracking server has of a run, a page at a time."""
    from metricwatch.assembly import load_sink
    from metricwatch.clock import from_ms

    sink = load_sink(config)
    try:
        keys = sink.keys(run_id)
        for number, key in enumerate(keys):
            show("curves", number, len(keys))
            for page in sink.read_pages(run_id, key):
                for start in range(0, len(page), _AT_ONCE):
                    yield [
                        (run_id, point.key, point.step, point.value, from_ms(point.timestamp_ms).isoformat())
                        for point in page[start : start + _AT_ONCE]
                    ]
    finally:
        sink.close()


# --- how -----------------------------------------------------------------------------------------------------


@contextmanager
def _csv(file: IO[bytes], columns: dict[str, str]) -> Iterator[Callable[[Sequence[Row]], None]]:
    """Comma-separated UTF-8 with a line of names. An empty cell is no value.

    A text that a spreadsheet would take for a formula has an apostrophe before it; numbers are numbers, below 0 too.
    """
    import io

    text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="", write_through=True)
    writer = csv.writer(text)
    texts = [kind == "text" for kind in columns.values()]
    writer.writerow(columns)

    def write(rows: Sequence[Row]) -> None:
        writer.writerows(
            [_harmless(cell) if is_text else _plain(cell) for cell, is_text in zip(row, texts, strict=True)]
            for row in rows
        )

    try:
        yield write
        text.flush()
    finally:
        text.detach()


def _harmless(cell: str) -> str:
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def _plain(cell: Any) -> Any:
    return str(cell).lower() if isinstance(cell, bool) else cell


@contextmanager
def _parquet(file: IO[bytes], columns: dict[str, str]) -> Iterator[Callable[[Sequence[Row]], None]]:
    """Parquet with text, 64-bit integers and numbers, and truths; no value is null. Texts are as they are."""
    from metricwatch.errors import PluginError

    try:
        import pyarrow as pa  # type: ignore[import-untyped]
        from pyarrow.parquet import ParquetWriter  # type: ignore[import-untyped]
    except ImportError as error:
        raise PluginError(f"--parquet needs pyarrow ({error}); `pip install pyarrow`, or write --csv") from None
    kinds = {
        "text": pa.string(),
        "integer": pa.int64(),
        "number": pa.float64(),
        "truth": pa.bool_(),
    }
    schema = pa.schema([(name, kinds[kind]) for name, kind in columns.items()])

    def write(rows: Sequence[Row]) -> None:
        if rows:
            cells = [[_encodable(cell) for cell in column] for column in zip(*rows, strict=True)]
            writer.write_table(pa.table(dict(zip(columns, cells, strict=True)), schema=schema))

    with ParquetWriter(file, schema) as writer:
        yield write


def _encodable(cell: Any) -> Any:
    """A file's name need not be UTF-8."""
    return cell.encode("utf-8", "backslashreplace").decode() if isinstance(cell, str) else cell


@contextmanager
def _opened(target: Path) -> Iterator[IO[bytes]]:
    """A file that takes its name when it is complete; stdout for -, and what is no regular file is written as it is."""
    from metricwatch.errors import InputError

    if str(target) == "-":
        yield sys.stdout.buffer
        return
    try:
        if target.exists() and not stat.S_ISREG(target.stat().st_mode):
            with target.open("wb") as file:
                yield file
            return
        aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with aside.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            aside.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                aside.unlink()
            raise
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {error.strerror or error}") from error
