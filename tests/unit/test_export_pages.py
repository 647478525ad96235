"""alerts.html beside a run: what it says, when it is written, and what it may not hold up."""

from __future__ import annotations

import re
import threading
import time
from datetime import timedelta
from html.parser import HTMLParser

import pytest

from metricwatch.api import Sink
from metricwatch.config.rules import AboveRule, BelowRule, MovesRule, NonfiniteRule, StaleRule, StateRule, ZScoreRule
from metricwatch.config.wording import bounds_of, in_words
from metricwatch.drawing.page import Page, RuleNote, build_page
from metricwatch.errors import LedgerError, PermanentError, RunGoneError, TemporaryError
from metricwatch.export.stage import Exporter
from metricwatch.records import (
    Alert,
    AlertState,
    Evaluation,
    JobState,
    Picture,
    RemoteRun,
    Run,
    Score,
    ScoreState,
    WindowPoint,
)
from metricwatch.store.alerts import Alerts, RuleState
from metricwatch.store.db import Database
from metricwatch.store.deliveries import Deliveries
from metricwatch.store.ledger import Ledger, Recorded
from metricwatch.store.pages import Pages
from metricwatch.store.pictures import Pictures
from metricwatch.store.scores import Scores
from metricwatch.testing.clock import FakeClock
from tests.support.locked_ledger import unwritable

MOVED = MovesRule.model_validate({"name": "fid-moved", "metric": "fid", "moves": 0.1, "across": 5})
HIGH = AboveRule.model_validate({"name": "fid-high", "metric": "fid", "above": 60})
PROVISOS = {"beyond_noise": 2, "for": 2, "warmup": 5, "keep_firing": 3}
A, B = "a1" * 20, "b2" * 20


class MemorySink(Sink):
    Options = dict
    takes_pictures = True
    takes_pages = True

    def __init__(self, options=None) -> None:
        self.arrived, self.pages, self.errors, self.asked = [], {}, [], []
        self.over: bool | Exception = False
        self.id = "remote"

    def find_run(self, run):
        return RemoteRun(id=f"{self.id} {run.key}")

    def write(self, run_id, points, tags):
        self.arrived.append("points")

    def write_picture(self, run_id, picture, png):
        self.arrived.append("picture")

    def write_page(self, run_id, name, content):
        if self.errors:
            raise self.errors.pop(0)
        self.arrived.append("page")
        self.pages[run_id, name] = content.decode()

    def ended(self, run_id):
        self.asked.append(run_id)
        if isinstance(self.over, Exception):
            raise self.over
        return self.over

    def ping(self):
        return "memory"


class Artist:
    """Draws a curve as its own words. Waits while it is told to, raises what it is told to."""

    def __init__(self) -> None:
        self.drawn, self.errors = [], []
        self.may = threading.Event()
        self.may.set()

    def __call__(self, curves, form):
        assert self.may.wait(10)
        if self.errors:
            raise self.errors.pop(0)
        self.drawn.append([curve.title for curve in curves])
        self.curves = {curve.title: curve for curve in curves}
        return [f"<svg>{curve.title}, {form}</svg>".encode() for curve in curves]


class Scene:
    def __init__(self, folder) -> None:
        self.state = folder / "state"
        self.state.mkdir()
        self.clock, self.sink, self.artist = FakeClock(), MemorySink(), Artist()
        self.db = Database.open(self.state)
        self.ledger, self.alerts, self.pages = Ledger(self.db), Alerts(self.db), Pages(self.db)
        self.revision = 0
        self.ids = {}
        self.run("night")
        self.start()

    def start(self, rules=(MOVED, HIGH), runs=None, sink=None):
        sinks = {"mlflow": sink or self.sink}
        self.exporter = Exporter(self.db, sinks, self.clock, rules=rules, runs=runs, draw=self.artist)

    def run(self, key):
        self.ledger.register_run(Run(key=key, name=f"{key} <run>"), self.clock.now())

    def score(self, step, value, digest=A, run="night", key="fid"):
        self.revision += 1
        self.ledger.add_snapshot(
            source=run,
            run=run,
            step=step,
            path="p",
            members=None,
            recorded=Recorded(revision=self.revision, digest="d", images=8, newest_ns=1, mtime_ns=1),
            now=self.clock.now(),
        )
        job = self.ledger.claim(self.clock.now(), timedelta(minutes=1), [run])
        state = ScoreState.OK if value is not None else ScoreState.COLLAPSED
        score = Score(
            key=key,
            value=value,
            stderr=0.3 if value is not None else None,
            images=8,
            higher_is_better=False,
            state=state,
            series=digest,
            provenance={"reference_digest": digest},
        )
        with self.db.transaction("test"):
            evaluation = Evaluation(scores=(score,), skipped=(), images=8, seconds=1.0, provenance={})
            Scores(self.db).record(job, evaluation, self.clock.now())
            self.ledger.finish(job.id, JobState.DONE, self.clock.now())

    def fire(self, rule="fid-moved", run="night", step=5000, metric="fid", **fields):
        window = tuple(WindowPoint(step=1000 * n, value=20.0 + n) for n in range(1, 6)) if metric else ()
        alert = Alert(
            id=0,
            run=run,
            rule=rule,
            metric=metric,
            direction="worse",
            severity=fields.pop("severity", "critical"),
            state=AlertState.FIRING,
            fired_step=step,
            change=0.19,
            threshold=0.1,
            window=window,
            moved=(window[0], window[-1]) if window else (),
            **fields,
        )
        self.ids[rule, run] = self.alerts.add(alert, announce=True, now=self.clock.now())
        self.alerts.set_states(
            run, rule, [RuleState(step=step, state="firing", direction="worse", change=0.19, note="it fires")]
        )

    def resolve(self, rule="fid-moved", run="night", step=7000, reason="back within 10%"):
        self.alerts.resolve(self.ids[rule, run], step=step, value=21.5, reason=reason, now=self.clock.now())

    def turn(self, seconds=0.0):
        """Let time pass, and the exporter do all that it has to do then."""
        self.clock.advance(seconds)
        work = 0
        for _ in range(20):
            done = self.exporter.tick()
            work += done
            if not done:
                for thread in threading.enumerate():
                    if thread.name == "pages" and self.artist.may.is_set():
                        thread.join(10)
                done = self.exporter.tick()
                work += done
            if not done and not self.exporter._pages._works:
                break
            if not self.artist.may.is_set():
                break
        return work

    @property
    def page(self):
        return self.sink.pages["remote night", "alerts.html"]

    @property
    def written(self):
        return self.sink.arrived.count("page")


@pytest.fixture
def scene(tmp_path):
    made = Scene(tmp_path)
    yield made
    made.artist.may.set()
    made.db.close()


# --- what it says --------------------------------------------------------------------------------------------


def plain(html: str) -> str:
    """The page's words, as a reader sees them."""

    class Reader(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.hidden = [], 0

        def handle_starttag(self, tag, attrs):
            self.hidden += tag in {"style", "title"}

        def handle_endtag(self, tag):
            self.hidden -= tag in {"style", "title"}

        def handle_data(self, data):
            if not self.hidden:
                self.words.append(data)

    reader = Reader()
    reader.feed(html)
    return " ".join(" ".join(reader.words).split())


def test_the_page_tells_of_rules_alerts_and_curves(scene):
    for number in range(1, 8):
        scene.score(1000 * number, 20.0 + number)
    scene.fire()
    assert scene.turn() == 1
    text = plain(scene.page)
    assert "Alerts of night <run>" in text
    assert "1 firing now. As of 2026-01-01 00:00:00 UTC" in text
    assert "Fires when fid moves by more than 10% between the highest and the lowest of 5 evaluations." in text
    assert "firing at step 5,000: it fires" in text
    assert "Fires when fid is above 60." in text
    assert "rose by 19.0%, from 21 at step 1,000 to 25 at step 5,000; the rule allows 10%" in text
    assert "step 5,000 2026-01-01 00:00:00 UTC not yet" in text
    # A rule without alerts has no curve.
    assert scene.artist.drawn == [["fid of night <run>, rule fid-moved"]]
    (curve,) = scene.artist.curves.values()
    assert [point.step for point in curve.points] == [1000 * number for number in range(1, 8)]
    assert curve.points[0].stderr == 0.3
    (span,) = curve.spans
    assert (span.fired, span.until, len(span.window)) == (5000, None, 5)
    assert "data:image/svg+xml;base64," in scene.page
    scene.resolve()
    scene.turn(10)
    text = plain(scene.page)
    assert "Nothing fires now." in text
    assert "step 7,000 at 21.5 2026-01-01 00:00:00 UTC back within 10%" in text
    assert next(iter(scene.artist.curves.values())).spans[0].until == 7000


def test_a_curve_shows_bounds_gaps_and_where_a_new_series_begins(scene):
    for step, value, digest in ((1000, 50.0, A), (2000, None, A), (3000, 61.0, B), (4000, 62.0, B)):
        scene.score(step, value, digest)
    scene.fire("fid-high", what="is above 60: 61", detail="on 8 images")
    scene.turn()
    (curve,) = scene.artist.curves.values()
    assert (curve.bounds, curve.gaps) == ((60.0,), (2000,))
    text = plain(scene.page)
    assert "fid: a new series begins at step 3,000 (reference_digest changed from a1a1a1a1… to b2b2b2b2…)" in text
    assert "is above 60: 61 — on 8 images" in text


def test_an_alert_about_the_run_needs_no_curve(scene):
    scene.start(rules=())
    scene.fire("silent", metric="", what="had no evaluation for 2h", kind="stale")
    scene.turn()
    assert scene.artist.drawn == []
    text = plain(scene.page)
    assert "the run had no evaluation for 2h" in text
    assert "This rule is not configured any more." in text


def test_whatever_a_name_holds_is_text_and_nothing_is_asked_of_anybody(scene):
    evil = "<script>alert('&quot;')</script>\"'"
    scene.fire(what=evil, detail=evil)
    scene.resolve(reason=evil)
    scene.turn()
    assert "<script" not in scene.page
    assert plain(scene.page).count(evil) == 3
    note = RuleNote(name=evil, metric=evil, words=evil, state=evil, step=1, note=evil, picture=b"<svg/>")
    page = build_page(Page(run_name=evil + "\ud800", made_at=scene.clock.now(), rules=[note], alerts=(), notes=(evil,)))
    html = page.decode()
    assert "<script" not in html
    assert plain(html).count(evil) == 7
    found = re.findall(r"(?:src|href|url|action)\s*[=(]\s*[\"']?([^\"' >]+)", html.replace(evil, ""))
    assert [address[:19] for address in found] == ["data:image/svg+xml;"]
    assert "default-src 'none'" in html


def test_only_the_newest_alerts_and_points_are_shown_and_the_rest_is_counted(scene):
    for number in range(130):
        scene.fire(step=1000 * number)
        scene.resolve(step=1000 * number + 500)
    with scene.db.transaction("test") as tx:
        tx.execute("UPDATE alerts SET metric = ''")
    scene.turn()
    assert scene.page.count("<tr><td>") == 100
    assert "30 older ones are not shown." in scene.page
    assert "step 129,000" in scene.page
    assert "step 29,000" not in scene.page


def test_of_many_rules_the_latest_have_curves(scene):
    scene.score(1000, 20.0)
    for number in range(15):
        scene.fire(f"rule-{number}")
    scene.turn()
    assert len(scene.artist.drawn[0]) == 12
    assert "fid of night <run>, rule rule-14" in scene.artist.drawn[0]
    assert plain(scene.page).count("No curve: 12 others had alerts later") == 3


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (MOVED, "Fires when fid moves by more than 10% between the highest and the lowest of 5 evaluations."),
        (
            MovesRule.model_validate(
                {
                    "name": "r",
                    "metric": "fid",
                    "moves": 0.1,
                    "across": 3,
                    "mode": "net",
                    "direction": "worse",
                    **PROVISOS,
                }
            ),
            (
                "Fires when fid moves by more than 10% from the first to the last of 3 evaluations, for the worse only, "
                "by more than 2 standard errors, in 2 evaluations in a row, not within a run's first 5, "
                "and for 3 more once it is over."
            ),
        ),
        (HIGH, "Fires when fid is above 60."),
        (BelowRule.model_validate({"name": "r", "metric": "ssim", "below": 0.5}), "Fires when ssim is below 0.5."),
        (
            ZScoreRule.model_validate({"name": "r", "metric": "fid", "z_score": 6, "direction": "any"}),
            "Fires when fid is more than 6 robust standard deviations away from the median of the 20 evaluations before it.",
        ),
        (StaleRule.model_validate({"name": "r", "stale": "2h"}), "Fires when the run had no evaluation for 2h."),
        (
            StaleRule.model_validate({"name": "r", "stale": "90s", "metric": "fid"}),
            "Fires when fid had no evaluation for 90s.",
        ),
        (
            NonfiniteRule.model_validate({"name": "r", "metric": "fid", "nonfinite": True}),
            "Fires when fid is not a finite number.",
        ),
        (StateRule.model_validate({"name": "r", "metric": "fid", "state": "any"}), "Fires when fid has no value."),
        (
            StateRule.model_validate({"name": "r", "metric": "fid", "state": ["collapsed", "failed"]}),
            "Fires when fid has no value: collapsed or failed.",
        ),
    ],
)
def test_every_kind_of_rule_has_words(rule, words):
    assert in_words(rule) == words


def test_bounds_are_those_of_rules_that_compare_with_a_value():
    assert bounds_of(HIGH) == (60.0,)
    assert bounds_of(MOVED) == ()


# --- when ----------------------------------------------------------------------------------------------------


def test_there_is_no_page_before_the_first_alert(scene):
    scene.score(1000, 20.0)
    scene.turn(100)
    assert scene.written == 0
    assert scene.exporter.pages_pending() == 0


def test_a_page_is_written_once_for_what_it_shows(scene):
    scene.fire()
    assert scene.exporter.pages_pending() == 1
    scene.turn()
    for _ in range(5):
        scene.turn(100)
    assert scene.written == 1
    assert scene.exporter.pages_pending() == 0


def test_a_restart_writes_nothing_anew(scene):
    scene.fire()
    scene.turn()
    scene.start()
    scene.turn(100)
    assert scene.written == 1


def test_a_beginning_and_an_end_are_shown_soon_and_scores_once_a_minute(scene):
    scene.score(1000, 20.0)
    scene.fire()
    scene.turn()
    scene.resolve()
    scene.turn(2)
    assert scene.written == 1
    # Nobody waits at a prompt for this.
    assert scene.exporter.pages_pending() == 1
    scene.turn(4)
    assert scene.written == 2
    scene.score(2000, 20.0)
    scene.turn(100)
    assert scene.written == 2, "nothing fires: the page need not follow the curve"
    scene.fire("fid-high")
    scene.turn(6)
    assert scene.written == 3
    for _ in range(12):
        scene.score(3000, 20.0)
        scene.turn(10)
    assert scene.written == 5


def test_an_amended_alert_is_shown(scene):
    scene.fire()
    scene.turn()
    scene.alerts.amend(scene.ids["fid-moved", "night"], scene.alerts.firing()[0])
    scene.turn(6)
    assert scene.written == 2


def test_a_job_that_goes_on_as_another_run_has_the_page_there_too(scene):
    scene.fire()
    scene.turn()
    scene.sink.id = "second"
    Deliveries(scene.db).remember_remote_run("mlflow", "night", RemoteRun(id="second night"))
    scene.turn(6)
    assert {run for run, _ in scene.sink.pages} == {"remote night", "second night"}
    scene.turn(100)
    assert scene.written == 2


def test_runs_take_turns_and_only_those_asked_for_have_pages(scene):
    for key in ("a", "b", "c"):
        scene.run(key)
        scene.fire(run=key)
    scene.start(runs={"a", "c"})
    for _ in range(4):
        scene.turn(1)
    assert {run for run, _ in scene.sink.pages} == {"remote a", "remote c"}


def test_a_sink_that_takes_no_pages_is_given_none(scene):
    class Plain(MemorySink):
        takes_pages = False

    sink = Plain()
    scene.start(sink=sink)
    scene.fire()
    scene.turn(100)
    assert sink.arrived == []
    assert scene.exporter.pages_pending() == 0


# --- what it may not hold up ---------------------------------------------------------------------------------


def test_points_and_pictures_go_first(scene):
    scene.fire()
    path = scene.state / "pictures" / "a.png"
    path.parent.mkdir()
    path.write_bytes(b"png")
    picture = Picture(key="a", step=1, timestamp_ms=1)
    Pictures(scene.db).enqueue(
        sink="mlflow", run="night", identity="p", picture=picture, path=str(path), now=scene.clock.now()
    )
    Deliveries(scene.db).enqueue(
        sink="mlflow", run="night", identity="d", points=[], tags={"a": "b"}, now=scene.clock.now()
    )
    scene.turn()
    scene.turn(2)
    assert scene.sink.arrived == ["points", "picture", "page"]


def test_points_go_on_while_a_page_is_drawn(scene):
    scene.score(1000, 20.0)
    scene.fire()
    scene.artist.may.clear()
    assert scene.turn() == 0
    Deliveries(scene.db).enqueue(
        sink="mlflow", run="night", identity="d", points=[], tags={"a": "b"}, now=scene.clock.now()
    )
    start = time.monotonic()
    assert scene.turn(1) == 1
    assert time.monotonic() - start < 5
    assert scene.sink.arrived == ["points"]
    scene.artist.may.set()
    scene.turn(1)
    assert scene.sink.arrived == ["points", "page"]


def test_what_happens_while_a_page_is_drawn_is_another_page(scene):
    scene.score(1000, 20.0)
    scene.fire()
    scene.artist.may.clear()
    scene.turn()
    scene.resolve()
    scene.artist.may.set()
    scene.turn()
    assert "1 firing now" in scene.page
    scene.turn(6)
    assert "Nothing fires now" in scene.page


def test_a_run_that_is_forgotten_while_its_page_is_drawn_is_no_trouble(scene):
    scene.score(1000, 20.0)
    scene.fire()
    scene.artist.may.clear()
    scene.turn()
    with scene.db.transaction("test") as tx:
        tx.execute("PRAGMA defer_foreign_keys = ON")
        for table in ("rule_states", "alerts", "scores", "evaluations", "jobs", "snapshots", "runs"):
            tx.execute(f"DELETE FROM {table}")
    scene.artist.may.set()
    scene.turn()
    assert scene.written == 0


def test_a_page_without_its_curves_is_better_than_none_and_is_mended_later(scene):
    scene.score(1000, 20.0)
    scene.fire()
    scene.artist.errors = [TemporaryError("drawing: no picture within 60 s"), ValueError("never mind"), MemoryError()]
    scene.turn()
    assert "No curve: drawing: no picture within 60 s" in plain(scene.page)
    assert [trouble.reason for trouble in scene.pages.troubles()] == [
        "written without curves: drawing: no picture within 60 s"
    ]
    scene.turn(4)
    assert scene.written == 1
    scene.turn(2)
    assert "No curve: drawing: ValueError" in plain(scene.page)
    # The waits grow.
    scene.turn(6)
    assert scene.written == 2
    scene.turn(6)
    assert "No curve: drawing: MemoryError" in plain(scene.page)
    scene.turn(18)
    assert scene.written == 3
    scene.turn(4)
    assert "No curve" not in plain(scene.page)
    assert scene.pages.troubles() == []
    scene.turn(600)
    assert scene.written == 4


def test_a_sink_that_is_away_costs_a_growing_wait(scene):
    scene.fire()
    scene.sink.errors = [TemporaryError("mlflow: no"), RuntimeError("a broken plugin"), TemporaryError("mlflow: no")]
    scene.turn()
    (trouble,) = scene.pages.troubles()
    assert (trouble.sink, trouble.run, trouble.name, trouble.reason) == ("mlflow", "night", "alerts.html", "mlflow: no")
    assert trouble.tried_again
    assert scene.exporter.pages_pending() == 0
    scene.turn(4)
    assert len(scene.sink.errors) == 2
    scene.turn(2)
    assert "RuntimeError: the sink failed in a way it should not" in scene.pages.troubles()[0].reason
    scene.turn(11)
    scene.turn(19)
    assert scene.written == 0
    scene.turn(2)
    assert scene.written == 1
    assert scene.pages.troubles() == []


def test_a_sink_says_how_long_to_wait(scene):
    scene.fire()
    scene.sink.errors = [TemporaryError("later", retry_after=timedelta(seconds=90))]
    scene.turn()
    scene.turn(80)
    assert scene.written == 0
    scene.turn(11)
    assert scene.written == 1


@pytest.mark.parametrize("error", [PermanentError("no pages here"), RunGoneError("run is deleted")])
def test_what_is_refused_is_kept_with_its_reason_and_tried_when_there_is_another_page(scene, error):
    scene.fire()
    scene.sink.errors = [error]
    scene.turn()
    scene.turn(3600)
    scene.turn(3600)
    assert scene.written == 0
    assert [(trouble.reason, trouble.tried_again) for trouble in scene.pages.troubles()] == [(str(error), False)]
    scene.resolve()
    scene.turn(6)
    assert scene.written == 1
    assert scene.pages.troubles() == []


def test_a_run_that_cannot_be_found_is_looked_for_again(scene):
    scene.fire()
    find_run = scene.sink.find_run
    scene.sink.find_run = lambda run: (_ for _ in ()).throw(PermanentError("no such experiment"))
    scene.turn()
    scene.sink.find_run = find_run
    scene.turn(590)
    assert scene.written == 0
    scene.turn(20)
    assert scene.written == 1


def test_a_run_that_cannot_be_found_keeps_no_other_page_waiting(scene):
    scene.run("other")
    scene.fire(run="night")
    scene.fire(run="other")
    find_run = scene.sink.find_run
    scene.sink.find_run = lambda run: find_run(run) if run.key == "other" else (_ for _ in ()).throw(RunGoneError("no"))
    scene.turn()
    scene.turn(2)
    assert [run for run, _ in scene.sink.pages] == ["remote other"]


def test_a_job_that_has_not_written_its_id_yet_is_not_asked_for_and_keeps_nobody_waiting(scene, tmp_path):
    file = tmp_path / "run_id"
    scene.ledger.register_run(Run(key="late", name="late", id_file=str(file)), scene.clock.now())
    scene.fire(run="late")
    assert scene.exporter.pages_pending() == 0
    scene.turn()
    assert scene.written == 0
    file.write_text("remote")
    assert scene.exporter.pages_pending() == 1
    scene.turn(2)
    assert [run for run, _ in scene.sink.pages] == ["remote late"]


def test_a_clock_that_was_ahead_does_not_keep_a_page_for_years(scene):
    scene.clock.jump(400 * 86400)
    scene.fire()
    scene.sink.errors = [TemporaryError("no")]
    scene.turn()
    scene.clock.jump(-400 * 86400)
    scene.start()
    scene.turn(2)
    assert scene.written == 1


def test_an_outcome_that_cannot_be_noted_is_a_trouble_of_the_ledger_and_the_page_is_written_again(scene):
    scene.fire()
    Deliveries(scene.db).remember_remote_run("mlflow", "night", RemoteRun(id="remote night"))
    with unwritable(scene.db), pytest.raises(LedgerError):
        scene.exporter.tick()
    assert scene.written == 1
    scene.turn(2)
    assert scene.written == 2


# --- ends ----------------------------------------------------------------------------------------------------


def ended(scene):
    return scene.db.read("SELECT ended_ms FROM remote_runs")[0]["ended_ms"]


def test_a_run_is_asked_for_its_end_once_in_five_minutes(scene):
    Deliveries(scene.db).remember_remote_run("mlflow", "night", RemoteRun(id="remote night"))
    scene.turn()
    scene.turn(290)
    assert scene.sink.asked == ["remote night"]
    assert ended(scene) is None
    scene.sink.over = True
    scene.turn(20)
    assert ended(scene) == round(scene.clock.now().timestamp() * 1000)
    first = ended(scene)
    scene.turn(310)
    assert ended(scene) == first
    scene.sink.over = False
    scene.turn(310)
    assert ended(scene) is None


def test_a_run_that_is_not_known_or_not_configured_is_not_asked_for(scene):
    scene.turn()
    assert scene.sink.asked == []
    Deliveries(scene.db).remember_remote_run("mlflow", "night", RemoteRun(id="remote night"))
    scene.start(runs=set())
    scene.turn(2)
    assert scene.sink.asked == []


def test_a_run_for_which_points_wait_is_not_asked_for(scene):
    Deliveries(scene.db).remember_remote_run("mlflow", "night", RemoteRun(id="remote night"))
    deliveries = Deliveries(scene.db)
    deliveries.enqueue(sink="mlflow", run="night", identity="d", points=[], tags={"a": "b"}, now=scene.clock.now())
    deliveries.postpone(
        deliveries.due("mlflow", scene.clock.now(), 1), "away", scene.clock.now() + timedelta(minutes=1)
    )
    scene.turn()
    assert scene.sink.asked == []


@pytest.mark.parametrize("error", [TemporaryError("away"), RunGoneError("gone"), ValueError("a broken plugin")])
def test_a_sink_that_cannot_tell_changes_nothing(scene, error):
    for key in ("a", "b"):
        scene.run(key)
        Deliveries(scene.db).remember_remote_run("mlflow", key, RemoteRun(id=key))
    scene.sink.over = error
    for _ in range(10):
        scene.turn(1)
    # One that is away is away for all of them; a run that is gone says nothing of the others.
    assert scene.sink.asked == (["a"] if isinstance(error, TemporaryError) else ["a", "b"])
    assert ended(scene) is None


def test_a_sink_that_knows_no_ends_is_not_asked(scene):
    class Ignorant(MemorySink):
        ended = Sink.ended

    scene.start(sink=Ignorant())
    Deliveries(scene.db).remember_remote_run("mlflow", "night", RemoteRun(id="remote night"))
    assert scene.turn(10) == 0


# --- with the real pencil ------------------------------------------------------------------------------------


def test_the_real_drawing_makes_a_page_with_a_picture(tmp_path):
    from metricwatch.drawing.process import draw

    scene = Scene(tmp_path)
    scene.artist = draw
    scene.start()
    scene.score(1000, 20.0)
    scene.fire()
    end = time.monotonic() + 30
    while not scene.sink.pages and time.monotonic() < end:
        scene.exporter.tick()
        time.sleep(0.05)
    assert len(scene.page) > 10_000
    assert "No curve" not in scene.page
    scene.db.close()
