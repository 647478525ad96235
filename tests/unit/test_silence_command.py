"""`metricwatch silence`: as amtool does it, beside a daemon that runs."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
import typer

from metricwatch.cli import silence
from metricwatch.errors import InputError, LedgerError
from metricwatch.store.housekeeping import Housekeeping
from metricwatch.store.silences import Silences
from tests.support.dispatching import DAY, Scene

CONFIG = """
tracking: {uri: "http://mlflow:5000"}
watch: [{run: {name: night}, samples: a/*}]
metrics: [fid]
rules: [{name: fid-moved, metric: fid, moves: 10%, across: 5, labels: {team: vision}}]
state: state
"""


class Commands:
    """The commands over a ledger that the alerts stage of a daemon has open."""

    def __init__(self, folder, capsys) -> None:
        self.file = folder / "metricwatch.yaml"
        self.file.write_text(CONFIG)
        (folder / "state").mkdir()
        self.scene = Scene(folder / "state")
        self.silences = Silences(self.scene.db)
        self._capsys = capsys

    def add(self, *matchers, **options):
        """The id that stdout shows, and what stderr says."""
        given = {"comment": "known", "author": "ada", "duration": None, "until": None, "start": None, **options}
        self._capsys.readouterr()
        silence.add_command(list(matchers), config=self.file, **{"everything": False, **given})
        shown = self._capsys.readouterr()
        return int(shown.out), shown.err

    def list(self, *matchers, expired=False, as_json=False):
        self._capsys.readouterr()
        silence.list_command(list(matchers), config=self.file, expired=expired, as_json=as_json)
        shown = self._capsys.readouterr()
        return json.loads(shown.out) if as_json else shown.out + shown.err

    def expire(self, *numbers, everything=False):
        self._capsys.readouterr()
        silence.expire_command(list(numbers), config=self.file, everything=everything)
        return self._capsys.readouterr().err


@pytest.fixture
def commands(tmp_path, capsys):
    made = Commands(tmp_path, capsys)
    yield made
    made.scene.db.close()


def test_it_prints_the_id_and_says_what_it_covers_now(commands):
    commands.scene.fire()
    commands.scene.fire(run=DAY)
    number, said = commands.add("run=night")
    assert number == 1
    assert "it covers 1 alert that fires now: fid-moved of night" in said
    assert "no daemon runs" in said
    (made,) = commands.silences.all()
    assert (made.matchers, made.author, made.comment) == (('run="night"',), "ada", "known")
    assert made.ends_at - made.starts_at == timedelta(hours=1)


def test_the_daemon_heeds_it_at_once(commands):
    scene = commands.scene
    scene.clock.jump((datetime.now(UTC) - scene.clock.now()).total_seconds() + 1)
    commands.add("fid-moved")
    scene.fire()
    scene.turn()
    assert scene.team.messages == []
    assert scene.log.held()[0][3] == "silence 1 of ada: known"


def test_a_first_word_alone_is_the_name_of_a_rule(commands):
    commands.add("fid-moved", "team=vision")
    assert commands.silences.all()[0].matchers == ('alertname="fid-moved"', 'team="vision"')


@pytest.mark.parametrize(
    ("matchers", "said"),
    [
        (["fid-mved"], "no rule is named 'fid-mved'; did you mean 'fid-moved'?"),
        (["severty=info"], "no alert has a label 'severty'; did you mean 'severity'?"),
        (["run=~("], "matcher 1: at character 6: not a regular expression"),
        (["run=~(a+)+"], "matcher 1: at character 6: a repeated group that holds a repeat or alternatives"),
        (["fid-moved", "vision"], "matcher 2: at character 7: one of = != =~ !~ must follow"),
        (["severity=crit"], "matcher 1: no alert has the severity 'crit'; did you mean 'critical'?"),
        (["kind=stalle"], "matcher 1: no alert has the kind 'stalle'; did you mean 'stale'?"),
        (["severity==critical"], "matcher 1: at character 10: one = is enough"),
        (["run=a", "run=b"], 'run="a" and run="b" can never both hold'),
    ],
)
def test_a_silence_that_would_cover_nothing_is_refused(commands, matchers, said):
    with pytest.raises(InputError) as raised:
        commands.add(*matchers)
    assert said in str(raised.value)
    assert commands.silences.all() == []


@pytest.mark.parametrize(
    ("matchers", "options", "said"),
    [
        ([], {}, "says which alerts; for every alert say --all"),
        (["run=a"], {"everything": True}, "either matchers or --all"),
        (["run=a"], {"comment": " "}, "says why"),
        (["run=a"], {"duration": "2h", "until": "2099-01-01"}, "either --duration or --until"),
        (["run=a"], {"duration": "fast"}, "must be a duration such as"),
        (["run=a"], {"duration": "0s"}, "before it begins"),
        (["run=a"], {"duration": "9999999d"}, "date value out of range"),
        (["run=a"], {"until": "2020-01-01"}, "before it begins"),
        (["run=a"], {"start": "2020-01-01", "until": "2020-01-02"}, "it would be over since"),
        (["run=a"], {"until": "tomorrow"}, "must be a moment such as 20"),
    ],
)
def test_bad_options_are_a_usage_error(commands, matchers, options, said):
    with pytest.raises(typer.BadParameter) as raised:
        commands.add(*matchers, **options)
    assert said in str(raised.value)
    assert commands.silences.all() == []


def test_times_may_be_said_with_and_without_a_zone(commands):
    commands.add("run=night", start="2098-01-01T00:00:00+00:00", until="2099-01-01T00:00:00+00:00")
    commands.add("run=night", until="2099-01-01T00:00")
    first, second = commands.silences.all()
    assert (first.starts_at, first.ends_at) == (datetime(2098, 1, 1, tzinfo=UTC), datetime(2099, 1, 1, tzinfo=UTC))
    assert second.ends_at == datetime(2099, 1, 1).astimezone()
    assert [item["state"] for item in commands.list(as_json=True)["silences"]] == ["pending", "active"]


def test_everything_can_be_silenced_when_it_is_said(commands):
    commands.scene.fire()
    _, said = commands.add(everything=True)
    assert "it covers 1 alert that fires now" in said
    assert "(every alert)" in commands.list()


def test_the_list_shows_what_holds_and_what_is_over_when_asked(commands):
    number, _ = commands.add("run=night", comment="a [red]\nline")
    commands.add("severity=critical")
    assert "a [red] line" in commands.list()
    assert commands.expire(number) == "ended: 1\n"
    assert "run=" not in commands.list()
    (over, other) = commands.list(expired=True, as_json=True)["silences"]
    assert (over["id"], over["state"], other["state"]) == (1, "expired", "active")
    assert datetime.fromisoformat(over["starts_at"]).tzinfo is not None
    assert [item["id"] for item in commands.list("severity=~crit.*", as_json=True)["silences"]] == [2]
    assert commands.list("severity=info", as_json=True)["silences"] == []


def test_ending_what_is_over_or_was_never_there_is_told(commands):
    number, _ = commands.add("run=night")
    commands.add("severity=info")
    commands.expire(number)
    assert "over already: 1" in commands.expire(number)
    with pytest.raises(InputError, match="no silence 9; those that hold or are to come: 2"):
        commands.expire(9)
    assert commands.expire(everything=True) == "ended: 2\n"
    assert commands.expire(everything=True) == "there was nothing to end\n"
    with pytest.raises(typer.BadParameter, match="either ids or --all"):
        commands.expire()


def test_a_silence_to_come_that_is_ended_never_began(commands):
    number, _ = commands.add("run=night", start="2098-01-01", until="2099-01-01")
    commands.expire(number)
    (made,) = commands.silences.all()
    assert made.starts_at == made.ends_at <= datetime.now(UTC)


def test_without_a_ledger_there_is_nothing_to_silence(commands):
    commands.scene.db.close()
    commands.scene.db.path.unlink()
    with pytest.raises(LedgerError, match="no ledger yet"):
        commands.add("run=night")


def test_silences_that_were_over_long_ago_are_forgotten(commands):
    scene = commands.scene
    old, new = scene.silence("run=a", seconds=10), scene.silence("run=b", seconds=1000)
    cut = scene.clock.now() + timedelta(seconds=100)
    assert Housekeeping(scene.db).remove_silences(before=cut) == 1
    assert [item.id for item in commands.silences.all()] == [new]
    assert old != new


def test_a_silence_that_cannot_be_read_covers_nothing_and_stops_nobody(commands):
    scene = commands.scene
    scene.silence("not a matcher")
    scene.fire()
    scene.turn()
    assert len(scene.team.messages) == 1


def test_a_silence_of_an_earlier_version_that_may_take_for_ever_covers_nothing(commands):
    scene = commands.scene
    scene.silence('alertname=~"(a+)+"')
    scene.fire("a" * 40 + "!")
    scene.turn()
    assert len(scene.team.messages) == 1


def test_the_matchers_of_a_silence_are_read_once_however_often_it_is_asked(commands, monkeypatch):
    from metricwatch.store import silences

    read, parse = [], silences.parse_matchers
    monkeypatch.setattr(silences, "parse_matchers", lambda texts: read.append(texts) or parse(texts))
    scene = commands.scene
    for number in range(3):
        scene.silence(f'run=~"debug-{number}.*"')
    for _ in range(4):
        assert len(commands.silences.active(scene.clock.now())) == 3
    assert len(read) == 3


@pytest.mark.parametrize("field", ["comment", "author"])
def test_an_address_in_the_comment_or_the_author_is_refused_and_not_repeated(commands, field):
    with pytest.raises(InputError) as raised:
        commands.add("run=night", **{field: "https://hooks.example.org/services/secret"})
    assert "say it in words" in str(raised.value)
    assert "services" not in str(raised.value)
    assert commands.silences.all() == []


def test_a_run_or_metric_that_nobody_knows_is_warned_of_and_silenced_all_the_same(commands):
    number, said = commands.add("run=nihgt", "metric=fdi")
    assert number == 1
    assert "warning: no run named 'nihgt' is known so far; did you mean 'night'?" in said
    assert "warning: no metric named 'fdi' is known so far; did you mean 'fid'?" in said
    assert "warning" not in commands.add("run=night", "metric=fid")[1]
    assert "warning" not in commands.add('run=~"debug-.*"')[1]
