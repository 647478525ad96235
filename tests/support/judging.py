"""Series for rules to look at, and the rules stage over a real ledger."""

from __future__ import annotations

from datetime import timedelta

from metricwatch.config.rules import AboveRule, BelowRule, MovesRule, NonfiniteRule, StaleRule, StateRule, ZScoreRule
from metricwatch.records import AlertState, Evaluation, JobState, Run, Score, ScoreState
from metricwatch.rules.observations import Observation
from metricwatch.rules.stage import Rules
from metricwatch.rules.states import Walk
from metricwatch.store.alerts import Alerts
from metricwatch.store.db import Database
from metricwatch.store.deliveries import Deliveries
from metricwatch.store.ledger import Ledger, Recorded
from metricwatch.store.scores import Scores
from metricwatch.testing.clock import FakeClock

NIGHT, DAY = Run(key="k/night", name="night"), Run(key="k/day", name="day", total_steps=9000)
KINDS = {cls.kind: cls for cls in (MovesRule, AboveRule, BelowRule, ZScoreRule, StaleRule, NonfiniteRule, StateRule)}


def rule(**keys):
    """A rule on fid, of the kind that its telling key says."""
    (kind,) = KINDS.keys() & keys.keys()
    return KINDS[kind].model_validate({"name": "r", "metric": "" if kind == "stale" else "fid", **keys})


def series(*values, stderr=None, images=100, name="a", better=False, start=1, state=ScoreState.COLLAPSED):
    """Evaluations at steps 1000, 2000 … None: one without a value."""
    return [
        Observation(
            id=number,
            step=1000 * number,
            value=value,
            images=images,
            higher_is_better=better,
            stderr=None if value is None else stderr,
            series=name,
            state=state if value is None else ScoreState.OK,
        )
        for number, value in enumerate(values, start=start)
    ]


def firing(states):
    """The thousands of the steps at which it fires."""
    return [state.step // 1000 for state in states if state.state is AlertState.FIRING]


def short(states):
    """One letter for each state: i, p, w (firing for the worse), b (for the better)."""
    return "".join(state.direction[0] if state.state is AlertState.FIRING else state.state.value[0] for state in states)


def episodes(chosen, history):
    walk = Walk(chosen)
    for item in history:
        walk.go(item)
    return walk.episodes()


class Scene:
    """A ledger with its rules stage. Evaluations come through the same tables as the daemon's."""

    def __init__(self, folder, *rules, runs=(NIGHT,)) -> None:
        self.clock = FakeClock()
        self.db = Database.open(folder)
        # What a power failure would take is no matter here.
        self.db._connection.execute("PRAGMA synchronous = OFF")
        self.ledger, self.scores, self.alerts = Ledger(self.db), Scores(self.db), Alerts(self.db)
        self.runs = runs
        for run in runs:
            self.ledger.register_run(run, self.clock.now())
        self.revision = 0
        self.configure(*rules)

    def configure(self, *rules):
        """As a start of the daemon with these rules."""
        self.rules = Rules(self.db, rules, self.runs, ["mlflow"], self.clock)
        self.rules.start()

    def wait(self, step, *, run=NIGHT):
        """A snapshot settles and is to be scored."""
        self.revision += 1
        self.ledger.add_snapshot(
            source=run.key,
            run=run.key,
            step=step,
            path="p",
            members=None,
            recorded=Recorded(revision=self.revision, digest=str(self.revision), images=100, newest_ns=1, mtime_ns=1),
            now=self.clock.now(),
        )

    def evaluate(self, *scores, run=NIGHT):
        """The oldest snapshot that waits is scored."""
        job = self.ledger.claim(self.clock.now(), timedelta(minutes=1), [run.key])
        evaluation = Evaluation(scores=scores, skipped=(), images=100, seconds=1.0, provenance={})
        with self.db.transaction("test"):
            self.scores.record(job, evaluation, self.clock.now())
            self.ledger.finish(job.id, JobState.DONE, self.clock.now())

    def score(self, step, *values, run=NIGHT, turn=True, keys=("fid", "kid"), **facts):
        """One evaluation arrives, with a value for each of the keys in their order."""
        self.wait(step, run=run)
        self.evaluate(*(score(value, key=key, **facts) for key, value in zip(keys, values, strict=False)), run=run)
        if turn:
            self.turn()

    def turn(self, seconds=0):
        self.clock.advance(seconds)
        while self.rules.tick():
            pass

    def curve(self, name="r"):
        """What a sink gets of the curve of a rule, in order."""
        points = [point for sent in self._due() for point in sent.points]
        return [(point.step, point.value) for point in points if point.key == f"alert/{name}"]

    def tags(self, name="r"):
        key = f"metricwatch.alert.{name}"
        return [sent.tags[key] for sent in self._due() if key in sent.tags]

    def told(self, name="r", run=NIGHT):
        """Each alert: direction, and the steps at which it fired and ended."""
        return [(a.direction, a.fired_step, a.resolved_step) for a in self.alerts.of_rule(run.key, name)]

    def _due(self):
        return Deliveries(self.db).due("mlflow", self.clock.now(), 1000)


def score(value, *, key="fid", series="a", images=100, stderr=None, state=ScoreState.COLLAPSED):
    return Score(
        key=key,
        value=value,
        images=images,
        higher_is_better=False,
        stderr=None if value is None else stderr,
        state=state if value is None else ScoreState.OK,
        series=series,
    )
