"""Jobs that write as jobs do, over a watcher that is told of it too late or never: nothing partial, nothing lost."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from metricwatch import listing
from metricwatch.errors import InputError
from metricwatch.protocol import Evaluate
from metricwatch.records import JobState, Run
from metricwatch.store.db import Database
from metricwatch.store.ledger import Ledger
from metricwatch.testing.clock import FakeClock
from metricwatch.watch.events import Hints
from metricwatch.watch.stage import Watcher
from metricwatch.worker.samples import ChangedError, check_unchanged, list_samples
from tests.support.entries import watch_entry
from tests.support.writer import KINDS, Write, Writer

SETTLE = 5.0
LONGEST_HONEST_PAUSE = 4.8
# While a file has a temporary name twelve quiet times may pass.
LONGEST_PROTECTED_PAUSE = 50.0
FORMS = ("directory", "flat", "link")
_runs = itertools.count()


@dataclass(frozen=True, slots=True)
class Trace:
    """Two jobs beside each other, each with steps of its own, and what happens to the watcher meanwhile."""

    jobs: tuple[tuple[Write, ...], ...]
    forms: tuple[str, ...]
    hints: tuple[float | None, ...]
    turns: tuple[float, ...]
    reading: tuple[float, ...]
    restarts: tuple[float, ...]
    jumps: tuple[tuple[float, float], ...]


def writes(steps: tuple[int, ...]) -> st.SearchStrategy[tuple[Write, ...]]:
    pauses = st.sampled_from([0.0, 0.1, 0.9, 2.1, 4.0, LONGEST_HONEST_PAUSE])
    write = st.builds(
        Write,
        kind=st.sampled_from([*KINDS, "removed"]),
        step=st.sampled_from(steps),
        files=st.integers(1, 4),
        chunks=st.integers(1, 3),
        pauses=st.lists(pauses, min_size=1, max_size=4).map(tuple),
        protected=st.sampled_from([0.0, 3.0, 11.0, LONGEST_PROTECTED_PAUSE]),
        rest=st.sampled_from([0.0, 0.3, 2.0, 5.1, 6.0, 12.0, 30.0]),
        late_directory_time=st.booleans(),
    )
    return st.lists(write, min_size=1, max_size=5).map(tuple)


moments = st.floats(0, 150, allow_nan=False)
traces = st.builds(
    Trace,
    jobs=st.tuples(writes((1000, 2000)), writes((3000, 4000))),
    forms=st.tuples(*[st.sampled_from(FORMS)] * 4),
    # Seconds until an event is told, None: lost.
    hints=st.lists(st.sampled_from([0.0, 0.0, 0.4, 3.0, 20.0, None]), min_size=1, max_size=7).map(tuple),
    turns=st.lists(st.sampled_from([0.1, 0.5, 0.5, 2.0]), min_size=1, max_size=3).map(tuple),
    reading=st.lists(st.sampled_from([0.0, 0.2, 1.0, 7.0]), min_size=1, max_size=4).map(tuple),
    restarts=st.lists(moments, max_size=2).map(lambda found: tuple(sorted(found))),
    jumps=st.lists(st.tuples(moments, st.sampled_from([-7200.0, -3.0, 3.0, 7200.0])), max_size=2).map(
        lambda found: tuple(sorted(found))
    ),
)


class ChanceHints:
    """Events as they come on a busy machine: at once, late, or never."""

    def __init__(self, clock: FakeClock, delays: tuple[float | None, ...]) -> None:
        self._clock = clock
        self._delays = itertools.cycle(delays)
        self._waiting: list[tuple[float, str, bool]] = []

    def tell(self, path: str, renamed: bool) -> None:
        delay = next(self._delays)
        if delay is not None:
            self._waiting.append((self._clock.monotonic() + delay, path, renamed))

    def listen(self, roots: object) -> None: ...

    def close(self) -> None: ...

    def take(self) -> Hints:
        now = self._clock.monotonic()
        due = [hint for hint in self._waiting if hint[0] <= now]
        self._waiting = [hint for hint in self._waiting if hint[0] > now]
        return Hints(touched={path for _, path, _ in due}, renamed={path for _, path, renamed in due if renamed})


class Night:
    """One trace from the first write until all is quiet."""

    def __init__(self, trace: Trace, db: Database, folder: Path) -> None:
        self.trace = trace
        self.db = db
        self.ledger = Ledger(db)
        self.clock = FakeClock()
        self.hints = ChanceHints(self.clock, trace.hints)
        root = folder / "samples"
        root.mkdir()
        # What lies about: a link in circles, one to nowhere, names that nobody can write down, a folder without step.
        (root / "step_9").symlink_to(root / "step_9")
        (root / "step_8\n\x1b[31m'\"").mkdir()
        os.mkdir(os.fsencode(root) + b"/step_7_\xff")
        (root / "latest").mkdir()
        self.writer = Writer(root, lambda: round(self.clock.now().timestamp() * 1e9), self.hints.tell)
        self.run = Run(key=f"name:x/{next(_runs)}", name="night")
        self.entry = watch_entry(root, self.run, settle=timedelta(seconds=SETTLE))
        self.scored: list[tuple[int, int]] = []
        self.watcher = self.start()

    def start(self) -> Watcher:
        watcher = Watcher(self.db, [self.entry], self.hints, self.clock)
        watcher.start()
        return watcher

    def live(self) -> None:
        """Let everything happen, in the order of its time, until the jobs have ended and all has settled."""
        began = self.clock.monotonic()
        jobs = [self.job(n) for n in range(len(self.trace.jobs))]
        agenda = [
            *(Actor(began, job, last=True) for job in jobs),
            Actor(began, self.turn()),
            Actor(began, self.score()),
            *(Actor(began + moment, self.restart()) for moment in self.trace.restarts),
            *(Actor(began + moment, self.jump(seconds)) for moment, seconds in self.trace.jumps),
        ]
        end = None
        while True:
            actor = min(agenda, key=lambda each: each.due)
            if end is not None and actor.due > end:
                return
            self.clock.advance(actor.due - self.clock.monotonic())
            pause = next(actor.steps, None)
            if pause is None:
                agenda.remove(actor)
            else:
                actor.due += pause
            if end is None and not any(actor.last for actor in agenda):
                end = self.clock.monotonic() + 150

    def job(self, n: int) -> Iterator[float]:
        for write in self.trace.jobs[n]:
            yield from self.writer.perform(write, self.trace.forms[write.step // 1000 - 1])
            yield write.rest

    def turn(self) -> Iterator[float]:
        for pause in itertools.cycle(self.trace.turns):
            self.watcher.tick()
            yield pause

    def restart(self) -> Iterator[float]:
        self.watcher = self.start()
        return
        yield

    def jump(self, seconds: float) -> Iterator[float]:
        self.clock.jump(seconds)
        return
        yield

    def score(self) -> Iterator[float]:
        """What the worker does with a snapshot, with time passing between its steps."""
        pauses = itertools.cycle(self.trace.reading)
        while True:
            job = self.ledger.claim(self.clock.now(), timedelta(days=1), [self.run.key])
            if job is None:
                yield 0.5
                continue
            snapshot = job.snapshot
            request = Evaluate(job=job.id, path=snapshot.path, members=snapshot.members, digest=snapshot.digest)
            yield next(pauses)
            state = JobState.DONE
            try:
                samples = list_samples(request)
                content = {}
                for name in samples.names:
                    content[name] = Path(samples.path(name)).read_bytes()
                    yield next(pauses) / 4
                check_unchanged(request)
            except (ChangedError, FileNotFoundError):
                state = JobState.SUPERSEDED
            except InputError:
                state = JobState.FAILED
            else:
                versions = self.writer.model.versions.get(snapshot.step, [])
                assert content in versions, f"partial: step {snapshot.step} {_sizes(content)} {_sizes(*versions)}"
                self.scored.append((snapshot.step, snapshot.revision))
            self.ledger.finish(job.id, state, self.clock.now())

    def check(self) -> None:
        rows = self.db.read(
            "SELECT step, revision, digest FROM snapshots WHERE source = ? ORDER BY step, revision", (self.run.key,)
        )
        for step, group in itertools.groupby(rows, key=lambda row: row["step"]):
            of_step = list(group)
            assert [row["revision"] for row in of_step] == list(range(1, len(of_step) + 1))
            digests = [row["digest"] for row in of_step]
            assert all(one != two for one, two in itertools.pairwise(digests)), f"step {step} recorded twice"
        newest = {row["step"]: row for row in rows}
        for step, version in self.writer.model.current.items():
            assert step in newest, f"step {step} was lost"
            form = self.trace.forms[step // 1000 - 1]
            folder = self.writer.root if form == "flat" else self.writer.directory(step)
            digest = listing.fingerprint(listing.entries(str(folder), sorted(version)))
            assert newest[step]["digest"] == digest, f"the last version of step {step} was lost"
            assert (step, newest[step]["revision"]) in self.scored, f"step {step} was recorded and not scored"
        assert self.watcher.settled()


@dataclass(slots=True)
class Actor:
    due: float
    steps: Iterator[float]
    last: bool = False


def _sizes(*versions: dict[str, bytes]) -> list[dict[str, int]]:
    return [{name: len(content) for name, content in version.items()} for version in versions]


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    """A folder in memory where there is one: ten thousand traces are a million small files."""
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="metricwatch-writers-", dir=where))
    yield folder
    shutil.rmtree(folder)


def test_whatever_a_job_does_each_version_is_scored_whole_and_once(memory, full_size, seed, monkeypatch):
    # Few steps, so few turns: what the turns find is then found late, and what should be found at once must be.
    monkeypatch.setattr("metricwatch.watch.stage._FEWEST_LOOKED_INTO", 1)
    monkeypatch.setattr("metricwatch.watch.source.log.warning", lambda *args, **fields: None)
    monkeypatch.setattr("metricwatch.watch.stage.log.info", lambda *args, **fields: None)
    with ExitStack() as stack:
        state = memory / "state"
        state.mkdir()
        db = Database.open(state)
        stack.callback(db.close)

        @seeded(seed)
        @settings(
            max_examples=10_000 if full_size else 200,
            deadline=None,
            database=None,
            derandomize=False,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        )
        @given(traces)
        def hold(trace: Trace) -> None:
            folder = Path(tempfile.mkdtemp(dir=memory))
            try:
                night = Night(trace, db, folder)
                night.live()
                night.check()
            finally:
                shutil.rmtree(folder)

        hold()
