"""An old run's steps, scored as if a daemon had watched it: which they are, by which settings, and with which times.

Each run and folder has a ledger of its own below the state folder, so that a daemon may go on beside it, and so that
what was cut off goes on where it was. What the worker keeps to save time is shared with the daemon.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path

from metricwatch.backfill.entries import Wanted, entry_for
from metricwatch.config.schema import Config, Telemetry
from metricwatch.config.watching import WatchEntry
from metricwatch.daemon import App
from metricwatch.errors import InputError
from metricwatch.records import JobState, Snapshot
from metricwatch.store import db as databases
from metricwatch.store.db import Database
from metricwatch.store.ledger import Ledger
from metricwatch.watch.scan import Candidate, look_into, scan

__all__ = ["PastStep", "Plan", "Wanted", "assumed_times", "entry_for", "plan", "time_of"]

FOLDER = "backfill"
# No image generator of today wrote files before: such a time is a file system's or a copying program's default.
_FIRST_TIME = datetime(2000, 1, 1, tzinfo=UTC)
# Steps that the ledger will not score any more.
_GIVEN_UP = ("failed", "quarantined", "skipped", "superseded")
_NOT_DONE = (*_GIVEN_UP, "queued", "leased")


@dataclass(frozen=True, slots=True, kw_only=True)
class PastStep:
    """A step on disk: how many files it has, the time its points get, and whether that is not its files' own."""

    step: int
    path: str
    images: int
    time: datetime
    assumed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done. config is that of a daemon which does this alone, and raises no alerts.

    candidates are the steps to score; looked_at are these and what is done, in case it was written anew. done of the
    others are scored in this ledger, elsewhere in that of a daemon or of another folder, which known_to_others says
    there is; ignored are names without a step in them, clashes steps that two places claim.
    """

    config: Config
    cache: Path
    candidates: tuple[Candidate, ...]
    looked_at: frozenset[int]
    done: int
    elsewhere: int
    known_to_others: bool
    ignored: tuple[str, ...]
    clashes: tuple[tuple[int, str, str], ...]

    @property
    def entry(self) -> WatchEntry:
        return self.config.watch[0]

    def steps(self) -> Iterator[PastStep]:
        """The steps to score with what is in them. Reads each folder."""
        for candidate in self.candidates:
            contents = look_into(candidate, self.entry.markers)
            if contents is not None:
                found = datetime.now(UTC)
                time, assumed = time_of(contents.newest_ns, candidate.mtime_ns, found=found)
                yield PastStep(
                    step=candidate.step, path=candidate.path, images=contents.images, time=time, assumed=assumed
                )

    def open(self) -> App:
        """The daemon that does it. Raises as App does; LockedError while the same is being done already."""
        app = App(self.config, cache=self.cache, dated=_dated, tagged=not self.known_to_others)
        app.watcher.only = lambda source, step: source == self.entry.source and step in self.looked_at
        _ask(app.db, self.looked_at)
        return app


def plan(config: Config, wanted: Wanted, *, remote_id: str | None = None) -> Plan:
    """Find out what is to be done. remote_id: the run as the sink knows it, where that is known.

    Raises InputError where there are no steps, or where nobody can tell which settings they are to be scored with.
    """
    folder = Path(os.path.abspath(wanted.folder))
    if not folder.is_dir():
        raise InputError(f"{wanted.folder}: not a folder; name the one that holds a step in each of its entries")
    entry = entry_for(config, wanted)
    state = config.state / FOLDER / _identity(entry, folder)
    own = _known(state, {entry.target.key}, None, but=_NOT_DONE)
    others = [config.state, *(each for each in sorted(config.state.glob(f"{FOLDER}/*")) if each != state)]
    elsewhere: set[int] = set()
    for each in others:
        elsewhere |= _known(each, {entry.target.key}, remote_id, but=_GIVEN_UP)
    by_others = bool(elsewhere)
    found = scan(entry)
    if not found.candidates:
        raise InputError(_nothing(wanted.folder, entry, found.ignored))
    elsewhere &= found.candidates.keys()
    todo = [step for step in sorted(found.candidates) if step not in elsewhere]
    done = [step for step in todo if step in own]
    left = [step for step in todo if step not in own][: wanted.limit]
    return Plan(
        config=config.model_copy(
            update={
                "state": state,
                "watch": (entry,),
                "rules": (),
                "notify": {},
                "inhibit": (),
                "quiet_hours": (),
                "route": type(config.route)(),
                "telemetry": Telemetry(),
            }
        ),
        cache=config.state,
        candidates=tuple(found.candidates[step] for step in left),
        looked_at=frozenset((*done, *left)),
        done=len(done),
        elsewhere=len(elsewhere),
        known_to_others=by_others,
        ignored=tuple(found.ignored),
        clashes=tuple(found.clashes),
    )


def time_of(newest_ns: int, mtime_ns: int, *, found: datetime) -> tuple[datetime, bool]:
    """The time of a step: that of its newest file, else of its folder, else when it was found; and whether it is that.

    A time in the future, or before 2000, is none that a file was written at.
    """
    for nanoseconds in (newest_ns, mtime_ns):
        if _FIRST_TIME.timestamp() <= nanoseconds / 1e9 <= found.timestamp():
            return datetime.fromtimestamp(nanoseconds // 1_000_000 / 1000, UTC), False
    return found, True


def assumed_times(db: Database) -> int:
    """How many steps of a ledger have no time of their own."""
    rows = db.read("SELECT newest_ns, mtime_ns, settled_ms FROM snapshots")
    return sum(
        time_of(row["newest_ns"], row["mtime_ns"], found=datetime.fromtimestamp(row["settled_ms"] / 1000, UTC))[1]
        for row in rows
    )


def _dated(db: Database, snapshot: Snapshot) -> datetime:
    # All three are in the ledger: a run that is cut off and goes on gives a step the same time.
    row = db.read_one("SELECT newest_ns, mtime_ns FROM snapshots WHERE id = ?", (snapshot.id,))
    newest, folder = (row["newest_ns"], row["mtime_ns"]) if row else (0, 0)
    return time_of(newest, folder, found=snapshot.settled_at)[0]


def _identity(entry: WatchEntry, folder: Path) -> str:
    kind = "checkpoints" if entry.checkpoints else "samples"
    return blake2b(
        f"{entry.target.key}\0{folder.resolve()}\0{kind}".encode(errors="surrogateescape"), digest_size=8
    ).hexdigest()


def _ask(db: Database, steps: Collection[int]) -> None:
    """Have these steps scored and no others: also what failed, or was left for later, the last time."""
    ledger = Ledger(db)
    with db.transaction("backfill"):
        rows = db.read(
            """SELECT jobs.id, jobs.step, state FROM jobs JOIN snapshots ON snapshots.id = jobs.snapshot
               WHERE state IN ('queued', 'leased', 'failed', 'skipped') AND NOT EXISTS (
                 SELECT 1 FROM snapshots AS newer WHERE newer.source = snapshots.source
                   AND newer.step = snapshots.step AND newer.revision > snapshots.revision)"""
        )
        for row in rows:
            if row["step"] in steps:
                ledger.put_back(row["id"])
            elif row["state"] in {"queued", "leased"}:
                ledger.finish(row["id"], JobState.SKIPPED, datetime.now(UTC), "left for later")


def _known(state: Path, keys: Collection[str], remote_id: str | None, *, but: Collection[str]) -> set[int]:
    """The steps of a run that a ledger has, whose jobs are in other states than these."""
    if not (state / databases.FILE_NAME).is_file():
        return set()
    db = Database.open_readonly(state)
    try:
        same = db.read("SELECT run FROM remote_runs WHERE id = ?", (remote_id,))
        runs = {*keys, *(row["run"] for row in same)}
        return {
            row["step"]
            for run in runs
            for row in db.read(
                f"""SELECT DISTINCT snapshots.step FROM snapshots JOIN jobs ON jobs.snapshot = snapshots.id
                    WHERE run = ? AND state NOT IN ({", ".join("?" * len(but))})""",  # noqa: S608 - question marks
                (run, *but),
            )
        }
    finally:
        db.close()


def _nothing(folder: Path, entry: WatchEntry, ignored: Collection[str]) -> str:
    kind = "checkpoints" if entry.checkpoints else "sample sets"
    seen = f"; there are names without a number, as {next(iter(ignored))!r}" if ignored else ""
    every = f" that is a multiple of {entry.every}" if entry.every else ""
    return f"{folder}: holds no {kind} with a step{every} in their names{seen}"
