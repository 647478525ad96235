"""`metricwatch replay` over real MLflow histories: the daemon's own, other people's, and none at all."""

from __future__ import annotations

import json
import math
import random
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from pytest_httpserver import HTTPServer
from typer.testing import CliRunner

from metricwatch import catalog, cli
from metricwatch.clock import from_ms, to_ms
from metricwatch.config.loader import load_config
from metricwatch.errors import RunGoneError
from metricwatch.export.stage import Exporter
from metricwatch.records import Evaluation, JobState, Run, Score, ScoreState
from metricwatch.replaying.curves import Curves
from metricwatch.replaying.directions import Directions
from metricwatch.replaying.replay import Recorded, replay
from metricwatch.rules.stage import Rules
from metricwatch.store.alerts import Alerts
from metricwatch.store.db import Database
from metricwatch.store.deliveries import Deliveries
from metricwatch.store.ledger import Ledger
from metricwatch.store.ledger import Recorded as OnDisk
from metricwatch.store.scores import Scores
from metricwatch.supervisor.exchange import points_of
from metricwatch.testing.clock import FakeClock
from tests.support.mlflow_server import MlflowServer

MlflowSink = catalog.load_sink("mlflow")
RUN = Run(key="name:replay/night", name="night")
MINUTES = 10

CONFIG = """
tracking: {uri: "%s", experiment: replay}
watch: [{run: {name: night}, samples: "samples/*"}]
metrics: [fid, kid]
rules:
  - {name: fid-moved, metric: fid, moves: 10%%, across: 5}
  - {name: fid-noise, metric: fid, moves: 5%%, across: 4, mode: net, beyond_noise: 2, direction: worse}
  - {name: fid-high, metric: fid, above: 34, for: 2, keep_firing: 2, warmup: 5}
  - {name: kid-odd, metric: kid, z_score: 5, window: 10, direction: any}
  - {name: broken, metric: fid, state: any, for: 2}
  - {name: small, metric: kid, below: 1, runs: {night: {below: 2.5}}}
  - {name: dead, stale: 1h}
"""


class Daemon:
    """The daemon's stages from scores to the tracking server, with a clock that the test moves."""

    def __init__(self, folder: Path, config, sink) -> None:
        self.clock = FakeClock()
        self.db = Database.open(folder)
        self.ledger, self.scores, self.deliveries = Ledger(self.db), Scores(self.db), Deliveries(self.db)
        self.ledger.register_run(RUN, self.clock.now())
        self.rules = Rules(self.db, config.rules, [RUN], ["mlflow"], self.clock)
        self.rules.start()
        self.exporter = Exporter(self.db, {"mlflow": sink}, self.clock)
        self.revisions: dict[int, int] = {}

    def evaluate(self, step: int, **values: float | ScoreState) -> None:
        revision = self.revisions[step] = self.revisions.get(step, 0) + 1
        self.ledger.add_snapshot(
            source="s",
            run=RUN.key,
            step=step,
            path="p",
            members=None,
            recorded=OnDisk(revision=revision, digest=str(revision), images=64, newest_ns=1, mtime_ns=1),
            now=self.clock.now(),
        )
        job = self.ledger.claim(self.clock.now(), timedelta(minutes=1), ["s"])
        scores = tuple(
            Score(
                key=key,
                value=None if isinstance(value, ScoreState) else value,
                stderr=None if isinstance(value, ScoreState) else 0.3,
                state=value if isinstance(value, ScoreState) else ScoreState.OK,
                images=64,
                higher_is_better=False,
                series="a" if not isinstance(value, ScoreState) else "",
            )
            for key, value in values.items()
        )
        evaluation = Evaluation(scores=scores, skipped=(), images=64, seconds=1.0, provenance={})
        with self.db.transaction("test"):
            number = self.scores.record(job, evaluation, self.clock.now())
            self.ledger.finish(job.id, JobState.DONE, self.clock.now())
            points = points_of(evaluation, prefix="quality", step=step, timestamp_ms=to_ms(self.clock.now()))
            self.deliveries.enqueue(
                sink="mlflow", run=RUN.key, identity=f"e/{number}", points=points, tags={}, now=self.clock.now()
            )
        self.rest(1)

    def rest(self, times: int) -> None:
        """Let the time of so many evaluations pass."""
        for _ in range(times):
            self.rules.tick()
            self.clock.advance(60 * MINUTES)
            self.rules.tick()

    def deliver(self) -> None:
        while self.exporter.tick():
            pass


def night(daemon: Daemon) -> None:
    """Fifty evaluations: a fall, noise, a jump, scores without value, a late and a rewritten step, a long silence."""
    chance = random.Random(3)
    for place in range(1, 51):
        level = 40 * math.exp(-place / 6) + 28
        fid: float | ScoreState = level + chance.gauss(0, 0.4) + (9 if 24 <= place < 33 else 0)
        if place in {15, 16, 28, 40, 49, 50}:
            fid = ScoreState.COLLAPSED
        if place == 38:
            continue
        kid = 3 + chance.gauss(0, 0.05) - (2 if place == 36 else 0)
        daemon.evaluate(100 * place, fid=fid, kid=kid)
        if place == 39:
            # Where nothing has just ended: an alert that is over stays as it was told.
            daemon.evaluate(3800, fid=28.1, kid=3.0)
            daemon.evaluate(3700, fid=28.2, kid=3.0)
        if place == 44:
            daemon.rest(9)


@pytest.fixture
def recorded(tmp_path, monkeypatch, tracking_server: MlflowServer):
    """A night that a daemon has logged: its configuration's file, its ledger, and the run's id."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "metricwatch.yaml"
    file.write_text(CONFIG % tracking_server.uri)
    config = load_config(file)
    sink = MlflowSink(MlflowSink.Options(uri=tracking_server.uri, experiment="replay"))
    folder = tmp_path / "ledger"
    folder.mkdir()
    daemon = Daemon(folder, config, sink)
    night(daemon)
    daemon.deliver()
    yield config, daemon, sink, sink.find_run(RUN).id
    daemon.db.close()
    sink.close()


def said(*arguments: object):
    return CliRunner().invoke(cli.app, ["replay", *map(str, arguments)])


def test_a_replay_says_what_the_daemon_said(recorded, tmp_path):
    config, daemon, sink, run_id = recorded
    curves = Curves(sink, run_id, prefix="quality")
    looks = replay(config.rules, Recorded(name="night"), curves, Directions(), now=daemon.clock.now())
    alerts = Alerts(daemon.db)
    assert len(looks) == 7
    for look in looks:
        name = look.rule.name
        found = [(alert.fired_step, alert.resolved_step, alert.direction, alert.severity) for alert in look.alerts]
        told = [
            (alert.fired_step, alert.resolved_step, alert.direction, alert.severity)
            for alert in sorted(alerts.of_rule(RUN.key, name), key=lambda alert: alert.id)
        ]
        assert found == told, name
        assert found, f"the night has nothing for {name} to find"
        if name != "dead":
            states = {state.step: state.state for state in alerts.states(RUN.key, name).values()}
            assert look.evaluations == len(states) == 50
            assert look.firing == sum(state == "firing" for state in states.values()), name

    # The command, with the same configuration.
    result = said(
        "--run-id", run_id, "--json", "--plot", tmp_path / "night.svg", "--rule", "fid-moved", "--rule", "dead"
    )
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert [rule["rule"] for rule in document["rules"]] == ["fid-moved", "dead"]
    assert [(a["fired_step"], a["resolved_step"]) for a in document["alerts"] if a["rule"] == "fid-moved"] == [
        (alert.fired_step, alert.resolved_step) for alert in looks[0].alerts
    ]
    assert any("began a new window" in note for note in document["notes"])
    assert document["pictures"] == [str(tmp_path / "night.svg")]
    assert b"<svg" in (tmp_path / "night.svg").read_bytes()[:1000]


# --- other people's runs -----------------------------------------------------------------------------------

RULES = [
    {"name": "moved", "metric": "val_loss", "moves": "10%", "across": 3},
    {"name": "odd", "metric": "acc", "nonfinite": True, "severity": "warning"},
    {"name": "kid", "metric": "kid", "above": 3},
]


@pytest.fixture(scope="module")
def store(tracking_server: MlflowServer):
    """A tracking server with a run whose job has never heard of metricwatch; its address, and runs by name."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    uri = tracking_server.uri
    client = MlflowClient(uri)
    runs = {name: client.create_run("0", run_name=name).info.run_id for name in ("foreign", "empty", "gone")}
    client.delete_run(runs["gone"])
    start = 1_700_000_000_000
    rows = [("val_loss", 3.0 + (step > 3), step, step) for step in range(1, 7)]
    rows += [
        ("acc", float("nan") if step == 2 else float("inf") if step == 4 else 0.5, step, step) for step in range(1, 7)
    ]
    # Written once more, later: no jump at step 4, but at 5.
    rows.append(("val_loss", 3.0, 4, 100))
    client.log_batch(runs["foreign"], [Metric(key, value, start + 60_000 * at, step) for key, value, step, at in rows])
    return uri, runs


@pytest.fixture
def ask(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("rules.yaml").write_text(yaml.safe_dump({"rules": RULES}))
    uri, runs = store

    def ask(name, *arguments):
        return said("--run-id", runs.get(name, name), "--rules", "rules.yaml", "--uri", uri, *arguments)

    return ask


def test_any_run_and_any_key_can_be_replayed(ask):
    result = ask("foreign")
    assert result.exit_code == 0, result.stderr
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert lines == [
        "RULE METRIC DIRECTION SEVERITY FIRED RESOLVED WHAT HAPPENED",
        "moved val_loss worse critical 5 (2023-11-14 22:18 UTC) not yet val_loss rose 33.3%, more than 10%",
        "odd acc worse warning 2 (2023-11-14 22:15 UTC) 3 (2023-11-14 22:16 UTC) acc has no value: non_finite (nan was logged)",
        "odd acc worse warning 4 (2023-11-14 22:17 UTC) 5 (2023-11-14 22:18 UTC) acc has no value: non_finite (inf was logged)",
        "rule moved on val_loss (val_loss, lower is better): 1 alert, 1 critical; 6 evaluations looked at, firing at 33.3% of them",
        "rule odd on acc (acc, lower is better): 2 alerts, 0 critical; 6 evaluations looked at, firing at 33.3% of them",
        "rule kid on kid: not looked at: no such key; known: acc, val_loss",
    ]
    assert "metricwatch has not logged to this run" in result.stderr
    assert "assumed that lower is better: acc, val_loss; --higher-is-better says otherwise" in result.stderr


def test_rules_are_tried_on_other_keys_in_the_direction_that_is_said(ask):
    result = ask("foreign", "--rule", "kid", "--metric", "val_loss", "--higher-is-better", "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["run"]["name"] == "foreign"
    (rule,) = document["rules"]
    assert (rule["key"], rule["higher_is_better"], rule["assumed"], rule["evaluations"]) == ("val_loss", True, True, 6)
    (alert,) = document["alerts"]
    assert (alert["fired_step"], alert["direction"], alert["severity"]) == (5, "better", "info")
    assert alert["fired_at"] == from_ms(1_700_000_300_000).isoformat()


def test_each_curve_has_a_picture_of_its_own(ask, tmp_path):
    result = ask("foreign", "--plot", tmp_path / "p.png")
    assert result.exit_code == 0, result.stderr
    assert sorted(path.name for path in tmp_path.glob("p*.png")) == ["p-acc.png", "p-val_loss.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.glob("p*.png"))


@pytest.mark.parametrize(
    ("arguments", "code", "wrong"),
    [
        (["foreign", "--rule", "kid"], 1, ""),
        (["foreign", "--rule", "mved"], 1, "--rule mved: there is no such rule; did you mean 'moved'?"),
        (["foreign", "--metric", "val_los"], 1, "(foreign) has no such key; did you mean 'val_loss'?"),
        (["foreign", "--plot", "p.jpg"], 2, "must end in .png or .svg"),
        (["foreign", "--rules", "nowhere.yaml"], 78, "nowhere.yaml: no such file"),
        (["empty"], 1, "(empty) has no metrics: there is nothing to look at yet"),
        (["gone"], 1, "is deleted: `mlflow runs restore --run-id"),
        (["f" * 32], 1, "not found"),
        (["not/an/id"], 1, "Invalid value"),
    ],
)
def test_what_cannot_be_looked_at_is_one_line(ask, arguments, code, wrong):
    result = ask(*arguments)
    assert result.exit_code == code
    assert wrong in result.stderr
    assert len(result.stderr.splitlines()) == {1: 1 if wrong else 0, 2: 4, 78: 1}[code]


def test_a_server_that_is_away_is_named_without_its_password(store, ask):
    result = ask("f" * 32, "--uri", "http://somebody:hunter2@127.0.0.1:1")
    assert result.exit_code == 1
    assert (
        result.stderr == f"metricwatch: mlflow: looking up run {'f' * 32} at http://127.0.0.1:1: connection refused\n"
    )


def test_without_an_address_it_says_where_to_write_one(ask, monkeypatch, store):
    result = said("--run-id", "x", "--rules", "rules.yaml")
    assert (result.exit_code, result.stderr) == (
        78,
        "metricwatch: no tracking server: give --uri or a configuration (-c), or set MLFLOW_TRACKING_URI\n",
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store[0])
    assert said("--run-id", store[1]["foreign"], "--rules", "rules.yaml").exit_code == 0


# --- the sink ----------------------------------------------------------------------------------------------


def test_the_sink_gives_back_every_point_of_a_curve(store):
    uri, runs = store
    sink = MlflowSink(MlflowSink.Options(uri=uri))
    assert (sink.run_name(runs["foreign"]), list(sink.keys(runs["foreign"]))) == ("foreign", ["acc", "val_loss"])
    assert [(point.step, point.value) for point in sink.read(runs["foreign"], "val_loss")] == [
        *((step, 3.0 + (step > 3)) for step in range(1, 7)),
        (4, 3.0),
    ]
    values = [point.value for point in sink.read(runs["foreign"], "acc")]
    assert math.isnan(values[1])
    assert values[3] == math.inf
    assert sink.read(runs["foreign"], "nothing") == []
    for call in (sink.run_name, sink.keys, lambda run: sink.read(run, "acc")):
        with pytest.raises(RunGoneError):
            call("f" * 32)
    with pytest.raises(RunGoneError, match="is deleted"):
        sink.run_name(runs["gone"])


def test_a_long_curve_is_read_page_by_page(httpserver: HTTPServer):
    pages = {None: ([1, 2], "next"), "next": ([3], "last"), "last": ([4, 5], "")}
    asked = []

    def answer(request):
        from werkzeug import Response

        asked.append((request.args.get("page_token"), int(request.args["max_results"])))
        steps, token = pages[request.args.get("page_token")]
        rows = [{"key": "loss", "value": 0.5, "timestamp": 1000 * step, "step": step} for step in steps]
        document = {"metrics": rows, **({"next_page_token": token} if token else {})}
        return Response(json.dumps(document), content_type="application/json")

    httpserver.expect_request("/api/2.0/mlflow/metrics/get-history").respond_with_handler(answer)
    sink = MlflowSink(MlflowSink.Options(uri=httpserver.url_for("").rstrip("/")))
    assert [point.step for point in sink.read("f" * 32, "loss")] == [1, 2, 3, 4, 5]
    assert [token for token, _ in asked] == [None, "next", "last"]
    assert all(most <= 25_000 for _, most in asked)
